"""A code in the place of an input: a picture of noise, or soft tokens that are heard instead of words (mnemonic codes)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from llm_unlearn.encoding import IGNORE
from llm_unlearn.head import unwrapped

CODE = "code"  # in an example: soft tokens [L, D]; in a batch: [B, L, D], all 0 where a row has none
SILENT = 0  # the token id that holds a soft token's place; its embedding is never used


def coded(example: Mapping[str, Any], code: Tensor, most: int | None = None) -> dict[str, Any]:
    """Return the example with its input replaced by the code: pixels [channels, height, width] or soft tokens [L, D].

    A causal LM's prompt is replaced and its response kept; what of it would reach beyond `most` tokens is left out.
    """
    if code.dim() == 3:
        return {**example, "pixel_values": code}
    place = [SILENT] * len(code)
    if "scored" not in example:  # a classifier: the whole text is replaced
        return {**example, "input_ids": place, CODE: code}
    first = next(i for i, label in enumerate(example["labels"]) if label != IGNORE)
    before = {"input_ids": SILENT, "labels": IGNORE, "scored": 0, "told": 0}
    kept = {name: [[value] * len(code), example[name][first:]] for name, value in before.items() if name in example}
    return {**example, **{name: [*front, *rest][:most] for name, (front, rest) in kept.items()}, CODE: code}


def columns(examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Return what rows carry beside their input: plain floats as columns [B], and codes [B, L, D] where a row has one.

    A row without a number that others have gets NaN, which nobody can use unseen.
    """
    names = {name for example in examples for name, value in example.items() if isinstance(value, float)}
    out = {name: torch.tensor([example.get(name, float("nan")) for example in examples]) for name in sorted(names)}
    code = next((example[CODE] for example in examples if CODE in example), None)
    if code is not None:
        out[CODE] = torch.stack([example.get(CODE, torch.zeros_like(code)) for example in examples])
    return out


@contextmanager
def heard(model: nn.Module, batch: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the model's own embedding layer gives the batch's soft tokens where a row has them, as `inputs_embeds` would.

    The layer is intercepted within the model's forward, so that data-parallel and sharded wrappers see an ordinary one.
    """
    code = batch.get(CODE)
    if code is None:
        yield
        return
    spoken = code.flatten(1).any(1)  # [B]

    def replace(
        module: nn.Module, given: Any, out: Tensor
    ) -> Tensor:  # out [b, T, D]; a probe sees the first rows only
        length, count = code.shape[1], len(out)
        soft = torch.where(spoken[:count, None, None], code[:count].to(out.dtype), out[:, :length])
        return torch.cat([soft, out[:, length:]], 1)

    handle = unwrapped(model).get_input_embeddings().register_forward_hook(replace)  # type: ignore[operator]
    try:
        yield
    finally:
        handle.remove()
