"""Dense edits of the checkpoint's weights as low-rank adapters, and adapters in a form that only their product decides."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from llm_unlearn.errors import TaskError
from llm_unlearn.head import unwrapped

EXACT = 1024  # rows or columns up to which the decomposition is exact (above: randomised, Halko et al., 2011)
SPARE, ROUNDS = 16, 4  # extra directions and power iterations of the randomised one
FLOOR = 1e-3  # of the mean importance: no row or column counts for nothing
BASE = ".base_layer.weight"


@torch.no_grad()
def write_edit(
    model: nn.Module,
    edit: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]],
    importance: Mapping[str, Tensor] | None = None,
) -> dict[str, float]:
    """Add a dense change of named weights to the model; return the share of its energy kept by name, overall under "".

    Pairs of name and change that are made as they are asked for keep one matrix at a time in memory.  Names are those of `named_parameters()`.  A weight under a LoRA layer (`...base_layer.weight`, linear or convolution) stays
    as it is: scale B A becomes the best approximation of the adapter's present product plus the change that the rank allows.
    Weights that are trained in full (a head in modules_to_save, any weight of a model without an adapter) take the change
    itself.  Energy is the sum of squares; a change of 0 has none to lose and counts as 1.  Raises TaskError for a weight that
    is neither, and for grouped convolutions and other adapters than plain LoRA.
    """
    inner = unwrapped(model)
    parameters = dict(inner.named_parameters())
    energies: dict[str, tuple[float, float]] = {}  # kept, whole
    for name, change in edit.items() if isinstance(edit, Mapping) else edit:
        if name not in parameters:
            raise TaskError(f"the edit names {name!r}, which this model does not have.")
        if name.endswith(BASE):
            weight = None if importance is None else importance[name]
            energies[name] = _into_adapter(inner.get_submodule(name.removesuffix(BASE)), name, change, weight)
            continue
        weight = parameters[name]
        if not weight.requires_grad and any(isinstance(module, LoraLayer) for module in inner.modules()):
            raise TaskError(
                f"{name} is neither under a LoRA layer nor trained in full, so an adapter cannot change it."
            )
        weight.add_(change.to(weight))
        whole = float(change.double().square().sum())
        energies[name] = (whole, whole)
    kept, whole = (sum(values[i] for values in energies.values()) for i in (0, 1))
    shares = {name: _share(*values) for name, values in energies.items()}
    return {**shares, "": _share(kept, whole)}


@torch.no_grad()
def effective(model: nn.Module, name: str) -> Tensor:
    """Return the weight of this name as the model uses it, fp32: with its adapter's product where it has one."""
    inner = unwrapped(model)
    weight = inner.get_parameter(name).detach().float()
    layer: Any = inner.get_submodule(name.removesuffix(BASE)) if name.endswith(BASE) else None
    adapter = _plain_adapter(layer)
    if adapter is None or not _factors(layer, adapter)[1].any():
        return weight
    factor_a, factor_b = (factor.float().flatten(1) for factor in _factors(layer, adapter))
    product = float(layer.scaling[adapter]) * (factor_b @ factor_a)  # [out, in]
    return weight + (product.T if getattr(layer, "fan_in_fan_out", False) else product.view_as(weight))


def _share(kept: float, whole: float) -> float:
    return min(1.0, kept / whole) if whole > 0 else 1.0


def _into_adapter(layer: Any, name: str, change: Tensor, importance: Tensor | None) -> tuple[float, float]:
    """Give the layer's active adapter the change; return its energy (kept, whole)."""
    adapter = _plain_adapter(layer)
    if adapter is None:
        raise TaskError(
            f"{name}: only one plain LoRA adapter (no DoRA, no grouped convolution) can take a dense change."
        )
    factor_a, factor_b = _factors(layer, adapter)
    scale = float(layer.scaling[adapter])
    matrix = _as_matrix(layer, change.to(device=factor_a.device, dtype=torch.float32))  # [out, in]
    present = scale * (factor_b.float().flatten(1) @ factor_a.float().flatten(1))
    wanted = matrix + present
    rows, columns = _margins(layer, importance, wanted)
    u, s, vt = _truncated(rows[:, None] * wanted * columns, factor_a.shape[0])
    u, vt = u / rows[:, None], vt / columns
    root = (s / abs(scale)).sqrt()
    new_a, new_b = torch.zeros_like(factor_a).flatten(1), torch.zeros_like(factor_b).flatten(1)
    new_a[: len(s)] = (root[:, None] * vt).to(new_a.dtype)
    new_b[:, : len(s)] = (u * root * (1 if scale > 0 else -1)).to(new_b.dtype)
    factor_a.copy_(new_a.view_as(factor_a))
    factor_b.copy_(new_b.view_as(factor_b))
    whole = float(matrix.double().square().sum())
    lost = float((wanted - (u * s) @ vt).double().square().sum())
    return max(0.0, whole - lost), whole


