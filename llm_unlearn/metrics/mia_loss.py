"""Loss attack: can the forget rows be told from rows the model never saw, by their loss alone.

Definition  area under the ROC curve of -L, forget rows as members against holdout rows as non-members; ties count one half.
            Signed: above 0.5 the forget rows still look trained on; below, they look stranger than strangers (over-forgotten,
            the Streisand effect).  L is the mean loss a token, without the end of sequence.
Range       0 to 1.
Ideal       gold's value (near 0.5 where holdout is drawn like forget); never "the lower the better".
Limits      as good as the holdout: drawn carelessly, gold itself is far from 0.5.  Synthetic holdout rows are a stand-in.
Citation    Yeom et al., 2018, arXiv:1709.01604.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_unlearn.metrics._in_process import class_on_demand
from llm_unlearn.scores import Floats, ModelScores, Score, rows_of
from llm_unlearn.statistics import area_under_curve, bootstrap_area_under_curve

TARGET = "gold"
SPLITS = ("forget",)
NEEDS = "a holdout"
CITATION = "arXiv:1709.01604"
PLAIN = {"predictions": float, "references": int}
PLAIN_INPUTS = (
    "predictions: each row's loss, nats a token; references: 1 for a member (forget), 0 for a non-member (holdout)."
)


def mia_loss(forget_losses: Floats, holdout_losses: Floats) -> float:
    """Return the signed area under the curve of minus the loss."""
    return area_under_curve(-np.asarray(forget_losses), -np.asarray(holdout_losses))


def _losses(scores: ModelScores, split: str | None) -> tuple[Floats, Floats] | None:
    members, others = rows_of(scores, split), rows_of(scores, "holdout")
    if members is None or others is None:
        return None
    mine, theirs = members.losses, others.losses
    mine, theirs = mine[~np.isnan(mine)], theirs[~np.isnan(theirs)]  # an infinite loss ranks last
    return (mine, theirs) if len(mine) and len(theirs) else None


def score(
    scores: ModelScores, split: str | None, *, gold: ModelScores | None = None, before: ModelScores | None = None
) -> Score | None:
    """Return the split's rows against holdout's; None without a holdout.  n counts both."""
    pair = _losses(scores, split)
    if pair is None:
        return None
    return Score(
        mia_loss(*pair), None, len(pair[0]) + len(pair[1]), f"{len(pair[0])} members, {len(pair[1])} holdout rows"
    )


def interval(scores: ModelScores, split: str | None, *, seed: int, **_: Any) -> tuple[float, float] | None:
    """Return the 95 % bootstrap interval over rows, members and holdout resampled apart."""
    pair = _losses(scores, split)
    return bootstrap_area_under_curve(-pair[0], -pair[1], seed=seed) if pair else None


def plain(predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
    """Return the area under the curve of losses with member flags."""
    losses, member = np.asarray(predictions, dtype=float), np.asarray(references, dtype=bool)
    return {"mia_loss": mia_loss(losses[member], losses[~member])}


def __getattr__(name: str) -> Any:
    return class_on_demand(__name__, name)
