"""From the measurements of three models to a feature report's lines and its verdict."""

from collections.abc import Mapping, Sequence
from typing import Any

from llm_unlearn.features.measured import PENULTIMATE, Measured, interval
from llm_unlearn.measuring.figures import Figure
from llm_unlearn.measuring.verdict import FEWEST, KEPT, SLACK

PROBE, GAP, EQUAL, TASK = f"feature_probe {PENULTIMATE}", "counterfactual_gap", "equal_opportunity", "task_accuracy"
TARGETS = {GAP: "low", EQUAL: "low", TASK: "high"}  # of probes: gold
NEAR = 0.05  # a probe may be so much more often right than on gold
REST = 0.20  # the most of the counterfactual gap that may be left
NEAR_GAP = 0.02  # or so much more than gold's


def figures(models: Mapping[str, Measured | None], seed: int = 0) -> list[Figure]:
    """Return a line a figure, on the split `test`; `models` are before, after and, where there is one, gold."""
    out = []
    after = models["after"]
    for name in after.names if after is not None else ():
        values = {role: None if each is None else each.value(name) for role, each in models.items()}
        now, gold = values["after"], values.get("gold")
        count = 0 if after is None else len(after.right)
        between = None
        if now is not None and after is not None:
            between = interval(lambda rows, name=name: after.value(name, rows), count, seed)  # type: ignore[misc]
        out.append(
            Figure(
                name=name, split="test", before=values["before"], after=now, gold=gold,
                gap=None if now is None or gold is None else now - gold, interval=between, n=count,
                target=TARGETS.get(name, "gold"),
                detail="" if now is not None else "not measured: needs " + ("twins of the rows" if name == GAP else "annotations"),
            )
        )  # fmt: skip
    return out


def verdict(found: Sequence[Figure]) -> dict[str, Any]:
    """Return {"forgot", "utility_kept", "changed", "reasons"}: by probe and counterfactual gap, and by the task's accuracy."""
    table = {figure.name: figure for figure in found}
    checks: list[tuple[bool, str]] = []
    probe, gap, task = table.get(PROBE), table.get(GAP), table[TASK]
    if probe is not None and probe.after is not None and probe.gold is not None:
        good = probe.after <= probe.gold + NEAR + SLACK
        checks.append(
            (
                good,
                f"{PROBE} {probe.after:.3f} is {'within' if good else 'above'} gold's {probe.gold:.3f} + {NEAR:.2f}",
            )
        )
    if gap is not None and gap.after is not None and gap.before is not None:
        near = -1.0 if gap.gold is None else gap.gold + NEAR_GAP
        good = gap.after <= max(REST * gap.before, near) + SLACK
        words = f"{GAP} {gap.after:.3f} against {gap.before:.3f} before" + (
            "" if gap.gold is None else f", gold {gap.gold:.3f}"
        )
        checks.append(
            (good, f"{words}: {'at most' if good else 'more than'} {REST:.0%} of it is left, or gold's + {NEAR_GAP}")
        )
    reasons = [f"forgot: {words}" for _, words in checks]
    forgot = all(good for good, _ in checks) if checks else None
    if task.n < FEWEST:
        forgot, reasons = None, [f"forgot: cannot tell from {task.n} rows (at least {FEWEST})"]
    elif not checks:
        reasons = [
            "forgot: cannot tell, there is neither a gold model for the probe nor twins of the rows to compare with"
        ]
    kept = (task.after or 0.0) >= KEPT * (task.before or 0.0) - SLACK
    start = f"utility_kept: {TASK} {task.after or 0.0:.3f} against {task.before or 0.0:.3f} before"
    reasons.append(f"{start} {'holds' if kept else f'is under {KEPT} of it'}")
    return {
        "forgot": forgot,
        "utility_kept": kept,
        "changed": True,
        "reasons": reasons,
        "in_words": _in_words(forgot, kept),
    }


def _in_words(forgot: bool | None, kept: bool) -> str:
    first = {
        True: "The feature is gone: the model neither shows it more than gold does nor acts on it.",
        False: "The feature is still there.",
        None: "Whether the feature is gone cannot be told.",
    }[forgot]
    return f"{first} {'The task was kept.' if kept else 'The task was damaged.'}"
