"""The gradient of a layer's weight for each example, from the layer's input x and the gradient g of its output.

| layer | weight | bias |
|---|---|---|
| Linear (and GPT-2's Conv1D, transposed) | sum over positions of g x^T | sum of g |
| Conv2d (zero padding, groups) | the same over unfolded patches | sum of g |
| LayerNorm, RMSNorm, GroupNorm, BatchNorm with frozen statistics | sum of g times the normalised x | sum of g |
| Embedding | sum of g at the word's row | |
| anything else | the layer alone is called again, one example at a time | |
"""

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers.pytorch_utils import Conv1D

from llm_unlearn.errors import TaskError

Parts = tuple[Tensor, Tensor]  # input and output gradient, examples first


class Called(Protocol):
    """One call of a layer (`per_example.Use`)."""

    layer: nn.Module
    attribute: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    grad: Tensor


class Rule:
    """How a layer's weight gets its gradients; this one calls the layer again, an example at a time."""

    calls_layer = True

    def prepare(self, use: Any, size: int, owner: Tensor) -> Parts:
        """Return input and output gradient with the examples first."""
        grad = use.grad[None] if size == 1 else use.grad[:, None]  # one example: all that the layer saw is its own
        return grad, grad

    def gradients(self, use: Any, parts: Parts, chosen: slice) -> Tensor:
        """Return the gradients [b, ...] of the chosen examples."""
        weight = use.layer.get_parameter(use.attribute)
        size = len(parts[0])
        out = []
        weight.requires_grad_(True)
        try:
            with torch.enable_grad():
                for place in range(*chosen.indices(size)):
                    args, kwargs = _cut(use.args, place, size), _cut(use.kwargs, place, size)
                    value = use.layer.forward(*args, **kwargs)
                    value = value if isinstance(value, Tensor) else value[0]
                    (part,) = torch.autograd.grad(value, [weight], parts[1][place])
                    out.append(part.float())
        finally:
            weight.requires_grad_(False)
        return torch.stack(out)

    def outer(self, x: Tensor, grad: Tensor) -> Tensor:
        """Return the sum over rows of the outer products, in the weight's shape; of linear layers only."""
        raise NotImplementedError


def _cut(values: Any, place: int, size: int) -> Any:
    """Return the inputs of one example; what does not have the examples first is everybody's."""
    if isinstance(values, Tensor):
        values = values.detach()
        return values[place : place + 1] if size > 1 and values.dim() and len(values) == size else values
    if isinstance(values, tuple):
        return tuple(_cut(each, place, size) for each in values)
    if isinstance(values, dict):
        return {name: _cut(each, place, size) for name, each in values.items()}
    return values


class LinearWeight(Rule):
    """[out, in]."""

    calls_layer = False

    def prepare(self, use: Any, size: int, owner: Tensor) -> Parts:
        """Return x [B, T, in] and g [B, T, out]."""
        return positions(_input(use), size, owner), positions(use.grad, size, owner)

    def gradients(self, use: Any, parts: Parts, chosen: slice) -> Tensor:
        """Return [b, out, in]."""
        x, grad = (part[chosen] for part in parts)
        return torch.bmm(grad.transpose(1, 2), x)

    def outer(self, x: Tensor, grad: Tensor) -> Tensor:
        """Return [out, in]."""
        return grad.T @ x


class TransposedWeight(LinearWeight):
    """[in, out], as GPT-2's layers have it."""

    def gradients(self, use: Any, parts: Parts, chosen: slice) -> Tensor:
        """Return [b, in, out]."""
        return super().gradients(use, (parts[1], parts[0]), chosen)

    def outer(self, x: Tensor, grad: Tensor) -> Tensor:
        """Return [in, out]."""
        return x.T @ grad


class LastBias(LinearWeight):
    """[out]."""

    def gradients(self, use: Any, parts: Parts, chosen: slice) -> Tensor:
        """Return [b, out]."""
        return parts[1][chosen].sum(1)


class ConvWeight(Rule):
    """[out, in / groups, kh, kw]."""

    calls_layer = False

    def prepare(self, use: Any, size: int, owner: Tensor) -> Parts:
        """Return x [B, in, H, W] and g [B, out, H', W']."""
        return _input(use).float(), use.grad.float()

    def gradients(self, use: Any, parts: Parts, chosen: slice) -> Tensor:
        """Return [b, out, in / groups * kh * kw]."""
        x, grad, layer = parts[0][chosen], parts[1][chosen], use.layer
        if layer.kernel_size == (1, 1) and layer.padding == (0, 0):
            patches = x[:, :, :: layer.stride[0], :: layer.stride[1]].flatten(2)  # [b, in, L]
        else:
            shape = {name: getattr(layer, name) for name in ("dilation", "padding", "stride")}
            patches = F.unfold(x, layer.kernel_size, **shape)  # [b, in kh kw, L]
        patches = patches.reshape(len(x) * layer.groups, -1, patches.shape[-1])
        grad = grad.flatten(2).reshape(len(x) * layer.groups, -1, patches.shape[-1])
        return torch.bmm(grad, patches.transpose(1, 2)).view(len(x), layer.out_channels, -1)


