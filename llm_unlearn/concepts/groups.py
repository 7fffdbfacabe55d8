"""Groups of a layer's channels or hidden units that fire together: features that nobody has named yet.

Differs from the paper (arXiv:2406.10951, after icCNN, IJCAI 2021): the affinity is the squared correlation, not correlation + 1,
which joins every unit with every other, so that the largest gap is always the first one; and the eigenvalues are sorted.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_unlearn.concepts.states import bare, checked, listening
from llm_unlearn.encoding import movable
from llm_unlearn.errors import DataError, RecipeError
from llm_unlearn.head import in_eval
from llm_unlearn.tasks import Batch, Example, Row, Task

MOST = 20  # groups
POSITIONS = 20000  # words or places in pictures that the correlation is taken over
FEWEST = 3  # examples that a choice is made by
HIGH = 0.995  # quantile of a group's activation over all positions that counts as 1


@dataclass(frozen=True, eq=False)
class Groups:
    """The groups of one layer's D units, and what they are named by."""

    layer: str
    member: Tensor  # [D] each unit's group, 0..K-1; -1 for a unit that never changes
    signs: Tensor  # [D] +1 or -1: units of a group that fire when the others do not
    centre: Tensor  # [D]
    width: Tensor  # [D] standard deviation
    high: Tensor  # [K] activation that counts as 1
    usual: Tensor  # [K] mean activation over positions, of `high`
    spread: Tensor  # [K] its standard deviation
    eigenvalues: Tensor  # of the normalised Laplacian, ascending, the first MOST + 1
    correlation: Tensor  # [D, D]
    rows: tuple[tuple[int, ...], ...]  # K times the numbers of the rows that excite the group most

    def __len__(self) -> int:
        return len(self.high)

    def activation(self, states: Tensor) -> Tensor:
        """Return each group's activation [..., K], about 0 to 1, from states [..., D]: how far its units are from their mean.

        The absolute value: a unit that stands for one value of a feature by being high stands for another by being low.
        """
        z = ((states.float() - self.centre.to(states.device)) / self.width.to(states.device)) * self.signs.to(
            states.device
        )
        chosen = F.one_hot(self.member.clamp(min=0), len(self)).float().to(z)  # [D, K]
        chosen = chosen * (self.member >= 0).to(z)[:, None]
        mean = z @ (chosen / chosen.sum(0).clamp(min=1))
        return mean.abs() / self.high.to(states.device)

    def sizes(self) -> list[int]:
        """Return how many units each group has."""
        return [int((self.member == number).sum()) for number in range(len(self))]

    def checked(self, numbers: Sequence[int]) -> tuple[int, ...]:
        """Return the groups' numbers; raise RecipeError for one that there is not."""
        for number in numbers:
            if not 0 <= number < len(self):
                raise RecipeError(
                    f"there is no group {number}: the layer {self.layer} has {len(self)} groups, 0 to {len(self) - 1}; "
                    "without a number they are shown."
                )
        return tuple(numbers)


@torch.no_grad()
def positions(model: nn.Module, task: Task, rows: Sequence[Row], layer: str, batch_size: int = 64) -> list[Tensor]:
    """Return each row's states at the layer [P, D], fp32, on the CPU: of words that are `free`, or of places in the picture."""
    (name,) = checked(model, (layer,))
    examples, device = task.encode(list(rows)), next(model.parameters()).device
    out: list[Tensor] = []
    with in_eval(model), listening(model, (name,)) as seen:
        for first in range(0, len(examples), batch_size):
            batch = {key: part.to(device) for key, part in task.collate(examples[first : first + batch_size]).items()}
            bare(model)(**task.inputs(batch))
            out += [each.cpu() for each in by_row(seen[name], free(task, batch))]
    return out


def free(task: Task, batch: Batch) -> Tensor | None:
    """Return where a word may be taken away [B, T]: no special tokens, of a causal LM the prompt's; None of pictures."""
    tokenizer = getattr(task, "tokenizer", None)
    return None if tokenizer is None else movable(tokenizer, batch)


