"""Relearning: train for one epoch on a random half of the forget facts and measure the other half, on `after` and on `gold`.

What comes back without being trained was hidden, not removed.  The halves are split by fact (or subject), so that no other
wording of a measured fact is trained; rows that chain facts (two hops) are in neither half, for they tell two facts.  Gold
learns the format and the guessable part of an answer in the same way: the difference is what counts.
The control trains the same number of steps on rows that are kept: what comes back there too needs no forget row, any further
training brings it.  The learning rate is constant.  Sources: Hu et al., 2024, arXiv:2406.13356; Lynch et al., 2024, arXiv:2402.16835.
"""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from llm_unlearn.attacks import Attack, AttackFigure, Curve, Findings, compare
from llm_unlearn.attacks._attacked import FIGURES, Attacked, groups_of, plain, spread
from llm_unlearn.errors import DataError, NothingChanged, RecipeError
from llm_unlearn.fit import Batches, Module, Progress, Schedule, Terms, fit
from llm_unlearn.lora import Lora, attach
from llm_unlearn.run import Run
from llm_unlearn.runfolder import on_main
from llm_unlearn.scores import RETAIN_TYPE, Floats, Scores
from llm_unlearn.tasks import Row

PEFT_TASKS = {"causal_lm": "CAUSAL_LM", "sequence_classifier": "SEQ_CLS"}
CONTROL = "relearn_control"  # what the control's lines are called
NONE = "none"
WEAK = 0.05  # a rise of the trained half's extraction strength below which nothing was attacked


