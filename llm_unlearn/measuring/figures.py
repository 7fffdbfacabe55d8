"""From the scores of three models to the lines of a report.  Needs no model and no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from llm_unlearn import metrics as metric_files
from llm_unlearn.measuring.suites import DEFAULT, figures_of
from llm_unlearn.metrics._classes import classes_in
from llm_unlearn.metrics.exact_answer import exact_answer
from llm_unlearn.metrics.extraction_strength import extraction_strength
from llm_unlearn.scores import CAUSAL, CLASSIFIERS, RETAIN_TYPE, ModelScores, Scores, classifies
from llm_unlearn.statistics import bootstrap_interval

KNOWN = 0.5  # exact answer below which a model does not know a split
ACROSS = (  # no means over rows, so not taken apart by kind
    "forget_quality",
    "mia_entropy",
    "mia_entropy_accuracy",
    "mia_grad_norm",
    "mia_loss",
    "mia_loss_accuracy",
    "mia_min_k",
    "mia_min_k_plus",
    "mia_reference",
    "mia_tpr",
    "mia_zlib",
    "model_utility",
    "overall",
    "perplexity",
    "privleak",
    "u_lira",
)
JUDGED = ("extraction_strength", "mia_loss", "exact_memorisation", "exact_answer")
JUDGED_CLASSES = ("accuracy", "mia_loss")  # of classifiers
Others = (
    Mapping[str, Any] | None
)  # further models by name, for the figures that take them: "random", "shadows", "second_gold"


@dataclass(frozen=True)
class Figure:
    """One line of the report: None where something was not measured."""

    name: str
    split: str | None
    before: float | None
    after: float | None
    gold: float | None
    gap: float | None  # after - gold
    interval: tuple[float, float] | None  # 95 % bootstrap of after over rows
    n: int
    target: str  # "gold", "high" or "low"
    detail: str = ""
    gap_interval: tuple[float, float] | None = None  # 95 % bootstrap of the gap, both models on the same drawn rows
    spread: float | None = None  # the largest difference between two golds by this figure; None with fewer than two

    def to_json(self) -> dict[str, Any]:
        """Return the figure as report.json holds it."""
        plain = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}


@dataclass(frozen=True)
class Assessment:
    """All figures of a run, and what they are judged by."""

    figures: list[Figure]
    by_kind: list[Figure]  # split written "forget_heldout/cloze"
    unknown: frozenset[str]  # "split" or "split/kind" that `before` did not know: enters no verdict
    judged: list[Figure]  # the verdict's figures, over rows of known kinds only
    removed: str = "rows"  # of a classifier "classes" where no kept row has forget's, "both" where some rows have


def figures(
    after: ModelScores,
    *,
    before: ModelScores | None = None,
    gold: ModelScores | None = None,
    metrics: Sequence[str] | None = None,
    seed: int = 0,
    others: Others = None,
) -> list[Figure]:
    """Return each figure on every split it is defined on and `after` was measured on; None where it has no value.

    `metrics` are names of figures, the standard suite's where they are not given; those that are not defined for this kind of
    model are left out.  `others` are further models for the figures that take them.
    """
    tasks, out = tasks_of(after), []
    for name in figures_of(DEFAULT, tasks[0]) if metrics is None else metrics:
        module = metric_files.find(name)
        if not metric_files.defined_for(module, tasks):
            continue
        reported: list[str | None] = [split for split in module.SPLITS if split in after] if module.SPLITS else [None]
        out += [_figure(name, split, after, before, gold, seed, others) for split in reported]
    return out


def tasks_of(scores: ModelScores) -> tuple[str, ...]:
    """Return the tasks of which the scores may be: those of classifiers, or a causal LM's."""
    return CLASSIFIERS if classifies(scores) else CAUSAL


def _taken(module: Any, others: Others) -> dict[str, Any]:
    """Return the further models that a figure takes."""
    return {name: (others or {}).get(name) for name in getattr(module, "OTHERS", ())}


def _figure(
    name: str,
    split: str | None,
    after: ModelScores,
    before: ModelScores | None,
    gold: ModelScores | None,
    seed: int,
    others: Others,
) -> Figure:
    module = metric_files.find(name)
    values, taken = {}, _taken(module, others)
    for model, scores in (("before", before), ("after", after), ("gold", gold)):
        values[model] = None if scores is None else module.score(scores, split, gold=gold, before=before, **taken)
    mine, theirs, old = values["after"], values["gold"], values["before"]
    interval, gap_interval = None, None
    if mine is not None and mine.per_example is not None:
        interval = bootstrap_interval(mine.per_example, seed=seed)
        if theirs is not None and theirs.per_example is not None and mine.n == theirs.n:
            gap_interval = bootstrap_interval(mine.per_example - theirs.per_example, seed=seed)
    elif mine is not None and hasattr(module, "interval"):
        interval = module.interval(after, split, gold=gold, before=before, seed=seed, **taken)
        if gold is not None and hasattr(module, "gap_interval"):
            gap_interval = module.gap_interval(after, gold, split, seed=seed)
    return Figure(
        name=name,
        split=split,
        before=old.value if old else None,
        after=mine.value if mine else None,
        gold=theirs.value if theirs else None,
        gap=mine.value - theirs.value if mine and theirs else None,
        interval=interval,
        n=mine.n if mine else 0,
        target=getattr(module, "KEPT", "high") if split in RETAIN_TYPE and module.TARGET != "low" else module.TARGET,
        detail=mine.detail if mine else f"not measured: needs {module.NEEDS}",
        gap_interval=gap_interval,
    )


