"""Pictures that stand in for data that is not at hand: made from the forget rows alone, to hold what a model says of others.

Four kinds, each of which keeps more of the test accuracy than those before it: the rows moved to the border of another class
(adversarial examples), blends of two rows, rows shifted and mirrored, and blends moved to the border of another class.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llm_unlearn.adversary import Attack, pgd
from llm_unlearn.decisions import Decisions
from llm_unlearn.errors import RecipeError, TaskError
from llm_unlearn.other_answers import class_count, said_classes
from llm_unlearn.progress import Progress
from llm_unlearn.reference import reference_logits
from llm_unlearn.tasks import Batch, Example, Row, Task
from llm_unlearn.vision import as_examples

SHARES = {"adversarial": 0.15, "blended": 0.35, "shifted": 0.25, "blended and adversarial": 0.25}
MOST_BYTES = 2**28  # of pictures held in memory: large ones get fewer stand-ins
SHIFT = 0.1  # of a picture's side
TOGETHER = 256  # pictures in one forward pass


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """How firmly what the model before says of the pictures is held."""

    pictures: int = 5000
    weight: float = 40.0
    # the weight's share at the last step, to which it falls from half of the steps on, so that many rows go too, at a price that
    # is told (256 rows of Fashion-MNIST: held firmly, 44 % stay).  1: it does not fall
    eased: float = 0.03

    def __post_init__(self) -> None:
        """Raise RecipeError for a share that is none."""
        if not 0 < self.eased <= 1:
            raise RecipeError(f"eased={self.eased:g}: the weight's share at the last step is above 0 and at most 1.")

    def weight_now(self, progress: Progress) -> float:
        """Return what they weigh now."""
        return self.weight * self.eased ** max(0.0, 2 * progress.step / progress.steps - 1)


@dataclass(frozen=True)
class StandIns:
    """The pictures, and what the model before unlearning says of each: worked out once, not at every step."""

    examples: list[Example]  # with the class that it says, and each with its `place` in the table
    logits: Tensor  # [M, C] fp32, on the CPU

    def moved(self, batch: Batch, now: Decisions) -> Tensor:
        """Return KL(before || now) on a batch of them, mean over its examples, nats."""
        target = self.logits[batch["place"].long().cpu()].to(now.logits)  # [B, C]
        return now.per_example(now.divergence_from(target), "mean").mean()


def stand_ins(
    model: nn.Module,
    task: Task,
    rows: Sequence[Row],
    count: int,
    attack: Attack,
    seed: int = 0,
    frozen_copy: nn.Module | None = None,
) -> StandIns:
    """Return about `count` pictures made from the rows, named by the model before unlearning (`reference`)."""
    draw = torch.Generator().manual_seed(seed)
    examples = task.encode(rows)
    name, _ = task.continuous(model, task.collate(examples[:1]))
    if name not in examples[0]:
        raise TaskError(f"pictures stand in for pictures, and this run is a {task.name}: set method.keep=labels.")
    pixels = torch.stack([example[name] for example in examples])  # [n, channels, height, width]
    count = max(len(SHARES), min(count, MOST_BYTES // (4 * pixels[0].numel())))
    made: list[Tensor] = []
    for kind, share in SHARES.items():
        much = max(1, round(share * count))
        source = pixels[torch.randint(len(pixels), (much,), generator=draw)]
        if "blended" in kind:
            source = blended(source, pixels[torch.randint(len(pixels), (much,), generator=draw)], draw)
        if kind == "shifted":
            source = shifted(source, draw)
        if "adversarial" in kind:
            source = _moved(model, task, source, class_count(model, task, rows), attack, draw)
        made.append(source)
    every = torch.cat(made)
    logits = _before(model, task, every, frozen_copy)
    named = as_examples(every, logits.argmax(-1))
    return StandIns([{**example, "place": float(place)} for place, example in enumerate(named)], logits)


def blended(first: Tensor, second: Tensor, draw: torch.Generator) -> Tensor:
    """Return the pictures [n, ...] mixed in pairs, each with a share between a quarter and three quarters."""
    share = 0.25 + 0.5 * torch.rand((len(first), 1, 1, 1), generator=draw)
    return share * first + (1 - share) * second


def shifted(pixels: Tensor, draw: torch.Generator) -> Tensor:
    """Return the pictures [n, ...] moved by up to a tenth of their sides, every other one mirrored; what leaves comes in again."""
    most = [max(1, round(SHIFT * side)) for side in pixels.shape[-2:]]
    out = []
    for picture in pixels:
        by = [int(torch.randint(-far, far + 1, (), generator=draw)) for far in most]
        moved = picture.roll(by, (-2, -1))
        out.append(moved.flip(-1) if torch.rand((), generator=draw) < 0.5 else moved)
    return torch.stack(out)


def _moved(
    model: nn.Module, task: Task, pixels: Tensor, classes: int, attack: Attack, draw: torch.Generator
) -> Tensor:
    """Return the pictures moved towards a class that the model does not say of them; whether they get there does not matter."""
    unnamed = as_examples(pixels, torch.zeros(len(pixels), dtype=torch.long))
    said = torch.tensor(said_classes(model, task, unnamed))
    aims = (said + torch.randint(1, max(classes, 2), said.shape, generator=draw)) % classes
    seed = int(torch.randint(2**31, (), generator=draw))
    how: dict[str, Any] = {"pixel_radius": attack.pixel_radius, "steps": attack.steps, "progress": True}
    found = pgd(model, task, as_examples(pixels, aims), seed=seed, **how)
    return pixels + torch.stack(found.deltas).float()


def _before(model: nn.Module, task: Task, pixels: Tensor, frozen_copy: nn.Module | None) -> Tensor:
    """Return what the model before unlearning says of the pictures, logits [n, C] on the CPU."""
    device, out = next(model.parameters()).device, []
    for part in pixels.split(TOGETHER):
        batch = task.collate(as_examples(part, torch.zeros(len(part), dtype=torch.long)))
        asked = {name: column.to(device) for name, column in batch.items()}
        out.append(reference_logits(model, task, asked, frozen_copy).float().cpu())
    return torch.cat(out)
