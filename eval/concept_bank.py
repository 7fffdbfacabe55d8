"""A bank of concepts on real classifiers: how well each vector tells rows it was not fitted on, and what each class rests on.

    python eval/concept_bank.py --data DIR                          AG News and Fashion-MNIST, models of eval/papers.py, seed 0
    python eval/concept_bank.py --only news

OUTPUT/news/bank is a bank that `--method.bank` takes; OUTPUT/news/explanation.html is the chart that a report shows, for class 0.
AG News: a concept is a word list; Fashion-MNIST: what several classes share, and two that go across classes (bright, narrow).
`held out`: balanced accuracy on training rows that the vector was not fitted on (five folds), which build_bank reports and refuses
by; `test`: on rows that no model saw.  Then the bottleneck through the bank beside the model itself, its weights by class, and the
donor that targeted labels take, beside the class that the model itself takes the rows for next.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from llm_unlearn import cli, options
from llm_unlearn.class_concepts import donor, sharing
from llm_unlearn.concepts.bank import Bank, build_bank, saying
from llm_unlearn.concepts.bottleneck import Bottleneck
from llm_unlearn.concepts.linear import balanced_accuracy
from llm_unlearn.papers import cells, corpora, plan
from llm_unlearn.papers.models import Trained
from llm_unlearn.poisoned import bottleneck
from llm_unlearn.relabel import donor_classes, kept_classes
from llm_unlearn.reporting import concepts as pages
from llm_unlearn.reporting import sharing as charts
from llm_unlearn.reporting.sections import section
from llm_unlearn.settings import build
from llm_unlearn.tasks import Row, Task

SETUPS = {"news": plan.NEWS, "fashion": plan.RESNET}
NAMES = {
    "news": ("World", "Sports", "Business", "Sci/Tech"),
    "fashion": ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot"),
}
WORDS: Mapping[str, tuple[str, ...]] = {
    "olympics": plan.CONCEPTS["olympics"][1],
    "oil": plan.CONCEPTS["oil"][1],
    "matches": ("team", "season", "game", "coach", "victory", "win", "league"),
    "markets": ("stocks", "shares", "profit", "earnings", "investors", "quarterly"),
    "software": ("software", "microsoft", "internet", "linux", "google", "web"),
    "space": ("nasa", "space", "mars", "spacecraft", "moon", "orbit"),
    "war": ("killed", "troops", "bomb", "iraqi", "militants", "attack"),
    "elections": ("election", "vote", "president", "minister", "parliament"),
}
SHARED: Mapping[str, tuple[int, ...]] = {"footwear": (5, 7, 9), "sleeves": (2, 4, 6), "legs": (1,), "handle": (8,)}
MOST = 400  # examples of a concept, and as many negatives


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    only: tuple[Literal["news", "fashion"], ...] = ("news", "fashion")
    papers: str = "outputs/papers"  # what eval/papers.py wrote
    data: str | None = None  # the folder of the data sets; LLM_UNLEARN_DATA without it
    output: str = "outputs/concept_bank"  # banks and charts
    seed: int = 0


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables of each data set."""
    given = build(Options, options.read(sys.argv[1:] if argv is None else argv, __doc__ or "", Options))
    torch.set_num_threads(1)
    for name in given.only:
        made = next(each for each in plan.SETUPS if each.name == SETUPS[name])
        group = plan.Group(setup=made, scenario=plan.Scenario(name="class", kind="class"), seed=given.seed, entries=[])
        corpus = corpora.corpus(made.data, corpora.folder(given.data), made.rows, given.seed)
        target, cut = cells.target_of(group, corpus, Path(given.papers)), cells.cut(corpus, group.scenario)
        holders = {
            concept: (held(corpus.train), held(corpus.test)) for concept, held in concepts(name, corpus.train).items()
        }
        bank = made_of(target, corpus.task, corpus.train, {concept: there for concept, (there, _) in holders.items()})
        place = bank.save(Path(given.output) / name / "bank")
        print(f"\n### {name}\n", flush=True)
        print(vectors(target, corpus.task, bank, corpus.test, {key: there for key, (_, there) in holders.items()}))
        splits = {"forget": cut.forget, "retain": cut.retain}
        print(chart(name, target, corpus.task, bank, splits), flush=True)
        found = sharing(target.model, corpus.task, splits, str(place), dict(enumerate(NAMES[name])))
        pages.write(
            place.parent, section("What the class rests on", f"{made.name}, class 0", charts.shown(found, used=False))
        )


