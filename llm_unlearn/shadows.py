"""Shadow models for U-LiRA: small copies of the whole story, each with another random half of the rows.

A shadow starts from a model that saw none of the rows (gold), learns half of them (forget and unseen ones of the same classes)
with an adapter, and has that half unlearned by the run's own method and settings.  Every second shadow has the rows that
the one before it has not, so each row is in exactly half of the shadows.

Kept for later calls, like golds: what a shadow says of the rows, by the start's weights, the rows, the schedules, the method,
the seed and the code.
"""

import copy
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn
from transformers.trainer_utils import set_seed

from llm_unlearn import goldcache
from llm_unlearn.attacks._attacked import merged, spread
from llm_unlearn.data.sources import fingerprint
from llm_unlearn.errors import DataError, RecipeError
from llm_unlearn.files import read_json, write_json
from llm_unlearn.loading import PEFT_TASKS, checkpoint, load_model
from llm_unlearn.lora import Lora, attach
from llm_unlearn.measuring import cache
from llm_unlearn.measuring.evaluation import measure
from llm_unlearn.measuring.figures import Figure, figures
from llm_unlearn.metrics._classes import STRANGERS
from llm_unlearn.metrics.accuracy import accuracy
from llm_unlearn.metrics.u_lira import FEWEST, Shadow
from llm_unlearn.prepare import measured
from llm_unlearn.recipe import to_dict
from llm_unlearn.reporting.report import number
from llm_unlearn.run import Run
from llm_unlearn.runfolder import is_main, on_main
from llm_unlearn.schedule import Schedule
from llm_unlearn.scores import CLASSIFIERS, Scores
from llm_unlearn.subject import Subject
from llm_unlearn.tasks import Row
from llm_unlearn.train import train

NAMES = ("u_lira", "mia_loss")  # the second for comparison: what a plain attack tells of the same rows
WEAK = 0.1  # accuracy by which shadows must know their own rows better than the other half, or they are no shadows


@dataclass(frozen=True, kw_only=True)
class Options(Subject):
    """Whose rows, and how the shadows learn them."""

    shadows: int = 8  # how many; even, at least 4
    base: str | None = None  # where they start: a model that saw none of the rows (default: gold)
    lora: Lora | None = Lora()  # the adapter with which a shadow learns its rows; none: all weights
    training: Schedule = Schedule(passes=10.0, least_steps=1, forget_batch=16, warmup_steps=10, decay="cosine")
    cache: bool = True  # keep what the shadows say for later calls (private, ~/.cache/llm_unlearn)
    output: str = "outputs/shadows"  # the folder for what is written

    def __post_init__(self) -> None:
        """Raise RecipeError for too few shadows and where there is no run to repeat."""
        super().__post_init__()
        if self.shadows < FEWEST or self.shadows % 2:
            raise RecipeError(f"--shadows {self.shadows}: give an even number, at least {FEWEST}.")
        if self.run is None:
            raise RecipeError("shadows are unlearned by the run's own method: give --run DIR.")


class Made(NamedTuple):
    """One shadow, and how right it was on its own half and on the other: when it had learned, and after unlearning."""

    shadow: Shadow
    learned: tuple[float, float]
    unlearned: tuple[float, float]


@dataclass(frozen=True)
class Result:
    """The figures beside gold, how the shadows fared, and the seconds it took."""

    figures: list[Figure]
    made: list[Made]
    seconds: float
    notes: list[str]


