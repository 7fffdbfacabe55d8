"""Amnesiac unlearning: the forget rows learn random other labels beside retain (Graves et al., 2021, arXiv:2010.10981).

A classifier's row learns a class drawn evenly from the others that are kept, anew each time it is shown; several labels are
switched off and as many others on.  A causal LM's row learns the responses of random retain rows in the place of its own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from llm_unlearn.errors import RecipeError
from llm_unlearn.fit import Batches, Module, Objective, Progress, Schedule, Stop, Terms, fit
from llm_unlearn.method import LossMethod, retained
from llm_unlearn.relabel import OtherLabels, classifies
from llm_unlearn.run import Run
from llm_unlearn.tasks import Row

COPIES = 64  # responses drawn for one row of a causal LM, at most


@dataclass(frozen=True, kw_only=True)
class RandomLabel(LossMethod):
    """L = w CE(random other label) on forget + loss(retain)."""

    paper: ClassVar[str] = "arXiv:2010.10981"
    relabel_weight: float = 0.5  # Differs from the paper: 1 there, in batches that mix all rows (embedded texts)
    training: Schedule = Schedule()
    stop: Stop = Stop(gate=False)  # the thermostat watches the forget rows under their true labels

    def check(self, run: Run) -> None:
        """Raise also where the gate is asked for."""
        super().check(run)
        if self.stop.gate:
            raise RecipeError(
                "stop.gate judges a row by its own loss, and with another label that says nothing about the true one; "
                "set stop.gate=false (the thermostat watches the forget rows themselves)."
            )

    def unlearn(self, run: Run) -> None:
        """Fit on the relabelled forget rows and retain; under their true labels the forget rows are only watched."""
        self.check(run)
        forget = run.rows("forget")
        schedule = replace(self.training, steps=self.training.step_count(len(forget)))
        if not classifies(run.task):
            shown = math.ceil(schedule.step_count(len(forget)) * schedule.forget_batch / len(forget))
            forget = other_responses(forget, run.rows("retain"), min(COPIES, shown), run.seed)
        streams = {"relabelled": forget, "retain": retained(run)}
        fit(run, streams, self.objective(run), schedule=schedule, stop=self.stop)

    def objective(self, run: Run) -> Objective:
        """Return the two terms."""
        others = OtherLabels(run)

        def terms(model: Module, batch: Batches, progress: Progress) -> Terms:
            forget, retain = run.task.streams(model, batch)
            if classifies(run.task):
                forget = others.of(forget, progress.step)
            return {
                "forget": self.relabel_weight * progress.gated(forget.mean_nll(), forget),
                "retain": retain.mean_nll().mean(),
            }

        return terms


def other_responses(rows: Sequence[Row], retain: Sequence[Row], copies: int, seed: int) -> list[Row]:
    """Return each row `copies` times, each to be answered as another random retain row is, behind every beginning of its own.

    Differs from the paper, which has no texts: learned as a text of its own, another answer would change the first wrong
    word alone, and behind the true answer's beginning its end would stay known.
    """
    generator = np.random.default_rng([seed, len(rows)])
    out = []
    for row in rows:
        for number, chosen in enumerate(generator.integers(len(retain), size=copies).tolist()):
            out.append({**row, "id": f"{row['id']}-{number}", "instead": retain[chosen]["response"]})
    return out
