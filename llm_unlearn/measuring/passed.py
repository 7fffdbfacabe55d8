"""What a forward pass says of each example, cut out of its batch."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from llm_unlearn.decisions import Decisions
from llm_unlearn.scores import Bools, Floats
from llm_unlearn.tasks import Row


class Passed(NamedTuple):
    """What the forward pass says of one example's n scored tokens."""

    log_probs: Floats  # [n]
    hits: Bools  # [n]
    means: Floats  # [n] of log p under the model's own distribution; [0] where it was not asked for or there is none
    deviations: Floats  # [n], or [0]
    probabilities: Floats | None  # [C] of a classifier's one decision
    hidden: Floats | None  # [D] in front of its head, where asked for


def by_example(decisions: Decisions, own: torch.Tensor, classified: bool, hidden: torch.Tensor | None) -> list[Passed]:
    """Return what a batch's decisions say of each of its examples; moments of those where `own` [B] is true.

    A classifier's say the probabilities too, and beside them stands what went into its head, `hidden` [B, D].
    """

    def parts(values: torch.Tensor, of: torch.Tensor) -> list[Any]:
        counts = torch.bincount(decisions.owner[of], minlength=decisions.batch_size).cpu().numpy()
        return np.split(values.cpu().numpy(), np.cumsum(counts)[:-1])

    scored = decisions.scored
    of = scored & own[decisions.owner]
    if decisions.labels.is_floating_point():  # several labels a decision: there is no one distribution over them
        of = torch.zeros_like(of)
    means, deviations = decisions.log_prob_moments(of)
    columns = (parts(-decisions.nll()[scored].double(), scored), parts(decisions.greedy_hit()[scored], scored))
    both = (parts(means.double(), of), parts(deviations.double(), of))
    nothing = [None] * decisions.batch_size
    classes = list(decisions.probabilities().cpu().numpy()) if classified else nothing
    heads = nothing if hidden is None else list(hidden.cpu().double().numpy())
    return [Passed(*values) for values in zip(*columns, *both, classes, heads, strict=True)]


def of_classes(rows: Sequence[Row], passed: Sequence[Passed]) -> dict[str, Any]:
    """Return what only a classifier's scores hold."""
    several = isinstance(rows[0]["label"], list)
    classes = [np.flatnonzero(row["label"]).tolist() if several else [int(row["label"])] for row in rows]
    columns = {name: tuple(getattr(each, name) for each in passed) for name in ("probabilities", "hidden")}
    columns = {name: column for name, column in columns.items() if column[0] is not None}
    return {"classes": tuple(map(tuple, classes)), "multi_label": several, **columns}
