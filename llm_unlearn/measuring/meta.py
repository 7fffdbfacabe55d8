"""How good is a figure?  Does it tell models that know from models that never did, and does it stay put under an attack?

Every figure enters as m, oriented so that more means "knows more" (`knowing`).

Faithfulness  area under the ROC curve of m, models that know against models that never did, ties one half; 1 is best, 0.5 is
              chance, below it the figure points the wrong way (it is not turned round).
Quantisation  Q = 1 - |m' - m| / (|m| + |m'| + eps), m' after 4-bit rounding: 1 where the figure stays as it was.  Mean over
              unlearned models.  Either direction counts: an attack that wrecks a figure is no proof that knowledge is gone.
Relearning    R = 1 - |D - D_gold| / (|D| + |D_gold| + eps), D = m' - m of the unlearned model and D_gold of gold under the same
              short fine-tuning on forget: 1 where the unlearned model comes to know as slowly as one that never knew.
              0 where they move in opposite directions.  Mean over unlearned models.
Robustness    harmonic mean of Q and R.  Overall: harmonic mean of faithfulness and robustness.

All in [0, 1].  Source: the pools and both attacks are OpenUnlearning's (arXiv:2506.12618); the symmetric forms of Q and R are
those of arXiv:2605.24614, which states no eps.  Differs from the paper: eps is 1e-3, so that movements far below what a figure
can resolve count as none, instead of as a random share of nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llm_unlearn.scores import Floats
from llm_unlearn.statistics import area_under_curve, bootstrap_area_under_curve, harmonic_mean

EPSILON = 1e-3
FALLING = frozenset(
    {"truth_ratio", "forget_quality", "unlearning_depth"}
)  # figures where less means "knows more"; in [0, 1]
Values = Mapping[str, float | None]  # one model's figures by name; None: not measured


@dataclass(frozen=True)
class Merit:
    """What one figure is worth.  None: not measured on enough models."""

    figure: str
    faithfulness: float | None
    interval: tuple[float, float] | None  # 95 % bootstrap over models, both pools resampled
    knows: float | None  # mean of the figure itself over the pool that knows
    never: float | None
    quantisation: float | None
    relearning: float | None
    robustness: float | None
    overall: float | None


def knowing(figure: str, value: float) -> float:
    """Return m: the figure where more of it means knowing more, 1 minus it where less does."""
    return 1 - value if _falls(figure) else value


def _falls(figure: str) -> bool:
    return figure.split(" ")[0] in FALLING  # a name may be followed by a split: "truth_ratio forget"


def stays(before: float, after: float) -> float:
    """Return 1 - |after - before| / (|before| + |after| + eps), in [0, 1]: Q of one model."""
    return 1 - abs(after - before) / (abs(before) + abs(after) + EPSILON)


def recovers_like_gold(moved: float, gold_moved: float) -> float:
    """Return 1 - |moved - gold_moved| / (|moved| + |gold_moved| + eps), in [0, 1]: R of one model."""
    return stays(gold_moved, moved)


def merits(
    knows: Sequence[Values],
    never: Sequence[Values],
    *,
    unlearned: Sequence[Mapping[str, Values]] = (),
    gold: Mapping[str, Values] | None = None,
    seed: int = 0,
) -> list[Merit]:
    """Return the merit of each figure that was measured on some model, best first.

    `unlearned` (a model each) and `gold` hold the figures under "plain", "quantised" and "relearned".
    """
    names = dict.fromkeys(name for values in (*knows, *never) for name, value in values.items() if value is not None)
    found = [_merit(name, knows, never, unlearned, gold, seed) for name in names]
    return sorted(found, key=lambda merit: -(merit.overall or merit.faithfulness or 0))


def _merit(
    name: str,
    knows: Sequence[Values],
    never: Sequence[Values],
    unlearned: Sequence[Mapping[str, Values]],
    gold: Mapping[str, Values] | None,
    seed: int,
) -> Merit:
    members, others = _measured(name, knows), _measured(name, never)
    area, interval = None, None
    if len(members) and len(others):
        sign = -1 if _falls(name) else 1  # not 1 - value, in which p-values of 1e-20 and 1e-30 would be a tie
        area = area_under_curve(sign * members, sign * others)
        interval = bootstrap_area_under_curve(sign * members, sign * others, seed=seed)
    quantised = [stays(*pair) for each in unlearned if (pair := _pair(name, each, "quantised"))]
    theirs = _pair(name, gold or {}, "relearned")
    pairs = [pair for each in unlearned if (pair := _pair(name, each, "relearned"))]
    relearned = [recovers_like_gold(pair[1] - pair[0], theirs[1] - theirs[0]) for pair in pairs] if theirs else []
    q, r = (float(np.mean(each)) if each else None for each in (quantised, relearned))
    robust = None if q is None or r is None else harmonic_mean([q, r])
    return Merit(
        figure=name,
        faithfulness=area,
        interval=interval,
        knows=float(members.mean()) if len(members) else None,
        never=float(others.mean()) if len(others) else None,
        quantisation=q,
        relearning=r,
        robustness=robust,
        overall=None if robust is None or area is None else harmonic_mean([area, robust]),
    )


def _measured(name: str, pool: Sequence[Values]) -> Floats:
    return np.array([value for values in pool if (value := values.get(name)) is not None])


def _pair(name: str, model: Mapping[str, Values], attacked: str) -> tuple[float, float] | None:
    """Return m before and after the attack; None where one was not measured."""
    first, second = (model.get(state, {}).get(name) for state in ("plain", attacked))
    return None if first is None or second is None else (knowing(name, first), knowing(name, second))


def table(found: Sequence[Merit]) -> str:
    """Return the merits as a Markdown table, a dash where something was not measured."""
    lines = [
        "| figure | faithfulness (AUC) | 95 % interval | mean: knows | mean: never | Q | R | robustness | overall |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for merit in found:
        interval = "-" if merit.interval is None else f"{merit.interval[0]:.2f} - {merit.interval[1]:.2f}"
        numbers = [_short(value) for value in (merit.knows, merit.never, merit.quantisation, merit.relearning)]
        numbers += [_short(merit.robustness), _short(merit.overall)]
        lines.append(f"| {merit.figure} | {_short(merit.faithfulness)} | {interval} | " + " | ".join(numbers) + " |")
    return "\n".join(lines)


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
