"""Where in a picture a concept stands: the cosine of the model's own states, place by place, with the concept's direction."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_unlearn.concepts import linear
from llm_unlearn.concepts.states import blocks, listening, pooled_states
from llm_unlearn.errors import DataError, TaskError
from llm_unlearn.head import in_eval
from llm_unlearn.tasks import Example, Row, Task

LEAST = 4  # places a side: a coarser map says no more than which quarter of the picture
SAMPLED = 256  # rows of a class that its direction is fitted on, and as many others


@dataclass(frozen=True, eq=False)
class Direction:
    """A direction in the states of a layer."""

    layer: str
    vector: Tensor  # [D], of length 1
    centre: Tensor  # [D], the mean state: what every place has is no sign of the concept


def grid(states: Tensor) -> Tensor:
    """Return states as maps [B, D, h, w]: a convolution's as they are, of patches [B, T, D] the last square number.

    What stands before the patches (a class token, registers) is left out.  Raises TaskError for states without places.
    """
    if states.dim() == 4:
        return states
    if states.dim() != 3:
        raise TaskError(
            f"a layer with states {list(states.shape)} has no places in the picture: choose a block before the pooling."
        )
    side = math.isqrt(states.shape[1])
    return states[:, -(side**2) :].transpose(1, 2).unflatten(2, (side, side))


@torch.no_grad()
def finest_deep_layer(model: nn.Module, task: Task, example: Example) -> str:
    """Return the deepest block whose map has at least four places a side; where none has, the one with most."""
    names = blocks(model)
    with in_eval(model), listening(model, names) as seen:
        model(**task.inputs(_batch(model, task, [example])))
    sides = {name: min(grid(seen[name]).shape[2:]) for name in names if seen[name].dim() > 2}
    if not sides:
        raise TaskError("no block of this model keeps places of the picture: name a layer that does.")
    fine = [name for name, side in sides.items() if side >= LEAST]
    return fine[-1] if fine else max(sides, key=sides.__getitem__)


def of_class(model: nn.Module, task: Task, rows: Sequence[Row], others: Sequence[Row], layer: str) -> Direction:
    """Return the direction that tells the rows from the others, both cut to 256: a class as a concept.

    Raises DataError where one side is empty.
    """
    mine, against = list(rows[:SAMPLED]), list(others[:SAMPLED])
    if not mine or not against:
        raise DataError(
            "a class's direction is told from other classes' rows: both are needed, and one side has none."
        )
    states = pooled_states(model, task, [*mine, *against], [layer])[layer]
    probe = linear.fit(states, torch.tensor([1] * len(mine) + [0] * len(against)))
    return Direction(layer, probe.direction, states.mean(0))


@torch.no_grad()
def similarity(
    model: nn.Module, task: Task, examples: Sequence[Example], direction: Direction, *, batch_size: int = 64
) -> Tensor:
    """Return each picture's map [N, H, W] of cosines with the direction, brought to the picture's size, on the CPU."""
    out = []
    with in_eval(model), listening(model, [direction.layer]) as seen:
        for first in range(0, len(examples), batch_size):
            batch = _batch(model, task, examples[first : first + batch_size])
            model(**task.inputs(batch))
            states = grid(seen[direction.layer]).float().cpu() - direction.centre[:, None, None]
            cosine = F.cosine_similarity(
                states, direction.vector[:, None, None].expand_as(states[0]), dim=1
            )  # [B, h, w]
            size = task.continuous(model, batch)[1].shape[2:]
            out.append(F.interpolate(cosine[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0])
    return torch.cat(out)


@torch.no_grad()
def mean_state(model: nn.Module, task: Task, rows: Sequence[Row], layer: str) -> Tensor:
    """Return the layer's mean pooled state [D] of the rows."""
    return pooled_states(model, task, rows, [layer])[layer].mean(0)


def _batch(model: nn.Module, task: Task, examples: Sequence[Example]) -> dict[str, Tensor]:
    device = next(model.parameters()).device
    return {name: part.to(device) for name, part in task.collate(examples).items()}
