"""Classes and concepts inside a class, forgotten by concept poisoning: every patch and label mode beside before and gold.

    python eval/concept_classes.py --data DIR                                  everything, seeds 0 1 2
    python eval/concept_classes.py --setups "fashion resnet" --seeds 0         one data set, one seed
    python eval/concept_classes.py --setups "cifar resnet" --variants "none targeted" "localized targeted"

Fashion-MNIST and CIFAR-10: class 0 is forgotten, with labels targeted, random or kept and patches none, localized, centre,
random or full.  AG News: class 0, with words masked or replaced; and the sports rows about the Olympic games alone, which are
inferred from twenty example rows ("found"), or given ("truth": a word list that no method sees), or the whole class ("all").
Models are those of eval/papers.py: a target, and a gold trained without the class or those rows.  Finished cells stay in
--output and are found again.  Seconds are processor seconds of one thread.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import nn

from llm_unlearn import cli, metrics, options
from llm_unlearn.concepts.bank import saying
from llm_unlearn.concepts.like_examples import like_examples
from llm_unlearn.data.requests import strangers_to
from llm_unlearn.errors import RecipeError, nearest
from llm_unlearn.files import write_text
from llm_unlearn.measuring.evaluation import measure
from llm_unlearn.papers import cells, corpora, pages, plan
from llm_unlearn.poisoned import ClassLabels
from llm_unlearn.scores import ModelScores
from llm_unlearn.settings import build
from llm_unlearn.tasks import Row

PATCHES = ("none", "localized", "centre", "random", "full")
PICTURES = tuple(
    f"{patch} {labels}" for patch in PATCHES for labels in get_args(ClassLabels) if (patch, labels) != ("none", "keep")
)
WORDS = ("none targeted", "none random", "mask targeted", "mask keep", "replace targeted", "replace keep")
INSIDE = (
    "none targeted found",
    "none random found",
    "mask targeted found",
    "none targeted truth",
    "none targeted all",
)
VARIANTS = (*dict.fromkeys((*PICTURES, *WORDS, *INSIDE)),)
SETUPS = (plan.RESNET, plan.CIFAR, plan.NEWS)
CONCEPT = "olympics"
EXAMPLES = 20  # rows that the concept is told by
MOST_KNOWN, MOST_LOST, MOST_APART = 0.01, 0.005, 0.02  # forget accuracy, retained accuracy, attack from gold's


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to run."""

    data: str | None = None  # the folder of the data sets; LLM_UNLEARN_DATA without it
    setups: tuple[str, ...] = SETUPS  # data sets and models
    seeds: tuple[int, ...] = (0, 1, 2)
    variants: tuple[str, ...] = VARIANTS  # patch and labels
    output: str = "outputs/papers"  # models are shared with eval/papers.py

    def __post_init__(self) -> None:
        """Raise RecipeError for a name that is none."""
        for option, names in (("setups", SETUPS), ("variants", VARIANTS)):
            for name in getattr(self, option):
                if name not in names:
                    raise RecipeError(
                        f"{option}: {name!r} is none{nearest(name, names)}. There are {', '.join(names)}."
                    )


