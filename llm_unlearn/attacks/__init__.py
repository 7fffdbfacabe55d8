"""Attacks on a model that was made to forget: one file each, and the file name is the attack's name.

A file holds one frozen dataclass: its fields are the attack's settings, its one verb `run` attacks `after` and, in the
same way, `gold`.  What counts is the difference: a model that never knew learns from an attack too.  A dotted path works
for attacks that live elsewhere.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from llm_unlearn import named
from llm_unlearn.errors import DataError
from llm_unlearn.files import read_json
from llm_unlearn.scores import Floats
from llm_unlearn.statistics import percentile_interval, resamples_of

if TYPE_CHECKING:
    from llm_unlearn.attacks._attacked import Attacked

FILE, SCHEMA = "attacks.json", 1
BROKEN = (
    0.5  # share of what `before` knew; an attack that leaves less of it breaks the model rather than the unlearning
)
TEXT = frozenset({"causal_lm"})
ALL_TASKS = frozenset({"causal_lm", "sequence_classifier", "image_classifier"})


@dataclass(frozen=True)
class AttackFigure:
    """One figure before and under an attack.  The columns of gold are None where there is no gold model."""

    attack: str
    setting: str
    figure: str
    before: float | None  # the model before unlearning, not attacked: all there is to recover
    before_attacked: float | None  # far below `before`: the attack breaks the model, and recovery would not show
    after_before_attack: float
    after: float  # under the attack
    gold_before_attack: float | None
    gold: float | None  # under the same attack
    recovery_after: float  # after - after_before_attack
    recovery_gold: float | None
    difference: float | None  # recovery_after - recovery_gold; above 0: the attack finds what gold hasn't got
    n: int  # rows
    facts: int  # groups of rows that tell the same
    interval: tuple[float, float] | None  # 95 % bootstrap over facts of `difference`, without gold of `recovery_after`
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the figure as attacks.json holds it."""
        return {**asdict(self), "interval": None if self.interval is None else list(self.interval)}


@dataclass(frozen=True)
class Curve:
    """A figure over the steps of an attack that trains, mean over the same rows at every step."""

    attack: str
    setting: str
    figure: str
    seed: int
    steps: list[int]  # optimiser steps; the first is 0
    after: list[float]
    gold: list[float] | None
    before: float | None  # the level of the model before unlearning on these rows
    after_control: list[float] | None = None  # the same steps on rows that are kept
    gold_control: list[float] | None = None


@dataclass(frozen=True)
class Findings:
    """What an attack found: figures, curves, and what numbers cannot say, in words."""

    figures: list[AttackFigure] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """An attack: its fields are its settings."""

    tasks: ClassVar[frozenset[str]] = ALL_TASKS

    @abstractmethod
    def run(self, attacked: "Attacked") -> Findings:
        """Attack fresh copies of `after` and `gold` and return what came of it; every process calls it."""


def compare(
    attack: str,
    setting: str,
    figure: str,
    plain: Mapping[str, Floats],
    attacked: Mapping[str, Floats],
    groups: Sequence[str],
    *,
    seed: int = 0,
    detail: str = "",
) -> AttackFigure:
    """Return the figure from values a row [B] by model (before, after, gold), without and under the attack.

    Rows without a value in one of them are left out of all.  `groups` [B] names the fact that each row tells.
    """
    columns = [*plain.values(), *attacked.values()]
    keep = np.all(np.isfinite(np.stack(columns)), axis=0)
    if not keep.any():
        raise DataError(f"{attack}: no row has a value of {figure}; give rows with a response.")
    old, new = ({name: values[keep] for name, values in part.items()} for part in (plain, attacked))
    rises = {name: new[name] - old[name] for name in new}
    gold = "gold" in rises
    judged = rises["after"] - rises["gold"] if gold else rises["after"]
    known = [group for group, kept in zip(groups, keep, strict=True) if kept]
    mean = {name: float(values.mean()) for name, values in rises.items()}
    known_before, left = _mean(old, "before"), _mean(new, "before")
    if known_before is not None and left is not None and left < BROKEN * known_before:
        broken = f"the attack breaks the model before too ({known_before:.2f} to {left:.2f}): nothing follows from the difference"
        detail = f"{detail}; {broken}" if detail else broken
    return AttackFigure(
        attack=attack,
        setting=setting,
        figure=figure,
        before=known_before,
        before_attacked=left,
        after_before_attack=float(old["after"].mean()),
        after=float(new["after"].mean()),
        gold_before_attack=_mean(old, "gold"),
        gold=_mean(new, "gold"),
        recovery_after=mean["after"],
        recovery_gold=mean.get("gold"),
        difference=mean["after"] - mean["gold"] if gold else None,
        n=int(keep.sum()),
        facts=len(set(known)),
        interval=group_interval(judged, known, seed=seed),
        detail=detail,
    )


def _mean(values: Mapping[str, Floats], name: str) -> float | None:
    return float(values[name].mean()) if name in values else None


def group_interval(values: Floats, groups: Sequence[str], *, seed: int = 0) -> tuple[float, float] | None:
    """Return the 95 % bootstrap interval of the mean over rows, whole groups drawn.

    Ten wordings of one fact are one observation: drawing rows would make the interval too narrow.  None below two groups
    and where all rows have one value (mostly 0 of n): drawing from them again cannot tell how sure that is.
    """
    number = np.unique(np.asarray(groups), return_inverse=True)[1]
    sums, counts = np.bincount(number, weights=values), np.bincount(number)
    if len(counts) < 2 or np.ptp(values) == 0:
        return None
    return percentile_interval(
        np.concatenate([sums[drawn].sum(1) / counts[drawn].sum(1) for drawn in resamples_of(len(counts), seed=seed)])
    )


def available() -> list[str]:
    """Return the names of the built-in attacks."""
    return named.available(sys.modules[__name__])


def find(name: str) -> type[Attack]:
    """Return the attack class in `attacks/<name>.py`, or in the module at a dotted path; raise RecipeError for none."""
    found: type[Attack] = named.only_class(named.module(name, sys.modules[__name__], "attack"), Attack)
    return found


def read(folder: str | Path) -> dict[str, Any] | None:
    """Return folder/attacks.json (what `eval/attack.py` wrote: figures, curves, notes); None where there is none of ours."""
    content = read_json(Path(folder) / FILE)
    return content if content is not None and content.get("schema") == SCHEMA and "figures" in content else None
