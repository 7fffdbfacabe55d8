"""What a method is, and how it is found: the file name is the registry.

`methods/npo.py` is `npo`.  A dotted path (`my_package.my_method`) works for methods that live elsewhere.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from llm_unlearn import methods, named
from llm_unlearn.data.splits import kept
from llm_unlearn.errors import TaskError
from llm_unlearn.fit import Objective, Schedule, Stop, fit
from llm_unlearn.run import Run
from llm_unlearn.tasks import Row

ALL_TASKS = frozenset({"causal_lm", "sequence_classifier", "image_classifier"})


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """An unlearning method: its fields are its hyper-parameters, `unlearn` edits `run.model`."""

    needs: ClassVar[frozenset[str]] = frozenset({"forget", "retain"})
    tasks: ClassVar[frozenset[str]] = ALL_TASKS
    starts_from: ClassVar[Literal["target", "origin"]] = "target"
    edits_adapter: ClassVar[bool] = (
        False  # edits the adapter that holds the knowledge, where one does, instead of a fresh one
    )
    whole_units: ClassVar[bool] = (
        False  # forgets classes, authors, ... as a whole, and no single rows among others alike
    )
    infers: ClassVar[bool] = False  # asks what carries a prediction: the report shows it before and after
    removes: ClassVar[str] = "rows"  # or "feature": what rows of all kinds show, which only some tasks have a use for
    paper: ClassVar[str] = ""

    @abstractmethod
    def unlearn(self, run: Run) -> None:
        """Change `run.model` so that it no longer knows the forget split."""

    def check(self, run: Run) -> None:
        """Raise TaskError or DataError where the run is not what this method works on."""
        if run.task.name not in self.tasks:
            raise TaskError(
                f"{type(self).__name__} works on {', '.join(sorted(self.tasks))}; this run is a {run.task.name}."
            )
        for split in sorted(self.needs):
            run.rows(split)


@dataclass(frozen=True, kw_only=True)
class LossMethod(Method):
    """A method that is a loss on paired forget and retain rows."""

    reference: ClassVar[bool] = (
        False  # does the loss read batch["forget"]["reference_nll"], the target's summed nll a row
    )
    training: Schedule = Schedule()
    stop: Stop = Stop()

    @abstractmethod
    def objective(self, run: Run) -> Objective:
        """Return (model, batch, progress) -> named terms; a closure over constants only."""

    def unlearn(self, run: Run) -> None:
        """Fit the objective on the run's forget and retain rows."""
        self.check(run)
        streams = {"forget": run.rows("forget"), "retain": retained(run)}
        fit(run, streams, self.objective(run), schedule=self.training, stop=self.stop, reference=self.reference)


def retained(run: Run) -> list[Row]:
    """Return the rows to rehearse: all that is kept, and the neighbours of forget again until they are half of it.

    Forgetting does its damage nearest to what is forgotten, and a fit sees only a few thousand of the kept rows.
    """
    run.rows("retain")
    rows, near = kept(run.splits), list(run.splits.get("neighbour", ()))
    again = max(0, round((len(rows) - 2 * len(near)) / len(near))) if near else 0
    return rows + near * again


def available() -> list[str]:
    """Return the names of the built-in methods."""
    return named.available(methods)


def find(name: str) -> type[Method]:
    """Return the method class in `methods/<name>.py`, or in the module at a dotted path."""
    found: type[Method] = named.only_class(named.module(name, methods, "method"), Method)
    return found
