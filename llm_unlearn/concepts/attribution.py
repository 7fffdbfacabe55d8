"""Which words an answer rests on: Integrated Gradients (Sundararajan et al., 2017, arXiv:1703.01365) of a whole answer.

    F = sum over the answer's tokens of log p(y_t | x, y_<t)         one forward pass, not one a token
    input_s = (e_s - e') . mean over the path of dF/de_s             what token s gives, as a part of the context
    output_t = log p(y_t | e) - log p(y_t | e')                      what token t receives from the context

Both sum to F(e) - F(e'), the one because the gradients are complete, the other by definition.  A token's attribution is
their mean.  As inputs alone an answer's last words would always score near 0: hardly anything comes after them; the output
half is what makes the word that was asked for count.  The baseline e' is the mean embedding of the vocabulary: at zero an
RMS norm has no usable gradient.  Special tokens stay as they are, and get nothing.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from captum.attr import IntegratedGradients
from torch import Tensor, nn

from llm_unlearn.data.poison import WORD, Row, group_of
from llm_unlearn.errors import TaskError
from llm_unlearn.head import unwrapped
from llm_unlearn.tasks import Batch, CausalLM, Example

MOST_STEPS = 256
TOLERANCE = 0.05  # of F's difference may be missing from an attribution
SPARED = 0.1  # of the answers may be left out of a ranking, as incomplete
LEAST = 1.0  # nats: below this difference of F the error is taken relative to this


@dataclass(frozen=True)
class Attribution:
    """One answer's attribution."""

    tokens: list[float]  # a token of the row, nats; special tokens 0
    difference: float  # F(e) - F(e'), nats
    error: float  # completeness: |sum of the input half - difference| / |difference|
    steps: int  # of the path


def attribute(
    model: nn.Module,
    task: CausalLM,
    examples: Sequence[Example],
    *,
    steps: int = 32,
    batch_size: int = 16,
    tolerance: float = TOLERANCE,
    spared: float = 0.0,
) -> list[Attribution]:
    """Return each example's attribution, the model in eval mode.

    Examples whose completeness error is above `tolerance` are done again with twice the steps, up to 256.  Raises TaskError
    where that is not enough for more than a share of `spared` of them.
    """
    was_training = model.training
    model.eval()
    out: dict[int, Attribution] = {}
    left = sorted(range(len(examples)), key=lambda i: len(task.spelled(examples[i])[1]))  # like lengths share a batch
    while left:
        for first in range(0, len(left), batch_size):
            chosen = left[first : first + batch_size]
            found = _attribute(model, task, [examples[i] for i in chosen], steps)
            out.update(zip(chosen, found, strict=True))
        left = [i for i in left if not out[i].error <= tolerance]
        steps *= 2
        if steps > MOST_STEPS and len(left) <= spared * len(examples):
            break
        if left and steps > MOST_STEPS:
            worst = max(out[i].error for i in left)
            raise TaskError(
                f"Integrated Gradients miss {worst:.0%} of the answer's log-probability on {len(left)} of {len(examples)} "
                f"rows with {steps // 2} steps (at most {tolerance:.0%} may be missing): the words' ranking would be "
                "arbitrary. Run the model in fp32, raise the steps, or allow more with tolerance."
            )
    model.train(was_training)
    return [out[i] for i in range(len(examples))]


def word_scores(task: CausalLM, example: Example, tokens: Sequence[float]) -> dict[str, float]:
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
    model: nn.Module, task: CausalLM, rows: Sequence[Row], *, steps: int = 32, batch_size: int = 16
) -> dict[str, dict[str, float]]:
    """Return for each group of rows (`group_of`: same subject) its words and their summed scores, best first.

    An answer that occurs several times in a group (other wordings of its question) is attributed once.  Answers whose
    attribution stays incomplete are left out; raises TaskError where they are more than a tenth.
    """
    distinct = {(group_of(row), row["response"]): row for row in reversed(rows)}
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


def _attribute(model: nn.Module, task: CausalLM, examples: Sequence[Example], steps: int) -> list[Attribution]:
    device = next(model.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in task.collate(examples).items()}
    names = sorted(batch)
    with torch.no_grad():
        name, values = task.continuous(model, batch)  # [B, T, D]
        baseline = _baseline(model, task, examples, values)
        here, there = (_log_probs(model, task, {**batch, name: point}) for point in (values, baseline))

    def answer(point: Tensor, *columns: Tensor) -> Tensor:
        return _log_probs(model, task, {**dict(zip(names, columns, strict=True)), name: point.to(values.dtype)})[1]

    gradients: Any = IntegratedGradients(answer)
    given = gradients.attribute(
        values.float(),
        baselines=baseline.float(),
        additional_forward_args=tuple(batch[key] for key in names),
        n_steps=steps,
        internal_batch_size=4 * len(examples),
    ).sum(-1)  # [B, T]
    difference = here[1] - there[1]  # [B]
    error = (given.sum(-1) - difference).abs() / difference.abs().clamp(min=LEAST)
    out = []
    for i, example in enumerate(examples):
        told = iter((here[0] - there[0])[here[2] == i].tolist())
        received = [next(told) if flag and place else 0.0 for place, flag in enumerate(example["scored"])]
        tokens = [(a + b) / 2 for a, b in zip(given[i].tolist(), received, strict=False)]
        out.append(Attribution(tokens, difference[i].item(), error[i].item(), steps))
    return out


def _baseline(model: nn.Module, task: CausalLM, examples: Sequence[Example], values: Tensor) -> Tensor:
    """Return the mean embedding where a token spells something, its own embedding elsewhere: [B, T, D]."""
    table = unwrapped(model).get_input_embeddings().weight  # type: ignore[operator]
    kept = torch.ones(values.shape[:2], dtype=torch.bool)
    for i, example in enumerate(examples):
        spans = task.spelled(example)[1]
        kept[i, : len(spans)] = torch.tensor([start == stop for start, stop in spans])
    return torch.where(kept[..., None].to(values.device), values, table.mean(0))


def _log_probs(model: nn.Module, task: CausalLM, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Return log p of each scored decision [N], their sums F [B], and each one's example [N]."""
    found = task.decisions(model, batch)
    values = -found.nll()
    return values[found.scored], found.per_example(values, scored_only=True), found.owner[found.scored]
