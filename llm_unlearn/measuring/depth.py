"""Unlearning depth score: is the knowledge gone from the hidden states, or does the model only no longer say it?

Definition  Activation patching between three models of one architecture.  The span of a row is the positions that predict
            its entity tokens (`spans.py`), s the mean log-probability of those tokens under teacher forcing.  For each
            block l, `before` runs with its block-l output at the span replaced by another model's own output there:
            d1_l = s_full - s_l with gold's states, d2_l with after's.  The layers that encode the row's knowledge are
            those with d1_l > tau (nats).  Layer erasure ratio LER_l = clip(d2_l / d1_l, 0, 1);
            depth of a row = sum d1_l LER_l / sum d1_l over those layers; the score is the mean over rows.
Range       0 (wholly recoverable: `before` itself) to 1 (erased as deeply as in gold: gold itself).
Ideal       1.
Limits      Needs gold: absent without it.  Rows without such a layer are left out and counted.  d1 is only knowledge where
            gold and `before` share a basis, as two fine-tunings of one checkpoint do.  Of two models trained apart, gold's
            states are foreign to `before` whatever they know: then d1 is large on retained rows too.  Measure those with
            `gap` before believing the score (eval/depth.py prints them).
Citation    "Measuring the Depth of LLM Unlearning via Activation Patching", arXiv:2605.24614.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn

from llm_unlearn.errors import DataError, TaskError
from llm_unlearn.head import in_eval, unwrapped
from llm_unlearn.measuring.spans import with_spans
from llm_unlearn.processes import bar, gathered, place
from llm_unlearn.scores import Floats
from llm_unlearn.statistics import bootstrap_interval
from llm_unlearn.tasks import Batch, CausalLM, Example, Row, Task

TAU = 0.05  # nats; the paper's
NO_LAYER = "no layer where gold lacks what before knows (d1 <= tau)"


@dataclass(frozen=True)
class Layer:
    """One block, over the rows whose knowledge it encodes; counted from 0."""

    erasure: float | None  # mean LER; None where it encodes no row's knowledge
    gap: float  # nats, mean d1 over all rows
    n: int


@dataclass(frozen=True, eq=False)
class DepthScore:
    """The depth of one model.  `value` is the mean of `per_row` over its n numbers, None where there is none."""

    value: float | None
    per_row: Floats  # [B] in row order, NaN for a row that is left out
    n: int
    left_out: Mapping[str, int]  # why, and how many rows
    spans: Mapping[str, int]  # where the spans came from, and how many rows
    layers: tuple[Layer, ...]

    @property
    def known(self) -> Floats:
        """Return the numbers of the rows that entered [n]."""
        return self.per_row[np.isfinite(self.per_row)]

    def to_json(self) -> dict[str, Any]:
        """Return the score as a JSON-able dict, without rows; null where there is no number."""
        interval = bootstrap_interval(self.known)
        return {
            "value": self.value,
            "interval": None if interval is None else list(interval),
            "n": self.n,
            "left_out": dict(self.left_out),
            "spans": dict(self.spans),
            "layers": [asdict(layer) for layer in self.layers],
        }

    def rows_to_json(self) -> list[float | None]:
        """Return `per_row`, null for a row that is left out: for a private file, beside the rows' ids."""
        return [float(value) if np.isfinite(value) else None for value in self.per_row]