@dataclass(frozen=True, kw_only=True)
class Relearn(Attack):
    """How it is trained."""

    split: Literal["fact", "subject"] = "fact"  # what is wholly in one half; subject is stricter
    chained: tuple[str, ...] = ("two_hop", "multi_hop")  # kinds of rows that tell more than one fact: in neither half
    passes: float = 1.0  # epochs over the trained half
    batch: int = 16  # rows a step
    learning_rate: float | None = None  # constant; None: 0.2 / width with an adapter, 0.02 / width without
    full: bool = False  # train every weight (in fp32) instead of a fresh adapter
    lora: Lora = Lora()
    points: int = 5  # steps at which the other half is measured, the first (0) and the last among them
    seeds: int = 1  # halves tried, from the seed on
    control: str = "retain"  # split on whose rows as many steps are trained for comparison; none: no control

    def __post_init__(self) -> None:
        """Raise RecipeError for nothing to train or to measure."""
        kept = (*RETAIN_TYPE, NONE)
        if self.control not in kept:
            raise RecipeError(
                f"relearn.control: {self.control!r} is no split of kept rows; choose from {', '.join(kept)}."
            )
        if self.points < 2 or self.seeds < 1 or self.batch < 1 or self.passes <= 0:
            raise RecipeError("relearn: points must be at least 2; seeds, batch and passes above 0.")

    def run(self, attacked: Attacked) -> Findings:
        """Relearn on `seeds` different halves; several seeds also give a line with their mean."""
        found = Findings()
        for seed in range(attacked.seed, attacked.seed + self.seeds):
            self._one(attacked, seed, found)
        if self.seeds > 1:
            found.figures.extend(_means(found.figures))
        return found

    def _one(self, attacked: Attacked, seed: int, found: Findings) -> None:
        """Attack all models with one seed and add what came of it, and what came of the control."""
        train, other, left_out = halves(attacked.splits["forget"], seed, by=self.split, chained=self.chained)
        rows = spread([plain(row) for row in other], attacked.most, seed)
        trained = spread([plain(row) for row in train], attacked.most, seed)
        steps = max(1, math.ceil(self.passes * len(train) / self.batch))
        results = {name: self._relearn(attacked, name, seed, train, rows, trained, steps) for name in attacked.targets}
        rose = "; ".join(f"{name} {each.low:.2f} to {each.high:.2f}" for name, each in results.items())
        detail = f"trained on {len(train)} rows of other facts, their own ES: {rose}"
        if left_out:
            detail += f"; {left_out} rows that chain facts are in neither half"
        if results["after"].high - results["after"].low < WEAK:
            found.notes.append(
                f"relearn, seed {seed}: the trained half itself hardly rose ({rose}): the attack was too weak to show anything. "
                "Raise relearn.passes or relearn.learning_rate."
            )
        control = self._control(attacked, seed, len(train), rows, steps, found)
        before = attacked.measure(attacked.model("before"), rows, "before") if "before" in attacked.names else None
        how = "all weights" if self.full else f"LoRA r {self.lora.r}"
        how = f"{how}, rate {results['after'].rate:.1e}, seed {seed}"
        for figure, values in FIGURES.items():
            level = {} if before is None else {"before": values(before.hits)}
            now, also = (
                {name: [values(point.hits) for point in each.points.values()] for name, each in part.items()}
                for part in (results, control)
            )
            lines = [("relearn", f"{self.passes:g} epoch, {how}", now, detail)]
            if also:
                told = f"trained on rows of {self.control} alone: what rises here needs no forget row"
                lines.append((CONTROL, f"{steps} steps on {self.control}, {how}", also, told))
            figures = [
                compare(
                    *(attack, setting, figure),
                    level | {name: points[0] for name, points in part.items()},
                    {name: points[-1] for name, points in part.items()},
                    groups_of(rows),
                    seed=seed,
                    detail=words,
                )
                for attack, setting, part, words in lines
            ]
            found.figures.extend(figures)
            found.notes.extend(_beside_control(figures, seed))
            curve, benign = ({name: _means_of(points) for name, points in part.items()} for part in (now, also))
            found.curves.append(
                Curve(
                    *("relearn", lines[0][1], figure, seed, list(results["after"].points), curve["after"]),
                    *(curve.get("gold"), figures[0].before, benign.get("after"), benign.get("gold")),
                )
            )

    def _control(
        self, attacked: Attacked, seed: int, count: int, rows: Sequence[Row], steps: int, found: Findings
    ) -> dict[str, "_Result"]:
        """Return what as many steps on `count` kept rows do to the measured half, by model; {} without a control."""
        kept = [] if self.control == NONE else attacked.splits.get(self.control, [])
        if not kept:
            if self.control != NONE:
                found.notes.append(f"relearn: the control was not measured: there are no {self.control} rows.")
            return {}
        train = spread(kept, count, seed)
        return {name: self._relearn(attacked, name, seed, train, rows, train, steps) for name in attacked.targets}

    def _relearn(
        self,
        attacked: Attacked,
        name: str,
        seed: int,
        train: Sequence[Row],
        rows: Sequence[Row],
        trained: Sequence[Row],
        steps: int,
    ) -> "_Result":
        """Train a fresh copy of one model on `train`, looking at `rows` on the way and at `trained` at both ends."""
        model = attacked.model(name)
        width = getattr(getattr(model, "config", None), "hidden_size", None) or 200
        rate = self.learning_rate or (0.02 if self.full else 0.2) / width
        schedule = Schedule(learning_rate=rate, steps=steps, forget_batch=self.batch, warmup_steps=0, decay="constant")
        model = self._prepared(model, attacked, seed)
        folder = attacked.folder / "work"
        on_main(lambda: shutil.rmtree(folder, ignore_errors=True))  # a fit that ended is not trained again
        run = Run(
            model=model, task=attacked.task, splits={}, folder=folder, seed=seed, trainer={"save_strategy": "no"}
        )
        points: dict[int, Scores] = {}

        def look(looked_at: nn.Module, step: int) -> None:
            if step in wanted and step not in points:
                points[step] = attacked.measure(looked_at, rows, f"relearn {name} step {step}")

        def strength() -> float:
            scores = attacked.measure(model, trained, f"relearn {name} trained half")
            return float(np.nanmean(FIGURES["extraction_strength"](scores.hits)))

        wanted, low = marks(steps, self.points), strength()
        _fit(run, train, schedule, look)
        look(model, steps)
        on_main(lambda: shutil.rmtree(folder, ignore_errors=True))
        if all(map(np.array_equal, points[0].log_probs, points[steps].log_probs)):
            raise NothingChanged(f"relearning {name} changed nothing: raise relearn.learning_rate or relearn.passes.")
        return _Result(points, low, strength(), rate)

    def _prepared(self, model: nn.Module, attacked: Attacked, seed: int) -> nn.Module:
        """Return what is trained: the model itself in fp32, or the model under an adapter drawn from the seed."""
        if self.full:
            return model.float()
        device = next(model.parameters()).device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            return attach(model, self.lora, PEFT_TASKS.get(attacked.task.name))


