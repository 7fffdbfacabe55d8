"""U-LiRA: a likelihood-ratio attack by shadow models that were unlearned as this one was.

Protocol    choose rows from forget and from unseen ones of the same classes; train K >= 4 models of this architecture, each with a
            random half of those rows, and unlearn in each, by the method under test, the rows it was trained with.  A shadow
            is such a model's scores with the ids it was trained with.  Each row needs 2 shadows with it and 2 without.
Definition  phi = log p(label) - log(1 - p(label)) of a row.  The shadows with the row give one Gaussian of phi, those without
            another (each row its own means; the two variances are shared by all rows, for K is small).  A row's number is the
            log-likelihood ratio of its own phi, with against without; the figure is the signed area under the ROC curve of it.
Range       0 to 1.
Ideal       0.5: a model that never saw the forget rows; above, they were trained on and it still shows.
Limits      K trainings and unlearnings; with few shadows it is hardly stronger than the loss attack.  One label a row.
Citation    Hayes et al., 2024, arXiv:2403.01218.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from llm_unlearn.metrics._in_process import class_on_demand
from llm_unlearn.metrics._membership import Pair, area_by_flag, area_interval, area_score, sides
from llm_unlearn.scores import CLASSIFIERS, Bools, Floats, ModelScores, Score, Scores, rows_of

TARGET = "gold"
TASKS = CLASSIFIERS
SPLITS = ("forget",)
NEEDS = "shadow models, at least 2 with and 2 without each row (eval/shadows.py)"
OTHERS = ("shadows",)  # further models that `score` takes
CITATION = "arXiv:2403.01218"
PLAIN = {"predictions": float, "references": int}
PLAIN_INPUTS = (
    "predictions: each row's log-likelihood ratio; references: 1 for a member (forget), 0 for a row never seen."
)
FEWEST = 4  # shadows
LEAST = 1e-30  # a probability below which the logarithm stops


class Shadow(NamedTuple):
    """A model that was trained with some of the rows and had them unlearned."""

    scores: ModelScores
    trained: frozenset[str]  # ids of those rows


def confidence(rows: Scores) -> Floats:
    """Return phi of each row [B] of one label."""
    pairs = zip(rows.probabilities or (), rows.classes or (), strict=True)
    shares = [(p[row[0]], np.delete(p, row[0]).sum()) for p, row in pairs]
    return np.array([np.log(max(own, LEAST)) - np.log(max(rest, LEAST)) for own, rest in shares])


def u_lira(own: Floats, shadows: Floats, trained: Bools) -> Floats:
    """Return each row's log-likelihood ratio [B] from phi [B] and the shadows' [K, B]; NaN where a side has under 2 shadows.

    `trained` [K, B] says which shadows had the row; NaN in `shadows` is a row that one was not measured on.
    """
    fits = []
    for side in (trained & ~np.isnan(shadows), ~trained & ~np.isnan(shadows)):
        count = side.sum(0)
        mean = np.where(side, shadows, 0).sum(0) / np.maximum(count, 1)
        spread = np.where(side, (shadows - mean) ** 2, 0).sum() / max(1, int((count - 1).clip(0).sum()))
        fits.append((np.where(count < 2, np.nan, mean), max(spread, 1e-12)))
    (mine, wide), (theirs, broad) = fits
    out: Floats = ((own - theirs) ** 2 / broad - (own - mine) ** 2 / wide + np.log(broad / wide)) / 2
    return out


def _pair(scores: ModelScores, split: str | None, shadows: Sequence[Shadow] | None) -> Pair | None:
    """Return the ratios of members and of rows never seen, taken together: they share the variances."""
    both = sides(scores, split)
    if (
        both is None
        or len(shadows or ()) < FEWEST
        or any(part.probabilities is None or part.multi_label for part in both)
    ):
        return None
    found = [_of_shadow(shadow, both) for shadow in shadows or ()]
    own = np.concatenate([confidence(part) for part in both])
    ratio = u_lira(own, np.array([phi for phi, _ in found]), np.array([trained for _, trained in found]))
    mine, theirs = (part[~np.isnan(part)] for part in np.split(ratio, [len(both[0])]))
    return (mine, theirs) if len(mine) and len(theirs) else None


def _of_shadow(shadow: Shadow, both: tuple[Scores, Scores]) -> tuple[Floats, Bools]:
    """Return a shadow's phi of all rows [B], NaN where it was not measured on one, and which it was trained with [B]."""
    phi: list[float] = []
    for part in both:
        seen = rows_of(shadow.scores, part.split)
        known = {} if seen is None else dict(zip(seen.ids, confidence(seen), strict=True))
        phi += [known.get(name, np.nan) for name in part.ids]
    trained = [name in shadow.trained for part in both for name in part.ids]
    return np.array(phi), np.array(trained)


def score(
    scores: ModelScores,
    split: str | None,
    *,
    gold: ModelScores | None = None,
    before: ModelScores | None = None,
    shadows: Sequence[Shadow] | None = None,
) -> Score | None:
    """Return the split's rows against unseen ones of the same classes; None without shadows.  n counts both."""
    return area_score(_pair(scores, split, shadows), f"{len(shadows or ())} shadow models")


def interval(
    scores: ModelScores, split: str | None, *, seed: int, shadows: Sequence[Shadow] | None = None, **_: Any
) -> tuple[float, float] | None:
    """Return the 95 % bootstrap interval over rows, members and unseen rows resampled apart."""
    return area_interval(_pair(scores, split, shadows), seed)


def plain(predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
    """Return the area under the curve of log-likelihood ratios with member flags."""
    return {"u_lira": area_by_flag(predictions, references)}


def __getattr__(name: str) -> Any:
    return class_on_demand(__name__, name)