def by_row(states: Tensor, mask: Tensor | None = None) -> list[Tensor]:
    """Return the states [B, T, D], [B, D, H, W] or [B, D] as one [P, D] a row, words outside the mask left out."""
    if states.dim() == 4:
        states = states.flatten(2).transpose(1, 2)
    if states.dim() == 2:
        states = states[:, None]
    if mask is None or mask.shape[1] != states.shape[1]:
        return list(states.float())
    return [each[kept.bool()].float() for each, kept in zip(states, mask, strict=True)]


def discover(
    model: nn.Module, task: Task, rows: Sequence[Row], layer: str, *, count: int | None = None, seed: int = 0
) -> Groups:
    """Return the groups of the layer's units over the rows; `count`: how many, without it as the eigengap says."""
    found = positions(model, task, rows, layer)
    draw = torch.Generator().manual_seed(seed)
    every = torch.cat(found)
    every = every[torch.randperm(len(every), generator=draw)[:POSITIONS]].double()
    centre, width = every.mean(0), every.std(0)
    live = width > 1e-6 * width.max().clamp(min=1e-12)
    if int(live.sum()) < 3:
        raise DataError(
            f"the layer {layer} has {int(live.sum())} units that change over these rows: choose another layer."
        )
    z = (every - centre)[:, live] / width[live]
    correlation = z.T @ z / len(z)  # [L, L]
    values, vectors = spectrum(correlation.square())
    groups = eigengap(values) if count is None else count
    inside = clusters(vectors[:, :groups], groups, draw)
    member = torch.full((len(live),), -1)
    member[live] = inside
    signs = torch.ones(len(live))
    signs[live] = _signs(correlation, inside).float()
    whole = torch.zeros(len(live), len(live))
    whole[live.nonzero(), live.nonzero().T] = correlation.float()
    safe = torch.where(live, width, torch.inf).float()
    blank = torch.ones(groups)
    made = Groups(
        layer, member, signs, centre.float(), safe, blank, blank, blank, values[: MOST + 1].float(), whole, ()
    )
    seen = made.activation(every.float())  # [P, K]
    high = seen.quantile(HIGH, dim=0).clamp(min=1e-6)
    peaks = torch.stack([made.activation(each).amax(0) for each in found])  # [N, K]
    order = peaks.argsort(dim=0, descending=True, stable=True)[:8].T.tolist()
    scale = {"high": high, "usual": (seen / high).mean(0), "spread": (seen / high).std(0).clamp(min=1e-6)}
    return Groups(**{**vars(made), **scale, "rows": tuple(map(tuple, order))})


