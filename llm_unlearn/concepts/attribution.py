"""Which words or pixels a prediction rests on: Integrated Gradients (Sundararajan et al., 2017, arXiv:1703.01365).

    F = log p of the prediction: of an answer the sum over its tokens of log p(y_t | x, y_<t), of a classifier log p(class)
    given_s = (x_s - x') . mean over the path of dF/dx_s             what token or pixel s gives

F is continuous and differentiable almost everywhere on the straight path from the baseline x' to x (a softmax of layers that
are), so what all of them give sums to F(x) - F(x'): `error` says how much of it the finite steps missed.  A class's
log-probability and not its logit: a logit that grows while all others grow as much decides nothing.

Of an answer, what a token gives is as a part of the context; output_t = log p(y_t | x) - log p(y_t | x') is what token t
receives from the context, and sums to the same difference by definition.  A token's attribution is the mean of both.  As
inputs alone an answer's last words would always score near 0: hardly anything comes after them; the output half is what
makes the word that was asked for count.

Baselines: of words the mean embedding of the vocabulary (at zero an RMS norm has no usable gradient; special tokens stay as
they are, and get nothing), of pictures the mean picture of the rows, or of others that are given.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from captum.attr import IntegratedGradients
from torch import Tensor, nn

from llm_unlearn.data.poison import WORD, Row, group_of
from llm_unlearn.data.requests import classes_of
from llm_unlearn.errors import TaskError
from llm_unlearn.head import in_eval, unwrapped
from llm_unlearn.tasks import Batch, CausalLM, Example, Task, Texts

MOST_STEPS = 256
TOLERANCE = 0.05  # of F's difference may be missing from an attribution
SPARED = 0.1  # of the answers may be left out of a ranking, as incomplete
FEWEST = 8  # pictures that a mean is taken of
TOGETHER = 256  # pictures added up at a time
LEAST = 1.0  # nats: below this difference of F the error is taken relative to this


@dataclass(frozen=True, eq=False)
class Attribution:
    """One row's attribution."""

    tokens: list[float]  # a token of the row, nats; special tokens 0; none of a picture
    difference: float  # F(x) - F(x'), nats
    error: float  # completeness: |sum of what is given - difference| / |difference|
    steps: int  # of the path
    pixels: Tensor | None = None  # [height, width] of a picture, nats, summed over its channels


def attribute(
    model: nn.Module,
    task: Task,
    examples: Sequence[Example],
    *,
    steps: int = 32,
    batch_size: int = 16,
    tolerance: float = TOLERANCE,
    spared: float = 0.0,
    background: Sequence[Example] | None = None,
) -> list[Attribution]:
    """Return each example's attribution, the model in eval mode; to another class of a row by putting that label into it.

    Examples whose completeness error is above `tolerance` are done again with twice the steps, up to 256.  Raises TaskError
    where that is not enough for more than a share of `spared` of them.  `background`: the pictures whose mean is the
    baseline, the examples themselves without it.
    """
    shown = examples if background is None else background
    other = None if isinstance(task, Texts) else _mean_picture(model, task, shown)
    out: dict[int, Attribution] = {}
    left = sorted(range(len(examples)), key=lambda i: _length(task, examples[i]))  # like lengths share a batch
    with in_eval(model):
        while left:
            for first in range(0, len(left), batch_size):
                chosen = left[first : first + batch_size]
                found = _attribute(model, task, [examples[i] for i in chosen], steps, other)
                out.update(zip(chosen, found, strict=True))
            left = [i for i in left if not out[i].error <= tolerance]
            steps *= 2
            if steps > MOST_STEPS and len(left) <= spared * len(examples):
                break
            if left and steps > MOST_STEPS:
                worst = max(out[i].error for i in left)
                what = "answer's" if isinstance(task, CausalLM) else "class's"
                raise TaskError(
                    f"Integrated Gradients miss {worst:.0%} of the {what} log-probability on {len(left)} of {len(examples)} "
                    f"rows with {steps // 2} steps (at most {tolerance:.0%} may be missing): the ranking would be "
                    "arbitrary. Run the model in fp32, raise the steps, or allow more with tolerance."
                )
    return [out[i] for i in range(len(examples))]


def _length(task: Task, example: Example) -> int:
    return len(task.spelled(example)[1]) if isinstance(task, Texts) else 0


def word_scores(task: Texts, example: Example, tokens: Sequence[float]) -> dict[str, float]:
    """Return each word's share of the positive attribution, in order of the text; tokens add up to lower-cased words.

    A token that touches several words is shared out by its characters in each.  Empty where nothing is positive.
    """
    text, spans = task.spelled(example)
    owner = {place: found[0].lower() for found in WORD.finditer(text) for place in range(*found.span())}
    total: dict[str, float] = defaultdict(float)
    for (start, stop), value in zip(spans, tokens, strict=True):
        inside = [owner[place] for place in range(start, stop) if place in owner]
        for word in inside:
            total[word] += value / len(inside)
    positive = sum(max(value, 0.0) for value in total.values())
    return {word: max(value, 0.0) / positive for word, value in total.items()} if positive > 0 else {}


