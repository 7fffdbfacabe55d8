"""What a model knows of a feature and what it makes of it: the figures of feature unlearning, each for one model.

feature_probe          balanced accuracy of a fresh linear probe for the feature, fitted on two thirds of the rows and asked on
                       the rest, in turn; on every block's pooled states, and on what goes into the head (`penultimate`)
counterfactual_gap     mean absolute change of the probability of the row's own target when only the feature is swapped
equal_opportunity      largest difference between two values of the feature in the share of their rows that are right
task_accuracy          share of rows that are right
They need hidden states, or rows twice, so they are no files of `metrics/`, which see scores alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llm_unlearn.concepts import linear
from llm_unlearn.concepts.states import blocks, pooled_states
from llm_unlearn.data.annotations import TWIN, Annotations
from llm_unlearn.head import in_eval
from llm_unlearn.judging import said, swapped
from llm_unlearn.measuring.activations import HeadInput
from llm_unlearn.scores import CLASSIFIERS
from llm_unlearn.tasks import Example, Task

Row = dict[str, Any]
PENULTIMATE = "penultimate"
FOLDS = 3  # of the probes: each is fitted on two thirds of the rows


@dataclass(frozen=True, eq=False)
class Measured:
    """One model's records, a row each."""

    probes: Mapping[
        str, Tensor
    ]  # by layer, in order, the last `penultimate`: [N] bool, does a fresh probe tell the feature
    right: Tensor  # [N] bool
    changes: Tensor | None  # [N] of the target's probability, 0 to 1; None where no row has a twin
    annotation: Tensor | None  # [N] long

    def value(self, name: str, rows: Tensor | None = None) -> float | None:
        """Return a figure over the rows numbered (all without them); None where it was not measured."""
        chosen = torch.arange(len(self.right)) if rows is None else rows
        if name == "counterfactual_gap":
            return None if self.changes is None else float(self.changes[chosen].abs().mean())
        if name == "task_accuracy":
            return float(self.right[chosen].double().mean())
        if self.annotation is None:
            return None
        values = self.annotation[chosen]
        if name.startswith("feature_probe "):
            found = self.probes.get(name.removeprefix("feature_probe "))
            return None if found is None else linear.balanced_accuracy(found[chosen], values)
        shares = [float(self.right[chosen][values == each].double().mean()) for each in values.unique()]
        return max(shares) - min(shares)

    @property
    def names(self) -> list[str]:
        """Return the figures' names."""
        probes = [f"feature_probe {layer}" for layer in reversed(list(self.probes))]
        return [*probes, "counterfactual_gap", "equal_opportunity", "task_accuracy"]


def measure(
    model: nn.Module,
    task: Task,
    rows: Sequence[Row],
    found: Annotations | None,
    *,
    seed: int = 0,
    batch_size: int = 64,
) -> Measured:
    """Return what the model makes of the rows; `found` are their annotations.

    The rows' targets should not go with the feature: where they do, a probe reads the one off the other.
    """
    annotation, states = None, dict[str, Tensor]()
    if found is not None:
        annotation = torch.tensor(found.numbers)
        states = pooled_states(model, task, rows, batch_size=batch_size)
        states[PENULTIMATE] = penultimate(model, task, rows, batch_size)
    probes = {name: linear.held_out(each, torch.tensor(found.numbers), folds=FOLDS, seed=seed)
              for name, each in states.items() if found is not None}  # fmt: skip
    probabilities, right = said(model, task, task.encode(list(rows)), batch_size)
    changes = None
    if all(row.get(TWIN) is not None for row in rows):
        twins, _ = said(model, task, task.encode([swapped(row) for row in rows]), batch_size)
        changes = twins - probabilities
    return Measured(probes, right, changes, annotation)


def penultimate(model: nn.Module, task: Task, rows: Sequence[Row], batch_size: int = 64) -> Tensor:
    """Return what goes into the classifier's head [N, D]; of a causal LM the last block's state of the last token."""
    if task.name not in CLASSIFIERS:
        last = blocks(model)[-1]
        return pooled_states(model, task, rows, [last], pool="last", batch_size=batch_size)[last]
    examples = task.encode(list(rows))
    device = next(model.parameters()).device

    def batch_of(some: Sequence[Example]) -> dict[str, Tensor]:
        return {name: column.to(device) for name, column in task.collate(some).items()}

    out = []
    with torch.no_grad(), in_eval(model), HeadInput(model, task, batch_of(examples[:2])) as head:
        for first in range(0, len(examples), batch_size):
            logits = task.decisions(model, batch_of(examples[first : first + batch_size]), logits=True).logits
            out.append(head.pooled(logits).cpu())
    return torch.cat(out)


def interval(
    figure: Callable[[Tensor], float | None], count: int, seed: int = 0, draws: int = 300
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a figure of row numbers, over `count` rows."""
    draw = np.random.default_rng(seed)
    values = [figure(torch.as_tensor(draw.integers(0, count, count))) for _ in range(draws)]
    low, high = np.quantile([value for value in values if value is not None], (0.025, 0.975))
    return float(low), float(high)
