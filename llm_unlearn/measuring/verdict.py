"""The verdict: did it forget, was the rest kept, did anything change, and which figure decided."""

from collections.abc import Mapping, Sequence
from typing import Any

from llm_unlearn.measuring.figures import KNOWN, Figure
from llm_unlearn.metrics._classes import STRANGERS
from llm_unlearn.scores import RETAIN_TYPE

TOLERANCE = {"accuracy": 0.05, "exact_memorisation": 0.05, "extraction_strength": 0.05, "mia_loss": 0.10}
FEWEST = 20  # rows below which no verdict is given
KEPT, KEPT_LOW = 0.95, 0.90  # shares of before's value: the figure itself, the lower end of its interval
ANSWERED = (
    "exact_answer",
    "exact_memorisation",
)  # what is kept is judged by: the second where no split is known exactly
CHANCE = 0.5  # area under the curve of rows that were never seen
SLACK = 1e-9  # rounding: a figure exactly on the limit passes

Table = Mapping[tuple[str, str | None], Figure]


def verdict(
    figures: Sequence[Figure], *, changed: bool, unknown: frozenset[str] = frozenset(), removed: str = "rows"
) -> dict[str, Any]:
    """Return {"forgot": bool | None, "utility_kept": bool | None, "changed": bool, "reasons": [str]}.

    `figures` are an assessment's judged ones.  `utility_kept` is None only where no retain-type split was measured.
    `removed` is an assessment's too: what a classifier without gold should be like depends on whether whole classes go.
    """
    table = {(figure.name, figure.split): figure for figure in figures}
    forgot, why_forgot = _forgot(table, unknown, removed)
    kept, why_kept = _kept(table, unknown)
    reasons = [*why_forgot, *why_kept]
    if not changed:
        reasons.append("changed: the model's outputs are what they were before")
    return {"forgot": forgot, "utility_kept": kept, "changed": changed, "reasons": reasons}


def _forgot(table: Table, unknown: frozenset[str], removed: str) -> tuple[bool | None, list[str]]:
    knowing = ("accuracy", "exact_answer", "extraction_strength")
    known = {name: table.get((name, "forget")) for name in knowing}
    values = {
        name: figure.before for name, figure in known.items() if figure is not None and figure.before is not None
    }
    if not values:
        return None, ["forgot: cannot tell, the model before was not measured on forget"]
    told = ", ".join(f"{name} {value:.2f}" for name, value in values.items())
    if max(values.values()) < KNOWN:
        return None, [
            f"forgot: cannot tell, before did not know the forget rows ({told}; {'one' if len(values) > 1 else 'it'} must be at least {KNOWN})"
        ]
    n = max((figure.n for name, figure in known.items() if figure is not None and name != "exact_answer"), default=0)
    if n < FEWEST:
        return None, [f"forgot: cannot tell from {n} forget rows (at least {FEWEST})"]
    checks, notes = _checks(table, unknown, removed)
    if not checks:
        return None, ["forgot: cannot tell, there is neither a gold model nor a holdout to compare with", *notes]
    answers = [passed for passed, _ in checks]
    forgot = False if False in answers else None if None in answers else True
    return forgot, [f"forgot: {words}" for _, words in checks] + notes


def _checks(table: Table, unknown: frozenset[str], removed: str) -> tuple[list[tuple[bool | None, str]], list[str]]:
    """Return (passed, reason) of each figure that decides, and what could not be compared."""
    checks: list[tuple[bool | None, str]] = []
    notes: list[str] = []
    for split in ("forget", "forget_heldout"):
        if split in unknown and split != "forget":
            notes.append(f"forgot: {split} is left out, before did not know it")
            continue
        for name, tolerance in TOLERANCE.items():
            figure = table.get((name, split))
            if figure is None:
                continue
            if figure.after is None:
                notes.append(f"forgot: {name} on {split} {figure.detail or 'not measured'}")
                continue
            if name == "accuracy" and removed == "both" and figure.gold is None:
                checks.append(
                    (None, f"{name} on {split} needs gold: of the classes to forget some are kept, some not")
                )
                continue
            target, source = _target(table, figure, removed)
            if target is None or (split != "forget" and figure.n < FEWEST):
                continue
            checks.append(_check(figure, target, source, tolerance))
    return checks, notes