class Depth:
    """Stage 1, done once for `before` and gold: which layers of `before` hold each row's knowledge.

    Several processes: each does its share of the batches, every one must construct this and call `score`.
    """

    def __init__(
        self,
        before: nn.Module,
        gold: nn.Module,
        task: Task,
        rows: Sequence[Row],
        *,
        batch_size: int,
        tau: float = TAU,
        lenders: Sequence[Row] = (),
        progress: bool = True,
    ) -> None:
        """Prepare; where `rows` are a sample, `lenders` are what it was drawn from (`with_spans`).

        Raises TaskError where `before` is no decoder this can patch, DataError where gold is of another architecture.
        """
        if not isinstance(task, CausalLM):
            raise TaskError(f"the unlearning depth score needs a causal language model; this task is {task.name}.")
        if not rows:
            raise DataError("the unlearning depth score needs rows to forget; there are none.")
        self.before, self.task, self.tau, self.progress = before, task, tau, progress
        self.examples, sources = with_spans(task, rows, lenders)
        self.spans: dict[str, int] = dict(Counter(sources))
        order = sorted(range(len(rows)), key=lambda i: -len(self.examples[i]["scored"]))
        self.batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
        self.gap = self._differences(gold, "gold", np.ones((len(rows), len(blocks(before))), dtype=bool))  # d1 [B, L]

    def score(self, after: nn.Module) -> DepthScore:
        """Return the depth of `after`; raise DataError where it is of another architecture."""
        encodes = self.gap > self.tau  # [B, L]
        lost = self._differences(after, "after", encodes)  # d2 [B, L], 0 where it does not matter
        ratio = np.clip(np.divide(lost, self.gap, out=np.zeros_like(lost), where=encodes), 0, 1)
        weight = np.where(encodes, self.gap, 0.0)
        total = weight.sum(1)
        per_row = np.divide((weight * ratio).sum(1), total, out=np.full(len(total), np.nan), where=total > 0)
        known = np.isfinite(per_row)
        layers = []
        for i in range(encodes.shape[1]):
            n = int(encodes[:, i].sum())
            mean = float(ratio[encodes[:, i], i].mean()) if n else None
            layers.append(Layer(erasure=mean, gap=float(self.gap[:, i].mean()), n=n))
        return DepthScore(
            value=float(per_row[known].mean()) if known.any() else None,
            per_row=per_row,
            n=int(known.sum()),
            left_out={} if known.all() else {NO_LAYER: int((~known).sum())},
            spans=self.spans,
            layers=tuple(layers),
        )

    @torch.no_grad()
    def _differences(self, source: nn.Module, name: str, wanted: np.ndarray[Any, Any]) -> Floats:
        """Return s_full - s_l [B, L] in nats, with block l's output taken from `source`; 0 where not `wanted` [B, L]."""
        _check_twins(self.before, source, name)
        rank, world = place()
        done: dict[int, Floats] = {}
        title = f"depth {name}" if self.progress else None
        with in_eval(self.before), in_eval(source):
            for turn in bar(range(rank, len(self.batches), world), title):
                chosen = self.batches[turn]
                layers = np.flatnonzero(wanted[chosen].any(0)).tolist()
                found = _patched(self.before, source, self.task, [self.examples[i] for i in chosen], layers)
                done.update(zip(chosen, found, strict=True))
        for other in gathered(done):
            done.update(other)
        return np.where(wanted, np.stack([done[i] for i in range(len(self.examples))]), 0.0)


def unlearning_depth(
    before: nn.Module,
    gold: nn.Module | None,
    after: nn.Module,
    task: Task,
    rows: Sequence[Row],
    *,
    batch_size: int,
    tau: float = TAU,
) -> DepthScore | None:
    """Return the depth of `after` on `rows`; None without gold.  For several `after`s keep a `Depth`: stage 1 is done once."""
    return None if gold is None else Depth(before, gold, task, rows, batch_size=batch_size, tau=tau).score(after)


def blocks(model: nn.Module) -> nn.ModuleList:
    """Return the decoder's blocks in order, of a bare or PEFT-wrapped model; raise TaskError where they cannot be told."""
    inner = _bare(model)
    count = getattr(getattr(inner.config, "get_text_config", lambda: inner.config)(), "num_hidden_layers", None)
    decoder = inner.get_decoder() if hasattr(inner, "get_decoder") else inner
    lists = [module for module in decoder.modules() if isinstance(module, nn.ModuleList) and len(module) == count]
    if len(lists) != 1:
        raise TaskError(
            f"cannot tell the blocks of a {type(inner).__name__}: {len(lists)} lists of num_hidden_layers={count} modules "
            "in its decoder, where one is expected. The unlearning depth score patches block by block."
        )
    return lists[0]


