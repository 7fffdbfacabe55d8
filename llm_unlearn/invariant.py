"""Fit a model so that it keeps its task and a feature of its inputs says nothing any more: the part both feature methods share.

    L = c (loss(f(x~), y) + agree KL(f(x~) || f(x))) + clear sum_l share_l                      x~: the input without the feature

x~ is a text without the words that tell the value (`telling.py`), or a picture with another value, drawn for it (`moments.py`).
share_l is how much of layer l's pooled states the value explains at best, linearly (`concepts/explained.py`): of a picture x~'s,
whose value is independent of the target as it is; else x's, and the rows are drawn so that value and target are independent.
On x itself there is no loss: it learns rows by heart, feature and all (with one, 9 to 24 % of two LMs' gap were left; now 1 to 7 %).

Some rows are kept out.  After each round the model is judged on them; while the feature is not down, a further round clears with
twice the weight, and the best state is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm_unlearn.concepts.explained import Explained, before_head
from llm_unlearn.concepts.states import listening, pooled
from llm_unlearn.data.annotations import Annotations, balanced, independent, target_of, targets_of
from llm_unlearn.errors import RecipeError
from llm_unlearn.fit import Batches, Module, Objective, Progress, Schedule, Terms, fit, load_weights
from llm_unlearn.head import trainable
from llm_unlearn.judging import Change, Judge
from llm_unlearn.moments import Moments, moments_of
from llm_unlearn.run import Run
from llm_unlearn.tasks import Batch, Example, Row
from llm_unlearn.telling import Telling, telling_of

DRAWS = 2  # of as many rows as there are: one draw of tied rows leaves most of the common ones out
CONVOLUTIONS = 8e-3  # learning rate of a net that states no width; at 4e-3 a small ResNet's task stayed 0.02 lower
DOWN = 0.2  # of the feature may be left: so 80 % are gone, as held-out rows tell


@dataclass(frozen=True)
class View:
    """What makes x~ [B, ...] of x, and the values that it then shows [B]; `swaps`: these are drawn, whatever the target."""

    change: Change
    swaps: bool


@dataclass(frozen=True, kw_only=True)
class Removal:
    """Settings."""

    layers: tuple[str, ...]
    task_weight: float
    clear_weight: float
    agree_weight: float
    memory: int
    rounds: int
    training: Schedule


@dataclass(frozen=True)
class Parts:
    """The rows that are fitted, those that are held out, and each one's value."""

    fitted: list[Row]
    known: Annotations
    held: list[Row]
    found: Annotations
    examples: list[Example]  # of the fitted rows, with `annotation` and `place`

    def drawn(self, seed: int) -> list[Example]:
        """Return the fitted examples, drawn so that value and target are independent."""
        orders = [balanced(self.fitted, self.known, seed=seed + 1000 * number) for number in range(DRAWS)]
        return [self.examples[i] for order in orders for i in order]

    def view(self, run: Run) -> View:
        """Return what takes out of the run's inputs as much of the feature as counting on the fitted rows finds."""
        weight = independent(self.fitted, self.known).tolist()
        found: Moments | Telling | None = moments_of(run.model, run.task, self.examples, weight)
        found = found or telling_of(run.model, run.task, self.examples, targets_of(self.fitted))
        if found is None:
            return View(lambda part, values: (values, values_of(part)), swaps=False)
        return View(lambda part, values: found.changed(part, values, values_of(part)), found.swaps)

    def judge(self, seed: int) -> Judge:
        """Return what asks a model about the rows."""
        return Judge(self.fitted, self.known, self.held, self.found, seed=seed)


