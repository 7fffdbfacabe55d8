"""What goes into a classifier's head: the pooled last hidden state of each row, caught while the model runs.

The head is found by what it does, not by its name (`score`, `classifier`, `fc`): it is the innermost module whose output is
the logits.  Where it sees every position (decoders with a classifier's head), a row's is the one whose logits are returned.
"""

from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from llm_unlearn.errors import TaskError
from llm_unlearn.head import in_eval, unwrapped
from llm_unlearn.tasks import Batch, Task


class HeadInput:
    """A context in which each forward pass leaves behind what its head was given."""

    def __init__(self, model: nn.Module, task: Task, batch: Batch) -> None:
        """Find the head by a forward pass over `batch` (a row or two are enough); raise TaskError where there is none."""
        self.name = type(unwrapped(model)).__name__
        self.head = find_head(model, task, batch)
        self.seen: list[tuple[Tensor, Tensor]] = []  # the head's input and output in the latest pass

    def __enter__(self) -> Self:
        self.hook = self.head.register_forward_hook(self._see)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.hook.remove()

    def _see(self, module: nn.Module, given: tuple[Any, ...], out: Tensor) -> None:
        self.seen = [(given[0], out)]

    def pooled(self, logits: Tensor) -> Tensor:
        """Return [B, D], fp32, of the latest pass, whose logits [B, C] these are; TaskError where they are not the head's."""
        for given, out in self.seen:
            rows = _rows(out, logits)
            if rows is not None:
                own = given if rows is ... else given[torch.arange(len(given)), rows]
                return own.detach().flatten(1).float()
        raise _none(self.name)


def find_head(model: nn.Module, task: Task, batch: Batch) -> nn.Module:
    """Return the innermost module whose output is the logits, or holds each row's at one position; TaskError without one."""
    inner, finished = unwrapped(model), []

    def note(module: nn.Module, given: tuple[Any, ...], out: Any) -> None:
        if isinstance(out, Tensor) and given and isinstance(given[0], Tensor):
            finished.append((module, out))

    hooks = [module.register_forward_hook(note) for module in inner.modules()]
    try:
        with torch.no_grad(), in_eval(model):
            logits = task.decisions(model, batch, logits=True).logits
    finally:
        for hook in hooks:
            hook.remove()
    found = next((module for module, out in finished if _rows(out, logits) is not None), None)
    if found is None or task.name == "causal_lm":
        raise _none(type(inner).__name__)
    return found


def _rows(out: Tensor, logits: Tensor) -> Any:
    """Return the position [B] at which `out` [B, T, C] holds the logits [B, C], ... where it is the logits, None otherwise."""
    if out.numel() == logits.numel() and len(out) == len(logits):
        return ... if torch.equal(out.reshape(logits.shape).float(), logits) else None
    if out.dim() != 3 or out.shape[::2] != logits.shape:
        return None
    same = (out.float() == logits[:, None]).all(-1)  # [B, T]
    return same.int().argmax(1) if bool(same.any(1).all()) else None


def _none(name: str) -> TaskError:
    return TaskError(
        f"{name} has no head whose output is the class logits, so there is no pooled hidden state to take in front of it; "
        "measure without activations (a suite other than full)."
    )
