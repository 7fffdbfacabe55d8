"""Did anything happen?  Weights may move and nothing change: weight decay shrinks lora_A while B is 0."""

from collections.abc import Sequence

import torch
from torch import nn

from llm_unlearn.errors import NotFinite, NothingChanged
from llm_unlearn.head import in_eval
from llm_unlearn.tasks import Example, Task

LEAST = 1e-4  # largest logit difference on the probe below which the outputs count as unchanged
PROBE = 32  # rows


@torch.no_grad()
def probe_logits(model: nn.Module, task: Task, examples: Sequence[Example]) -> torch.Tensor:
    """Return the logits [N, C] of the first examples' decisions, on the CPU, with the model in eval mode."""
    device = next(model.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in task.collate(examples[:PROBE]).items()}
    with in_eval(model):
        return task.decisions(model, batch, logits=True).logits.cpu()


def output_change(before: torch.Tensor, after: torch.Tensor) -> float:
    """Return the largest logit difference; raise NotFinite where the model after unlearning gives NaN or infinity."""
    if not torch.isfinite(after).all():
        raise NotFinite(
            "the unlearned model's outputs are NaN or infinite. Lower training.learning_rate; nothing was saved as a result."
        )
    return (after - before).abs().max().item()


def check_changed(change: float, *, knew: bool) -> bool:
    """Return whether the outputs changed; raise NothingChanged where they did not although there was something to forget."""
    if change > LEAST:
        return True
    if knew:
        raise NothingChanged(
            f"the run changed nothing: the largest difference of a logit on the forget rows is {change:.1e} (at most {LEAST:.0e}). "
            "Is the learning rate 0, is lora_B frozen, or do gradients not reach the adapter (gradient checkpointing without "
            "input gradients)?"
        )
    return False
