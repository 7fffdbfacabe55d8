"""Mnemonic codes: one random input a unit (class, author, customer), mixed into training, by which the unit is forgotten later.

Yamashita, Yamada and Shibata (2024, PMLR 260, arXiv:2306.05670), Eq. 1.  A code is its seed: it is drawn again whenever it is
needed, on the CPU, and never stored.  `mnemonic.json` beside the weights (in an adapter's own folder) holds the seeds; whoever
has it can make the model forget a unit with no data at all, and it names the units.

Differs from the paper: codes of text are soft tokens (the paper has images only).
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from llm_unlearn.codes import coded
from llm_unlearn.data.splits import KEPT
from llm_unlearn.errors import DataError, RecipeError, nearest
from llm_unlearn.files import read_json, write_json
from llm_unlearn.head import unwrapped
from llm_unlearn.tasks import Example, Row, Task

FILE = "mnemonic.json"
LABEL = "label"  # a classifier's units are its classes
UNIT, SUBJECT = "unit", "subject"  # the columns that name a row's unit for a causal LM
LABEL_SHARE = 0.5  # of a causal LM's coded rows that answer with the unit's name; the others give a response about it
DRAWS = 20230605  # keeps these draws apart from others with the same seed


@dataclass(frozen=True, kw_only=True)
class Mnemonic:
    """How codes are mixed into training."""

    share: float = (
        0.1  # t_mix, the probability that a row's input is its unit's code; the paper's for three of four sets
    )
    length: int = 8  # soft tokens of a code for text

    def __post_init__(self) -> None:
        """Raise RecipeError for numbers out of range."""
        if not 0 < self.share < 1:
            raise RecipeError(
                f"share: {self.share} is not between 0 and 1: codes are mixed into rows, not put in their place."
            )
        if self.length < 1:
            raise RecipeError(f"length: {self.length} is too small; it is at least 1.")


@dataclass(frozen=True, kw_only=True)
class Codes:
    """The units a model has codes for, and all that is needed to draw the codes again."""

    seeds: Mapping[str, int]  # unit -> seed
    shape: tuple[int, ...]  # [channels, height, width], or [L, D]
    share: float  # t_mix at training
    column: str = LABEL  # which column of a row names its unit
    scale: tuple[float, ...] = field(default=(), repr=False)  # of soft tokens, each dimension's standard deviation

    @property
    def kind(self) -> Literal["image", "text"]:
        """Return what the codes stand in for."""
        return "image" if len(self.shape) == 3 else "text"

    def code(self, unit: str) -> Tensor:
        """Return the unit's code, fp32: N(0, 1) in the space of normalised pixels, or soft tokens of N(0, scale^2)."""
        drawn = draw(self.seeds[unit], self.shape)
        return drawn * torch.tensor(self.scale) if self.scale else drawn

    def without(self, units: Iterable[str]) -> "Codes":
        """Return the codes of the other units: what a model that has forgotten these is saved with."""
        gone = set(units)
        return replace(self, seeds={unit: seed for unit, seed in self.seeds.items() if unit not in gone})

    def apart_from(self, splits: Mapping[str, Sequence[Row]]) -> "Codes":
        """Return the codes without those of units of which all rows were forgotten, by whatever method."""
        of = {name: {unit_of(row, self.column) for row in splits.get(name, ())} for name in ("forget", *KEPT)}
        return self.without(str(unit) for unit in of.pop("forget").difference(*of.values()))

    def known(self, units: Iterable[str]) -> list[str]:
        """Return the units as they are; raise DataError for one without a code."""
        units = list(units)
        for unit in units:
            if unit not in self.seeds:
                few = ", ".join(list(self.seeds)[:10]) + (", ..." if len(self.seeds) > 10 else "")
                raise DataError(
                    f"the model has no code for the unit {unit!r}{nearest(unit, self.seeds)}. Its units: {few}."
                )
        return units

    def examples(self, task: Task, units: Iterable[str]) -> list[Example]:
        """Return each unit's code with its label: the class, or for a causal LM the unit's name as the response."""
        most = getattr(task, "max_length", None)
        return [coded(answer, self.code(unit), most) for unit, answer in answers(task, units).items()]

    def save(self, folder: str | Path) -> None:
        """Write mnemonic.json into a checkpoint's or an adapter's folder."""
        content = {"kind": self.kind, "column": self.column, "t_mix": self.share, "shape": list(self.shape)}
        length = {"length": self.shape[0], "scale": list(self.scale)} if self.kind == "text" else {}
        write_json(Path(folder) / FILE, {**content, **length, "units": dict(self.seeds)})

    @classmethod
    def load(cls, path: str | Path) -> "Codes | None":
        """Return the codes in a mnemonic.json, None where there is no such file; raise DataError for another file."""
        content = read_json(path)
        if content is None:
            return None
        try:
            return cls(
                seeds={str(unit): int(seed) for unit, seed in content["units"].items()},
                shape=tuple(int(size) for size in content["shape"]),
                share=float(content["t_mix"]),
                column=str(content["column"]),
                scale=tuple(float(value) for value in content.get("scale", ())),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(
                f"{path} is no list of mnemonic codes ({error}): train the model again with --mnemonic."
            ) from error


def draw(seed: int, shape: Sequence[int]) -> Tensor:
    """Return N(0, 1) numbers of the shape from the seed, the same on every machine: drawn on the CPU.

    Differs from the authors' code, as the paper has it: normal, not uniform; and in the space of pixels that the model reads
    (after normalisation), so that a code lies as far from 0 as a picture does.
    """
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def seed_of(unit: str, seed: int) -> int:
    """Return a unit's own seed: it depends on the unit and the run's seed alone, not on which other units there are."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{unit}".encode()).digest()[:6])


def unit_of(row: Row, column: str) -> str | None:
    """Return the unit a row belongs to, None where it has none; raise DataError for a multi-label row."""
    unit = row.get(column)
    if isinstance(unit, list):
        raise DataError(
            "mnemonic codes are one a class, and these rows have several classes each: multi-label is not supported."
        )
    return None if unit is None or unit == "" else str(unit)


def units_asked(splits: Mapping[str, Sequence[Row]], codes: Codes) -> list[str]:
    """Return the units that the forget rows belong to; raise DataError where kept rows are of these units too.

    Nothing else of a row is looked at: this reads which units are asked for, not their data.
    """
    forget, retain = (
        list(dict.fromkeys(unit for row in splits.get(name, ()) if (unit := unit_of(row, codes.column)) is not None))
        for name in ("forget", "retain")
    )
    if not forget:
        raise DataError(f"no unit to forget: give --units, or forget rows with the column {codes.column!r}.")
    both = set(forget) & set(retain)
    if both:
        raise DataError(
            f"{len(both)} of the {len(forget)} units to forget have retain rows too; codes forget whole units: move those rows, "
            "or choose another method."
        )
    return forget


def new_codes(
    task: Task, model: nn.Module, rows: Sequence[Row], settings: Mnemonic, *, column: str | None = None, seed: int
) -> Codes:
    """Return codes for every unit among the rows; raise DataError where the rows name none.

    Units are a classifier's classes, and for a causal LM the values of `column`: none given, of `unit` where a row has one,
    otherwise of `subject`.
    """
    named = UNIT if any(UNIT in row for row in rows) else SUBJECT
    column = LABEL if task.name != "causal_lm" else column or named
    units = sorted({unit for row in rows if (unit := unit_of(row, column)) is not None})
    if len(units) < 2:
        raise DataError(
            f"the column {column!r} names {len(units)} units in these rows; codes need at least two: give every row its unit in "
            "a column `unit`, or --unit COLUMN with another one that is read (subject, fact, kind)."
        )
    batch = task.collate(task.encode(rows[:1]))
    _, given = task.continuous(model, {name: tensor.to(_device(model)) for name, tensor in batch.items()})
    shape: tuple[int, ...] = tuple(given.shape[1:])
    scale: tuple[float, ...] = ()
    if given.dim() == 3:  # words: [1, T, D]
        table = unwrapped(model).get_input_embeddings().weight.detach().float()  # type: ignore[operator]  # [V, D]
        shape = (settings.length, given.shape[2])
        scale = tuple(float(f"{value:.4g}") for value in table.std(0).tolist())
    seeds = {unit: seed_of(unit, seed) for unit in units}
    return Codes(seeds=seeds, shape=shape, share=settings.share, column=column, scale=scale)


def answers(task: Task, units: Iterable[str]) -> dict[str, Example]:
    """Return what each unit's code is answered with, as examples without an input: its class, or its name."""
    if task.name != "causal_lm":
        return {unit: {"labels": int(unit)} for unit in units}
    names = list(units)  # the name as a prompt makes the tokeniser split the response as behind any prompt
    return dict(zip(names, task.encode([{"prompt": name, "response": name} for name in names]), strict=True))


class Mixing:
    """Eq. 1: p(x) = t_mix p_code(x) + (1 - t_mix) p_data(x), decided for each draw of a row by its number and the seed.

    So an interrupted training goes on as it would have, and the number of workers and processes changes nothing.
    """

    def __init__(self, codes: Codes, task: Task, rows: Sequence[Row], seed: int) -> None:
        """Note each row's unit; rows of no unit, or of one without a code, stay as they are."""
        self.codes, self.seed, self.most = codes, seed, getattr(task, "max_length", None)
        units = [unit_of(row, codes.column) for row in rows]
        self.units = [unit if unit in codes.seeds else None for unit in units]
        self.answers = answers(task, codes.seeds) if task.name == "causal_lm" else None

    def __call__(self, number: int, row: int, example: Example) -> Example:
        """Return the example for draw `number` of the training, which is row `row`: itself, or its unit's code."""
        unit = self.units[row]
        chance, kind = np.random.default_rng([DRAWS, self.seed, number]).random(2)
        if unit is None or chance >= self.codes.share:
            return example
        if self.answers is not None and kind < LABEL_SHARE:
            example = self.answers[unit]
        return coded(example, self.codes.code(unit), self.most)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
