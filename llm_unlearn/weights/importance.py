"""How much each weight matters: diagonal Fisher, saliency and MAS, from the gradient of each example by itself.

One backward pass a batch: `per_example.py` hears the layers.  Three things go another way and give the same numbers: a weight
of a layer without a formula has that layer alone called again, an example at a time (`layer_gradients.py` lists the formulas);
a batch in which some layer mixes examples' rows (windows, experts, text packed without padding) is passed one example at a
time; and a weight that is used without its layer being called (LoRA on embeddings, DoRA's magnitudes), or whose layer returns
no tensor, gets its gradient from autograd, one example at a time.

Examples are shared between the processes of a job and the sums reduced once.  Memory: the result, fp32, and one layer's
per-example gradients; a model that is too large for the result asks for some of the weights at a time (`only`).
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from llm_unlearn.errors import DataError, TaskError
from llm_unlearn.head import in_eval, unwrapped
from llm_unlearn.processes import bar, place
from llm_unlearn.tasks import IGNORE, Batch, Example, Task
from llm_unlearn.weights.per_example import HOW, Collector, How, Unassigned

Weights = Literal["trainable", "base"]
Scalar = Callable[
    [Task, nn.Module, Batch, bool], tuple[Tensor, Tensor]
]  # -> one number an example [B], owner of rows [N]


def fisher_diagonal(
    model: nn.Module,
    task: Task,
    examples: Sequence[Example],
    *,
    weights: Weights = "trainable",
    batch_size: int = 32,
    only: Collection[str] | None = None,
    title: str | None = None,
) -> dict[str, Tensor]:
    """Return the mean over examples of the squared gradient of the example's summed nll, fp32 by parameter name.

    The empirical Fisher: the labels are the rows' own.  Never the square of a batch's mean gradient, which is smaller by the
    batch size.  `weights` as in `chosen`; `only` keeps some of their names; `title` shows a progress bar.
    """
    return _means(model, task, examples, _summed_nll, "square", _kept(model, weights, only), batch_size, title)


def mas(
    model: nn.Module,
    task: Task,
    examples: Sequence[Example],
    *,
    weights: Weights = "trainable",
    batch_size: int = 32,
    only: Collection[str] | None = None,
    title: str | None = None,
) -> dict[str, Tensor]:
    """Return the mean over examples of |d ||output||_2 / d w| (Aljundi et al., 2018, arXiv:1711.09601).

    The output is a classifier's logits; of a causal LM the mean norm of the last hidden states that predict the response.
    """
    return _means(model, task, examples, _output_norm, "absolute", _kept(model, weights, only), batch_size, title)


def saliency(
    model: nn.Module,
    task: Task,
    examples: Sequence[Example],
    *,
    weights: Weights = "trainable",
    batch_size: int = 32,
    only: Collection[str] | None = None,
    title: str | None = None,
) -> dict[str, Tensor]:
    """Return |gradient of the mean over examples of the example's mean nll|, fp32 by parameter name."""
    out = _means(model, task, examples, _mean_nll, "sum", _kept(model, weights, only), batch_size, title)
    return {name: total.abs_() for name, total in out.items()}


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


def _kept(model: nn.Module, weights: Weights, only: Collection[str] | None) -> dict[str, nn.Parameter]:
    found = {name: p for name, p in chosen(model, weights).items() if only is None or name in only}
    if not found:
        raise TaskError(f"{type(unwrapped(model)).__name__} has no weights to judge by their importance.")
    for name, p in found.items():
        if not p.is_floating_point():
            raise TaskError(f"{name} is quantised and has no gradient; load the model in full precision.")
    return found


def _means(
    model: nn.Module,
    task: Task,
    examples: Sequence[Example],
    scalar: Scalar,
    how: How,
    parameters: Mapping[str, nn.Parameter],
    batch_size: int,
    title: str | None,
) -> dict[str, Tensor]:
    """Return the mean over all processes' examples of what is asked for of the gradients."""
    if not examples:
        raise DataError("importance is measured on rows, and there are none.")
    rank, world = place()
    order = sorted(range(len(examples)), key=lambda i: _length(examples[i]))  # rows of like length share a batch
    mine = [examples[i] for i in order[rank::world]]
    collector = Collector(parameters, how)
    head = _has_head(model, parameters)
    with in_eval(model), torch.enable_grad(), allowed(model, ()):
        with collector.listening(unwrapped(model)):
            _listen(
                collector,
                model,
                task,
                mine,
                lambda task, model, batch: scalar(task, model, batch, head),
                batch_size,
                title,
            )
        for name, total in _unheard(collector, model, task, mine, scalar, parameters).items():
            collector.totals[name] = total
    for total in collector.totals.values():
        if world > 1:
            torch.distributed.all_reduce(total)
        total /= len(examples)
    return collector.totals