class Inside(cells.Bench):
    """A concept inside a class: what a method is given is found from examples, given, or the whole class."""

    def splits(self, entry: plan.Entry, rows: Sequence[Row]) -> dict[str, Sequence[Row]]:
        """Return the rows that the entry forgets and those it keeps."""
        label = plan.CONCEPTS[self.group.scenario.name][0]
        mine, unseen = (
            [row for row in part if row["label"] == label] for part in (self.corpus.train, self.corpus.holdout)
        )
        how = entry.variant.split()[-1]
        if how == "truth":
            asked, like = rows, cells.apart(unseen, self.group.scenario)[0]
        elif how == "found":
            asked, like = self.found(mine), self.found(unseen)
        else:
            asked, like = mine, []
        gone = {row["id"] for row in asked}
        kept = [row for row in self.corpus.train if row["id"] not in gone]
        holdout = like or strangers_to(
            frozenset([label]), asked, [row for row in self.corpus.holdout if row["label"] != label], 0
        )
        return {"forget": asked, "retain": kept, "holdout": holdout}

    def found(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows of the class that carry what the examples share."""
        given = np.random.default_rng(self.group.seed).permutation(len(self.cut.forget))[:EXAMPLES]
        examples = [self.cut.forget[int(i)] for i in given]
        told = like_examples(self.target.model, self.task, rows, examples, self.corpus.train)
        return [row for row, mine in zip(rows, told.found, strict=True) if mine]

    def unlearned(self, entry: plan.Entry) -> cells.Cell:
        """Return the entry's cell, with the rows it forgot beside the true ones and beside those that say the name."""
        truth = {row["id"] for row in self.cut.forget}
        mine = {row["id"] for row in self.splits(entry, self.cut.forget)["forget"]}
        said = {row["id"] for row in saying(self.corpus.train, [self.group.scenario.name])}
        return {**super().unlearned(entry), "forgotten": against(mine, truth), "by_name": against(said, truth)}

    def measured(self, model: nn.Module) -> ModelScores:
        """Return the scores with the class's other test rows as a split of their own."""
        label = plan.CONCEPTS[self.group.scenario.name][0]
        others = [row for row in cells.apart(self.rows["test"], self.group.scenario)[1] if row["label"] == label]
        extra = measure(model, self.task, {"neighbour": others}, batch_size=256, progress=False)
        return {**super().measured(model), **extra}

    def figures(self, scores: ModelScores) -> dict[str, float | None]:
        """Return the figures, with accuracy on the class's other test rows."""
        found = metrics.find("accuracy").score(scores, "neighbour", gold=None, before=None)
        return {**super().figures(scores), "same_class": None if found is None else float(found.value)}


def against(mine: set[str], truth: set[str]) -> dict[str, float]:
    """Return precision and recall of rows against the true ones."""
    both = len(mine & truth)
    return {"rows": len(mine), "precision": both / max(1, len(mine)), "recall": both / len(truth)}


def entries(variants: Sequence[str]) -> list[plan.Entry]:
    """Return an entry a variant."""
    out = []
    for name in variants:
        patch, labels = name.split()[:2]
        settings = {"patch": patch, "labels": labels}
        out.append(plan.Entry(method="concept_poison", scenarios=(), setups=(), settings=settings, variant=name))
    return out


def groups(given: Options, setup: str) -> list[list[plan.Group]]:
    """Return what is run on a setup: a list a scenario, of a group a seed."""
    made = next(each for each in plan.SETUPS if each.name == setup)
    cases = {"class": WORDS, CONCEPT: INSIDE} if setup == plan.NEWS else {"class": PICTURES}
    out = []
    for name, known in cases.items():
        scenario = plan.Scenario(name=name, kind="class" if name == "class" else "concept")
        chosen = entries([variant for variant in known if variant in given.variants])
        out.append([plan.Group(setup=made, scenario=scenario, seed=seed, entries=chosen) for seed in given.seeds])
    return [each for each in out if each[0].entries]


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing, then print and write the tables."""
    given = build(Options, options.read(sys.argv[1:] if argv is None else argv, __doc__ or "", Options))
    torch.set_num_threads(1)
    data, folder = corpora.folder(given.data), Path(given.output)
    parts = []
    for setup in given.setups:
        for wanted in groups(given, setup):
            scenario = wanted[0].scenario
            for group in wanted:
                cells.run_group(group, data, folder, Inside if scenario.kind == "concept" else None)
            (runs,) = pages.scenarios(wanted, folder)
            parts += [f"## {setup}: {scenario.name}", table(runs)]
            if scenario.kind == "concept":
                parts.append(inference(runs))
    text = "\n\n".join(parts) + "\n"
    write_text(folder / "concept_classes.md", text)
    print(text)


def table(runs: pages.Runs) -> str:
    """Return the ablation table: before, gold, then every variant."""
    shown = figures_of(runs)
    heading = ["patch", "labels", *shown.values(), "s", "kept the limits"]
    lines = [heading, ["---"] * 2 + ["---:"] * (len(shown) + 1) + ["---"]]
    for name in (*cells.STANDARDS, *(entry.name for entry in runs[0][0].entries)):
        found = [each[name] for _, each in runs]
        figures = [pages.spread([cell["figures"][key] for cell in found], 100) for key in shown]
        words = [name, ""] if name in cells.STANDARDS else [name.split()[1], " ".join(name.split()[2:])]
        seconds = [cell.get("seconds") for cell in found]
        spent = pages.spread(seconds, 1) if None not in seconds else pages.DASH
        lines.append([*words, *figures, spent, "" if name in cells.STANDARDS else missed(runs, name)])
    n = runs[0][1]["before"]["n"]
    sizes = ", ".join(f"{split.replace('_', ' ')} {count:,}" for split, count in n.items())
    note = f"n: {sizes}; seeds {', '.join(str(group.seed) for group, _ in runs)}; % (mean ± standard deviation over seeds)."
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{note}"


def figures_of(runs: pages.Runs) -> dict[str, str]:
    """Return the figures of a table with their headings."""
    concept = runs[0][0].scenario.kind == "concept"
    return {
        "forget_train": "forget train",
        "forget_test": "forget test",
        **({"same_class": "same class, other rows"} if concept else {}),
        "test": "retained test",
        "mia_loss_accuracy": "MIA by loss",
        "mia_loss": "AUC by loss",
    }


def inference(runs: pages.Runs) -> str:
    """Return how well the rows were found, beside the plain search for the concept's name."""
    lines = []
    for entry in runs[0][0].entries:
        told = [found[entry.name]["forgotten"] for _, found in runs]
        lines.append((entry.variant.split()[-1], told))
    lines.append(("rows that say the name", [found[runs[0][0].entries[0].name]["by_name"] for _, found in runs]))
    out = ["| rows | n | precision | recall |", "| --- | ---: | ---: | ---: |"]
    for name, told in dict(lines).items():
        values = [
            pages.spread([each[key] for each in told], scale)
            for key, scale in (("rows", 1), ("precision", 100), ("recall", 100))
        ]
        out.append(f"| {name} | {' | '.join(values)} |")
    return "\n".join(out)


def missed(runs: pages.Runs, name: str) -> str:
    """Return "yes", or which limits the means over seeds miss and by what."""

    def mean(model: str, key: str) -> float:
        return sum(found[model]["figures"][key] for _, found in runs) / len(runs)

    apart = abs(mean(name, "mia_loss_accuracy") - mean("gold", "mia_loss_accuracy"))
    values: Mapping[str, tuple[float, float]] = {
        "forget train": (mean(name, "forget_train"), MOST_KNOWN),
        "forget test": (mean(name, "forget_test"), MOST_KNOWN),
        "retained lost": (mean("before", "test") - mean(name, "test"), MOST_LOST),
        "MIA from gold's": (apart, MOST_APART),
    }
    found = [f"{what} {100 * value:.1f}" for what, (value, most) in values.items() if value > most + 1e-9]
    return "no: " + ", ".join(found) if found else "yes"


if __name__ == "__main__":
    cli.run(main)
