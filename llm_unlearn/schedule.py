"""How long, how fast and in which order a fit goes through its rows: all fixed before the first step."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from torch.utils.data import Dataset

from llm_unlearn.errors import DataError, RecipeError
from llm_unlearn.tasks import Example

Mix = Callable[[int, int, Example], Example]  # (number of the draw, index of the row, the row) -> what is trained on
MANY = 64  # rows of which a step's own number is enough
WINDOW = 16  # steps within which rows may be reordered by length


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Training settings of one fit.  Batches are counted over all processes and micro-batches of an optimiser step."""

    learning_rate: float | None = (
        None  # AdamW; None: 0.4 / width, so 2e-3 at 192 (the sandbox) and 2e-4 at 2048 (muP, 2203.03466)
    )
    steps: int | None = None  # optimiser steps; None: `passes` over the first stream, at least `least_steps`
    passes: float = 2.0
    least_steps: int = 450  # the trial took 300; 350 on the sandbox left retain 4 points lower (seed 1)
    most_steps: int | None = None  # where `passes` would be more: of fits that end when they are done
    forget_batch: int = 8  # rows of the first stream a step
    retain_per_forget: int = 4  # rows of every further stream for each of them; 1 : 4 served best in the trial
    warmup_steps: int = 20
    decay: Literal["linear", "cosine", "constant"] = "linear"
    last_rate: float = 0.02  # the learning rate's last value, as a share of its first
    weight_decay: float = 0.0  # decay pulls an adapter to the base, which unlearns everything
    max_grad_norm: float = 1.0
    group_by_length: bool = False  # rows of like length share a step: less padding, less mixing

    def step_count(self, rows: int) -> int:
        """Return the optimiser steps for a first stream of `rows` rows."""
        if self.steps is not None:
            return self.steps
        count = math.ceil(self.passes * rows / self.forget_batch)
        return max(self.least_steps, count if self.most_steps is None else min(count, self.most_steps))

    def grown(self, rows: int) -> "Schedule":
        """Return the schedule with more of many rows a step, twice or four times as many, beside as many others as before.

        For fits that go on until every row is there: of 256 rows, 16 a step would see each only every 16 steps.
        """
        times = 1 if rows < 2 * MANY else 2 if rows < 4 * MANY else 4
        share = max(1, self.retain_per_forget // times)
        return replace(self, forget_batch=times * self.forget_batch, retain_per_forget=share)

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate's factor at `step`: linear warm-up, then decay to `last_rate`."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        done = min(1.0, step / max(1, steps))
        if self.decay == "constant":
            return warm
        shape = 1 - done if self.decay == "linear" else 0.5 * (1 + math.cos(math.pi * done))
        return warm * (self.last_rate + (1 - self.last_rate) * shape)


class Timetable(Dataset[dict[str, list[Example]]]):
    """Every row that every step will see, drawn up front: item i belongs to step i // forget_batch.

    Each stream is a chain of seeded permutations of its rows, so each row is seen equally often, and neither the number
    of workers nor of processes nor an interruption changes the order.
    """

    def __init__(
        self,
        streams: Mapping[str, Sequence[Example]],
        schedule: Schedule,
        steps: int,
        seed: int,
        mix: Mix | None = None,
    ) -> None:
        """Draw the order; `streams` is led by its first entry, the others follow at `retain_per_forget` to one.

        `mix` may put something else in the place of a row of the first stream, by the number of the draw.
        """
        empty = [name for name, rows in streams.items() if not rows]
        if empty:
            raise DataError(f"the split {empty[0]!r} is empty: there is nothing to draw from.")
        self.streams, self.length, self.mix = streams, steps * schedule.forget_batch, mix
        self.order: dict[str, np.ndarray] = {}
        for number, (name, rows) in enumerate(streams.items()):
            share = 1 if number == 0 else schedule.retain_per_forget
            generator = np.random.default_rng([seed, number])
            count = self.length * share
            chain = [generator.permutation(len(rows)) for _ in range(math.ceil(count / len(rows)))]
            order = np.concatenate(chain)[:count].reshape(steps, schedule.forget_batch * share)
            if schedule.group_by_length:
                order = _grouped(order, rows, seed)
            self.order[name] = order.reshape(self.length, share)

    def __len__(self) -> int:
        """Return the number of items over all steps."""
        return self.length

    def __getitem__(self, item: int) -> dict[str, list[Example]]:
        """Return one row of the first stream and its share of the others."""
        out = {name: [self.streams[name][i] for i in order[item]] for name, order in self.order.items()}
        if self.mix is not None:
            name, order = next(iter(self.order.items()))
            out[name] = [self.mix(item, int(order[item][0]), out[name][0])]
        return out


def _grouped(order: np.ndarray, rows: Sequence[Example], seed: int) -> np.ndarray:
    """Return the order [steps, rows a step] with rows of like length brought together inside windows of steps.

    All streams shuffle their windows alike, so a step's streams are of like length too.
    """
    size = np.array(
        [max((len(value) for value in row.values() if isinstance(value, list)), default=1) for row in rows]
    )
    generator = np.random.default_rng([seed, len(order)])  # the same draws for every stream
    out = order.copy()
    for first in range(0, len(order), WINDOW):
        block = order[first : first + WINDOW]
        by_length = block.reshape(-1)[np.argsort(size[block.reshape(-1)], kind="stable")].reshape(block.shape)
        out[first : first + WINDOW] = by_length[generator.permutation(len(block))]
    return out


def per_device(schedule: Schedule, processes: int, accumulation: int) -> int:
    """Return the first stream's rows a forward pass, so that a step holds `forget_batch` whatever the hardware."""
    share, rest = divmod(schedule.forget_batch, processes * accumulation)
    if rest or not share:
        raise RecipeError(
            f"forget_batch={schedule.forget_batch} is not divisible by {processes} processes x {accumulation} accumulation "
            "steps: choose a multiple, so that the result does not depend on the hardware."
        )
    return share
