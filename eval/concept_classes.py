"""Classes and concepts inside a class, forgotten by concept poisoning: every patch and label mode beside before and gold.

    python eval/concept_classes.py --data DIR                                  everything, seeds 0 1 2
    python eval/concept_classes.py --setups "fashion resnet" --seeds 0         one data set, one seed
    python eval/concept_classes.py --setups "cifar resnet" --variants "none targeted" "localized targeted"

Fashion-MNIST and CIFAR-10: class 0 is forgotten, with labels targeted, random or kept and patches none, localized, centre,
random or full.  Models are those of eval/papers.py: a target, and a gold trained without the class.  Finished cells stay in
--output and are found again.  Seconds are processor seconds of one thread.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch

from llm_unlearn import cli, options
from llm_unlearn.errors import RecipeError, nearest
from llm_unlearn.files import write_text
from llm_unlearn.papers import cells, corpora, pages, plan
from llm_unlearn.poisoned import ClassLabels
from llm_unlearn.settings import build

PATCHES = ("none", "localized", "centre", "random", "full")
VARIANTS = tuple(
    f"{patch} {labels}" for patch in PATCHES for labels in get_args(ClassLabels) if (patch, labels) != ("none", "keep")
)
SETUPS = (plan.RESNET, plan.CIFAR)
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


def entries(variants: Sequence[str]) -> list[plan.Entry]:
    """Return an entry a variant."""
    out = []
    for name in variants:
        patch, labels = name.split()
        settings = {"patch": patch, "labels": labels}
        out.append(plan.Entry(method="concept_poison", scenarios=(), setups=(), settings=settings, variant=name))
    return out


def groups(given: Options, setup: str) -> list[plan.Group]:
    """Return what is run on a setup, a group a seed."""
    made = next(each for each in plan.SETUPS if each.name == setup)
    scenario = next(each for each in plan.SCENARIOS if each.name == "class")
    return [
        plan.Group(setup=made, scenario=scenario, seed=seed, entries=entries(given.variants)) for seed in given.seeds
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing, then print and write the tables."""
    given = build(Options, options.read(sys.argv[1:] if argv is None else argv, __doc__ or "", Options))
    torch.set_num_threads(1)
    data, folder = corpora.folder(given.data), Path(given.output)
    parts = []
    for setup in given.setups:
        wanted = groups(given, setup)
        for group in wanted:
            cells.run_group(group, data, folder)
        runs = pages.scenarios(wanted, folder)
        parts += [f"## {setup}: one class, {len(wanted)} seeds", table(runs[0])]
    text = "\n\n".join(parts) + "\n"
    write_text(folder / "concept_classes.md", text)
    print(text)


def table(runs: pages.Runs) -> str:
    """Return the ablation table: before, gold, then every variant."""
    heading = [
        "patch",
        "labels",
        "forget train",
        "forget test",
        "retained test",
        "MIA by loss",
        "AUC by loss",
        "s",
        "kept the limits",
    ]
    lines = [heading, ["---"] * 2 + ["---:"] * 6 + ["---"]]
    for name in (*cells.STANDARDS, *(entry.name for entry in runs[0][0].entries)):
        found = [each[name] for _, each in runs]
        figures = [
            pages.spread([cell["figures"][key] for cell in found], 100)
            for key in ("forget_train", "forget_test", "test", "mia_loss_accuracy", "mia_loss")
        ]
        words = [name, ""] if name in cells.STANDARDS else name.split()[1:]
        seconds = [cell.get("seconds") for cell in found]
        spent = pages.spread(seconds, 1) if None not in seconds else pages.DASH
        lines.append([*words, *figures, spent, "" if name in cells.STANDARDS else missed(runs, name)])
    n = runs[0][1]["before"]["n"]
    sizes = ", ".join(f"{split.replace('_', ' ')} {count:,}" for split, count in n.items())
    note = f"n: {sizes}; seeds {', '.join(str(group.seed) for group, _ in runs)}; % (mean ± standard deviation over seeds)."
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{note}"


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
