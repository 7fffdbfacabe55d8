"""Each example's own gradient of each weight, from one backward pass a batch, as it comes by.

A layer's input and the gradient of its output give the weight's gradient example by example: for a linear layer the sum over
positions of g x^T.  Hooks hear both; what is asked for (squares, absolute values) is taken and summed at once, a few examples
at a time, so that no more than one layer's [b, ...] is held and no gradient of a whole batch is ever made.  Goodfellow, 2015,
arXiv:1510.01799.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llm_unlearn.errors import TaskError
from llm_unlearn.weights.layer_gradients import Rule, is_linear, rule_of

How = Literal["square", "absolute", "sum"]
HOW: Mapping[str, Callable[[Tensor], Tensor]] = {
    "square": torch.square,
    "absolute": torch.abs,
    "sum": lambda each: each,
}
AT_ONCE = {"cpu": 2**16, "cuda": 2**26}  # numbers of one layer's per-example gradients: a processor's cache, 256 MB


class Unassigned(TaskError):
    """A layer sees rows of which nobody can say whose they are; one example at a time it does not matter."""


@dataclass(frozen=True, eq=False)
class Use:
    """One call of one layer: what its weights' gradients are made of."""

    layer: nn.Module  # whose formula holds
    attribute: str  # which of its weights
    rule: Rule
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    versions: tuple[int, ...]  # of the inputs: one that was changed in place since is not what the layer saw
    grad: Tensor  # of the layer's output


class Collector:
    """The sums over examples of what is asked for, by parameter name, and the hooks that add to them."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], how: How) -> None:
        """Start from 0 (fp32, on each parameter's device)."""
        self.totals = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
        self.how, self.size, self.owner = how, 0, torch.empty(0)
        self.heard: set[str] = set()  # weights of which a layer's call was heard in any batch
        self.missed: set[str] = set()  # weights of a layer whose output nobody can listen to
        self._name_of = {id(p): name for name, p in parameters.items()}
        self._open: Counter[str] = Counter()  # calls whose gradient has not come yet
        self._uses: dict[str, list[Use]] = defaultdict(list)
        self._rows: list[tuple[str, int]] = []  # layers whose input is a list of rows, with how many
        self._deaf = False

    @contextmanager
    def listening(self, model: nn.Module) -> Iterator["Collector"]:
        """Hear the layers; a weight under an adapter is heard at the adapter's layer, whose output has the same gradient."""
        handles = []
        for path, module in model.named_modules():
            inner = module.base_layer if isinstance(getattr(module, "base_layer", None), nn.Module) else None
            if inner is None and path.endswith(".base_layer"):
                continue
            mine = {
                attribute: self._name_of[id(p)]
                for attribute, p in (module if inner is None else inner).named_parameters(recurse=False)
                if id(p) in self._name_of
            }
            if mine:
                handles.append(module.register_forward_hook(self._hook(path, inner or module, mine), with_kwargs=True))
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def begin(self, size: int) -> None:
        """Forget the last batch; the next one has `size` examples."""
        self.size = size
        self._open.clear()
        self._uses.clear()
        self._rows.clear()

    def add(self, values: Tensor, owner: Tensor) -> None:
        """Add the gradients of each example's value [B]; `owner` [N] says whose a row of a list of rows is.

        Raises Unassigned, before anything is added, where a layer saw rows that are neither B examples nor the N decisions.
        """
        self.owner = owner
        for path, count in self._rows:
            if self.size > 1 and count != len(owner):
                raise Unassigned(f"{path} sees {count} rows; the batch has {self.size} examples.")
        if values.requires_grad:
            values.sum().backward()
        for name in list(self._uses):
            self._reduce(name)

    def _hook(self, path: str, layer: nn.Module, mine: Mapping[str, str]) -> Callable[..., Any]:
        def hear(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
            if self._deaf or not torch.is_grad_enabled():
                return None
            result = first_tensor(out)
            if result is None or not (isinstance(out, Tensor) or result.requires_grad):
                self.missed.update(mine.values())
                return None
            replaced = None
            if type(layer) is nn.Embedding and len(args[0]) == 1 < self.size:  # the same positions for everybody
                args = (args[0].expand(self.size, *args[0].shape[1:]), *args[1:])
                result = replaced = result.expand(self.size, *result.shape[1:])
            self._place(path, args, kwargs)
            versions = tuple(tensor._version for tensor in _tensors(args, kwargs))
            if not result.requires_grad:  # nothing before it has a gradient: the graph begins here
                result = result.detach().requires_grad_().clone()  # a leaf would not bear what is done in place
                replaced = result
            for name in mine.values():
                self._open[name] += 1
                self.heard.add(name)

            def arrive(grad: Tensor) -> None:
                for attribute, name in mine.items():
                    rule = rule_of(layer, attribute)
                    self._uses[name].append(Use(layer, attribute, rule, args, kwargs, versions, grad.detach()))
                    self._open[name] -= 1
                    if not self._open[name] and not any(use.rule.calls_layer for use in self._uses[name]):
                        self._reduce(name)

            result.register_hook(arrive)
            return replaced

        return hear

    def _place(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note a list of rows; raise Unassigned where the input's first dimension cannot be the examples'."""
        if self.size == 1:
            return
        x = next(iter(_tensors(args, kwargs)), None)
        if x is None or x.dim() == 0:
            raise Unassigned(f"{path} is called without a tensor.")
        if x.dim() == 2 and x.is_floating_point():
            self._rows.append((path, len(x)))  # [N, D]: must be the decisions; a classifier has one an example
        elif len(x) != self.size:
            raise Unassigned(f"{path} sees [{len(x)}, ...]; the batch has {self.size} examples.")

    def _reduce(self, name: str) -> None:
        """Add what is asked for of the parameter's gradients, a few examples at a time."""
        uses, total = self._uses.pop(name), self.totals[name]
        for use in uses:
            if tuple(tensor._version for tensor in _tensors(use.args, use.kwargs)) != use.versions:
                raise TaskError(f"the input of the layer of {name} was changed in place after the layer had read it.")
        ready = [use.rule.prepare(use, self.size, self.owner) for use in uses]
        if len(uses) == 1 and is_linear(uses[0]) and (self.how == "sum" or ready[0][0].shape[1] == 1):
            x, grad = (HOW[self.how](part.flatten(0, 1)) for part in ready[0])
            total += uses[0].rule.outer(
                x, grad
            )  # one position an example: the square of an outer product is one of squares
            return
        step = max(1, AT_ONCE.get(total.device.type, AT_ONCE["cpu"]) // total.numel())
        self._deaf = True  # a rule may call the layer again
        try:
            for first in range(0, self.size, step):
                chosen = slice(first, min(first + step, self.size))
                made = [use.rule.gradients(use, parts, chosen) for use, parts in zip(uses, ready, strict=True)]
                each = torch.stack(made).sum(0) if len(made) > 1 else made[0]  # [b, ...]
                if self.how == "square" and len(each) == 1:
                    total.addcmul_(each.view_as(total), each.view_as(total))  # twice as fast as square, sum, add
                else:
                    total += HOW[self.how](each).sum(0).view_as(total)
        finally:
            self._deaf = False


def first_tensor(out: Any) -> Tensor | None:
    """Return the tensor, or the first one of a tuple."""
    if isinstance(out, Tensor):
        return out
    return next((each for each in out if isinstance(each, Tensor)), None) if isinstance(out, (tuple, list)) else None


def _tensors(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    return [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
