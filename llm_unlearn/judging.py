"""What a method can tell of its own work on training rows that it kept out of the fit: is the feature still there?

probe   how much more often than by guessing a fresh linear probe tells the value, as a share of what there is to tell; the
        highest over the layers.  Fitted on fitted rows, asked on held-out ones, both drawn so that the target tells nothing
gap     mean absolute change of the probability of a row's own target when its twin is read; x~ where rows have none
task    share of the held-out rows, drawn alike, that are right
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llm_unlearn.concepts import linear
from llm_unlearn.concepts.states import pooled, pooled_states
from llm_unlearn.data.annotations import TWIN, Annotations, balanced
from llm_unlearn.head import in_eval
from llm_unlearn.tasks import Batch, Example, Row, Task

MOST_ROWS = 600  # that a probe is fitted on
Change = Callable[
    [Batch, Tensor], tuple[Tensor, Tensor]
]  # of continuous inputs: what becomes of them, and what value they show


@dataclass(frozen=True)
class Judgement:
    """One model's figures."""

    probe: float  # 0 by guessing, 1 where every row's value is told
    gap: float
    task: float

    def left(self, before: "Judgement") -> float:
        """Return the larger share of the feature that is left: of the probe's knowledge, and of the gap before."""
        return max(self.probe, self.gap / before.gap) if before.gap else self.probe

    def told(self) -> dict[str, float]:
        """Return the figures, rounded."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


class Judge:
    """Fixed rows of a feature: those that a probe is fitted on, and those that were held out."""

    def __init__(
        self, fitted: Sequence[Row], known: Annotations, held: Sequence[Row], found: Annotations, *, seed: int
    ) -> None:
        """Draw both so that the target tells nothing of the value."""
        chosen = balanced(fitted, known, seed=seed)[:MOST_ROWS]
        self.fitted, self.known = [fitted[i] for i in chosen], torch.tensor([known.numbers[i] for i in chosen])
        order = balanced(held, found, seed=seed)
        self.held, self.found = [held[i] for i in order], torch.tensor([found.numbers[i] for i in order])
        self.values, self.seed = len(known.names), seed

    def __call__(self, model: nn.Module, task: Task, layers: Sequence[str], change: Change) -> Judgement:
        """Return what the model makes of the rows; `change` takes the feature out of an input."""
        fitted, held = (pooled_states(model, task, rows, layers) for rows in (self.fitted, self.held))
        shares = [self.share(fitted[name], held[name]) for name in layers]
        own, right = said(model, task, task.encode(self.held))
        if all(row.get(TWIN) is not None for row in self.held):
            twins, _ = said(model, task, task.encode([swapped(row) for row in self.held]))
        else:
            with torch.random.fork_rng():  # what a change draws is the same each time, and in every process
                torch.manual_seed(self.seed)
                twins, _ = said(model, task, annotated(task, self.held, self.found), change=change)
        return Judgement(max(shares), float((twins - own).abs().mean()), float(right.double().mean()))

    @torch.no_grad()
    def of_inputs(self, model: nn.Module, task: Task, change: Change, batch_size: int = 64) -> float:
        """Return the share that a probe tells of the rows' changed inputs, each the mean over its words or pixels."""
        device, means = next(model.parameters()).device, list[Tensor]()
        for rows, values in ((self.fitted, self.known), (self.held, self.found)):
            examples, out = annotated(task, rows, values), []
            for first in range(0, len(examples), batch_size):
                part = {
                    name: each.to(device) for name, each in task.collate(examples[first : first + batch_size]).items()
                }
                out.append(pooled(change(part, task.continuous(model, part)[1])[0], part).cpu())
            means.append(torch.cat(out))
        return self.share(*means)

    def share(self, fitted: Tensor, held: Tensor) -> float:
        """Return how much more than by guessing a probe fitted on states [N, D] tells of the held-out rows' [M, D]."""
        probe = linear.fit(fitted, self.known, classes=self.values)
        accuracy = linear.balanced_accuracy(probe.classes(held) == self.found, self.found)
        chance = 1 / self.values
        return max(0.0, (accuracy - chance) / (1 - chance))


def swapped(row: Mapping[str, Any]) -> Row:
    """Return the row's twin: its input with the feature swapped, its target as it was."""
    return {**row, next(name for name in ("text", "image", "prompt") if name in row): row[TWIN]}


def annotated(task: Task, rows: Sequence[Row], values: Tensor) -> list[Example]:
    """Return the encoded rows with their values [N] as `annotation`."""
    return [{**each, "annotation": float(n)} for each, n in zip(task.encode(rows), values, strict=True)]


@torch.no_grad()
def said(
    model: nn.Module, task: Task, examples: Sequence[Example], batch_size: int = 64, change: Change | None = None
) -> tuple[Tensor, Tensor]:
    """Return the probability of each row's own target [N] (of a response: of all its tokens), and whether it is the likeliest.

    `change` is made to every input before it is read.
    """
    device = next(model.parameters()).device
    probabilities, right = [], []
    with in_eval(model):
        for first in range(0, len(examples), batch_size):
            batch = {
                name: part.to(device) for name, part in task.collate(examples[first : first + batch_size]).items()
            }
            if change is not None:
                kind, values = task.continuous(model, batch)
                batch[kind] = change(batch, values)[0]
            decided = task.decisions(model, batch, logits=True)
            probabilities.append((-decided.per_example(decided.nll(), scored_only=True)).exp().cpu())
            right.append((decided.per_example((~decided.greedy_hit()).float(), scored_only=True) == 0).cpu())
    return torch.cat(probabilities), torch.cat(right)
