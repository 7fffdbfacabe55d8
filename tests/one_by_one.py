"""Importance as its definition says it: a loop over the examples, a whole gradient each.  What the hooks are held against."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from llm_unlearn.head import in_eval
from llm_unlearn.tasks import IGNORE, Example, Task
from llm_unlearn.weights.importance import chosen


def one_by_one(
    kind: str, model: nn.Module, task: Task, examples: Sequence[Example], weights: str
) -> dict[str, Tensor]:
    """Return what `fisher_diagonal`, `mas` or `saliency` should."""
    wanted = chosen(model, weights)  # type: ignore[arg-type]
    total = {name: torch.zeros_like(p) for name, p in wanted.items()}
    flags = [(p, p.requires_grad) for p in model.parameters()]
    for p, _ in flags:
        p.requires_grad_(False)
    for p in wanted.values():
        p.requires_grad_(True)
    with in_eval(model):
        for example in examples:
            value = scalar(kind, model, task, task.collate([example]))
            for name, grad in zip(
                wanted, torch.autograd.grad(value, list(wanted.values()), allow_unused=True), strict=True
            ):
                if grad is not None:
                    total[name] += {"fisher_diagonal": grad**2, "mas": grad.abs(), "saliency": grad}[kind]
    for p, flag in flags:
        p.requires_grad_(flag)
    return {name: (value / len(examples)).abs() for name, value in total.items()}


def scalar(kind: str, model: nn.Module, task: Task, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the number whose gradient is taken, from the model's own outputs."""
    dtype = next(model.parameters()).dtype
    batch = {name: column.to(dtype) if column.is_floating_point() else column for name, column in batch.items()}
    out = model(**task.inputs(batch), **({"output_hidden_states": True} if task.name == "causal_lm" else {}))
    labels = batch["labels"]
    if task.name != "causal_lm":
        if kind == "mas":
            return out.logits[0].norm()
        if labels.is_floating_point():
            return nn.functional.binary_cross_entropy_with_logits(out.logits, labels)
        return nn.functional.cross_entropy(out.logits, labels)
    words = labels[0, 1:]
    if kind == "mas":
        return out.hidden_states[-1][0, :-1][words != IGNORE].norm(dim=-1).mean()
    reduction = "mean" if kind == "saliency" else "sum"
    return nn.functional.cross_entropy(out.logits[0, :-1], words, ignore_index=IGNORE, reduction=reduction)
