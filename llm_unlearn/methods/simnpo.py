"""SimNPO: NPO without a reference, per token (Fan et al., 2024, arXiv:2410.07163), eq. 4."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F

from llm_unlearn.fit import Batches, Module, Objective, Progress, Terms
from llm_unlearn.method import LossMethod
from llm_unlearn.run import Run


@dataclass(frozen=True, kw_only=True)
class SimNPO(LossMethod):
    """L = -w (2/beta) log sigmoid(-(beta/n) log p - gamma) on forget + loss(retain)."""

    paper: ClassVar[str] = "arXiv:2410.07163"
    beta: float = 3.5  # best setting of the public sweep (open-unlearning, TOFU forget10)
    gamma: float = 0.125  # margin; from the same sweep
    forget_weight: float = 1.0  # the paper's

    def objective(self, run: Run) -> Objective:
        """Return the two terms."""

        def terms(model: Module, batch: Batches, progress: Progress) -> Terms:
            known, retain = run.task.streams(model, batch)
            forget = progress.pushed(known)
            push = -2 / self.beta * F.logsigmoid(self.beta * forget.mean_nll() - self.gamma)  # [F]
            return {
                "forget": self.forget_weight * progress.gated(push, forget),
                "retain": retain.mean_nll().mean(),
            }

        return terms