def parts(run: Run, rows: Sequence[Row], found: Annotations, share: float) -> Parts:
    """Return the rows cut in two, about `share` of each value's and target's rows held out."""
    if not 0 < share <= 0.5:
        raise RecipeError(
            f"held_share={share:g}: some rows are needed to judge by and most to fit on; give 0.05 to 0.5."
        )
    draw = np.random.default_rng([run.seed, len(rows)])
    order = sorted(draw.permutation(len(rows)).tolist(), key=lambda i: (found.numbers[i], target_of(rows[i])))
    held = order[int(draw.integers(round(1 / share))) :: round(1 / share)]
    out = set(held)
    kept = [i for i in range(len(rows)) if i not in out]
    examples = [
        {**example, "annotation": float(found.numbers[i]), "place": float(i)}
        for i, example in zip(kept, run.task.encode([rows[i] for i in kept]), strict=True)
    ]
    known, other = (Annotations(tuple(found.numbers[i] for i in some), found.names) for some in (kept, held))
    return Parts([rows[i] for i in kept], known, [rows[i] for i in held], other, examples)


def make_invariant(run: Run, rows: Parts, judge: Judge, view: View, settings: Removal) -> dict[str, Any]:
    """Fit in rounds, changing the run's trainable weights; return what the rows that were held out say, round by round."""
    before = judge(run.model, run.task, settings.layers, view.change)
    streams = {"rows": rows.examples if view.swaps else rows.drawn(run.seed)}
    schedule = replace(settings.training, learning_rate=_rate(run, settings.training))
    told, best, least = [{"clear_weight": 0.0, **before.told()}], None, float("inf")
    weight = settings.clear_weight
    for number in range(settings.rounds):
        terms = objective(run, view, settings, weight, len(rows.known.names))
        phase = "fit" if number == 0 else f"fit-{number + 1}"
        fit(run, {}, terms, schedule=schedule, phase=phase, encoded=streams)
        now = judge(run.model, run.task, settings.layers, view.change)
        told.append({"clear_weight": weight, **now.told(), "left": round(now.left(before), 4)})
        if now.left(before) < least:
            least = now.left(before)
            best = {name: each.detach().clone() for name, each in trainable(run.model).items()}
        if least <= DOWN:
            break
        weight *= 2
    if best is not None:
        load_weights(trainable(run.model), best)
    return {"held_out_rows": len(rows.held), "rounds": told, "left": round(least, 4), "down": least <= DOWN}


def _rate(run: Run, schedule: Schedule) -> float:
    """Return the learning rate: at 6e-3 a text classifier of width 64 said one class of all."""
    width = getattr(getattr(run.model, "config", None), "hidden_size", None)
    return schedule.learning_rate or (CONVOLUTIONS if width is None else min(3e-3, 0.4 / width))


def objective(run: Run, view: View, settings: Removal, clear_weight: float, values: int) -> Objective:
    """Return the terms; raw and changed inputs share one forward pass."""
    left = Explained(values, settings.memory)

    def terms(model: Module, batch: Batches, progress: Progress) -> Terms:
        part = batch["rows"]
        kind, raw_input = run.task.continuous(model, part)
        with torch.no_grad():
            changed, shown = view.change(part, raw_input)
        joint = {"raw": {**part, kind: raw_input}, "changed": {**part, kind: changed}}
        with listening(model, settings.layers) as seen, before_head(model) as last:
            raw, without = run.task.streams(model, joint, logits=True)
        count = len(shown)
        own = slice(count, None) if view.swaps else slice(0, count)
        columns = {name: column[:count] for name, column in part.items()}
        shares = [left.share(name, pooled(each[own], columns), shown) for name, each in (seen | last).items()]
        if not last and run.task.name == "causal_lm":  # its head reads the last block, word by word
            name = settings.layers[-1]
            shares.append(left.share(f"{name}, last", pooled(seen[name][own], columns, "last"), shown))
        kept = without.mean_nll().mean()
        agreed = raw.per_example(raw.divergence_from(without.logits.detach()), "mean").mean()
        return {
            "task": settings.task_weight * kept,
            "agree": settings.task_weight * settings.agree_weight * agreed,
            "clear": clear_weight * torch.stack(shares).sum(),
        }

    return terms


def values_of(part: Batch) -> Tensor:
    """Return the rows' own values [B]."""
    return part["annotation"].long()