def spectrum(affinity: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues, ascending, and eigenvectors of the normalised Laplacian I - D^-1/2 S D^-1/2."""
    root = affinity.sum(1).clamp(min=1e-12).rsqrt()
    laplacian = torch.eye(len(affinity), dtype=affinity.dtype) - root[:, None] * affinity * root
    values, vectors = torch.linalg.eigh(laplacian)
    return values, vectors


def eigengap(values: Tensor) -> int:
    """Return the K of the largest gap lambda_{K+1} - lambda_K of sorted eigenvalues, 2 <= K <= MOST and half the units."""
    most = max(2, min(MOST, len(values) // 2))
    gaps = (values[1:] - values[:-1])[:most]
    return 2 + int(gaps[1:].argmax()) if len(gaps) > 1 else 2


def clusters(vectors: Tensor, count: int, draw: torch.Generator, starts: int = 10) -> Tensor:
    """Return each row's cluster [N]: k-means on rows of unit length (Ng, Jordan and Weiss, 2001), the best of some starts."""
    points = F.normalize(vectors, dim=1)
    best, least = torch.zeros(len(points), dtype=torch.long), math.inf
    for _ in range(starts):
        middles = points[_spread_out(points, count, draw)]
        for _ in range(50):
            distances = torch.cdist(points, middles)
            label = distances.argmin(1)
            new = torch.stack([points[label == k].mean(0) if (label == k).any() else middles[k] for k in range(count)])
            if torch.allclose(new, middles):
                break
            middles = new
        cost = float(torch.cdist(points, middles).amin(1).square().sum())
        if cost < least - 1e-12:
            best, least = label, cost
    return _in_order(best, count)


def _spread_out(points: Tensor, count: int, draw: torch.Generator) -> list[int]:
    """Return first middles, each drawn by its squared distance to those before it (k-means++)."""
    chosen = [int(torch.randint(len(points), (), generator=draw))]
    while len(chosen) < count:
        far = torch.cdist(points, points[chosen]).amin(1).square() + 1e-12
        chosen.append(int(torch.multinomial(far, 1, generator=draw)))
    return chosen


def _in_order(label: Tensor, count: int) -> Tensor:
    """Return the labels renumbered by size, the largest cluster first."""
    sizes = torch.bincount(label, minlength=count)
    rank = torch.empty(count, dtype=torch.long)
    rank[sizes.argsort(descending=True, stable=True)] = torch.arange(count)
    return rank[label]


def _signs(correlation: Tensor, label: Tensor) -> Tensor:
    """Return +1 or -1 a unit: the sign of its part in its group's main direction."""
    signs = torch.ones(len(label), dtype=correlation.dtype)
    for number in label.unique():
        inside = (label == number).nonzero()[:, 0]
        main = torch.linalg.eigh(correlation[inside][:, inside])[1][:, -1]
        signs[inside] = torch.where(main * main[main.abs().argmax()] < 0, -1.0, 1.0).to(signs)
    return signs


def chosen_by(
    groups: Groups, model: nn.Module, task: Task, examples: Sequence[Row], rows: Sequence[Row] = ()
) -> tuple[tuple[int, ...], list[float]]:
    """Return the groups that examples of a feature excite, and each group's votes.

    An example is a phrase or picture that shows the feature and little else.  It votes for the group whose mean activation over
    its positions stands farthest above the rows' own, in standard deviations; chosen are groups with a quarter of the votes, of many
    groups with half of an equal share of them.
    """
    if len(examples) < FEWEST:
        raise DataError(f"{len(examples)} examples are too few to choose a group by: give at least {FEWEST}.")
    votes = [0.0] * len(groups)
    for states in positions(model, task, examples, groups.layer):
        above = (groups.activation(states).mean(0) - groups.usual) / groups.spread
        votes[int(above.argmax())] += 1 / len(examples)
    least = min(0.25, 0.5 / len(groups))
    return tuple(number for number, share in enumerate(votes) if share >= least), votes


@torch.no_grad()
def marks(
    model: nn.Module,
    task: Task,
    examples: Sequence[Example],
    layer: str,
    activation: Callable[[Tensor], Tensor],
    threshold: float,
    batch_size: int = 64,
) -> Tensor:
    """Return 1 where any of the activations [..., K] is above the threshold: [N, T] words, or [N, height, width] pixels."""
    device, out = next(model.parameters()).device, list[Tensor]()
    with in_eval(model), listening(model, (layer,)) as seen:
        for first in range(0, len(examples), batch_size):
            batch = {
                name: part.to(device) for name, part in task.collate(examples[first : first + batch_size]).items()
            }
            bare(model)(**task.inputs(batch))
            out += list(_lit(seen[layer], task, batch, activation, threshold).float().cpu())
    most = max(each.shape[-1] for each in out)
    return torch.stack([F.pad(each, (0, most - each.shape[-1])) for each in out])


def _lit(states: Tensor, task: Task, batch: Batch, activation: Callable[[Tensor], Tensor], threshold: float) -> Tensor:
    """Return [B, T] or [B, height, width] bool; of a transformer's patches without their class token."""
    allowed = free(task, batch)
    if allowed is not None:
        return (activation(states).amax(-1) > threshold) & allowed
    if states.dim() == 3:  # patches
        side = int((states.shape[1]) ** 0.5)
        states = states[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))
    maps = activation(states.movedim(1, -1)).amax(-1)  # [B, h, w]
    size = next(part.shape[-2:] for part in batch.values() if part.dim() == 4)
    return F.interpolate(maps[:, None], size=size, mode="bilinear")[:, 0] > threshold


def summary(groups: Groups) -> dict[str, Any]:
    """Return what report.json says of the groups."""
    return {"layer": groups.layer, "groups": len(groups), "sizes": groups.sizes(),
            "eigenvalues": [round(float(value), 4) for value in groups.eigenvalues]}  # fmt: skip