def check_tokenizers(task: Task, other: Task, name: str) -> None:
    """Raise DataError where the model `name` reads text by another vocabulary than the others."""
    mine, theirs = (getattr(each, "tokenizer", None) for each in (task, other))
    if mine is not None and theirs is not None and mine.get_vocab() != theirs.get_vocab():
        raise DataError(
            f"{name} has another tokenizer than before: the same position would be another token, and hidden states cannot "
            "be exchanged. Give a model with the same vocabulary."
        )


def _bare(model: nn.Module) -> Any:
    model = unwrapped(model)
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _check_twins(before: nn.Module, other: nn.Module, name: str) -> None:
    """Raise DataError unless both have blocks of one kind, number and width, and one vocabulary."""
    what = []
    for model in (before, other):
        bare = _bare(model)
        shape = tuple(bare.get_input_embeddings().weight.shape)
        what.append((type(bare).__name__, len(blocks(model)), shape[1], shape[0]))
    if what[0] != what[1]:
        told = [f"a {kind} of {count} blocks, width {width}, {words} words" for kind, count, width, words in what]
        raise DataError(
            f"{name} is {told[1]}, but before is {told[0]}: hidden states can only be exchanged between models of one "
            "architecture and vocabulary."
        )


def _patched(
    before: nn.Module, source: nn.Module, task: CausalLM, examples: Sequence[Example], layers: Sequence[int]
) -> Floats:
    """Return s_full - s_l [B, L] of one batch, 0 for a layer that is not asked for."""
    out = np.zeros((len(examples), len(blocks(before))))
    if not layers:
        return out
    columns = task.collate(examples)
    span = F.pad(columns["scored"][:, 1:], (0, 1)).bool()  # [B, T] position t predicts token t + 1
    full, kept = _recorded(before, task, columns)
    theirs = _recorded(source, task, columns)[1]
    for layer in layers:
        whole, other = _hidden(kept[layer]).clone(), _hidden(theirs[layer])
        whole[span.to(whole.device)] = other[span.to(other.device)].to(whole)
        with _resumed(blocks(before), layer, _with_hidden(kept[layer], whole)):
            out[:, layer] = (_span_loss(before, task, columns) - full).cpu().numpy()
    return out


def _span_loss(model: nn.Module, task: CausalLM, columns: Batch) -> Tensor:
    """Return -s [B] in nats, fp64: the mean loss of each row's entity tokens."""
    device = next(model.parameters()).device
    return task.decisions(model, {name: column.to(device) for name, column in columns.items()}).loss().double()


def _recorded(model: nn.Module, task: CausalLM, columns: Batch) -> tuple[Tensor, dict[int, Any]]:
    """Return -s [B] and each block's output, from one forward pass (the last one: the head may probe the model first)."""
    seen: dict[int, Any] = {}

    def listen(number: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            seen[number] = out

        return hook

    with ExitStack() as hooks:
        for number, block in enumerate(blocks(model)):
            hooks.enter_context(block.register_forward_hook(listen(number)))
        loss = _span_loss(model, task, columns)
    return loss, seen


@contextmanager
def _resumed(stack: nn.ModuleList, layer: int, out: Any) -> Iterator[None]:
    """Blocks 0 to `layer` give `out` without computing anything: half the work, as only what follows can differ."""
    first = list(stack)[: layer + 1]
    before = [vars(block).get("forward") for block in first]  # accelerate's, of a model spread over devices
    try:
        for block in first:
            vars(block)["forward"] = lambda *args, **kwargs: out
        yield
    finally:
        for block, forward in zip(first, before, strict=True):
            del vars(block)["forward"]
            if forward is not None:
                vars(block)["forward"] = forward


def _hidden(out: Any) -> Tensor:
    """Return the hidden states [B, T, D] of a block's output: itself, or a tuple's first."""
    states: Tensor = out[0] if isinstance(out, tuple) else out
    return states


def _with_hidden(out: Any, states: Tensor) -> Any:
    return (states, *out[1:]) if isinstance(out, tuple) else states
