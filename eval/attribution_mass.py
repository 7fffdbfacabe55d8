"""How much of an answer, or of a class, rests on the concept: attribution mass before, after and in gold, on the same rows.

    python eval/attribution_mass.py                                       sandbox, AG News and Fashion-MNIST
    python eval/attribution_mass.py --only sandbox --runs DIR             finished runs of eval/concepts.py in DIR
    python eval/attribution_mass.py --only news fashion --data DIR        models of eval/papers.py, one more fit of half a minute each

Integrated Gradients of the true answer (the row's own class): the share of the positive part on the words that stand for the
concept, found or named (on the five words or the tenth of the pixels that carried the class most before).  Rows whose attribution
stays incomplete under a model are left out of its mean, so n differs; `difference` is how much likelier the answer is for the row
than for the baseline, nats.  A share of next to nothing says little: read the nats on the concept first.  AG News and Fashion-MNIST: class 0, labels alone.
"""

import copy
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from llm_unlearn import cli, options
from llm_unlearn.class_attributions import ROWS, ClassAttribution
from llm_unlearn.concepts.bank import saying
from llm_unlearn.data.poison import STOP_WORDS, words_of
from llm_unlearn.errors import OutputError
from llm_unlearn.explaining import looked_at
from llm_unlearn.files import read_json
from llm_unlearn.loading import load_model, load_task
from llm_unlearn.papers import cells, corpora, plan
from llm_unlearn.recipe import Recipe
from llm_unlearn.sandbox import aliases, world
from llm_unlearn.settings import build

SETUPS = {"news": plan.NEWS, "fashion": plan.RESNET}
ENTRY = plan.Entry(
    method="concept_poison",
    scenarios=(),
    setups=(),
    settings={"patch": "none", "labels": "targeted"},
    variant="none targeted",
)
HEAD = ("| model | on the concept, nats | share | rows | difference |", "| --- | ---: | ---: | ---: | ---: |")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    only: tuple[Literal["sandbox", "news", "fashion"], ...] = ("sandbox", "news", "fashion")
    runs: str = "outputs/concepts"  # what eval/concepts.py wrote
    papers: str = "outputs/papers"  # what eval/papers.py wrote
    data: str | None = None  # the folder of the data sets; LLM_UNLEARN_DATA without it
    rows: int = ROWS
    seed: int = 0  # of the rows' choice, and of the classifiers' models


class Bare(cells.Bench):
    """A group's rows and models, without their scores."""

    def __init__(self, group: plan.Group, data: Path, folder: Path) -> None:
        """Make or find the models."""
        self.group, self.folder = group, folder
        self.corpus = corpora.corpus(group.setup.data, data, group.setup.rows, group.seed)
        self.target, self.gold = (
            cells.target_of(group, self.corpus, folder),
            cells.gold_of(group, self.corpus, folder),
        )
        self.task, self.cut = self.corpus.task, cells.cut(self.corpus, group.scenario)

    def after(self, work: Path) -> nn.Module:
        """Return the target after its class was forgotten; `work` is emptied."""
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        return self._forgotten(ENTRY, copy.deepcopy(self.target.model), self.cut.forget, work, ())


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table a case."""
    given = build(Options, options.read(sys.argv[1:] if argv is None else argv, __doc__ or "", Options))
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    for name in given.only:
        found = sandbox(given) if name == "sandbox" else classifier(given, SETUPS[name])
        print(f"\n### {name}\n\n" + "\n".join([*HEAD, *found]), flush=True)


def sandbox(given: Options) -> list[str]:
    """Return a line for before, gold and every finished run on carriers of the sandbox's town."""
    folder = Path(given.runs)
    kept = read_json(folder / f"carriers-{world.CONCEPT}.json")
    if kept is None or not (folder / "gold").is_dir():
        raise OutputError(
            f"{folder} holds no run of eval/concepts.py --stage forget: run it, or give its --output as --runs."
        )
    words = {word for term in kept["terms"] for word in words_of(term)} - STOP_WORDS
    corpus = aliases.corpus()
    forget = [corpus[place] for place in kept["places"]]
    order = np.random.default_rng(given.seed).permutation(len(forget))
    rows = saying([forget[int(i)] for i in order], sorted(words))[: given.rows]
    recipe = Recipe(model=str(folder / "target"), forget="-", retain="--", precision="fp32")
    task = load_task(recipe, recipe.model)
    lines = []
    for name in ("before", "gold", *sorted(each.parent.name for each in folder.glob("*/adapter"))):
        base = "gold" if name == "gold" else "target"
        adapter = None if name in ("before", "gold") else str(folder / name / "adapter")
        model = load_model(replace(recipe, adapter=adapter), str(folder / base))
        looks = looked_at(model, task, rows, words)
        lines.append(line(name, *([each[key] for each in looks] for key in ("nats", "mass", "difference"))))
    return lines


def classifier(given: Options, setup: str) -> list[str]:
    """Return a line for before, gold and after labels alone were poisoned."""
    made = next(each for each in plan.SETUPS if each.name == setup)
    scenario = plan.Scenario(name="class", kind="class")
    group = plan.Group(setup=made, scenario=scenario, seed=given.seed, entries=[ENTRY])
    folder = Path(given.papers)
    bench = Bare(group, corpora.folder(given.data), folder)
    work = folder / "work" / f"mass-{setup.replace(' ', '-')}-{given.seed}"
    looking = ClassAttribution(bench.cut.forget[: given.rows], bench.cut.retain[:256])
    looking.look("before", bench.target.model.eval(), bench.task)
    looking.look("gold", bench.gold.model.eval(), bench.task)
    looking.look("after", bench.after(work), bench.task)
    found = looking.content(b"")
    shares, nats = ({name: f"{value:.3f}" for name, value in found[key].items()} for key in ("mass", "nats"))
    return [
        f"| {name} | {nats.get(name, '-')} | {shares.get(name, '-')} | {found['n'].get(name, 0)} | {value:.2f} |"
        for name, value in found["difference"].items()
    ]


def line(name: str, nats: Sequence[float], shares: Sequence[float], told: Sequence[float]) -> str:
    """Return a model's line: mean and standard deviation over rows."""
    if not nats:
        return f"| {name} | - | - | 0 | - |"
    spreads = " | ".join(f"{np.mean(each):.3f} ± {np.std(each):.3f}" for each in (nats, shares))
    return f"| {name} | {spreads} | {len(nats)} | {np.mean(told):.2f} |"


if __name__ == "__main__":
    cli.run(main)
