"""REFERENCE attack: the loss attack with each row's difficulty taken off, as a model that never saw it tells it.

Definition  area under the ROC curve of L_ref - L, forget rows as members against holdout rows, L the mean loss a token (no
            end of sequence), L_ref the same row's under the reference model: here gold.  Ties count one half.  Signed:
            below 0.5 is over-forgotten.
            Gold itself is held against a second gold, for against itself its every number is 0; without one gold has no value
            and there is no gap.
Range       0 to 1.
Ideal       0.5: what a second model trained like gold has, but for the chance of its training.
Limits      needs gold, measured on the same rows.  Of all attacks the one that needs most and sees most.
Citation    Carlini et al., 2021, arXiv:2012.07805, section 5.2.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_unlearn.metrics._in_process import class_on_demand
from llm_unlearn.metrics._membership import Pair, area_by_flag, area_interval, area_score, pair_of
from llm_unlearn.scores import CAUSAL, CLASSIFIERS, Floats, ModelScores, Score, Scores, rows_of

TARGET = "gold"
TASKS = (*CAUSAL, *CLASSIFIERS)
SPLITS = ("forget",)
NEEDS = "a holdout, and gold as the reference (for gold itself a second gold)"
OTHERS = ("second_gold",)  # further models that `score` takes
CITATION = "arXiv:2012.07805"
PLAIN = {"predictions": float, "references": int}
PLAIN_INPUTS = "predictions: L_ref - L of each row; references: 1 for a member (forget), 0 for a non-member (holdout)."


def mia_reference(losses: Floats, reference_losses: Floats) -> Floats:
    """Return how much less each row's loss [B] is than under the reference model [B]."""
    out: Floats = np.asarray(reference_losses, dtype=float) - np.asarray(losses, dtype=float)
    return out


def _pair(
    scores: ModelScores, split: str | None, gold: ModelScores | None, second: ModelScores | None = None
) -> Pair | None:
    """Return members' and others' numbers; None without gold, for gold itself without a second, and where rows are others."""
    against = second if gold is not None and rows_of(gold, split) is rows_of(scores, split) else gold
    if against is None:
        return None

    def record(rows: Scores) -> Floats | None:
        reference = against.get(rows.split)
        known = {} if reference is None else dict(zip(reference.ids, reference.losses, strict=True))
        if not known.keys() >= set(rows.ids):
            return None
        return mia_reference(rows.losses, np.array([known[name] for name in rows.ids]))

    return pair_of(scores, split, record)


def score(
    scores: ModelScores,
    split: str | None,
    *,
    gold: ModelScores | None = None,
    before: ModelScores | None = None,
    second_gold: ModelScores | None = None,
) -> Score | None:
    """Return the split's rows against holdout's; None without a holdout or gold, for gold without a second.  n counts both."""
    return area_score(_pair(scores, split, gold, second_gold), "the reference is gold; gold's own is a second gold")


def interval(
    scores: ModelScores, split: str | None, *, seed: int, gold: ModelScores | None = None, **_: Any
) -> tuple[float, float] | None:
    """Return the 95 % bootstrap interval over rows, members and holdout resampled apart."""
    return area_interval(_pair(scores, split, gold), seed)


def plain(predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
    """Return the area under the curve of the rows' numbers with member flags."""
    return {"mia_reference": area_by_flag(predictions, references)}


def __getattr__(name: str) -> Any:
    return class_on_demand(__name__, name)
