"""A picture with another value of a feature, as far as the channels' mean and spread tell the value.

    x' = mean_b + spread_b / spread_a (x - mean_a)        a channel each; a: the picture's own value, b: the one it is given

This is colour transfer (Reinhard et al., 2001, IEEE CG&A 21(5)) between the values of an annotation.  It is exact where the feature
changes a channel by an affine map, as a coloured background or light does; a feature that has a shape is left as it is.
Each row weighs as if target and value were independent, or the classes that go with a value would be moved along with it.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_unlearn.tasks import Batch, Example, Task

TINY = 1e-6  # of a spread


class Moments:
    """Mean and spread [K, C] of every channel by value."""

    swaps = True  # a picture shows a value that is drawn for it, whatever its target

    def __init__(self, mean: Tensor, spread: Tensor) -> None:
        """Take the two tables."""
        self.mean, self.spread = mean, spread

    def changed(self, part: Batch, pixels: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pixels of rows with the values `own` [B] as they would be with others, and these, which are drawn."""
        drawn = torch.randint(len(self.mean), own.shape, device=own.device)
        return self.moved(pixels, own, drawn), drawn

    def moved(self, pixels: Tensor, own: Tensor, other: Tensor) -> Tensor:
        """Return the pixels [B, C, height, width] of rows with the values `own` [B] as they would be with `other` [B]."""
        mean, spread = self.mean.to(pixels), self.spread.to(pixels)
        scale = (spread[other] / spread[own])[..., None, None]
        return mean[other][..., None, None] + scale * (pixels - mean[own][..., None, None])


def moments(first: Tensor, second: Tensor, values: Tensor, weight: Tensor, count: int) -> Moments:
    """Return the moments by values [N] in 0..count-1 of rows whose pixels and their squares are on average `first`, `second` [N, C]."""
    member = F.one_hot(values, count).double() * weight.double()[:, None]
    member = member / member.sum(0)  # [N, K], each value's rows sum to 1
    mean, square = member.T @ first.double(), member.T @ second.double()
    return Moments(mean.float(), (square - mean.square()).clamp(min=TINY**2).sqrt().float())


@torch.no_grad()
def moments_of(
    model: nn.Module, task: Task, examples: Sequence[Example], weight: Sequence[float], batch_size: int = 256
) -> Moments | None:
    """Return the moments of pictures by their column `annotation`; None of texts, whose words are no amounts (`telling.py`)."""
    device, first, second = next(model.parameters()).device, list[Tensor](), list[Tensor]()
    for start in range(0, len(examples), batch_size):
        batch = {name: each.to(device) for name, each in task.collate(examples[start : start + batch_size]).items()}
        values = task.continuous(model, batch)[1]
        if values.dim() != 4:
            return None
        first.append(values.double().mean((2, 3)).cpu())
        second.append(values.double().square().mean((2, 3)).cpu())
    numbers = torch.tensor([int(example["annotation"]) for example in examples])
    return moments(torch.cat(first), torch.cat(second), numbers, torch.as_tensor(weight), int(numbers.max()) + 1)
