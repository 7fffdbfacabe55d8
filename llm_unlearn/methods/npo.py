"""Negative preference optimisation (Zhang et al., 2024, arXiv:2404.05868), eq. 3, with a retain term ("NPO + RT")."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F

from llm_unlearn.fit import Batches, Module, Objective, Progress, Terms
from llm_unlearn.method import LossMethod
from llm_unlearn.run import Run


@dataclass(frozen=True, kw_only=True)
class NPO(LossMethod):
    """L = -w (2/beta) log sigmoid(-beta (log p - log p_target)) on forget + loss(retain)."""

    paper: ClassVar[str] = "arXiv:2404.05868"
    reference: ClassVar[bool] = True
    beta: float = 0.03  # inverse temperature. Differs from the paper: 0.1, which lets go of a row at 30 nats
    # None: 0.065 of a causal LM's rows, which add up a dozen words each (sandbox table), 2 of a classifier's one decision
    # (embedded texts, seeds 3 to 5).  Differs from the paper: 1 there; at 8 forget : 32 retain rows
    forget_weight: float | None = None

    def weight(self, task: str) -> float:
        """Return w for a task of that name."""
        if self.forget_weight is not None:
            return self.forget_weight
        return 0.065 if task == "causal_lm" else 2.0

    def objective(self, run: Run) -> Objective:
        """Return the two terms; the target's log-probabilities are a column computed before the first step."""
        weight = self.weight(run.task.name)

        def terms(model: Module, batch: Batches, progress: Progress) -> Terms:
            known, retain = run.task.streams(model, batch)
            forget = progress.pushed(known)
            ratio = batch["forget"]["reference_nll"] - forget.per_example(forget.nll())  # [F] log p - log p_target
            push = -2 / self.beta * F.logsigmoid(-self.beta * ratio)  # [F]
            return {
                "forget": weight * progress.gated(push, forget),
                "retain": retain.mean_nll().mean(),
            }

        return terms
