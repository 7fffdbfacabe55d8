"""Concept activation vectors (Kim et al., 2018, arXiv:1711.11279): directions in a model's own hidden states, and how well they tell.

A concept is what some rows have and others have not: rows that say certain words, example rows, or the rows of a class.
Its vector is fitted by logistic regression; it is read from the layer where it tells rows that it was not fitted on best.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llm_unlearn.concepts import linear
from llm_unlearn.concepts.states import Pool, bare, blocks, checked, pooled_states
from llm_unlearn.data.names import normalised, parts, whole_word
from llm_unlearn.data.splits import content
from llm_unlearn.errors import DataError, OutputError, TaskError
from llm_unlearn.files import read_json, write_json
from llm_unlearn.tasks import Row, Task

LEAST = 5  # example rows of a concept: one for each fold that tells whether its vector holds
CHANCE = 0.01  # a vector whose held-out hits chance alone would reach this often is refused
VECTORS, RECORD = "bank.safetensors", "bank.json"
SAMPLED = 64  # numbers of each weight that tell one model from another


@dataclass(frozen=True, eq=False)
class Concept:
    """One vector.  `states @ direction + bias` is above 0 where a row has the concept: P(x)_k of a bottleneck."""

    name: str
    direction: Tensor  # [D], of length 1
    bias: float
    layer: str
    accuracy: float  # balanced, on rows that the vector was not fitted on; the best layer's
    n: int  # rows it was measured on, examples and negatives

    def scores(self, states: Tensor) -> Tensor:
        """Return the signed distance [N] of states [N, D] of this concept's layer from its plane."""
        return states.to(self.direction) @ self.direction + self.bias


@dataclass(frozen=True, eq=False)
class Bank:
    """Concepts of one model; of another model its directions mean nothing, so it is refused."""

    concepts: tuple[Concept, ...]
    model: str  # `fingerprint` of the model whose states it reads
    pool: Pool = "mean"  # what stands for a row

    @property
    def names(self) -> tuple[str, ...]:
        """Return the concepts' names in order."""
        return tuple(concept.name for concept in self.concepts)

    def projections(self, model: nn.Module, task: Task, rows: Sequence[Row], *, batch_size: int = 64) -> Tensor:
        """Return the signed distances [N, K] of the rows from each concept's plane; raise TaskError for another model."""
        self.check(model)
        layers = list(dict.fromkeys(concept.layer for concept in self.concepts))
        states = pooled_states(model, task, rows, layers, pool=self.pool, batch_size=batch_size)
        return torch.stack([concept.scores(states[concept.layer]) for concept in self.concepts], dim=1)

    def check(self, model: nn.Module) -> None:
        """Raise TaskError unless the bank was made from this model, with these weights."""
        if (found := fingerprint(model)) != self.model:
            raise TaskError(
                f"this concept bank was made from another model ({self.model[:12]}; this one is {found[:12]}): directions in "
                "one model's states mean nothing in another's. Build the bank again with build_bank(model, ...)."
            )

    def save(self, folder: str | Path) -> Path:
        """Write the vectors and their record (names of concepts, no row) into the folder and return it."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({f"{i}": each.direction.contiguous() for i, each in enumerate(self.concepts)}, folder / VECTORS)
        fields = ("name", "bias", "layer", "accuracy", "n")
        kept = [{name: getattr(each, name) for name in fields} for each in self.concepts]
        write_json(folder / RECORD, {"model": self.model, "pool": self.pool, "concepts": kept})
        return folder


def load_bank(folder: str | Path) -> Bank:
    """Return a saved bank; raise OutputError where the folder holds none."""
    record = read_json(Path(folder) / RECORD)
    if record is None or not (Path(folder) / VECTORS).is_file():
        raise OutputError(
            f"{folder} holds no concept bank ({RECORD} and {VECTORS}): give the folder that Bank.save wrote."
        )
    vectors = load_file(Path(folder) / VECTORS)
    concepts = tuple(Concept(direction=vectors[f"{i}"], **each) for i, each in enumerate(record["concepts"]))
    return Bank(concepts, record["model"], record["pool"])


def build_bank(
    model: nn.Module,
    task: Task,
    examples: Mapping[str, Sequence[Row]],
    negatives: Sequence[Row] | None = None,
    *,
    layers: Sequence[str] | None = None,
    pool: Pool = "mean",
    chance: float = CHANCE,
    seed: int = 0,
    batch_size: int = 64,
) -> Bank:
    """Return the bank of the concepts that `examples` names, each from the layer with the best held-out balanced accuracy.

    negatives: rows without any of them; None: the other concepts' examples.  layers: None: every block.
    Raises DataError for a concept with too few examples, two with the same ones, and one whose vector is no better than
    chance: Fisher's exact test on the held-out hits, one-sided, times the number of layers that were tried.
    """
    _check(examples, negatives)
    names = checked(model, blocks(model) if layers is None else layers)
    rows = {content(row): row for rows in (*examples.values(), negatives or ()) for row in rows}
    place = {key: i for i, key in enumerate(rows)}
    states = pooled_states(model, task, list(rows.values()), names, pool=pool, batch_size=batch_size)
    found = []
    for name, mine in examples.items():
        own = {content(row) for row in mine}
        without = (
            [row for other, rows in examples.items() if other != name for row in rows]
            if negatives is None
            else negatives
        )
        against = dict.fromkeys(key for row in without if (key := content(row)) not in own)
        if not against:
            raise DataError(
                f"there is no row without the concept {name!r}: give negatives that are not among its examples."
            )
        order = [*sorted(place[key] for key in own), *(place[key] for key in against)]
        labels = torch.tensor([1] * len(own) + [0] * len(against))
        found.append(_concept(name, {layer: states[layer][order] for layer in names}, labels, chance, seed))
    return Bank(tuple(found), fingerprint(model), pool)


def saying(rows: Sequence[Row], words: Sequence[str]) -> list[Row]:
    """Return the rows that say one of the words, whole and in any case: the examples that a word list stands for."""
    patterns = [whole_word(word) for word in words]
    return [row for row in rows if any(pattern.search(normalised(" ".join(parts(row)))) for pattern in patterns)]


def of_classes(rows: Sequence[Row], names: Mapping[int, str]) -> dict[str, list[Row]]:
    """Return each class's rows by its name: the examples that class names stand for."""
    return {name: [row for row in rows if row["label"] == number] for number, name in names.items()}


