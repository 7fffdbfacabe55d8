"""Hidden states by the name of the module that makes them: what concept vectors, probes and groups of channels are read from."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import Tensor, nn

from llm_unlearn.errors import TaskError, nearest
from llm_unlearn.head import in_eval, unwrapped
from llm_unlearn.tasks import Batch, Row, Task
from llm_unlearn.vision import VisionBridge

Pool = Literal["mean", "last"]


def bare(model: nn.Module) -> nn.Module:
    """Return the model without data-parallel and adapter wrappers; adapters stay where they are, inside its layers."""
    inner = unwrapped(model)
    return inner.get_base_model() if isinstance(inner, PeftModel) else inner


def blocks(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the model's outermost repeated blocks in order: a transformer's layers, a convolutional net's stages.

    Raises TaskError where it has no list of blocks; then name the layers yourself.
    """
    net = bare(model)
    if isinstance(net, VisionBridge):
        return tuple(f"net.{name}" for name in net.stages)
    found = _lists(net, 2) or _lists(net, 1)  # an encoder of one layer has a list of one
    if not found:
        raise TaskError(f"{type(net).__name__} has no list of blocks to take hidden states from: name a layer.")
    return tuple(f"{name}.{i}" for name in found for i in range(len(net.get_submodule(name))))  # type: ignore[arg-type]


def later_half(model: nn.Module) -> tuple[str, ...]:
    """Return the later half of the blocks: those whose states a feature is cleared from where nobody names others."""
    every = blocks(model)
    return every[len(every) // 2 :]


def _lists(net: nn.Module, least: int) -> list[str]:
    """Return the names of the outermost lists of at least so many modules."""
    found: list[str] = []
    for name, module in net.named_modules():
        inside = any(name.startswith(f"{other}.") for other in found)
        if isinstance(module, nn.ModuleList) and len(module) >= least and not inside:
            found.append(name)
    return found


def checked(model: nn.Module, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names; raise TaskError for one that is no module of the model, with the nearest that is."""
    have = [name for name, _ in bare(model).named_modules() if name]
    for name in names:
        if name not in have:
            raise TaskError(
                f"{type(bare(model)).__name__} has no layer {name!r}{nearest(name, have)}; its blocks are "
                f"{', '.join(blocks(model))}."
            )
    return tuple(names)


@contextmanager
def listening(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Give a dict that each forward pass fills with the named modules' outputs: [B, T, D], [B, C, H, W] or [B, D].

    The outputs keep their graph, so a loss on them can be differentiated.
    """
    seen: dict[str, Tensor] = {}

    def hear(name: str, out: Any) -> None:
        first = (
            out if isinstance(out, Tensor) else next((part for part in _parts(out) if isinstance(part, Tensor)), None)
        )
        if first is None:
            raise TaskError(f"the layer {name!r} gives no tensor: choose another.")
        seen[name] = first

    with ExitStack() as hooks:
        for name in checked(model, names):
            module = bare(model).get_submodule(name)
            hooks.enter_context(module.register_forward_hook(lambda m, given, out, name=name: hear(name, out)))
        yield seen


def _parts(out: Any) -> Sequence[Any]:
    return tuple(out.values()) if isinstance(out, Mapping) else out if isinstance(out, tuple | list) else ()


def pooled(states: Tensor, batch: Batch, pool: Pool = "mean") -> Tensor:
    """Return one state a row [B, D], fp32: of words [B, T, D] the mean over real tokens or the last one, of maps the mean."""
    states = states.float()
    if states.dim() == 2:
        return states
    if states.dim() == 4:
        return states.mean((2, 3))
    mask = batch.get("attention_mask")
    if mask is None:  # patches of a picture
        return states.mean(1) if pool == "mean" else states[:, -1]
    if pool == "last":
        places = torch.arange(mask.shape[1], device=mask.device)
        return states[torch.arange(len(states), device=mask.device), (places * mask).argmax(1)]
    weight = mask.to(states)[..., None]
    return (states * weight).sum(1) / weight.sum(1).clamp(min=1)


@torch.no_grad()
def pooled_states(
    model: nn.Module,
    task: Task,
    rows: Sequence[Row],
    names: Sequence[str] | None = None,
    *,
    pool: Pool = "mean",
    batch_size: int = 64,
) -> dict[str, Tensor]:
    """Return each named layer's pooled states of the rows [N, D], fp32, on the CPU; without names every block's.

    The model is in eval mode.  One forward pass a batch whatever the number of layers; rows of like length share a batch.
    """
    names = checked(model, blocks(model) if names is None else names)
    examples = task.encode(list(rows))
    device = next(model.parameters()).device
    order = sorted(
        range(len(examples)),
        key=lambda i: max((len(v) for v in examples[i].values() if isinstance(v, list)), default=0),
    )
    out: dict[str, list[Tensor]] = {name: [torch.empty(0)] * len(examples) for name in names}
    with in_eval(model), listening(model, names) as seen:
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            batch = {key: part.to(device) for key, part in task.collate([examples[i] for i in chosen]).items()}
            model(**task.inputs(batch))
            for name in names:
                for i, state in zip(chosen, pooled(seen[name], batch, pool).cpu(), strict=True):
                    out[name][i] = state
    return {name: torch.stack(states) for name, states in out.items()}
