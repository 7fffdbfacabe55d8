"""SCRUB: leave the teacher on forget, stay with it on retain (Kurmanji et al., 2023, arXiv:2302.09880), eqs. 3 and 4.

    max steps:  L = -d(forget)      min steps:  L = alpha d(retain) + gamma loss(retain)
    d = KL(teacher || model), both softened by the temperature; the teacher is the model before unlearning

In each of the first `max_rounds` of `rounds` rounds the forget rows are shown once in max steps, then retain in min steps;
the last rounds have min steps alone.  Gate and thermostat stand for the paper's rewinding (SCRUB+R), which takes an earlier
checkpoint where forgetting went too far.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from llm_unlearn.decisions import Decisions
from llm_unlearn.fit import Batches, Module, Objective, Progress, Schedule, Terms
from llm_unlearn.method import LossMethod
from llm_unlearn.reference import reference_logits
from llm_unlearn.run import Run
from llm_unlearn.tasks import Batch

NEAR = 0.01  # nats from the teacher, softened


@dataclass(frozen=True, kw_only=True)
class Scrub(LossMethod):
    """Alternating rounds of max steps on forget and min steps on retain."""

    paper: ClassVar[str] = "arXiv:2302.09880"
    alpha: float = 0.5  # the authors'
    gamma: float = 1.0  # the authors tune it about 1
    temperature: float = 4.0  # the authors'
    max_rounds: int = 3  # the authors' msteps
    rounds: int = 6  # 3 + 3
    # Differs from the paper: AdamW, not SGD at 5e-4, for adapters.  A rate that falls from the start leaves the max steps, which
    # come first, too weak (toy pictures: forget's loss 0.006 instead of 0.45); 6e-3, the usual rate at width 64, destroyed a ViT
    training: Schedule = Schedule(learning_rate=1e-3, decay="constant")

    def unlearn(self, run: Run) -> None:
        """Fit on the run's forget and retain rows, at the schedule for its task."""
        LossMethod.unlearn(replace(self, training=self.schedule(run)), run)

    def schedule(self, run: Run) -> Schedule:
        """Return the training; of a causal LM with as many forget rows a step as show all of them in the max half of a round.

        No more than a min step has retain rows.  8 rows a step, which serve a classifier's few, left half of the sandbox's
        1606 without a single max step.
        """
        rows, base = len(run.splits["forget"]), self.training
        if run.task.name != "causal_lm":
            return base
        steps = base.step_count(rows)
        half = max(2, math.ceil(steps / self.rounds)) // 2
        times = min(base.retain_per_forget, max(1, math.ceil(rows / (half * base.forget_batch))))
        return replace(
            base,
            steps=steps,
            forget_batch=times * base.forget_batch,
            retain_per_forget=round(base.retain_per_forget / times),
        )

    def objective(self, run: Run) -> Objective:
        """Return the term of this step's kind; the other one is 0, so that every step has both in the history."""
        forget_rows = len(run.splits["forget"])

        def terms(model: Module, batch: Batches, progress: Progress) -> Terms:
            shown = math.ceil(forget_rows / self.training.forget_batch)
            if self.is_max(progress, shown):
                forget, away = self._distance(run, model, batch["forget"])
                # Differs from the paper: at the teacher the distance has no gradient.  The authors' student leaves it by
                # dropout and augmentation; this one stands still, and its first steps are those of plain ascent.
                push = progress.gated(-torch.where(away.detach() < NEAR, forget.mean_nll(), away), forget)
                return {"forget": push, "retain": push.detach() * 0}
            retain, near = self._distance(run, model, batch["retain"])
            kept = self.alpha * near.mean() + self.gamma * retain.mean_nll().mean()
            return {"forget": kept.detach() * 0, "retain": kept}

        return terms

    def is_max(self, progress: Progress, shown: int) -> bool:
        """Is this a max step?  Those come first in a round, `shown` of them, but never more than half of it."""
        length = max(2, math.ceil(progress.steps / self.rounds))
        number, place = divmod(progress.step, length)
        return number < self.max_rounds and place < min(shown, length // 2)

    def _distance(self, run: Run, model: Module, batch: Batch) -> tuple[Decisions, torch.Tensor]:
        """Return the model's decisions and each row's KL from the teacher [B], nats a decision."""
        target = reference_logits(model, run.task, batch, run.frozen_copy)  # [N, C]
        mine = run.task.decisions(model, batch, logits=True)
        return mine, mine.per_example(mine.divergence_from(target, self.temperature), "mean")
