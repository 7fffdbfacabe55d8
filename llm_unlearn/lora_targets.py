"""Where LoRA goes in an image classifier: every linear and convolution layer but the head, which is trained in full."""

import logging
import re
from collections.abc import Iterable

from torch import nn

from llm_unlearn.errors import RecipeError
from llm_unlearn.vision import CONVOLUTIONS

logger = logging.getLogger(__name__)
HEADS = (
    "classifier",
    "score",
    "fc",
    "head",
    "heads",
    "cls_classifier",
    "distillation_classifier",
)  # transformers' names


def head_names(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the head modules of a classifier without an adapter, () where none is found.

    Of a transformers model: its own child called classifier, score, fc or head (with weights).  Otherwise the last linear
    layer, or without one the last convolution, whose outputs are as many as `config.num_labels`.
    """
    net = getattr(model, "net", None)
    if not isinstance(net, nn.Module):
        named = [name for name in HEADS if next(getattr(model, name, nn.Identity()).parameters(), None) is not None]
        if named:
            return tuple(named)
    classes = getattr(getattr(model, "config", None), "num_labels", None)
    for kinds, width in (((nn.Linear,), "out_features"), (CONVOLUTIONS, "out_channels")):
        found = [
            name
            for name, module in model.named_modules()
            if isinstance(module, kinds) and getattr(module, width) == classes
        ]
        if found:
            return (found[-1],)
    return ()


def wrappable(model: nn.Module, heads: Iterable[str]) -> list[str]:
    """Return the names of the layers that LoRA is put on; raise RecipeError where there is none.

    Grouped and depth-wise convolutions stay as they are: peft 0.21 takes only ranks that their groups divide, and cannot
    merge them.
    """
    heads = tuple(heads)
    chosen, grouped = [], 0
    for name, module in model.named_modules():
        if any(name == head or name.startswith(f"{head}.") for head in heads):
            continue
        if isinstance(module, CONVOLUTIONS) and module.groups > 1:
            grouped += 1
        elif isinstance(module, (nn.Linear, *CONVOLUTIONS)):
            chosen.append(name)
    kind = type(getattr(model, "net", model)).__name__
    if not chosen:
        raise RecipeError(
            f"{kind} has no layer that LoRA can wrap (linear or convolution without groups, the head left out): "
            "train every weight with --lora none."
        )
    if grouped:
        logger.info("%s: %d grouped convolutions are left without LoRA (peft cannot merge them).", kind, grouped)
    return chosen


def pattern(model: nn.Module, chosen: Iterable[str]) -> str:
    """Return a regular expression that matches the chosen module names in full and no other of the model's.

    Numbers are generalised where nothing else is caught, so that what an adapter's config holds stays short.
    """
    wanted = set(chosen)
    every = [name for name, module in model.named_modules() if next(module.children(), None) is None]
    parts: set[str] = set()
    for name in sorted(wanted):
        general = re.sub(r"\d+", r"\\d+", re.escape(name))
        caught = {other for other in every if re.fullmatch(general, other)}
        parts.add(general if caught <= wanted else re.escape(name))
    return "|".join(sorted(parts))
