"""Only supervised rows reach the vocabulary head, in chunks where that pays, inside the model's own forward.

With 128k words the logits are most of the memory of a step, and two thirds of them belong to prompt or padding.
The head module is intercepted rather than replaced, so that data-parallel and sharded wrappers see one ordinary forward.
What an architecture does after its head (Gemma 2 soft-caps) is kept where it works word by word; each mode is compared
with the full logits once per model before it is trusted.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, cast
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

Mode = Literal["chunks", "rows", "full"]

logger = logging.getLogger(__name__)
CHUNK = 2**22  # logits of one chunk, 16 MB in fp32
CHUNK_ROWS = 256  # at least, whatever the vocabulary: fewer rows leave the matrix product waiting for the weights
WHOLE = 2**26  # logits that a trained head may hold at once, 256 MB in fp32, before they are made twice instead
LOUD = 100.0  # the probe's largest logit; soft caps are 30 (Gemma 2) to 50
_trusted: WeakKeyDictionary[nn.Module, list[Mode]] = (
    WeakKeyDictionary()
)  # the modes that equal the full logits, best first


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside a data-parallel wrapper (DistributedDataParallel keeps it in `.module`)."""
    while isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module
    return model


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that a fit may change, by name."""
    return {name: parameter for name, parameter in unwrapped(model).named_parameters() if parameter.requires_grad}


@contextmanager
def in_eval(model: nn.Module) -> Iterator[nn.Module]:
    """Put the model in eval mode and, afterwards, every module back as it was.

    Module by module: `model.train()` would also wake the dropout and the batch statistics that a fit has put to rest.  Only
    those that change are touched: setting a module's flag costs more than asking for it, and small models are asked often.
    """
    flags = [(module, module.training) for module in model.modules()]
    if any(flag for _, flag in flags):
        model.eval()
    try:
        yield model
    finally:
        for module, flag in flags:
            if module.training != flag:
                module.training = flag


def supervised(
    model: nn.Module, inputs: Mapping[str, Tensor], keep: Tensor, labels: Tensor, *, logits: bool
) -> Tensor:
    """Return logits [N, C] of the positions in `keep` [B, T], or with `logits=False` their nll [N] in nats, both fp32."""
    modes = trusted_modes(model, inputs)
    mode: Mode = "rows" if "rows" in modes else "full"
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
        with torch.no_grad(), in_eval(model):
            _trusted[inner] = _probe(model, inputs)
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
    if words.is_floating_point():  # embeddings [B, T, D] in their place
        words = torch.zeros(words.shape[:2], dtype=torch.long, device=words.device)
    keep = few["attention_mask"].bool() if "attention_mask" in few else torch.ones_like(words, dtype=torch.bool)
    labels = words[keep]
    with _amplified(model, few):
        full = _forward(model, few, keep, labels, "full")
        expected: dict[Mode, Tensor] = {"chunks": F.cross_entropy(full, labels, reduction="none"), "rows": full}
        found = {mode: _try(lambda mode=mode: _forward(model, few, keep, labels, mode)) for mode in expected}  # type: ignore[misc]
    tolerance = 1e-4 if next(model.parameters()).dtype == torch.float32 else 3e-2
    good: list[Mode] = [
        mode
        for mode, wanted in expected.items()
        if (it := found[mode]) is not None
        and it.shape == wanted.shape
        and torch.allclose(it, wanted, tolerance, tolerance)
    ]
    return good or ["full"]


@contextmanager
def _amplified(model: nn.Module, inputs: Mapping[str, Tensor]) -> Iterator[None]:
    """The head's inputs are scaled until its logits reach LOUD: a soft cap does next to nothing to small ones.

    Without it an untrained model would pass the comparison and a trained one be wrong.
    """
    head = unwrapped(model).get_output_embeddings()  # type: ignore[operator]
    if head is None:
        yield
        return
    heard: list[Tensor] = []
    with head.register_forward_hook(lambda module, args, out: heard.append(out.detach().abs().max())):
        model(**inputs, use_cache=False)
    factor = LOUD / heard[-1].clamp(min=1e-6) if heard else 1.0
    handle = head.register_forward_pre_hook(lambda module, args: ((args[0] * factor).to(args[0].dtype), *args[1:]))
    try:
        yield
    finally:
        handle.remove()


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


def _losses_only(head: nn.Linear, keep: Tensor, labels: Tensor) -> AbstractContextManager[None]:
    """The head returns the loss of each row, [N, 1], in place of its logits, so no [N, C] is ever whole."""
    return _replaced(head, lambda hidden: chunked_nll(hidden[keep], head.weight, head.bias, labels)[:, None])


@contextmanager
def _replaced(head: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    before = vars(head).get("forward")  # another interception: accelerate's, of a model spread over devices
    vars(head)["forward"] = forward
    try:
        yield
    finally:
        del vars(head)["forward"]
        if before is not None:
            vars(head)["forward"] = before


def _chunks_pay(model: nn.Module, rows: int) -> bool:
    weight = unwrapped(model).get_output_embeddings().weight  # type: ignore[operator]
    if not (weight.requires_grad and torch.is_grad_enabled()):
        return True  # nothing is computed twice, so chunks cost nothing
    return bool(rows >= weight.shape[1] and rows * weight.shape[0] > WHOLE)


def chunked_nll(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    """Return -log p(label) [N] in nats, fp32, from hidden [N, D] and head weight [C, D] without holding [N, C].

    With a frozen head this takes the operations of plain cross-entropy and no more: each chunk's gradient is made while
    its logits are there.  A trained head's gradient must wait for the backward pass, which makes the logits again.
    (torch's `linear_cross_entropy` took 4 times the CPU seconds of plain cross-entropy at 616 rows of 384 and 16k words.)
    """
    size = max(CHUNK_ROWS, CHUNK // weight.shape[0])
    trained = weight.requires_grad or (bias is not None and bias.requires_grad)
    if not (trained and torch.is_grad_enabled()):
        return cast(Tensor, _FrozenHead.apply(hidden, weight, bias, labels, size))

    def losses(rows: Tensor, words: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(rows, weight, bias).float(), words, reduction="none")

    parts = zip(hidden.split(size), labels.split(size), strict=True)
    return torch.cat([checkpoint(losses, rows, words, use_reentrant=False) for rows, words in parts])


class _FrozenHead(torch.autograd.Function):
    """Nll of rows under a head that is not trained.  A row's loss reaches only that row's hidden state, so the gradient
    [N, D] is made in the forward pass and scaled by what comes back in the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, size: int) -> Tensor:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        weight = weight.to(dtype)  # once, not once a chunk
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        losses = []
        for first in range(0, len(hidden), size):
            rows = slice(first, first + size)
            words = labels[rows, None]
            scores = F.linear(hidden[rows].to(dtype), weight, bias).float()  # [n, C]
            scores -= scores.amax(-1, keepdim=True)
            label_scores = scores.gather(-1, words)
            total = scores.exp_().sum(-1, keepdim=True)
            losses.append((total.log() - label_scores)[:, 0])
            if gradient is not None:
                scores /= total  # probabilities
                scores.scatter_add_(-1, words, scores.new_full((), -1.0).expand_as(words))
                gradient[rows] = scores.to(dtype) @ weight
        ctx.save_for_backward(gradient)
        return torch.cat(losses) if losses else hidden.new_zeros(0, dtype=torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        scale = upstream[0][:, None]  # [N, 1]
        return (gradient * scale).to(gradient.dtype), None, None, None, None
