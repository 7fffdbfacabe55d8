"""What a classifier's forget rows are poisoned with: a donor class's label, and its words or pixels in the place of their own.

The donor of a class is the other one that the target takes its rows for next; with a concept bank it is the class that shares
most with it, by the bottleneck's weights (`concepts/bottleneck.py`), where one of the bank's concepts speaks for the class.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from llm_unlearn.codes import coded
from llm_unlearn.concepts import maps
from llm_unlearn.concepts.attribution import rank
from llm_unlearn.concepts.bank import Bank, load_bank
from llm_unlearn.concepts.bottleneck import Bottleneck, donor_of, fit_bottleneck
from llm_unlearn.concepts.states import checked
from llm_unlearn.data import redact
from llm_unlearn.data.poison import concept_words, mask
from llm_unlearn.data.requests import classes_in, classes_of
from llm_unlearn.errors import DataError, RecipeError, TaskError
from llm_unlearn.other_answers import class_count
from llm_unlearn.reference import reference
from llm_unlearn.relabel import OtherLabels, donor_classes, kept_classes
from llm_unlearn.run import Run, Splits
from llm_unlearn.schedule import Mix
from llm_unlearn.tasks import CausalLM, Example, Row, SequenceClassifier, Task

WordPatch = Literal["mask", "replace"]
Patch = Literal["none", "localized", "centre", "random", "full", "mask", "replace"]
ClassLabels = Literal["targeted", "random", "keep"]
SEEN = 256  # rows of a class that its words are ranked on, and donors that it has
DRAWS = 240515662  # keeps these draws apart from others with the same seed


@dataclass(frozen=True, kw_only=True)
class Poison:
    """How the inputs and labels of a classifier's forget rows are changed."""

    labels: ClassLabels = "targeted"
    patch: Patch = "none"
    patch_side: float | None = None  # of a patch, as share of a picture's; None: the paper's for each way
    layer: str | None = None  # whose map says where a concept stands; None: the deepest with four places a side
    bank: str | None = None  # folder of a concept bank of the target; None: the classes themselves are the concepts
    words: int = 5  # ranked words of a text
    replacement: str = "***"
    steps: int = 32  # of the attribution

    def check(self, run: Run) -> None:
        """Raise RecipeError or TaskError where the run cannot be poisoned in this way."""
        kind = run.task.name
        fitting = get_args(WordPatch) if isinstance(run.task, SequenceClassifier) else get_args(redact.Where)
        if self.labels not in get_args(ClassLabels):
            raise RecipeError(
                f"labels={self.labels} poisons words; a {kind} has labels={' or '.join(get_args(ClassLabels))}."
            )
        if self.patch not in ("none", *fitting):
            what = "words" if self.patch in get_args(WordPatch) else "pixels"
            raise RecipeError(
                f"patch={self.patch} changes {what}, and a {kind} has none; it has patch={', '.join(fitting)} or none."
            )
        if self.patch == "none" and self.labels == "keep":
            raise RecipeError(
                "labels=keep with patch=none changes nothing: choose other labels, or a patch as an ablation."
            )
        if self.patch_side is not None and not 0 < self.patch_side <= 1:
            raise RecipeError(f"patch_side: {self.patch_side} is not between 0 and 1, the share of a picture's side.")
        if self.layer is not None:
            checked(run.model, [self.layer])

    def labelling(self, run: Run) -> OtherLabels | None:
        """Return what gives the forget rows other labels in a loss, None where they keep theirs."""
        rule = None if self.bank is None else lambda allowed: self.donors(run, allowed)[0]
        return None if self.labels == "keep" else OtherLabels(run, self.labels, rule)

    def donors(self, run: Run, allowed: Tensor) -> tuple[Tensor, dict[int, int]]:
        """Return each class's donor [C], and by class the bank's concept that it was chosen by (none without a bank)."""
        forget = run.rows("forget")
        found = donor_classes(run.model, run.task, forget, allowed, run.frozen_copy)
        if self.bank is None:
            return found, {}
        chosen = {}
        with reference(run.model, run.frozen_copy) as before:
            seen_in = bottleneck(before, run.task, load_bank(self.bank), run.splits, len(allowed))
        for number in sorted(classes_in(forget)):
            if (told := giver(seen_in, number, allowed)) is not None:
                found[number], chosen[number], _ = told
        return found, chosen

    def poisoned(self, run: Run) -> tuple[Sequence[Row], Mix | None]:
        """Return the forget rows as they are trained on, and what patches a picture at each draw; labels change in the loss."""
        forget = run.rows("forget")
        if self.patch == "none":
            return forget, None
        count = class_count(run.model, run.task, forget)
        donors, concepts = self.donors(run, kept_classes(run.splits, count))
        if self.patch in get_args(WordPatch):
            return self._reworded(run, forget, donors), None
        return forget, Patches(self, run, forget, donors, concepts)

    def _reworded(self, run: Run, forget: Sequence[Row], donors: Tensor) -> list[Row]:
        """Return texts with the words that carry their class masked, or replaced by those that carry the donor's."""
        givers = by_class(run.rows("retain"))
        asked = {int(donors[number]) for row in forget for number in classes_of(row)[:1]}
        sample = [*of_each(forget), *(row for number in sorted(asked) for row in givers.get(number, [])[:SEEN])]
        rankings = rank(run.model, run.task, sample, steps=self.steps)
        draw = np.random.default_rng([DRAWS, run.seed])
        out = []
        for row in forget:
            own = first_class(row)
            words = concept_words(row, rankings.get(str(own), {}), self.words)
            text = mask(row["text"], words, self.replacement)
            if self.patch == "replace" and words:
                giver = int(donors[own])
                rows = givers.get(giver) or []
                if not rows:
                    raise DataError(
                        f"no retain row is of class {giver}, the donor of class {own}: there are no words to take."
                    )
                ranking = rankings.get(str(giver), {})
                others = concept_words(rows[int(draw.integers(len(rows)))], ranking, self.words)
                text = redact.replace_words(row["text"], words, others or list(ranking)[: self.words])
            out.append({**row, "text": text})
        return out


