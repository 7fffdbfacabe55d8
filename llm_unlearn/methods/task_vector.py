"""Negated task vector (Ilharco et al., 2023, arXiv:2212.04089): theta - scale (theta_forget - theta).

theta_forget is the target trained further on the forget rows alone.  With an adapter that is the fresh adapter's product, and
its negation is exact: B becomes -scale B.  The scale is chosen on a probe, as in the paper (sec. 3).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from llm_unlearn.errors import RecipeError
from llm_unlearn.fit import Batches, Module, Objective, Progress, Schedule, Terms, fit
from llm_unlearn.head import trainable
from llm_unlearn.method import Method
from llm_unlearn.run import Run
from llm_unlearn.strength import Probe, choose, note


@dataclass(frozen=True, kw_only=True)
class TaskVector(Method):
    """L = loss(forget), then the change is turned round.  Retain rows only choose the scale."""

    paper: ClassVar[str] = "arXiv:2212.04089"
    # few steps: the target knows these rows already, and what further steps add is not about them
    training: Schedule = Schedule(least_steps=100, retain_per_forget=1)
    # the paper's end at 1, in steps of 0.05
    scales: tuple[float, ...] = (*(round(0.05 * step, 2) for step in range(1, 13)), 0.8, 1.0, 2.0, 3.0, 5.0, 8.0)
    probe: Probe = Probe()

    def __post_init__(self) -> None:
        """Raise RecipeError where there is no scale to choose from."""
        if not self.scales or min(self.scales) <= 0:
            raise RecipeError("task_vector needs scales above 0, one or more.")

    def unlearn(self, run: Run) -> None:
        """Train on forget, then subtract what that changed, times the scale that serves best."""
        self.check(run)
        weights = trainable(run.model)
        start = {name: p.detach().clone() for name, p in weights.items()}
        fit(run, {"forget": run.rows("forget")}, self.objective(run), schedule=self.training)
        end = {name: p.detach().clone() for name, p in weights.items()}

        @torch.no_grad()
        def apply(scale: float) -> dict[str, float]:
            for name, p in weights.items():
                if "lora_A" in name:
                    p.copy_(end[name])  # the product is negated through B, which began at 0
                else:
                    p.copy_(start[name] - scale * (end[name] - start[name]))
            return {}

        scale, facts = choose(run, self.scales, apply, self.probe, before=start)
        note(run, {"method": "task_vector", "scale": scale, **facts})

    def objective(self, run: Run) -> Objective:
        """Return the one term."""

        def terms(model: Module, batch: Batches, progress: Progress) -> Terms:
            (forget,) = run.task.streams(model, batch)
            return {"forget": forget.mean_nll().mean()}

        return terms