class ChannelBias(ConvWeight):
    """[channels], the second dimension of the output."""

    def gradients(self, use: Any, parts: Parts, chosen: slice) -> Tensor:
        """Return [b, channels]."""
        return _channels(parts[1][chosen])


class NormWeight(Rule):
    """The scale of a normalisation: over the last dimensions, or one a channel."""

    calls_layer = False

    def prepare(self, use: Any, size: int, owner: Tensor) -> Parts:
        """Return the normalised x and g, both as the output."""
        return _normalised(use.layer, _input(use).float()), use.grad.float()

    def gradients(self, use: Any, parts: Parts, chosen: slice) -> Tensor:
        """Return [b, ...]."""
        product = parts[0][chosen] * parts[1][chosen] if use.attribute == "weight" else parts[1][chosen]
        if isinstance(use.layer, (nn.LayerNorm, nn.RMSNorm)):
            return product.reshape(len(product), -1, use.layer.weight.numel()).sum(1)
        return _channels(product)


class EmbeddingWeight(Rule):
    """[words, width]."""

    calls_layer = False

    def prepare(self, use: Any, size: int, owner: Tensor) -> Parts:
        """Return words [B, T] and g [B, T, width]."""
        return _input(use).reshape(size, -1), use.grad.float().reshape(size, -1, use.grad.shape[-1])

    def gradients(self, use: Any, parts: Parts, chosen: slice) -> Tensor:
        """Return [b, words, width]; the padding word has none, as in torch."""
        words, grad = (part[chosen] for part in parts)
        layer = use.layer
        if layer.padding_idx is not None:
            grad = grad * (words != layer.padding_idx)[..., None]
        out = grad.new_zeros(len(words), *layer.weight.shape)
        return out.scatter_add_(1, words[..., None].expand_as(grad), grad)


def rule_of(layer: nn.Module, attribute: str) -> Rule:
    """Return how the weight of this name gets its gradients; raise TaskError for statistics taken over the batch."""
    weight = attribute == "weight"
    if not weight and attribute != "bias":
        return Rule()
    if type(layer) is nn.Linear:
        return LinearWeight() if weight else LastBias()
    if type(layer) is Conv1D:
        return TransposedWeight() if weight else LastBias()
    if type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        return ConvWeight() if weight else ChannelBias()
    if isinstance(layer, _BatchNorm):
        if layer.training or layer.running_mean is None:
            raise TaskError(
                "a batch normalisation takes its statistics from the batch, so no example has a gradient of its own; freeze "
                "them (track_running_stats=True and eval mode)."
            )
        return NormWeight()
    if type(layer) in (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm):
        return NormWeight()
    plain = type(layer) is nn.Embedding and layer.max_norm is None and not layer.scale_grad_by_freq
    return EmbeddingWeight() if plain else Rule()


def is_linear(use: Any) -> bool:
    """Return whether the weight's gradient is a sum of outer products over rows."""
    return type(use.rule) in (LinearWeight, TransposedWeight)


def positions(x: Tensor, size: int, owner: Tensor) -> Tensor:
    """Return x as [B, T, D] in fp32: [B, ..., D] flattened, rows [N, D] sorted to their owners and padded with 0."""
    x = x.float()
    if size == 1 or len(x) == size:
        return x.reshape(size, -1, x.shape[-1])
    counts = torch.bincount(owner, minlength=size)
    order = owner.argsort(stable=True)
    first = counts.cumsum(0) - counts
    place = torch.arange(len(owner), device=x.device) - first[owner[order]]
    out = x.new_zeros(size, int(counts.max()), x.shape[-1])
    out[owner[order], place] = x[order]
    return out


def _input(use: Any) -> Tensor:
    """Return what the layer was called with."""
    given = use.args[0] if use.args else next(iter(use.kwargs.values()))
    out: Tensor = given.detach()
    return out


def _channels(x: Tensor) -> Tensor:
    """Return [b, channels] from [b, channels, ...]."""
    return x.flatten(2).sum(2) if x.dim() > 2 else x


def _normalised(layer: Any, x: Tensor) -> Tensor:
    """Return what the layer multiplies with its weight."""
    if isinstance(layer, nn.LayerNorm):
        return F.layer_norm(x, layer.normalized_shape, None, None, layer.eps)
    if isinstance(layer, nn.RMSNorm):
        return F.rms_norm(x, layer.normalized_shape, None, layer.eps)
    if isinstance(layer, nn.GroupNorm):
        return F.group_norm(x, layer.num_groups, None, None, layer.eps)
    return F.batch_norm(x, layer.running_mean.float(), layer.running_var.float(), None, None, False, 0.0, layer.eps)