def _listen(
    collector: Collector,
    model: nn.Module,
    task: Task,
    examples: Sequence[Example],
    scalar: Callable[[Task, nn.Module, Batch], tuple[Tensor, Tensor]],
    batch_size: int,
    title: str | None,
) -> None:
    for first in bar(range(0, len(examples), batch_size), title):
        several = examples[first : first + batch_size]
        try:
            collector.begin(len(several))
            collector.add(*scalar(task, model, _on_device(task, model, several)))
        except Unassigned:
            for example in several:
                collector.begin(1)
                collector.add(*scalar(task, model, _on_device(task, model, [example])))


def _unheard(
    collector: Collector,
    model: nn.Module,
    task: Task,
    examples: Sequence[Example],
    scalar: Scalar,
    parameters: Mapping[str, nn.Parameter],
) -> dict[str, Tensor]:
    """Return the sums of parameters whose layer was never called, from autograd; none for one that the output ignores."""
    left = {name: p for name, p in parameters.items() if name not in collector.heard - collector.missed}
    out: dict[str, Tensor] = {}
    for example in examples:
        if not left:
            break
        with allowed(model, left.values()):
            value = scalar(task, model, _on_device(task, model, [example]), False)[0].sum()
            used = value.requires_grad
            parts = torch.autograd.grad(value, list(left.values()), allow_unused=True) if used else ()
        found = {name: part for name, part in zip(left, parts, strict=used) if part is not None}
        for name, part in found.items():
            out[name] = out.get(name, torch.zeros_like(part, dtype=torch.float32)) + HOW[collector.how](part.float())
        left = {name: p for name, p in left.items() if name in found}  # what one example leaves out, all do
    return out


def _on_device(task: Task, model: nn.Module, examples: Sequence[Example]) -> dict[str, Tensor]:
    device = next(model.parameters()).device
    return {name: column.to(device) for name, column in task.collate(examples).items()}


def _length(example: Example) -> int:
    return max((len(value) for value in example.values() if isinstance(value, list)), default=0)


def _has_head(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> bool:
    """Return whether weights of the head are among these: then it has to be called as it is, and not in chunks."""
    head = _head(model)
    mine = {id(p) for p in parameters.values()}
    return head is not None and any(id(p) in mine for p in head.parameters())


def _head(model: nn.Module) -> Any:
    find = getattr(unwrapped(model), "get_output_embeddings", None)
    return find() if find is not None else None


def _summed_nll(task: Task, model: nn.Module, batch: Batch, head: bool) -> tuple[Tensor, Tensor]:
    decisions = task.decisions(model, batch, logits=head)
    return decisions.per_example(decisions.nll()), decisions.owner


def _mean_nll(task: Task, model: nn.Module, batch: Batch, head: bool) -> tuple[Tensor, Tensor]:
    decisions = task.decisions(model, batch, logits=head)
    return decisions.mean_nll(), decisions.owner


def _output_norm(task: Task, model: nn.Module, batch: Batch, head: bool) -> tuple[Tensor, Tensor]:
    if task.name != "causal_lm":
        decisions = task.decisions(model, batch, logits=True)
        return decisions.logits.norm(dim=-1), decisions.owner
    hidden = task.hidden(model, batch, -1)  # [B, T, D]
    labels = batch["labels"]
    predicts = torch.zeros_like(labels, dtype=torch.bool)
    predicts[:, :-1] = labels[:, 1:] != IGNORE
    owner = torch.arange(len(labels), device=labels.device)[:, None].expand_as(labels)[predicts]
    return (hidden.float().norm(dim=-1) * predicts).sum(-1) / predicts.sum(-1), owner


@contextmanager
def allowed(model: nn.Module, parameters: Collection[nn.Parameter]) -> Iterator[None]:
    """Let these parameters alone have a gradient."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
