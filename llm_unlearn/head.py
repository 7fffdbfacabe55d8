"""Only supervised rows reach the vocabulary head, in chunks where that pays, inside the model's own forward.

With 128k words the logits are most of the memory of a step, and two thirds of them belong to prompt or padding.
The head module is intercepted rather than replaced, so that data-parallel and sharded wrappers see one ordinary forward.
What an architecture does after its head (Gemma 2 soft-caps) is kept where it works word by word; each mode is compared
with the full logits once per model before it is trusted.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Mode = Literal["chunks", "rows", "full"]

logger = logging.getLogger(__name__)
CHUNK = 2**22  # logits of one checkpointed chunk, 16 MB in fp32
_trusted: WeakKeyDictionary[nn.Module, list[Mode]] = (
    WeakKeyDictionary()
)  # the modes that equal the full logits, best first


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside a data-parallel wrapper (DistributedDataParallel keeps it in `.module`)."""
    while isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module
    return model


def supervised(
    model: nn.Module, inputs: Mapping[str, Tensor], keep: Tensor, labels: Tensor, *, logits: bool
) -> Tensor:
    """Return logits [N, C] of the positions in `keep` [B, T], or with `logits=False` their nll [N] in nats, both fp32."""
    modes = trusted_modes(model, inputs)
    mode = "rows" if "rows" in modes else "full"
    if not logits and "chunks" in modes and _chunks_pay(model, len(labels)):
        mode = "chunks"
    out = _forward(model, inputs, keep, labels, mode)
    if logits:
        return out
    return out if mode == "chunks" else F.cross_entropy(out, labels, reduction="none")


def trusted_modes(model: nn.Module, inputs: Mapping[str, Tensor]) -> list[Mode]:
    """Return the modes whose result equals that of the full logits on a probe of `inputs`; cached per model."""
    inner = unwrapped(model)
    if inner not in _trusted:
        was_training = model.training
        model.eval()
        with torch.no_grad():
            _trusted[inner] = _probe(model, inputs)
        model.train(was_training)
        if _trusted[inner] == ["full"]:
            logger.warning(
                "%s does something after its vocabulary head that cannot be done row by row: full logits are computed, "
                "which is correct but needs more memory.",
                type(inner).__name__,
            )
    return _trusted[inner]


def _probe(model: nn.Module, inputs: Mapping[str, Tensor]) -> list[Mode]:
    few = {name: tensor[:2] for name, tensor in inputs.items()}
    words = next(iter(few.values()))  # token ids come first; a probe's labels may be any words
    keep = few["attention_mask"].bool() if "attention_mask" in few else torch.ones_like(words, dtype=torch.bool)
    labels = words[keep]
    full = _forward(model, few, keep, labels, "full")
    expected: dict[Mode, Tensor] = {"chunks": F.cross_entropy(full, labels, reduction="none"), "rows": full}
    precise = next(model.parameters()).dtype == torch.float32
    tolerance = 1e-4 if precise else 3e-2
    good: list[Mode] = []
    for mode, wanted in expected.items():
        found = _try(lambda mode=mode: _forward(model, few, keep, labels, mode))  # type: ignore[misc]
        if (
            found is not None
            and found.shape == wanted.shape
            and torch.allclose(found, wanted, rtol=tolerance, atol=tolerance)
        ):
            good.append(mode)
    return good or ["full"]


def _try(compute: Callable[[], Tensor]) -> Tensor | None:
    try:
        return compute()
    except (RuntimeError, IndexError, TypeError, AttributeError):  # a forward that needs [B, T] logits fails on rows
        return None


def _forward(model: nn.Module, inputs: Mapping[str, Tensor], keep: Tensor, labels: Tensor, mode: Mode) -> Tensor:
    if mode == "full":
        return _logits(model(**inputs, use_cache=False))[keep].float()
    head = unwrapped(model).get_output_embeddings()  # type: ignore[operator]
    if head is None or (mode == "chunks" and type(head) is not nn.Linear):
        raise AttributeError("no plain linear head to intercept")
    intercept = _rows_only(head, keep) if mode == "rows" else _losses_only(head, keep, labels)
    with intercept:
        out = _logits(model(**inputs, use_cache=False)).float()
    return out[:, 0] if mode == "chunks" else out


def _logits(out: Any) -> Tensor:
    logits: Tensor = out.logits
    return logits


@contextmanager
def _rows_only(head: nn.Module, keep: Tensor) -> Iterator[None]:
    """The head sees hidden states [N, D] instead of [B, T, D]; the model's own post-processing then runs on [N, C]."""
    handle = head.register_forward_pre_hook(lambda module, args: (args[0][keep], *args[1:]))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _losses_only(head: nn.Linear, keep: Tensor, labels: Tensor) -> Iterator[None]:
    """The head returns the loss of each row, [N, 1], in place of its logits, so no [N, C] is ever whole."""

    def forward(hidden: Tensor) -> Tensor:
        return chunked_nll(hidden[keep], head.weight, head.bias, labels)[:, None]

    head.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        del head.forward


def _chunks_pay(model: nn.Module, rows: int) -> bool:
    head = unwrapped(model).get_output_embeddings()  # type: ignore[operator]
    words, width = head.weight.shape
    return rows >= width and rows * words > CHUNK


def chunked_nll(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    """Return -log p(label) [N] in nats from hidden [N, D] and head weight [C, D] without holding [N, C].

    Each chunk's logits are made again in the backward pass (about a quarter more head arithmetic for 1/chunks of the
    memory).  fp32 rows use torch's own `linear_cross_entropy` where this torch has it.
    """
    if hidden.dtype == weight.dtype == torch.float32 and hasattr(F, "linear_cross_entropy"):
        options = torch.nn.LinearCrossEntropyOptions()
        return F.linear_cross_entropy(hidden, weight, labels, linear_bias=bias, reduction="none", options=options)

    def losses(rows: Tensor, words: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(rows, weight, bias).float(), words, reduction="none")

    size = max(1, CHUNK // weight.shape[0])
    parts = zip(hidden.split(size), labels.split(size), strict=True)
    return torch.cat([checkpoint(losses, rows, words, use_reentrant=False) for rows, words in parts])
