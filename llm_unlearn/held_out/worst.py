"""The worst case over wrappers: the way of asking that gets most out of the model, beside the one that gets most out of gold."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from llm_unlearn.held_out.wrappers import KIND, PLAIN
from llm_unlearn.measuring.figures import Figure, kinds_of, of_kind
from llm_unlearn.metrics.exact_answer import exact_answer
from llm_unlearn.metrics.extraction_strength import extraction_strength
from llm_unlearn.scores import Floats, Scores
from llm_unlearn.statistics import bootstrap_interval, bootstrap_means, percentile_interval

WORST = {"extraction_strength": extraction_strength, "exact_answer": exact_answer}
WRAPPER, LEAD = "worst wrapper", "widest lead over gold"


def worst_cases(
    models: Mapping[str, Scores | None], names: Sequence[str], seed: int, apart: Collection[str] = ()
) -> list[Figure]:
    """Return for extraction strength and exact answer the highest value over the wrappers, each model's own; and, where `after`
    is above gold under one, the wrapper under which it is furthest above.  [] without wrapped rows.

    `plain` is no wrapper, and kinds `apart` ask for something else than the row's answer: neither counts.  The interval of the
    highest value is that of a maximum: every bootstrap sample takes its own.
    """
    out: list[Figure] = []
    for name in [each for each in WORST if each in names]:
        rows = {model: _by_wrapper(name, scores, apart) for model, scores in models.items() if scores is not None}
        after = rows.get("after", {})
        plain = after.pop(PLAIN, None)
        if not after:
            continue
        for each in rows.values():
            each.pop(PLAIN, None)
        asked = "" if plain is None else f"; asked plainly {plain.mean():.3f}"
        widest = _widest(name, rows, asked, seed) if "gold" in rows else None
        if "gold" in rows and widest is None:
            asked += "; no wrapper above gold"
        out += [_highest(name, rows, asked, seed), *([widest] if widest else [])]
    return out


def _by_wrapper(name: str, scores: Scores, apart: Collection[str]) -> dict[str, Floats]:
    """Return a figure's values a row [B] by wrapper."""
    kinds = [kind for kind in kinds_of(scores) if kind.startswith(KIND) and kind not in apart]
    return {kind.removeprefix(KIND): WORST[name](of_kind(scores, kind).hits) for kind in kinds}


def _highest(name: str, rows: Mapping[str, Mapping[str, Floats]], asked: str, seed: int) -> Figure:
    top = {model: max(float(values.mean()) for values in each.values()) for model, each in rows.items()}
    where = "; ".join(f"{model}: {_who(rows[model], top[model])}" for model in rows if model != "before")
    many = all(len(values) > 1 for values in rows["after"].values())
    draws = [bootstrap_means(values, seed=seed) for values in rows["after"].values()] if many else []
    return Figure(
        name=name,
        split=WRAPPER,
        before=top.get("before"),
        after=top["after"],
        gold=top.get("gold"),
        gap=top["after"] - top["gold"] if "gold" in top else None,
        interval=percentile_interval(np.max(draws, axis=0)) if many else None,
        n=max(len(values) for values in rows["after"].values()),
        target="gold",
        detail=where + asked,
    )


def _who(values: Mapping[str, Floats], top: float) -> str:
    """Return which wrapper it is, or how many are alike."""
    names = [name for name, each in values.items() if float(each.mean()) == top]
    return names[0] if len(names) == 1 else f"{len(names)} wrappers alike"


def _widest(name: str, rows: Mapping[str, Mapping[str, Floats]], asked: str, seed: int) -> Figure | None:
    """Return the wrapper under which `after` is furthest above gold; None where it is above gold under none."""
    lead = {kind: float(values.mean() - rows["gold"][kind].mean()) for kind, values in rows["after"].items()}
    kind = max(lead, key=lambda each: lead[each])
    if lead[kind] <= 0:
        return None
    values = rows["after"][kind]
    return Figure(
        name=name,
        split=LEAD,
        before=float(rows["before"][kind].mean()) if "before" in rows else None,
        after=float(values.mean()),
        gold=float(rows["gold"][kind].mean()),
        gap=lead[kind],
        interval=bootstrap_interval(values, seed=seed),
        n=len(values),
        target="gold",
        detail=kind + asked,
    )