def run(options: Options) -> Result:
    """Make the shadows (or find them), measure the run's models on the same rows, and return the figures.

    Raises RecipeError for a task or a method that has no shadows and DataError where rows or the start are missing.
    """
    recipe, start = options.recipe, time.perf_counter()
    if recipe.task not in CLASSIFIERS:
        raise RecipeError(f"U-LiRA is a figure of classifiers, and this run's task is {recipe.task}.")
    if recipe.method.starts_from == "origin":
        raise RecipeError(
            "a method that trains anew has nothing to unlearn in a shadow: give a run of another method."
        )
    base = options.base or recipe.gold
    if base is None:
        raise DataError("shadows start from a model that saw none of the rows: give --gold, or --base.")
    rows = _rows(options)
    halves = complementary([len(each) for each in rows.values()], options.shadows, options.seed)
    made = [_shadow(options, base, rows, number, half) for number, half in enumerate(halves)]
    how = {"batch_size": recipe.evaluation.batch_size, "progress": is_main()}
    scores = {name: measure(options.load(name), options.reader, rows, **how) for name in options.names}
    found = figures(
        scores["after"],
        before=scores.get("before"),
        gold=scores.get("gold"),
        metrics=NAMES,
        seed=options.seed,
        others={"shadows": [each.shadow for each in made]},
    )
    knew = np.array([each.learned for each in made]).mean(0)
    notes = []
    if knew[0] - knew[1] < WEAK:
        notes.append(
            f"the shadows know their own rows ({knew[0]:.2f} right) hardly better than the others ({knew[1]:.2f}): they show "
            "nothing. Raise training.passes or training.learning_rate."
        )
    return Result(found, made, time.perf_counter() - start, notes)


