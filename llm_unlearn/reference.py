"""The model as it was before unlearning, at the price of no second model.

A fresh adapter is switched off.  An adapter that itself held the knowledge is not: switching it off would give the
*pretrained* model, a plausible and silent error, so a frozen copy of that adapter named `reference` takes its place.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from peft import PeftModel
from torch import Tensor, nn

from llm_unlearn.errors import TaskError
from llm_unlearn.head import in_eval, unwrapped
from llm_unlearn.tasks import Batch, Example, Task

NAME = "reference"  # the adapter that holds a frozen copy


@contextmanager
def reference(model: nn.Module, frozen_copy: nn.Module | None = None) -> Iterator[nn.Module]:
    """Yield the model before unlearning, in eval mode and without gradients."""
    inner = unwrapped(model)
    if not isinstance(inner, PeftModel):
        if frozen_copy is None:
            raise TaskError(
                "full fine-tuning needs a frozen copy of the model as its reference: Run(frozen_copy=...)."
            )
        with torch.no_grad():
            yield frozen_copy.eval()
        return
    trained = {name: parameter.requires_grad for name, parameter in inner.named_parameters()}
    try:
        with torch.no_grad(), in_eval(inner):
            if NAME in inner.peft_config:
                active = inner.active_adapter
                inner.set_adapter(NAME, inference_mode=True)
                try:
                    yield model
                finally:
                    inner.set_adapter(active)
            else:
                with inner.disable_adapter():
                    yield model
    finally:  # peft would have every adapter weight trained again, also those that were frozen on purpose
        for name, parameter in inner.named_parameters():
            parameter.requires_grad_(trained[name])


def reference_logits(model: nn.Module, task: Task, batch: Batch, frozen_copy: nn.Module | None = None) -> Tensor:
    """Return the logits [N, C] of the batch's decisions under the model before unlearning, on the model's device."""
    if frozen_copy is not None:
        frozen_copy = frozen_copy.to(next(model.parameters()).device)
    with reference(model, frozen_copy) as before:
        return task.decisions(before, batch, logits=True).logits


def reference_nll(
    model: nn.Module,
    task: Task,
    examples: Sequence[Example],
    frozen_copy: nn.Module | None = None,
    batch_size: int = 32,
) -> list[float]:
    """Return each example's summed nll (nats, every supervised decision) under the model before unlearning."""
    device = next(model.parameters()).device
    out: list[float] = []
    with reference(model, frozen_copy) as before:
        for first in range(0, len(examples), batch_size):
            batch = task.collate(examples[first : first + batch_size])
            decisions = task.decisions(before, {name: tensor.to(device) for name, tensor in batch.items()})
            out += decisions.per_example(decisions.nll()).tolist()
    return out
