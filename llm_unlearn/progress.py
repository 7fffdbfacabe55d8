"""What an objective may know and ask while it is fitted, and the gate and thermostat that every method shares.

A row's *surprise* is its mean loss in which no decision counts more than `cap`, nor more than its *ceiling*, what its label
costs in rows never trained on.  By plain loss, one token at 30 nats would stand for a whole row, whose other tokens are
still known; and a full stop that was ruined behind the concept's name would stand for the fact in front of it.
Gate: a forget row's term fades as the row's own surprise nears its level, the mean of rows never trained on, and no token
is pushed above its ceiling: what is grammar in such rows stays grammar.
Thermostat: all forget terms fade as the forget rows get where the holdout rows are now, and are off beyond.  Of words their
mean loss says so: by surprise, rows that overshot could not be told from rows that have arrived.  Of classes, and without a
holdout, mean surprise does; with one no row counts above the gate's level: rows that overshot do not make up for rows still known.
Measured in a trial (2.1 M-parameter Llama, 200 invented people): without them NPO over-forgets (loss AUC 0.054), with
them it lands where a model that never knew lands (0.487 beside gold's 0.482), at no cost on retain.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from llm_unlearn.decisions import Decisions

Measure = Callable[[str], float]
TINY = 1e-9  # nats: a fade of width 0 is a switch


@dataclass(frozen=True, kw_only=True)
class Stop:
    """When forgetting is enough."""

    gate: bool = True
    thermostat: bool = True
    every: int = 5  # steps between probes of forget; holdout and retain are probed a quarter as often
    probe: int = 96  # rows of forget, of holdout and of retain in one probe
    tolerance: float = 0.05  # nats that retain's loss may rise before the best checkpoint is taken instead
    cap: float = 4.0  # nats above which a decision counts as unknown, no matter how far (sandbox table)
    fade: float = (
        0.3  # nearer than this share to unseen rows' surprise the terms fade, so that forgetting does not overshoot
    )
    near: float = (
        0.05  # the same share of words' mean loss, for the thermostat (sandbox: 0.15 stopped short on one seed)
    )
    margin: float = 1.0  # without a holdout: how far above retain's surprise forgetting goes, nats; a convention


@dataclass
class Progress:
    """Where a fit stands.  `state` is saved in every checkpoint: whatever changes while a method runs belongs there."""

    steps: int
    steps_an_epoch: float  # an epoch is one pass over the first stream
    stop: Stop | None
    measure: Measure  # mean loss of a split's rows under the current model, nats a scored decision, over all processes
    reduce_mean: Callable[[Tensor], Tensor]  # mean over processes
    state: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    whole_step: Callable[[], float] | None = None  # the forget rows' mean loss over an accumulated optimiser step
    known_mean: float | None = None  # what it gave, until the step ends

    @property
    def epoch(self) -> int:
        """Return how many passes over the first stream are complete."""
        return int(self.step / self.steps_an_epoch)

    @property
    def epochs(self) -> int:
        """Return how many passes over the first stream there will be, at least 1."""
        return max(1, round(self.steps / self.steps_an_epoch))

    def limited(self, decisions: Decisions) -> Decisions:
        """Return the decisions with none counted above what its label costs in rows never seen.

        What is counted and what is pushed is then knowledge: neither grammar nor words that the question gives.
        """
        ceilings = self.state.get("ceilings")
        if not ceilings:
            return decisions
        found = [ceilings.get(str(label), ceilings[""]) for label in decisions.labels.tolist()]
        return decisions.limited(torch.tensor(found, device=decisions.labels.device))

    def still_known(self, decisions: Decisions) -> Tensor:
        """Return [N] bool: which decisions are below what their label costs in rows never seen, where that is known."""
        return decisions.nll() <= self.limited(decisions).nll()

    def pushed(self, forget: Decisions) -> Decisions:
        """Return the forget rows' decisions as a method may push them: with the gate on, none above its ceiling."""
        return self.limited(forget) if self.stop is not None and self.stop.gate else forget

    def gated(self, values: Tensor, forget: Decisions) -> Tensor:
        """Return the mean of `values` [F], faded out for rows that are forgotten already and while the thermostat is off."""
        if self.stop is None:
            return values.mean()
        strength = float(self.state.get("on", True))
        if self.stop.gate and "level" in self.state:
            level = self.state["level"]
            missing = level - self.limited(forget).surprise(self.stop.cap).detach()  # [F] nats a token
            values = values * (missing / max(self.stop.fade * level, TINY)).clamp(0, 1)
        return values.mean() * strength

    def step_mean(self, losses: Tensor) -> Tensor:
        """Return the mean of the forget rows' losses over the whole optimiser step: micro-batches and processes.

        For terms that are not linear in the batch mean: write them as `-c * losses.mean()` with c made from this value.
        """
        if self.known_mean is None and self.whole_step is not None:
            self.known_mean = self.whole_step()  # a pass over all micro-batches, paid for only by those who ask
        if self.known_mean is not None:
            return losses.new_tensor(self.known_mean)
        return self.reduce_mean(losses.detach().mean())