def rank(
    model: nn.Module, task: Task, rows: Sequence[Row], *, steps: int = 32, batch_size: int = 16
) -> dict[str, dict[str, float]]:
    """Return for each group of rows its words and their summed scores, best first.

    A group is a subject of a causal LM's rows (`group_of`), a class's number of a classifier's.  A text that occurs several
    times in a group (an answer under other wordings of its question) is attributed once.  Rows whose attribution stays
    incomplete are left out; raises TaskError where they are more than a tenth.
    """
    if not isinstance(task, Texts):
        raise TaskError(f"words are ranked in texts; this is a {task.name}.")
    said = "response" if isinstance(task, CausalLM) else "text"
    distinct = {(group, row[said]): row for row in reversed(rows) for group in _groups(row)}
    examples = task.encode([dict(row) for row in distinct.values()])
    totals: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    found = attribute(model, task, examples, steps=steps, batch_size=batch_size, spared=SPARED)
    for (group, _), example, one in zip(distinct, examples, found, strict=True):
        if one.error > TOLERANCE:
            continue
        for word, score in word_scores(task, example, one.tokens).items():
            totals[group][word] += score
    return {
        group: dict(sorted(words.items(), key=lambda item: (-item[1], item[0]))) for group, words in totals.items()
    }


def _groups(row: Row) -> list[str]:
    return [str(number) for number in classes_of(dict(row))] if "label" in row else [group_of(row)]


def _attribute(
    model: nn.Module, task: Task, examples: Sequence[Example], steps: int, other: Tensor | None
) -> list[Attribution]:
    device = next(model.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in task.collate(examples).items()}
    spans = [task.spelled(example)[1] if isinstance(task, Texts) else [] for example in examples]
    with torch.no_grad():
        name, values = task.continuous(model, batch)  # [B, T, D] or [B, C, H, W]
        baseline = _mean_words(model, spans, values) if other is None else other.to(values).expand_as(values)
        here, there = (_log_probs(model, task, {**batch, name: point}) for point in (values, baseline))
    given = _given(lambda moved: _log_probs(model, task, moved)[1], batch, name, values, baseline, steps)
    difference = here[1] - there[1]  # [B]
    error = (given.flatten(1).sum(-1) - difference).abs() / difference.abs().clamp(min=LEAST)
    out = []
    for i, example in enumerate(examples):
        told = (difference[i].item(), error[i].item(), steps)
        if other is not None:
            out.append(Attribution([], *told, given[i].sum(0).cpu()))
            continue
        tokens = given[i].sum(-1).tolist()[: len(spans[i])]
        if isinstance(task, CausalLM):
            received = iter((here[0] - there[0])[here[2] == i].tolist())
            output = [next(received) if flag and place else 0.0 for place, flag in enumerate(example["scored"])]
            tokens = [(a + b) / 2 for a, b in zip(tokens, output, strict=True)]
        out.append(Attribution(tokens, *told))
    return out


def _given(
    score: Callable[[Batch], Tensor],
    batch: Mapping[str, Tensor],
    name: str,
    values: Tensor,
    baseline: Tensor,
    steps: int,
) -> Tensor:
    """Return what each number of `values` gives to the score [B], in their shape."""
    names = sorted(set(batch) - {name})

    def moved(point: Tensor, *columns: Tensor) -> Tensor:
        return score({**dict(zip(names, columns, strict=True)), name: point.to(values.dtype)})

    gradients: Any = IntegratedGradients(moved)
    out: Tensor = gradients.attribute(
        values.float(),
        baselines=baseline.float(),
        additional_forward_args=tuple(batch[key] for key in names),
        n_steps=steps,
        internal_batch_size=4 * len(values),
    )
    return out.detach()


def _mean_words(model: nn.Module, spans: Sequence[Sequence[tuple[int, int]]], values: Tensor) -> Tensor:
    """Return the mean embedding where a token spells something, its own embedding elsewhere: [B, T, D]."""
    table = unwrapped(model).get_input_embeddings().weight  # type: ignore[operator]
    kept = torch.ones(values.shape[:2], dtype=torch.bool)
    for i, each in enumerate(spans):
        kept[i, : len(each)] = torch.tensor([start == stop for start, stop in each])
    return torch.where(kept[..., None].to(values.device), values, table.mean(0))


def _mean_picture(model: nn.Module, task: Task, examples: Sequence[Example]) -> Tensor:
    """Return the mean of the examples' pictures [C, H, W]; raise TaskError where it would be the one that is explained."""
    if len(examples) < FEWEST:
        raise TaskError(
            f"the baseline of a picture is the mean of others: {len(examples)} are too few (at least {FEWEST}); "
            "give more as background."
        )
    sums = [
        task.continuous(model, task.collate(examples[first : first + TOGETHER]))[1].double().sum(0)
        for first in range(0, len(examples), TOGETHER)
    ]
    return (torch.stack(sums).sum(0) / len(examples)).float()


def _log_probs(model: nn.Module, task: Task, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Return log p of each scored decision [N], their sums F [B], and each one's example [N]."""
    found = task.decisions(model, batch)
    values = -found.nll()
    return values[found.scored], found.per_example(values, scored_only=True), found.owner[found.scored]