def concepts(name: str, rows: Sequence[Row]) -> dict[str, Callable[[Sequence[Row]], list[bool]]]:
    """Return by concept what says for each row whether it has it."""
    if name == "news":
        return {concept: lambda rows, words=words: _said(rows, words) for concept, words in WORDS.items()}  # type: ignore[misc]
    out: dict[str, Callable[[Sequence[Row]], list[bool]]] = {
        concept: lambda rows, classes=classes: [row["label"] in classes for row in rows]  # type: ignore[misc]
        for concept, classes in SHARED.items()
    }
    for concept, look in (("bright", _brightness), ("narrow", _narrowness)):
        line = float(np.quantile([look(row) for row in rows], 0.75))  # the upper quarter has it
        out[concept] = lambda rows, look=look, line=line: [look(row) > line for row in rows]  # type: ignore[misc]
    return out


def _said(rows: Sequence[Row], words: Sequence[str]) -> list[bool]:
    there = {row["id"] for row in saying(rows, words)}
    return [row["id"] in there for row in rows]


def _brightness(row: Row) -> float:
    return float(np.asarray(row["image"]).mean())


def _narrowness(row: Row) -> float:
    """Return minus the share of columns that are not background."""
    picture = np.asarray(row["image"])[0]
    return -float((picture.max(0) > picture.min() + 0.3).mean())


def made_of(
    target: Trained, task: Task, rows: Sequence[Row], holders: Mapping[str, Sequence[bool]], most: int = MOST
) -> Bank:
    """Return the bank: each concept from rows that have it and as many that do not, both drawn once."""
    draw, parts = np.random.default_rng(0), []
    for concept, there in holders.items():
        sides = [[int(i) for i in draw.permutation(np.flatnonzero(np.array(there) == side))[:most]] for side in (1, 0)]
        mine, others = ([rows[i] for i in places] for places in sides)
        parts.append(build_bank(target.model, task, {concept: mine}, others))
    return Bank(tuple(each.concepts[0] for each in parts), parts[0].model, parts[0].pool)


def vectors(
    target: Trained, task: Task, bank: Bank, test: Sequence[Row], holders: Mapping[str, Sequence[bool]]
) -> str:
    """Return the table of vectors."""
    told = bank.projections(target.model, task, test) > 0  # [N, K]
    lines = ["| concept | layer | n | held out | test | n | of them with it |", "| --- | --- |" + " ---: |" * 5]
    for k, concept in enumerate(bank.concepts):
        truth = torch.tensor(holders[concept.name])
        right = balanced_accuracy(told[:, k] == truth, truth.long())
        lines.append(
            f"| {concept.name} | {concept.layer} | {concept.n} | {100 * concept.accuracy:.1f} | {100 * right:.1f} | {len(test)} | "
            f"{int(truth.sum())} |"
        )
    return "\n".join(lines)


def chart(name: str, target: Trained, task: Task, bank: Bank, splits: Mapping[str, Sequence[Row]]) -> str:
    """Return the weights by class, and each class's donor by the bottleneck beside the model's own."""
    names = NAMES[name]
    found = bottleneck(target.model, task, bank, splits, len(names))
    head = f"| class | {' | '.join(bank.names)} | donor | rule | the model's next |"
    lines = [head, "| --- |" + " ---: |" * len(bank.names) + " --- |" * 3]
    every = [*splits["forget"], *splits["retain"]]
    for number, each in enumerate(names):
        mine = {key: [row for row in every if (row["label"] == number) == (key == "forget")] for key in splits}
        allowed = kept_classes(mine, len(names))
        own = donor_classes(target.model, task, mine["forget"][:200], allowed, target.model)
        giver, rule = donor(found, own, number, allowed)
        weights = " | ".join(f"{value:.1f}" for value in found.weight[number].tolist())
        lines.append(f"| {each} | {weights} | {names[giver]} | {rule} | {names[int(own[number])]} |")
    return "\n" + "\n".join(lines) + f"\n\n{_said_of(found)}"


def _said_of(found: Bottleneck) -> str:
    own = 100 * (found.model_accuracy or 0.0)
    return f"bottleneck {100 * found.accuracy:.1f} % of {found.n} held-out training rows right, the model itself {own:.1f} %"


if __name__ == "__main__":
    cli.run(main)
