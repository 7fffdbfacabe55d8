"""KL minimisation: ascent on forget, the target's own distribution on retain (Maini et al., 2024, arXiv:2401.06121, "KL minimization")."""

from dataclasses import dataclass
from typing import ClassVar

from llm_unlearn.fit import Batches, Module, Objective, Progress, Terms
from llm_unlearn.method import LossMethod
from llm_unlearn.reference import reference_logits
from llm_unlearn.run import Run


@dataclass(frozen=True, kw_only=True)
class KL(LossMethod):
    """L = -w loss(forget) + KL(target || model) on retain's supervised tokens."""

    paper: ClassVar[str] = "arXiv:2401.06121"
    forget_weight: float = 0.55  # Differs from the paper: 1 there; on the sandbox 0.33 leaves too much (seed 0)

    def objective(self, run: Run) -> Objective:
        """Return the two terms; the target's logits come from the same model with its adapter off."""

        def terms(model: Module, batch: Batches, progress: Progress) -> Terms:
            known, retain = run.task.streams(model, batch, logits=True)
            forget = progress.pushed(known)
            target = reference_logits(model, run.task, batch["retain"], run.frozen_copy)  # [N, C]
            divergence = retain.divergence_from(target)  # [N] nats
            return {
                "forget": -self.forget_weight * progress.gated(forget.mean_nll(), forget),
                "retain": retain.per_example(divergence, "mean").mean(),
            }

        return terms