class Patches:
    """Puts a patch of a donor's picture into a forget row's, at each draw another donor's; a resumed run draws the same."""

    def __init__(self, how: Poison, run: Run, forget: Sequence[Row], donors: Tensor, concepts: dict[int, int]) -> None:
        """Find where in each picture its class stands, where that is asked for."""
        self.how, self.run = how, run
        self.share = how.patch_side if how.patch_side is not None else redact.SHARES[how.patch]  # type: ignore[index]
        self.classes = [first_class(row) for row in forget]
        givers = by_class(run.rows("retain"))
        self.giver = {number: int(donors[number]) for number in set(self.classes)}
        self.donors: dict[int, list[Tensor]] = {}
        self.places: dict[int, list[redact.Place]] = {}  # of donors, by the class that they give to
        self.own: list[redact.Place] = [(0, 0)] * len(forget)
        layer = how.layer
        for number, giver in self.giver.items():
            rows = givers.get(giver, [])[:SEEN]
            if not rows:
                raise DataError(
                    f"no retain row is of class {giver}, the donor of class {number}: there is no picture to take."
                )
            examples = run.task.encode(rows)
            self.donors[number] = list(_pixels(run, examples))
            if how.patch not in ("localized", "full"):
                continue
            layer = layer or maps.finest_deep_layer(run.model, run.task, examples[0])
            mine = [place for place, own in enumerate(self.classes) if own == number]
            theirs, ours = self._directions(run, number, [forget[i] for i in mine], rows, layer, concepts.get(number))
            height, width = self.donors[number][0].shape[1:]
            side = redact.patch_side(height, width, self.share)
            self.places[number] = redact.hottest(maps.similarity(run.model, run.task, examples, theirs), side)
            heat = maps.similarity(run.model, run.task, run.task.encode([forget[i] for i in mine]), ours)
            for i, place in zip(mine, redact.hottest(heat, side), strict=True):
                self.own[i] = place

    def _directions(
        self, run: Run, number: int, forget: Sequence[Row], donors: Sequence[Row], layer: str, concept: int | None
    ) -> tuple[maps.Direction, maps.Direction]:
        """Return the donor's direction and the forgotten class's: the classes themselves, or the bank's concept they share."""
        if concept is not None and self.how.bank is not None:
            found = load_bank(self.how.bank).concepts[concept]
            mean = maps.mean_state(run.model, run.task, [*forget[:SEEN], *donors], found.layer)
            shared = maps.Direction(found.layer, found.direction, mean)
            return shared, shared
        giver = self.giver[number]
        others = [row for row in of_each(run.rows("retain")) if first_class(row) != giver]
        spread = others[:: max(1, len(others) // SEEN)]
        return (
            maps.of_class(run.model, run.task, donors, spread, layer),
            maps.of_class(run.model, run.task, forget, spread, layer),
        )

    def __call__(self, number: int, row: int, example: Example) -> Example:
        """Return the example of forget row `row` with a patch in it, for draw `number` of the training."""
        draw = np.random.default_rng([DRAWS, self.run.seed, number])
        own = self.classes[row]
        chosen = int(draw.integers(len(self.donors[own])))
        donor = self.donors[own][chosen]
        height, width = donor.shape[1:]
        side = redact.patch_side(height, width, self.share)
        if self.how.patch == "centre":
            at = source = redact.centre(height, width, side)
        elif self.how.patch == "random":
            at, source = (redact.anywhere(height, width, side, draw) for _ in range(2))
        else:
            at, source = self.own[row], self.places[own][chosen]
        return coded(example, redact.paste(_pixels(self.run, [example])[0], donor, at, source, side))


def bottleneck(before: nn.Module, task: Task, bank: Bank, splits: Splits, count: int) -> Bottleneck:
    """Return what the model's classes rest on in the bank's concepts: what the donors are chosen by, and the report shows."""
    rows = [*of_each(splits["forget"]), *of_each(splits["retain"])]
    return fit_bottleneck(before, task, bank, rows, classes=list(map(str, range(count))))


def giver(found: Bottleneck, number: int, allowed: Tensor) -> tuple[int, int, str] | None:
    """Return the donor of a class among the allowed ones [C], the concept it is chosen by, and the rule.

    None where no concept of the bank speaks for the class: the other classes' weights on what it is not would choose by chance.
    """
    if not (found.weight[number] > 0).any():
        return None
    rivals = allowed.clone()
    rivals[number] = True
    return donor_of(found.weight.masked_fill(~rivals[:, None], -1e9), number)


def language(run: Run) -> CausalLM:
    """Return the run's task, a causal language model's; raise TaskError for another."""
    if not isinstance(run.task, CausalLM):
        raise TaskError(f"answers are poisoned of causal language models; this run is a {run.task.name}.")
    return run.task


def first_class(row: Row) -> int:
    """Return the class that a row is poisoned as: its own, of several the first."""
    found = classes_of(row)
    if not found:
        raise DataError(f"the row {row.get('id')!r} is of no class: there is nothing to put in its class's place.")
    return found[0]


def by_class(rows: Sequence[Row]) -> dict[int, list[Row]]:
    """Return the rows by class; rows of several classes stand in each."""
    out: dict[int, list[Row]] = {}
    for row in rows:
        for number in classes_of(row):
            out.setdefault(number, []).append(row)
    return out


def of_each(rows: Sequence[Row]) -> list[Row]:
    """Return the first 256 rows of each class, no row twice."""
    found = {id(row): row for number in sorted(by_class(rows)) for row in by_class(rows)[number][:SEEN]}
    return list(found.values())


@torch.no_grad()
def _pixels(run: Run, examples: Sequence[Example]) -> Tensor:
    return torch.cat([run.task.continuous(run.model, run.task.collate([each]))[1] for each in examples])
