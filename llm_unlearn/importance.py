"""How much each weight matters: diagonal Fisher, saliency and MAS, from the gradient of each example by itself."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from llm_unlearn.head import in_eval, unwrapped
from llm_unlearn.tasks import IGNORE, Batch, Example, Task

Weights = Literal["trainable", "base"]
Scalar = Callable[[Task, nn.Module, Batch], Tensor]  # -> [B], one number an example


def fisher_diagonal(
    model: nn.Module,
    task: Task,
    examples: Sequence[Example],
    *,
    weights: Weights = "trainable",
    batch_size: int = 32,
) -> dict[str, Tensor]:
    """Return the mean over examples of the squared gradient of the example's summed nll, by parameter name."""
    return _mean(model, task, examples, _summed_nll, torch.square, weights)


def mas(
    model: nn.Module,
    task: Task,
    examples: Sequence[Example],
    *,
    weights: Weights = "trainable",
    batch_size: int = 32,
) -> dict[str, Tensor]:
    """Return the mean over examples of |d ||output||_2 / d w| (Aljundi et al., 2018, arXiv:1711.09601).

    The output is a classifier's logits; of a causal LM the mean norm of the last hidden states that predict the response.
    """
    return _mean(model, task, examples, _output_norm, torch.abs, weights)


def saliency(
    model: nn.Module,
    task: Task,
    examples: Sequence[Example],
    *,
    weights: Weights = "trainable",
    batch_size: int = 32,
) -> dict[str, Tensor]:
    """Return |gradient of the mean loss|, by parameter name."""
    return {
        name: total.abs()
        for name, total in _mean(model, task, examples, _mean_nll, lambda gradient: gradient, weights).items()
    }


def chosen(model: nn.Module, weights: Weights) -> dict[str, nn.Parameter]:
    """Return the parameters that are meant, by name.

    `trainable`: those with requires_grad.  `base`: the checkpoint's own, which are the weights under every adapter layer and
    the modules that are trained in full (a classifier's head); of a model without an adapter all that are trainable.
    """
    inner = unwrapped(model)
    trained = {name: p for name, p in inner.named_parameters() if p.requires_grad}
    if weights == "trainable" or not isinstance(inner, PeftModel):
        return trained
    wrapped = {
        f"{name}.base_layer.weight"
        for name, module in inner.named_modules()
        if isinstance(module, BaseTunerLayer) and hasattr(module, "base_layer")
    }
    return {
        name: p
        for name, p in inner.named_parameters()
        if name in wrapped or (name in trained and ".modules_to_save." in name)
    }


def _mean(
    model: nn.Module,
    task: Task,
    examples: Sequence[Example],
    scalar: Scalar,
    what: Callable[[Tensor], Tensor],
    weights: Weights,
) -> dict[str, Tensor]:
    parameters = chosen(model, weights)
    total = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    device = next(model.parameters()).device
    with in_eval(model), torch.enable_grad(), only(model, parameters):
        for example in examples:
            batch = {name: column.to(device) for name, column in task.collate([example]).items()}
            value = scalar(task, model, batch).sum()
            parts = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
            for name, part in zip(parameters, parts, strict=True):
                if part is not None:
                    total[name] += what(part.float())
    return {name: value / len(examples) for name, value in total.items()}


def _summed_nll(task: Task, model: nn.Module, batch: Batch) -> Tensor:
    decisions = task.decisions(model, batch)
    return decisions.per_example(decisions.nll())


def _mean_nll(task: Task, model: nn.Module, batch: Batch) -> Tensor:
    return task.decisions(model, batch).mean_nll()


def _output_norm(task: Task, model: nn.Module, batch: Batch) -> Tensor:
    if task.name != "causal_lm":
        return task.decisions(model, batch, logits=True).logits.norm(dim=-1)
    hidden = task.hidden(model, batch, -1)  # [B, T, D]
    labels = batch["labels"]
    predicts = torch.zeros_like(labels, dtype=torch.bool)
    predicts[:, :-1] = labels[:, 1:] != IGNORE
    return (hidden.float().norm(dim=-1) * predicts).sum(-1) / predicts.sum(-1)


@contextmanager
def only(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Let these parameters alone have a gradient."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