def kinds_of(scores: Scores) -> list[str]:
    """Return the split's kinds of row, in order of appearance."""
    return list(dict.fromkeys(scores.kinds))


def of_kind(scores: Scores, kind: str) -> Scores:
    """Return the scores of the rows of one kind."""
    return scores.only([each == kind for each in scores.kinds])


def figures_by_kind(
    after: ModelScores,
    *,
    before: ModelScores | None = None,
    gold: ModelScores | None = None,
    metrics: Sequence[str] | None = None,
    seed: int = 0,
    others: Others = None,
) -> list[Figure]:
    """Return the figures that are means over rows for each kind of a split that has several; split "name/kind"."""
    names = figures_of(DEFAULT, tasks_of(after)[0]) if metrics is None else metrics
    rowwise = [name for name in names if name not in ACROSS]
    out = []
    for split, scores in after.items():
        kinds = kinds_of(scores)
        for kind in kinds if len(kinds) > 1 else []:
            parts = [
                None if model is None or split not in model else {split: of_kind(model[split], kind)}
                for model in (after, before, gold)
            ]
            if parts[0] is None:
                continue
            of_this = figures(parts[0], before=parts[1], gold=parts[2], metrics=rowwise, seed=seed, others=others)
            out += [replace(figure, split=f"{split}/{kind}") for figure in of_this]
    return out


def unknown_to(before: ModelScores | None) -> frozenset[str]:
    """Return the "split" and "split/kind" that `before` does not know: exact answer below 0.5.

    On forget an extraction strength of 0.5 counts as knowing too, as in the verdict.  A holdout is not meant to be known.
    """
    out = set()
    for split, scores in (before or {}).items():
        if split == "holdout":
            continue
        if not _knows(scores):
            out.add(split)
        kinds = kinds_of(scores)
        out |= {f"{split}/{kind}" for kind in kinds if len(kinds) > 1 and not _knows(of_kind(scores, kind))}
    return frozenset(out)


def _knows(scores: Scores) -> bool:
    strict = float(np.nanmean(exact_answer(scores.hits)))
    return strict >= KNOWN or (
        scores.split == "forget" and float(np.nanmean(extraction_strength(scores.hits))) >= KNOWN
    )


def _known_rows(scores: ModelScores | None, unknown: frozenset[str]) -> dict[str, Scores] | None:
    """Return the scores without the rows of unknown kinds; a split of which nothing is known stays whole."""
    if scores is None:
        return None
    out = {}
    for split, rows in scores.items():
        keep = [f"{split}/{kind}" not in unknown for kind in rows.kinds]
        out[split] = rows.only(keep) if any(keep) and not all(keep) else rows
    return out


def removed(scores: ModelScores) -> str:
    """Return "classes" where no kept row is of forget's classes, "rows" where they all have kept rows, otherwise "both"."""
    kept = [classes_in(scores[split]) for split in RETAIN_TYPE if split in scores]
    gone = classes_in(scores["forget"]) if "forget" in scores else frozenset()
    left = gone.intersection(*[frozenset().union(*kept)]) if kept else gone
    return "rows" if left == gone else "both" if left else "classes"


def spread(
    figure: Figure, golds: Sequence[ModelScores], before: ModelScores | None, others: Others = None
) -> float | None:
    """Return the largest difference between two golds by a figure; None where fewer than two have a value."""
    module = metric_files.find(figure.name)
    taken = _taken(module, others)
    found = [module.score(scores, figure.split, gold=golds[0], before=before, **taken) for scores in golds]
    values = [score.value for score in found if score is not None]
    return max(values) - min(values) if len(values) > 1 else None


def assess(
    after: ModelScores,
    *,
    before: ModelScores | None = None,
    gold: ModelScores | None = None,
    golds: Sequence[ModelScores] = (),
    metrics: Sequence[str] | None = None,
    seed: int = 0,
    others: Others = None,
) -> Assessment:
    """Return the figures named in `metrics` (without it: the standard suite's), and those the verdict judges.

    `golds` are further golds: how far they lie apart is chance.  `others` are further models for the figures that take them.
    """
    unknown = unknown_to(before)
    others = {**(others or {}), **({"second_gold": golds[0]} if golds else {})}
    everything = figures(after, before=before, gold=gold, metrics=metrics, seed=seed, others=others)
    names = JUDGED_CLASSES if classifies(after) else JUDGED
    judged = [figure for figure in everything if figure.name in names]
    if any("/" in part for part in unknown) or (metrics is not None and not set(names) <= set(metrics)):
        mine, old, theirs = (_known_rows(scores, unknown) for scores in (after, before, gold))
        judged = figures(mine or {}, before=old, gold=theirs, metrics=names, seed=seed)
    if gold is not None and golds:
        everything, judged = (
            [replace(figure, spread=spread(figure, [gold, *golds], before, others)) for figure in part]
            for part in (everything, judged)
        )
    by_kind = figures_by_kind(after, before=before, gold=gold, metrics=metrics, seed=seed, others=others)
    return Assessment(figures=everything, by_kind=by_kind, unknown=unknown, judged=judged, removed=removed(after))
