"""Annotations: what value of a feature (a colour, a gender, a site) each row has, as numbers, and draws that balance them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_unlearn.data.files import records
from llm_unlearn.data.sources import load
from llm_unlearn.errors import DataError, nearest

Row = dict[str, Any]
COLUMN = "feature"  # a row's annotation, whatever its column was called in the file
TWIN = "counterfactual"  # of a row: the same input with the feature swapped
FEWEST = 10  # rows of a value below which nothing can be learned about it
EMPTY = (None, "")


@dataclass(frozen=True)
class Annotations:
    """The values of one feature."""

    numbers: tuple[int, ...]  # a row's value, an index into `names`
    names: tuple[str, ...]

    @property
    def sizes(self) -> list[int]:
        """Return how many rows have each value."""
        counts = Counter(self.numbers)
        return [counts[number] for number in range(len(self.names))]


def annotations(rows: Sequence[Mapping[str, Any]], column: str = COLUMN, *, fewest: int = FEWEST) -> Annotations:
    """Return the rows' values of the column; raise DataError where the column is missing, has gaps, or has one value.

    Of a value of which there are fewer than `fewest` rows nothing can be learned: that is an error too.
    """
    if not any(column in row for row in rows):
        have = sorted({str(name) for row in rows[:100] for name in row})
        raise DataError(
            f"no row has the annotation column {column!r}{nearest(column, have)}; the columns are {', '.join(have)}."
        )
    gaps = [number for number, row in enumerate(rows, 1) if row.get(column) in EMPTY]
    if gaps:
        raise DataError(
            f"{len(gaps)} of {len(rows)} rows have no value in the annotation column {column!r} (the first is row {gaps[0]}): "
            "fill them, or leave those rows out."
        )
    said = [str(row[column]) for row in rows]
    names = sorted(set(said))
    if len(names) < 2:
        raise DataError(
            f"the annotation column {column!r} has one value in all {len(rows)} rows: to remove a feature takes rows that "
            "have it and rows that do not."
        )
    place = {name: number for number, name in enumerate(names)}
    found = Annotations(tuple(place[each] for each in said), tuple(names))
    if min(found.sizes) < fewest:
        raise DataError(
            f"the annotation column {column!r} has {len(names)} values in {len(rows)} rows, one of them in {min(found.sizes)} "
            f"rows only (at least {fewest}): join rare values, or give more rows."
        )
    return found


def load_annotated(source: str, column: str, *, twin: str = TWIN) -> list[Row]:
    """Return the rows of a file with what stands in `column` as their `feature`, and their `twin` where there is one.

    A twin is the same text with the feature swapped.  Raises DataError as `annotations` does.
    """
    rows = load(source)
    found = [record for _, record in records(source, "train")]
    annotations(found, column, fewest=1)
    kept = [{twin: record[twin]} if record.get(twin) else {} for record in found]
    return [{**row, COLUMN: record[column], **more} for row, record, more in zip(rows, found, kept, strict=True)]


def target_of(row: Mapping[str, Any]) -> str:
    """Return what the row is to be taken for: a classifier's label, a causal LM's response."""
    return str(row["label"] if "label" in row else row["response"])


def balanced(rows: Sequence[Mapping[str, Any]], found: Annotations, *, seed: int) -> list[int]:
    """Return as many row numbers as there are rows, drawn so that the annotation says nothing about the target.

    A row weighs p(target) p(value) / p(target, value) (reweighing, Kamiran and Calders, 2012): where a feature goes with a
    class, an adversary on the rows as they come would have the class removed with the feature.  Free texts, of which hardly
    two rows have the same, count as one target.
    """
    targets, weight = targets_of(rows), independent(rows, found)
    draw = np.random.default_rng([seed, len(rows)])
    # one draw at even distances along the weights, cell by cell: every cell and every row get their share within one
    places = (np.arange(len(rows)) + draw.random()) / len(rows)
    order = np.array(sorted(draw.permutation(len(rows)), key=lambda i: (targets[i], found.numbers[i])))
    ends = np.cumsum(weight[order]) / weight.sum()
    chosen: list[int] = draw.permutation(order[np.searchsorted(ends, places).clip(max=len(rows) - 1)]).tolist()
    return chosen


def independent(rows: Sequence[Mapping[str, Any]], found: Annotations) -> np.ndarray[Any, Any]:
    """Return the weight of each row [N] with which the annotation says nothing about the target, their mean about 1."""
    targets = targets_of(rows)
    of_target, of_value = Counter(targets), Counter(found.numbers)
    both = Counter(zip(targets, found.numbers, strict=True))
    cells = zip(targets, found.numbers, strict=True)
    return np.array([of_target[t] * of_value[a] / both[t, a] / len(rows) for t, a in cells])


def targets_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return each row's target; free texts, of which hardly two rows have the same, count as one."""
    targets = [target_of(row) for row in rows]
    return [""] * len(rows) if len(set(targets)) > len(rows) / 10 else targets
