"""Retraining from the origin without the forget rows: the gold standard that approximate methods are judged by."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from llm_unlearn.data.splits import kept
from llm_unlearn.fit import Schedule
from llm_unlearn.method import Method
from llm_unlearn.run import Run
from llm_unlearn.train import TRAINING, train


@dataclass(frozen=True, kw_only=True)
class Retrain(Method):
    """Train the origin, with the target's own schedule, on everything but forget."""

    needs: ClassVar[frozenset[str]] = frozenset({"retain"})
    starts_from: ClassVar[Literal["target", "origin"]] = "origin"
    training: Schedule = TRAINING  # that of train_target: give the target's own

    def unlearn(self, run: Run) -> None:
        """Train `run.model`, which must be the origin, on retain."""
        self.check(run)
        train(run, kept(run.splits), self.training)
