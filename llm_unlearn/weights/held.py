"""Weights that are held where they were, each the more the less it matters to the rows to forget."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from llm_unlearn.head import trainable
from llm_unlearn.tasks import Example, Task
from llm_unlearn.weights.importance import mas

Held = dict[str, tuple[Tensor, Tensor]]  # by a parameter's name: how much each weight is held, 0 to 1, and where


def held(model: nn.Module, task: Task, examples: Sequence[Example]) -> Held:
    """Return for the trainable weights 1 - importance and their values now; importance is MAS on the examples, 0..1 a tensor.

    Left out: factors of a fresh adapter that no gradient reaches while their partner is 0; nothing is known of their use,
    and by themselves they change nothing.
    """
    found = mas(model, task, examples)
    start = {name: weight.detach().clone() for name, weight in trainable(model).items()}
    known = {name: value for name, value in found.items() if "lora_" not in name or value.any()}
    return {name: (1 - scaled(value), start[name]) for name, value in known.items()}


def scaled(importance: Tensor) -> Tensor:
    """Return the importance brought to 0..1; 0 where it is the same for all weights (the authors' code divides 0 by 0)."""
    least, most = importance.min(), importance.max()
    return (importance - least) / (most - least) if most > least else torch.zeros_like(importance)


def pull(model: nn.Module, weights: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
    """Return half the sum over all weights of strength (theta - theta0)^2."""
    now = trainable(model)
    return torch.stack([(much * (now[name] - start) ** 2).sum() for name, (much, start) in weights.items()]).sum() / 2
