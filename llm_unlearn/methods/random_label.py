"""Amnesiac unlearning: the forget rows learn random other labels beside retain (Graves et al., 2021, arXiv:2010.10981).

A classifier's row learns a class drawn evenly from the others that are kept, anew each time it is shown; several labels are
switched off and as many others on.  A causal LM's row learns responses to like questions, retain rows', in the place of its own.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from llm_unlearn.fit import Objective, Schedule, Stop, fit
from llm_unlearn.method import LossMethod, retained
from llm_unlearn.relabel import random_labels, refuse_gate, relabelled
from llm_unlearn.run import Run


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
        refuse_gate(self.stop)

    def unlearn(self, run: Run) -> None:
        """Fit on the relabelled forget rows and retain; under their true labels the forget rows are only watched."""
        self.check(run)
        steps = self.training.step_count(len(run.rows("forget")))
        schedule = replace(self.training, steps=steps)
        streams = {"relabelled": relabelled(run, schedule), "retain": retained(run)}
        fit(run, streams, self.objective(run), schedule=schedule, stop=self.stop)

    def objective(self, run: Run) -> Objective:
        """Return the two terms."""
        return random_labels(run, self.relabel_weight)
