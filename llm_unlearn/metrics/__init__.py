"""The figures: one file each, and the file name is the figure's name.

A file holds a pure function, `score(...)` on the per-row records, and an in-process `evaluate.Metric` in CamelCase
(`metrics/forget_quality.py` has `ForgetQuality`), whose card is the file's docstring.  A dotted path works for figures
that live elsewhere.
"""

import sys
from collections.abc import Iterable
from typing import Protocol, cast

from llm_unlearn import named
from llm_unlearn.errors import RecipeError
from llm_unlearn.scores import ModelScores, Score


class Metric(Protocol):
    """What the module of a figure holds.

    Optional: `TASKS`, the tasks it is defined for (without it: all); `OTHERS`, the names of further models that `score` takes
    as keywords (`zrf` takes "random"); `KEPT`, what is good where knowledge is kept (without it "high"); for a figure that is no mean over rows `interval` and `gap_interval`.
    """

    TARGET: str  # "gold", "high" or "low": what is good on the splits to be forgotten
    SPLITS: tuple[str, ...]  # where the figure is reported; () for one figure across splits
    NEEDS: str  # what must be there for it to be measured, in words

    def score(
        self,
        scores: ModelScores,
        split: str | None,
        *,
        gold: ModelScores | None = None,
        before: ModelScores | None = None,
    ) -> Score | None:
        """Return one model's figure, None where it cannot be measured (never a default number)."""


def available() -> list[str]:
    """Return the names of the built-in figures."""
    return named.available(sys.modules[__name__])


def defined_for(module: Metric, tasks: Iterable[str]) -> bool:
    """Return whether a figure is defined for one of the tasks."""
    own = getattr(module, "TASKS", None)
    return own is None or not set(tasks).isdisjoint(own)


def find(name: str) -> Metric:
    """Return the module `metrics/<name>.py`, or the one at a dotted path; raise RecipeError where there is none."""
    module = named.module(name, sys.modules[__name__], "figure")
    missing = [part for part in ("TARGET", "SPLITS", "NEEDS", "score") if not hasattr(module, part)]
    if missing:
        raise RecipeError(
            f"{module.__name__} is no figure: it lacks {', '.join(missing)}. metrics/probability.py is an example."
        )
    return cast(Metric, module)