def _check(figure: Figure, target: float, source: str, tolerance: float) -> tuple[bool | None, str]:
    """Return whether `after` is near enough to its target, None where the rows are too few to tell, and the reason.

    The rows can tell gaps larger than half the width of the gap's 95 % interval.  Where that is more than the tolerance,
    only a gap that is wholly outside the tolerance decides.
    """
    after = figure.after or 0.0
    gap, detectable = after - target, detectable_gap(figure)
    passed: bool | None = abs(gap) <= tolerance + SLACK
    side = "within" if passed else "still known, above" if gap > 0 else "over-forgotten, below"
    words = f"{figure.name} on {figure.split} {after:.3f} is {side} {source} {target:.3f} +- {tolerance:.2f}"
    if detectable > tolerance and abs(gap) - detectable <= tolerance:
        least = f"{figure.n} rows tell gaps from {detectable:.3f} on, the limit is {tolerance:.2f}"
        return None, f"not enough rows to tell by {figure.name} on {figure.split}: {least}"
    return passed, words


def detectable_gap(figure: Figure) -> float:
    """Return the smallest gap that the figure's rows can tell from none: half its 95 % interval; 0 where it is not known."""
    found = figure.gap_interval or figure.interval
    return 0.0 if found is None else (found[1] - found[0]) / 2


def _target(table: Table, figure: Figure, removed: str) -> tuple[float | None, str]:
    """Return what the figure should be, and whose value that is: gold's, else the holdout's before unlearning.

    A class that is wholly forgotten is never named by a model that never saw it.
    """
    if figure.gold is not None:
        return figure.gold, "gold's"
    if figure.name == "mia_loss":
        return CHANCE, "chance,"
    if figure.name != "accuracy":
        stranger = table.get((figure.name, "holdout"))
        return (None if stranger is None else stranger.before), "the holdout's"
    if removed == "classes":
        return 0.0, "(no kept row is of its classes)"
    unseen = [table[figure.name, split].before for split in STRANGERS if (figure.name, split) in table]
    known = [value for value in unseen if value is not None]
    return (known[0] if known else None), "unseen rows'"


def _kept(table: Table, unknown: frozenset[str]) -> tuple[bool | None, list[str]]:
    strict, loose = ("accuracy",) * 2 if any(name == "accuracy" for name, _ in table) else ANSWERED
    measured = [split for split in RETAIN_TYPE if (found := table.get((strict, split))) and found.before is not None]
    if not measured:
        return None, ["utility_kept: cannot tell, no retain-type split was measured before and after"]
    known = [split for split in measured if split not in unknown]
    name, reasons = strict, []
    if known:
        reasons += [
            f"utility_kept: {split} is left out, before did not know it" for split in measured if split in unknown
        ]
    else:
        name = loose
        reasons.append(f"utility_kept: before answers no retain-type split exactly (below {KNOWN}); judged by {name}")
    kept = True
    for split in known or measured:
        passed, words = _holds(table[name, split])
        kept = kept and passed
        reasons.append(f"utility_kept: {words}")
    return kept, reasons


def _holds(figure: Figure) -> tuple[bool, str]:
    after, before = figure.after or 0.0, figure.before or 0.0
    start = f"{figure.name} on {figure.split} {after:.3f} against {before:.3f} before"
    low = figure.interval[0] if figure.interval else after
    if after < KEPT * before - SLACK:
        return False, f"{start} is under {KEPT} of it"
    if low < KEPT_LOW * before - SLACK:
        return False, f"{start}, but its interval reaches down to {low:.3f}, under {KEPT_LOW} of it ({figure.n} rows)"
    return True, f"{start} holds"
