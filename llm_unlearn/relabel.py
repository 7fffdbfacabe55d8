"""Other labels for forget rows in a fit: random ones, or those of the class that the target takes them for next."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from llm_unlearn.data.poison import asked_alike
from llm_unlearn.data.requests import classes_in
from llm_unlearn.data.splits import kept
from llm_unlearn.decisions import Decisions
from llm_unlearn.errors import DataError, RecipeError
from llm_unlearn.fit import Batches, Module, Objective, Progress, Stop, Terms
from llm_unlearn.reference import reference
from llm_unlearn.run import Run
from llm_unlearn.schedule import Schedule
from llm_unlearn.tasks import ImageClassifier, Row, SequenceClassifier, Task

ROWS = 64  # in one forward pass
COPIES = 64  # responses drawn for one row of a causal LM, at most


def classifies(task: Task) -> bool:
    """Does the task tell classes, and not words?"""
    return isinstance(task, SequenceClassifier | ImageClassifier)


def kept_classes(splits: Mapping[str, Sequence[Row]], count: int) -> Tensor:
    """Return [C] True for the classes that kept rows have: a forgotten class is no other label for a forget row.

    Raises DataError where there is no other class for some forget row.
    """
    there = classes_in(kept(splits)) or classes_in(splits["forget"])
    gone = classes_in(splits["forget"])
    if not there - gone and len(there) < 2:
        raise DataError("the rows have one class only: there is no other label to teach; give rows of more classes.")
    return torch.tensor([number in there for number in range(count)])


def random_others(labels: Tensor, allowed: Tensor, generator: torch.Generator) -> Tensor:
    """Return for each label [N] a class drawn evenly from the allowed others.

    Of several labels [N, C] a row's own are switched off, and as many of the allowed others on (as many as there are).
    """
    own = labels.bool() if labels.is_floating_point() else nn.functional.one_hot(labels, len(allowed)).bool()
    free = allowed.to(labels.device) & ~own  # [N, C]
    order = (
        torch.rand(free.shape, generator=generator).to(labels.device).masked_fill(~free, -1.0)
    )  # all free ones come first
    if not labels.is_floating_point():
        return order.argmax(-1)
    rank = order.argsort(-1, descending=True).argsort(-1)
    return ((rank < own.sum(-1, keepdim=True)) & free).to(labels.dtype)


def donor_classes(
    model: nn.Module, task: Task, rows: Sequence[Row], allowed: Tensor, frozen: nn.Module | None = None
) -> Tensor:
    """Return [C]: for each class the allowed other one that the model before gives most probability on its forget rows.

    A class without forget rows has the one that is likeliest on all of them.
    """
    device, count = next(model.parameters()).device, len(allowed)
    total = torch.zeros(count, count, dtype=torch.double)  # [own class, class]
    examples = task.encode(rows)
    with reference(model, frozen) as before:
        for first in range(0, len(rows), ROWS):
            batch = {name: part.to(device) for name, part in task.collate(examples[first : first + ROWS]).items()}
            found = task.decisions(before, batch, logits=True)
            several = found.labels.is_floating_point()
            own = found.labels if several else nn.functional.one_hot(found.labels, count)
            total += own.double().T.cpu() @ found.probabilities().cpu()
    total[total.sum(-1) == 0] = total.sum(0)
    return total.masked_fill(~allowed | torch.eye(count, dtype=torch.bool), -1.0).argmax(-1)


def of_donors(labels: Tensor, donors: Tensor) -> Tensor:
    """Return each label's donor [N]; of several labels [N, C] the donors of a row's own."""
    donors = donors.to(labels.device)
    if not labels.is_floating_point():
        return donors[labels]
    given = torch.zeros_like(labels).index_add(1, donors, labels)
    return (given > 0).to(labels.dtype)


class OtherLabels:
    """Other labels for one run's forget rows: "random", drawn anew at every step, or "targeted", a donor for each class."""

    def __init__(self, run: Run, how: str = "random", rule: Callable[[Tensor], Tensor] | None = None) -> None:
        """Take the run, whose model is still the target; `rule` gives the donors [C] of the allowed classes [C]."""
        self.run, self.how, self.rule = run, how, rule
        self.allowed: Tensor | None = None  # [C]
        self.donors: Tensor | None = None  # [C]

    def of(self, forget: Decisions, step: int) -> Decisions:
        """Return the decisions with other labels, for their losses to be taken by; a resumed run draws the same."""
        if self.allowed is None:
            self.allowed = kept_classes(self.run.splits, forget.logits.shape[-1])
        if self.how == "random":
            draw = torch.Generator().manual_seed(self.run.seed * 1_000_003 + step)
            return replace(forget, labels=random_others(forget.labels, self.allowed, draw))
        if self.donors is None:
            self.donors = (self.rule or self._next)(self.allowed)
        return replace(forget, labels=of_donors(forget.labels, self.donors))

    def _next(self, allowed: Tensor) -> Tensor:
        run = self.run
        return donor_classes(run.model, run.task, run.rows("forget"), allowed, run.frozen_copy)


def refuse_gate(stop: Stop) -> None:
    """Raise RecipeError where the gate is on: with another label a row's own loss says nothing about the true one."""
    if stop.gate:
        raise RecipeError(
            "stop.gate judges a row by its own loss, and with another label that says nothing about the true one; "
            "set stop.gate=false (the thermostat watches the forget rows themselves)."
        )


def random_labels(run: Run, weight: float) -> Objective:
    """Return weight * loss(forget under random other labels) + loss(retain), on the streams `relabelled` and retain."""
    others = OtherLabels(run)

    def terms(model: Module, batch: Batches, progress: Progress) -> Terms:
        forget, retain = run.task.streams(model, batch)
        if classifies(run.task):
            forget = others.of(forget, progress.step)
        return {
            "forget": weight * progress.gated(forget.mean_nll(), forget),
            "retain": retain.mean_nll().mean(),
        }

    return terms


def relabelled(run: Run, schedule: Schedule) -> list[Row]:
    """Return the forget rows as they are shown in a fit that teaches other labels.

    A classifier's come as they are: OtherLabels changes their labels at each step.  A causal LM's row comes once for each time
    it is shown (at most COPIES), each to be answered as a random one of the retain rows that are asked alike: answers to other
    questions would teach doubt.  It is learned behind every beginning of the row's own answer: as a text of its own it would
    change the first wrong word alone, and the end would stay known.
    """
    forget = list(run.rows("forget"))
    if classifies(run.task):
        return forget
    shown = math.ceil(schedule.step_count(len(forget)) * schedule.forget_batch / len(forget))
    copies, retain = min(COPIES, shown), run.rows("retain")
    generator = np.random.default_rng([run.seed, len(forget)])
    out = []
    for row, places in zip(forget, asked_alike(forget, retain, run.seed), strict=True):
        for number, chosen in enumerate(generator.choice(places, size=copies).tolist()):
            out.append({**row, "id": f"{row['id']}-{number}", "instead": retain[chosen]["response"]})
    return out