def fingerprint(model: nn.Module) -> str:
    """Return a digest of the model's weights, adapters included, from a sample of each: enough to tell models apart."""
    digest = hashlib.sha256()
    for name, weight in sorted(bare(model).named_parameters()):
        flat = weight.detach().flatten()
        some = flat[:: max(1, len(flat) // SAMPLED)][:SAMPLED].float().cpu()
        digest.update(f"{name} {tuple(weight.shape)} ".encode() + some.numpy().tobytes())
    return digest.hexdigest()


def by_chance(right: Tensor, labels: Tensor) -> float:
    """Return how often labels dealt out at random would be told at least as well (Fisher's exact test, one-sided).

    right, labels: [N], labels 0 or 1.  Given how many rows are told to be 1, the hits among the true ones are hypergeometric.
    """
    there = labels == 1
    told = torch.where(right, there, ~there)
    total, positive, said = len(labels), int(there.sum()), int(told.sum())
    hits = int((told & there).sum())
    every = math.comb(total, said)
    ways = sum(
        math.comb(positive, k) * math.comb(total - positive, said - k) for k in range(hits, min(positive, said) + 1)
    )
    return ways / every


def _concept(name: str, states: Mapping[str, Tensor], labels: Tensor, chance: float, seed: int) -> Concept:
    """Return the concept's vector from the best of the layers; of equals the first."""
    told = {layer: linear.held_out(each, labels, seed=seed) for layer, each in states.items()}
    accuracy = {layer: linear.balanced_accuracy(right, labels) for layer, right in told.items()}
    best = max(accuracy, key=accuracy.__getitem__)
    luck = min(1.0, len(states) * by_chance(told[best], labels))
    if luck > chance or accuracy[best] <= 0.5:
        raise DataError(
            f"the model has no direction for the concept {name!r}: on rows it was not fitted on its best vector is right "
            f"{accuracy[best]:.0%} of the time ({int(labels.sum())} examples, {int((labels == 0).sum())} negatives; chance does as "
            f"well with p = {luck:.2g}, at most {chance:g}). Give more examples, or name other layers."
        )
    probe = linear.fit(states[best], labels)
    weight = probe.weight[1] - probe.weight[0]
    length = float(weight.norm())
    bias = float(probe.bias[1] - probe.bias[0]) / length
    return Concept(name, probe.direction, bias, best, accuracy[best], len(labels))


def _check(examples: Mapping[str, Sequence[Row]], negatives: Sequence[Row] | None) -> None:
    if not examples:
        raise DataError("a concept bank needs at least one concept with example rows; none is given.")
    if negatives is None and len(examples) < 2:
        raise DataError("one concept alone has nothing to be told from: give negatives, rows that do not have it.")
    if negatives is not None and not negatives:
        raise DataError("there are no negatives: give rows that have none of the concepts.")
    seen: dict[frozenset[str], str] = {}
    for name, rows in examples.items():
        own = frozenset(map(content, rows))
        if len(own) < LEAST:
            raise DataError(
                f"the concept {name!r} has {len(own)} different example rows; a vector needs at least {LEAST} "
                "(ten or more serve better): give more."
            )
        if own in seen:
            raise DataError(
                f"the concepts {seen[own]!r} and {name!r} have the same {len(own)} examples: no direction can tell them apart; "
                "give each its own, or leave one out."
            )
        seen[own] = name
