"""What is like examples of a feature, and so what value of it each row has: annotations that nobody had to make.

A row's likeness to an example is the sum over its words, or places in the picture, of max(0, cosine)^4 in the units of some groups;
its value is the example with the largest.  Examples whose rows have the same targets, as far as their number can tell, show
one value: for the task they are the same, and few rows are not cut into fewer.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_unlearn.concepts.groups import Groups, positions
from llm_unlearn.data.annotations import FEWEST, Annotations, targets_of
from llm_unlearn.errors import DataError
from llm_unlearn.tasks import Row, Task

WORDS = 12  # positions up to which an example is taken word by word
RIDGE = 1e-2  # added to correlations
SAME = 0.9  # cosine from which on two examples' positions are one thing
LEVEL = 1e-4  # two values are one where a G-test of their targets does not tell them apart at this level; at 0.01 one was cut in two on two LMs of three
SHARP = 4  # a few words that are quite alike count more than many that are a little


@dataclass(frozen=True, eq=False)
class Likeness:
    """How like an example's positions a position is, in the units of some groups: the largest whitened cosine, -1 to 1."""

    groups: Groups
    units: Tensor  # [U] numbers
    whiten: Tensor  # [U, U]
    examples: Tensor  # [E, U] of length 1
    owner: Tensor  # [E] which example a position is from

    def activation(self, states: Tensor) -> Tensor:
        """Return the likeness [..., 1] of states [..., D]."""
        return self.cosines(states).amax(-1, keepdim=True)

    def cosines(self, states: Tensor) -> Tensor:
        """Return the cosine [..., E] of states [..., D] to each position."""
        return self._turned(states) @ self.examples.to(states.device).T

    def _turned(self, states: Tensor) -> Tensor:
        z = (states.float() - self.groups.centre.to(states.device)) / self.groups.width.to(states.device)
        return F.normalize(z[..., self.units.to(z.device)] @ self.whiten.to(z.device), dim=-1)


def like_examples(
    groups: Groups, chosen: Sequence[int], model: nn.Module, task: Task, examples: Sequence[Row]
) -> Likeness:
    """Return what is like the examples in the chosen groups' units; of a picture all positions count as one, their mean."""
    units = torch.isin(groups.member, torch.tensor(list(chosen))).nonzero()[:, 0]
    inside = groups.correlation[units][:, units].double()
    values, vectors = torch.linalg.eigh(inside + RIDGE * torch.eye(len(units)).double())
    blank = Likeness(groups, units, (vectors * values.rsqrt()).float(), torch.empty(0), torch.empty(0))
    found = [states if len(states) <= WORDS else states.mean(0, keepdim=True)
             for states in positions(model, task, examples, groups.layer)]  # fmt: skip
    owner = torch.cat([torch.full((len(states),), number) for number, states in enumerate(found)])
    turned = blank._turned(torch.cat(found))
    own = ~_shared(turned, owner)
    own = own if own.any() else torch.ones_like(own)
    return Likeness(groups, units, blank.whiten, turned[own], owner[own])


def _shared(points: Tensor, owner: Tensor) -> Tensor:
    """Return [E] bool: whether every other example has a position like this one, as words have that all are asked with."""
    others = torch.stack([(points @ points[owner == number].T).amax(1) for number in owner.unique()], 1)
    return others.amin(1) > SAME


def inferred(
    groups: Groups, chosen: Sequence[int], model: nn.Module, task: Task, examples: Sequence[Row], rows: Sequence[Row]
) -> Annotations:
    """Return each row's value, by the number of its example; an example that too few rows are like is left out.

    Raises DataError where fewer than two are left.
    """
    alike = like_examples(groups, chosen, model, task, examples)
    scores = torch.stack([_likeness(alike.cosines(states), alike.owner, len(examples))
                          for states in positions(model, task, rows, groups.layer)])  # fmt: skip
    while True:
        counts = Counter(scores.argmax(1).tolist())
        rare = [number for number in range(len(examples)) if 0 < counts[number] < FEWEST]
        if not rare:
            break
        scores[:, min(rare, key=lambda number: counts[number])] = -1.0
    names = sorted(counts)
    if len(names) < 2:
        raise DataError(
            f"all {len(rows)} rows are most like the same example ({names[0] + 1} of {len(examples)}): give examples of "
            "several values of the feature, each like some of the rows, or choose another layer."
        )
    together = merged(scores.argmax(1).tolist(), targets_of(rows))
    place = {number: index for index, each in enumerate(together) for number in each}
    named = [f"examples {', '.join(str(number + 1) for number in each)}" for each in together]
    return Annotations(tuple(place[number] for number in scores.argmax(1).tolist()), tuple(named))


def merged(values: Sequence[int], targets: Sequence[str]) -> list[list[int]]:
    """Return the values in groups whose targets are alike; each its own where all would be one, which is then no use."""
    kinds = {target: place for place, target in enumerate(sorted(set(targets)))}
    counts: dict[tuple[int, ...], Tensor] = {}
    for value, target in zip(values, targets, strict=True):
        counts.setdefault((value,), torch.zeros(len(kinds), dtype=torch.double))[kinds[target]] += 1
    single = [[value] for (value,) in sorted(counts)]
    while len(counts) > 1 and len(kinds) > 1:
        level, one, two = max((_alike(counts[a], counts[b]), a, b) for a in counts for b in counts if a < b)
        if level < LEVEL:
            return sorted(sorted(each) for each in counts)
        counts[tuple(sorted(one + two))] = counts.pop(one) + counts.pop(two)
    return single


def _alike(one: Tensor, two: Tensor) -> float:
    """Return the probability of targets [T] that differ as much by chance: a G-test of a table of two rows."""
    both = one + two
    table = torch.stack([one, two])[:, both > 0]
    usual = table.sum(1, keepdim=True) * table.sum(0) / table.sum()
    statistic = 2 * torch.xlogy(table, table / usual).sum()
    return float(torch.special.gammaincc(torch.tensor((table.shape[1] - 1) / 2).double(), statistic.clamp(min=0) / 2))


def _likeness(cosines: Tensor, owner: Tensor, count: int) -> Tensor:
    """Return the likeness [E] of one row to the examples from its cosines [P, U] to their positions, `owner` [U] which one's."""
    each = cosines.clamp(min=0).pow(SHARP).sum(0)  # [U]
    return torch.stack([each[owner == number].max() if (owner == number).any() else each.new_tensor(-1.0)
                        for number in range(count)])  # fmt: skip