@dataclass(frozen=True)
class _Result:
    points: dict[int, Scores]  # the other half's, by steps
    low: float  # extraction strength of the trained half before
    high: float  # and after
    rate: float


def _fit(run: Run, rows: Sequence[Row], schedule: Schedule, look: Callable[[nn.Module, int], None]) -> None:
    """Minimise the rows' mean loss; `look` sees the model before each step."""

    def terms(model: Module, batch: Batches, progress: Progress) -> Terms:
        look(model, progress.step)
        (rows_of_step,) = run.task.streams(model, batch)
        return {"loss": rows_of_step.mean_nll().mean()}

    fit(run, {"train": rows}, terms, schedule=schedule, phase="relearn")


def halves(
    forget: Sequence[Row], seed: int, *, by: str = "fact", chained: Sequence[str] = ()
) -> tuple[list[Row], list[Row], int]:
    """Return the rows to train, the rows to measure and how many are in neither, split at random by what they tell.

    Raises DataError where all rows tell the same.
    """
    single = [row for row in forget if row.get("kind") not in chained]
    groups = groups_of(single, by)
    names = list(dict.fromkeys(groups))
    if len(names) < 2:
        raise DataError(
            f"relearning needs forget rows of at least two {by}s, one half to train and one to measure; these tell of {len(names)}."
        )
    drawn = np.random.default_rng([seed, len(names)]).permutation(len(names))[: len(names) // 2]
    chosen = {names[i] for i in drawn}
    train = [row for row, group in zip(single, groups, strict=True) if group in chosen]
    other = [row for row, group in zip(single, groups, strict=True) if group not in chosen]
    return train, other, len(forget) - len(single)


def marks(steps: int, points: int) -> list[int]:
    """Return at most `points` evenly spaced step counts from 0 to `steps`."""
    return sorted({round(float(step)) for step in np.linspace(0, steps, points)})


def _means_of(points: Sequence[Floats]) -> list[float]:
    return [float(np.nanmean(point)) for point in points]


def _beside_control(figures: Sequence[AttackFigure], seed: int) -> list[str]:
    """Return in words how much of the rise comes without forget rows too; [] without a control or without a rise."""
    line, *control = figures
    if not control or line.recovery_after < WEAK:
        return []
    rises = [f"after {line.recovery_after:+.2f} by forget rows, {control[0].recovery_after:+.2f} by the control"]
    if line.recovery_gold is not None and control[0].recovery_gold is not None:
        rises.append(f"gold {line.recovery_gold:+.2f} and {control[0].recovery_gold:+.2f}")
    return [f"relearn, seed {seed}, rise of {line.figure.replace('_', ' ')}: {'; '.join(rises)}."]


def _means(figures: Sequence[AttackFigure]) -> list[AttackFigure]:
    """Return a line a figure: the mean over the seeds (n and facts are one seed's), the spread of the difference in its remark."""
    out = []
    for attack, figure in dict.fromkeys((line.attack, line.figure) for line in figures):
        lines = [line for line in figures if (line.attack, line.figure) == (attack, figure)]
        columns: tuple[str, ...] = (
            "before",
            "before_attacked",
            "after_before_attack",
            "after",
            "gold_before_attack",
            "gold",
        )
        columns += ("recovery_after", "recovery_gold", "difference")
        values = {name: _mean([getattr(line, name) for line in lines]) for name in columns}
        judged: Floats = np.array(
            [line.recovery_after if line.difference is None else line.difference for line in lines], dtype=float
        )
        setting = f"{lines[0].setting.rpartition(', seed')[0]}, mean of {len(lines)} seeds"
        detail = f"{figure}: standard deviation over seeds {judged.std(ddof=1):.3f}, from {judged.min():.3f} to {judged.max():.3f}"
        out.append(
            AttackFigure(
                attack=attack,
                setting=setting,
                figure=figure,
                n=min(line.n for line in lines),
                facts=min(line.facts for line in lines),
                interval=None,  # the halves overlap: their rows are no independent sample
                detail=detail,
                **values,  # type: ignore[arg-type]
            )
        )
    return out


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