def complementary(sizes: Sequence[int], count: int, seed: int) -> list[list[list[int]]]:
    """Return for each of `count` shadows the row numbers it has of each split (`sizes` rows each), one half of them.

    Shadows 2 k and 2 k + 1 have all rows between them.
    """
    out: list[list[list[int]]] = []
    for pair in range(count // 2):
        orders = [np.random.default_rng([seed, pair, place]).permutation(size) for place, size in enumerate(sizes)]
        cuts = [len(order) // 2 for order in orders]
        out.append([sorted(order[:cut].tolist()) for order, cut in zip(orders, cuts, strict=True)])
        out.append([sorted(order[cut:].tolist()) for order, cut in zip(orders, cuts, strict=True)])
    return out


def _rows(options: Options) -> dict[str, list[Row]]:
    """Return forget and the unseen rows of its classes, under names that no two rows share; DataError without them."""
    chosen = measured(options.splits, options.recipe.evaluation.rows, seed=0)
    unseen = next((split for split in STRANGERS if chosen.get(split)), None)
    if unseen is None or not chosen.get("forget"):
        raise DataError("shadows need forget rows and unseen rows of the same classes: a holdout, or forget_heldout.")
    return {
        split: [{**row, "id": f"{split} {place}"} for place, row in enumerate(chosen[split])]
        for split in ("forget", unseen)
    }


def _shadow(options: Options, base: str, rows: Mapping[str, Sequence[Row]], which: int, half: list[list[int]]) -> Made:
    """Return one shadow, from the cache where it was made before."""
    seed = options.seed + 1 + which
    had = [each[i] for each, chosen in zip(rows.values(), half, strict=True) for i in chosen]
    ids = {row["id"] for row in had}
    other = [row for each in rows.values() for row in each if row["id"] not in ids]
    path = _place(options, base, had, other, seed) if options.cache else None
    if path is None or (kept := on_main(lambda: read_json(path))) is None:
        kept = _make(options, base, rows, had, other, seed)
        if path is not None:
            on_main(lambda: _put(path, kept))
    scores = {split: Scores.from_json(each) for split, each in kept["splits"].items()}
    learned, unlearned = (tuple(kept[name]) for name in ("learned", "unlearned"))
    return Made(Shadow(scores, frozenset(ids)), learned, unlearned)


def _place(options: Options, base: str, had: Sequence[Row], other: Sequence[Row], seed: int) -> Path | None:
    """Return the file of a shadow; None where the start's weights are in no local folder."""
    recipe = options.recipe
    what = {
        "task": recipe.task,
        "precision": recipe.precision,
        "other": fingerprint(other),
        "code": cache.of_code(),
        "retain": fingerprint(options.splits["retain"]),
        "learns": options.lora and asdict(options.lora),
        **{name: to_dict(recipe)[name] for name in ("method", "lora", "accumulation")},
    }
    name = goldcache.key(checkpoint(base, "gold"), had, options.training, seed, what)
    return None if name is None else cache.folder().with_name("shadows") / f"{name}.json"


def _put(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_json(path, content, mode=0o600)


def _make(
    options: Options,
    base: str,
    rows: Mapping[str, Sequence[Row]],
    had: Sequence[Row],
    other: Sequence[Row],
    seed: int,
) -> dict[str, Any]:
    """Let a shadow learn its half beside as many kept rows, unlearn that half, and return what it says of all rows."""
    recipe, task = options.recipe, options.reader
    folder = Path(options.output) / "work"
    how = {"batch_size": recipe.evaluation.batch_size, "progress": is_main()}
    on_main(lambda: shutil.rmtree(folder, ignore_errors=True))  # a fit that ended is not trained again
    set_seed(seed)
    model: nn.Module = load_model(recipe, base, role="gold").train()
    if options.lora is not None:
        model = attach(model, options.lora, PEFT_TASKS.get(task.name))
    retain = list(options.splits["retain"])
    learner = Run(model=model, task=task, splits={}, folder=folder / "learn", seed=seed)
    train(learner, [*had, *spread(retain, len(had), seed)], options.training)
    knows = merged(model)
    learned = _right(measure(knows, task, rows, **how), had)
    frozen = copy.deepcopy(knows) if recipe.lora is None else None
    forgets = knows.train() if recipe.lora is None else attach(knows, recipe.lora, PEFT_TASKS.get(task.name))
    splits = {"forget": list(had), "retain": retain, "holdout": list(other)}
    forgetting = {"folder": folder / "unlearn", "seed": seed, "frozen_copy": frozen}
    recipe.method.unlearn(Run(model=forgets, task=task, splits=splits, **forgetting))  # type: ignore[arg-type]
    scores = measure(forgets.eval(), task, rows, **how)
    on_main(lambda: shutil.rmtree(folder, ignore_errors=True))
    return {
        "learned": learned,
        "unlearned": _right(scores, had),
        "splits": {split: each.to_json(text=False) for split, each in scores.items()},
    }


def _right(scores: Mapping[str, Scores], had: Sequence[Row]) -> list[float]:
    """Return the shares of right answers on a shadow's own rows and on the others."""
    mine = {row["id"] for row in had}
    pairs = [pair for each in scores.values() for pair in zip(each.ids, accuracy(each.hits), strict=True)]
    return [float(np.mean([right for name, right in pairs if (name in mine) == own])) for own in (True, False)]


def table(result: Result) -> str:
    """Return the figures as Markdown, with what the shadows knew under them."""
    lines = ["| figure | split | before | after | gold | 95 % of after | n |", "|---|---|---:|---:|---:|---:|---:|"]
    for line in result.figures:
        bounds = "-" if line.interval is None else f"{line.interval[0]:.3f} to {line.interval[1]:.3f}"
        values = [number(value) for value in (line.before, line.after, line.gold)]
        lines.append(f"| {line.name} | {line.split} | {' | '.join(values)} | {bounds} | {line.n} |")
    means = [np.array([getattr(each, name) for each in result.made]).mean(0) for name in ("learned", "unlearned")]
    told = [
        f"{name} {mine:.2f} of their own rows right, {theirs:.2f} of the others"
        for name, (mine, theirs) in zip(("learned:", "after unlearning:"), means, strict=True)
    ]
    return "\n".join(
        [*lines, "", f"{len(result.made)} shadows; {'; '.join(told)}; {result.seconds:.0f} s", *result.notes]
    )


def write(result: Result, folder: Path) -> Path:
    """Write folder/shadows.json (figures and how the shadows fared, no row's text) and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "figures": [figure.to_json() for figure in result.figures],
        "shadows": [{"learned": each.learned, "unlearned": each.unlearned} for each in result.made],
        "seconds": round(result.seconds, 1),
        "notes": result.notes,
    }
    write_json(folder / "shadows.json", content)
    return folder / "shadows.json"