def _margins(layer: Any, importance: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return what rows [out] and columns [in] are multiplied with before the decomposition: the root of their importance."""
    if importance is None:
        return like.new_ones(like.shape[0]), like.new_ones(like.shape[1])
    matrix = _as_matrix(layer, importance.to(like))
    margins = (matrix.mean(1), matrix.mean(0))
    return tuple((each / each.mean().clamp(min=1e-30)).clamp(min=FLOOR).sqrt() for each in margins)  # type: ignore[return-value]


def _truncated(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return U [out, k], S [k], V^T [k, in] of the best approximation, k = min(rank, out, in)."""
    rank = min(rank, *matrix.shape)
    if min(matrix.shape) <= max(EXACT, rank + SPARE):
        u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    else:
        with torch.random.fork_rng(devices=[matrix.device] if matrix.is_cuda else []):
            torch.manual_seed(0)  # every process must get the same factors
            u, s, v = torch.svd_lowrank(matrix, q=rank + SPARE, niter=ROUNDS)
        vt = v.T
    return u[:, :rank], s[:rank], vt[:rank]


@torch.no_grad()
def canonical(model: nn.Module) -> None:
    """Give every LoRA layer, in place, the one pair of factors among all with its product that depends on nothing else.

    B A = U S V^T, B = U sqrt(S), A = sqrt(S) V^T, the largest entry of each column of B positive: (A, B) and (R A, B R^-1)
    are the same model and have different importances.  The rank stays; the product does too.  A fresh adapter (B = 0) is left
    alone: its A would become 0 as well and never train again.  Where singular values are equal the form is not unique.
    """
    for layer in unwrapped(model).modules():
        adapter = _plain_adapter(layer)
        if adapter is None:
            continue
        factor_a, factor_b = _factors(layer, adapter)
        if not factor_b.any():
            continue
        a, b = (factor.double().cpu().flatten(1) for factor in (factor_a, factor_b))  # [r, in], [out, r]
        (q_b, r_b), (q_a, r_a) = torch.linalg.qr(b), torch.linalg.qr(a.T)
        u, s, vt = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
        left, right = q_b @ u, vt @ q_a.T  # [out, k], [k, in]
        largest = left.abs().argmax(0)
        sign = left.gather(0, largest[None])[0].sign()
        new_a, new_b = torch.zeros_like(a), torch.zeros_like(b)
        new_a[: len(s)] = (s.sqrt() * sign)[:, None] * right
        new_b[:, : len(s)] = left * (s.sqrt() * sign)
        factor_a.copy_(new_a.view_as(factor_a))
        factor_b.copy_(new_b.view_as(factor_b))


def _plain_adapter(layer: Any) -> str | None:
    """Return the name of the layer's one active adapter where its product is B A of two weights, else None."""
    if not isinstance(layer, LoraLayer) or len(layer.active_adapters) != 1:
        return None
    name = layer.active_adapters[0]
    if name not in layer.lora_A or name in layer.lora_variant or getattr(layer.get_base_layer(), "groups", 1) != 1:
        return None
    return name


def _factors(layer: Any, adapter: str) -> tuple[Tensor, Tensor]:
    """Return A [r, in] or [r, in, kh, kw], and B [out, r] or [out, r, 1, 1]."""
    return layer.lora_A[adapter].weight, layer.lora_B[adapter].weight


def _as_matrix(layer: nn.Module, change: Tensor) -> Tensor:
    """Return the change as [out, in * kh * kw]; GPT-2's layers keep their weights as [in, out]."""
    return change.T if getattr(layer, "fan_in_fan_out", False) else change.flatten(1)


def columns(model: nn.Module, dense: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return, by the name and in the shape of each adapter's A, the 2-norms of the columns of the matrices under it."""
    out: dict[str, Tensor] = {}
    for name, matrix in dense.items():
        path = name.removesuffix(BASE)
        layer: Any = unwrapped(model).get_submodule(path) if path != name else None
        adapter = _plain_adapter(layer)
        if adapter is not None:
            factor_a = _factors(layer, adapter)[0]
            norms = _as_matrix(layer, matrix).norm(dim=0)  # [in] or [in * kh * kw]
            out[f"{path}.lora_A.{adapter}.weight"] = norms.expand(len(factor_a), -1).reshape(factor_a.shape)
    return out
