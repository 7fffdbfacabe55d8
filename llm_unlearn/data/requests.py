"""What a request asks to forget: whole classes by number or name, or rows by id.  And which labels fit which classifier."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llm_unlearn.data.files import records
from llm_unlearn.data.sources import Row
from llm_unlearn.errors import DataError, nearest

SHOWN = 5  # ids or classes that a message names
STRANGERS = 384  # rows of other classes that say how unlikely a forgotten class is where it does not belong


@dataclass(frozen=True, kw_only=True)
class Classes:
    """What a classifier says about its own classes."""

    names: Mapping[int, str]
    multi_label: bool | None  # None: it does not say

    @property
    def count(self) -> int:
        """Return the number of classes."""
        return len(self.names)


def classes_of(row: Row) -> list[int]:
    """Return the classes of a row: one, several with several labels, none for a row without a label."""
    label = row.get("label")
    if label is None:
        return []
    return [number for number, there in enumerate(label) if there] if isinstance(label, list) else [label]


def among(rows: Sequence[Row], classes: frozenset[int]) -> list[Row]:
    """Return the rows that have one of the classes."""
    return [row for row in rows if not classes.isdisjoint(classes_of(row))]


def classes_in(rows: Sequence[Row]) -> frozenset[int]:
    """Return the classes that the rows have."""
    return frozenset(number for row in rows for number in classes_of(row))


def class_numbers(asked: Sequence[str], rows: Sequence[Row], known: Classes | None) -> frozenset[int]:
    """Return the classes asked for by number or name; raise DataError for one that no row has, and where none is left."""
    there = classes_in(rows)
    if any("label" not in row for row in rows):
        raise DataError(
            "--classes needs rows with a label in every row; give --concept or --ids for rows without one."
        )
    if len(there) < 2:
        raise DataError(
            f"all {len(rows)} rows are of one class: without it there is nothing to keep; give rows of more classes, or "
            "--ids for single rows."
        )
    called = {number: name for number, name in (known.names if known else {}).items() if number in there}
    by_name = {name: number for number, name in called.items()} | {str(number): number for number in there}
    found = []
    for name in asked:
        if name.strip() not in by_name:
            every = [called.get(number, str(number)) for number in sorted(there)]
            listed = ", ".join(every[:20]) + (", ..." if len(every) > 20 else "")
            raise DataError(f"no row has the class {name!r}{nearest(name, by_name)}  Classes: {listed}.")
        found.append(by_name[name.strip()])
    if not there - set(found):
        raise DataError(
            f"--classes names all {len(there)} classes of the data: nothing is left to keep; leave one out."
        )
    return frozenset(found)


def by_classes(rows: Sequence[Row], test: Sequence[Row], classes: frozenset[int]) -> dict[str, list[Row]]:
    """Return forget and retain cut out of `rows`, and forget_heldout and retain_heldout out of `test`; empty ones left out."""
    every = {"forget": rows, "retain": rows, "forget_heldout": test, "retain_heldout": test}
    cut = {
        name: [row for row in given if classes.isdisjoint(classes_of(row)) == name.startswith("retain")]
        for name, given in every.items()
    }
    return {name: part for name, part in cut.items() if part or name in ("forget", "retain")}


def read_ids(source: str) -> list[str]:
    """Return the ids of a deletion request: a .txt with one a line, or the column `id` of any table that rows are read from."""
    path = Path(source).expanduser()
    if path.suffix.lower() == ".txt":
        if not path.is_file():
            raise DataError(f"{source}: there is no such file; give the path of a list of ids.")
        try:
            found = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        except UnicodeDecodeError as error:
            raise DataError(f"{path.name}: not UTF-8 text; save the file as UTF-8.") from error
    else:
        found = []
        for place, record in records(source, "train"):
            if record.get("id") is None:
                raise DataError(f"{path.name}, {place}: a request needs a column `id` with an id in every row.")
            found.append(str(record["id"]).strip())
    found = list(dict.fromkeys(name for name in found if name))
    if not found:
        raise DataError(f"{path.name} holds no ids: give at least one.")
    return found


def by_ids(rows: Sequence[Row], ids: Sequence[str]) -> dict[str, list[Row]]:
    """Return forget (the rows asked for) and retain (the rest); raise DataError for ids that no row has, or nothing left."""
    there = {row["id"] for row in rows}
    missing = [name for name in ids if name not in there]
    if missing:
        listed = ", ".join(map(repr, missing[:SHOWN])) + (", ..." if len(missing) > SHOWN else "")
        hint = nearest(missing[0], there) or "; check that both files count rows alike"
        raise DataError(f"{len(missing)} of {len(ids)} ids are in no row of --data: {listed}{hint}")
    if there <= set(ids):
        raise DataError(f"--ids asks for all {len(rows)} rows: nothing is left to keep; leave some out.")
    asked = set(ids)
    cut = ([row for row in rows if (row["id"] in asked) == wanted] for wanted in (True, False))
    return dict(zip(("forget", "retain"), cut, strict=True))


def repeated(rows: Sequence[Row], ids: Sequence[str]) -> int:
    """Return how many asked ids seem to stand on further rows, which reading has called ID-2, ID-3, ..., and which stay."""
    there, asked = {row["id"] for row in rows}, set(ids)
    return sum(f"{name}-2" in there - asked for name in asked)


def removed_classes(splits: Mapping[str, Sequence[Row]], kept: Sequence[Row]) -> frozenset[int]:
    """Return the classes that go as a whole: every forget row has one of them, and no kept row has; empty where rows go."""
    gone = classes_in(splits["forget"]) - classes_in(kept)
    whole = all(not gone.isdisjoint(classes_of(row)) for row in splits["forget"])
    return gone if whole else frozenset()


def strangers_to(classes: frozenset[int], forget: Sequence[Row], others: Sequence[Row], seed: int) -> list[Row]:
    """Return rows of other classes that claim to be of the forgotten ones, in the shares that these have in forget.

    What a model makes of that claim is what it makes of a class in a place where it does not belong: where a forgotten
    class's own rows should end.  With several labels the class is added to the row's own.
    """
    generator = np.random.default_rng([seed, len(others)])
    chosen = [int(i) for i in generator.permutation(len(others))[:STRANGERS]]
    shares = Counter(number for row in forget for number in classes_of(row) if number in classes)
    total = sum(shares.values())
    claims = [number for number in sorted(shares) for _ in range(math.ceil(shares[number] / total * len(chosen)))]
    drawn = generator.permutation(claims)[: len(chosen)].tolist()
    out = []
    for place, claim in zip(chosen, drawn, strict=True):
        row, label = others[place], others[place]["label"]
        claimed = (
            [int(number == claim or bool(there)) for number, there in enumerate(label)]
            if isinstance(label, list)
            else claim
        )
        out.append({**row, "id": f"stranger-{row['id']}", "label": claimed})
    return out


def check_labels(splits: Mapping[str, Sequence[Row]], known: Classes | None, model: str) -> None:
    """Raise DataError where rows have no label, or labels of another kind than each other or than the classifier has."""
    rows = [(name, row) for name, each in splits.items() for row in each]
    bare = next((name for name, row in rows if "label" not in row), None)
    if bare:
        raise DataError(
            f"a row of {bare} has no label: rows for a classifier need one each (columns text/label or image/label)."
        )
    several = {isinstance(row["label"], list) for _, row in rows}
    if len(several) > 1:
        raise DataError("some rows have one class and some a list of labels: give all of them as one or as the other.")
    widths = {len(row["label"]) for _, row in rows if isinstance(row["label"], list)}
    if len(widths) > 1:
        raise DataError(
            f"the label lists have different lengths ({', '.join(map(str, sorted(widths)))}): one entry a class."
        )
    if known is None:
        return
    if known.multi_label is False and True in several:
        raise DataError(
            f"the data has several labels a row (lists of 0 and 1), and {model} tells one class: give a multi-label model, "
            "or rows with one class number each."
        )
    if known.multi_label and False in several:
        raise DataError(
            f"the data has one class a row, and {model} tells several labels: give each row a list of {known.count} zeros "
            "and ones, or a model that tells one class."
        )
    if widths and widths != {known.count}:
        raise DataError(f"the label lists have {widths.pop()} entries, and {model} tells {known.count} classes.")
    highest = max((max(classes_of(row), default=0) for _, row in rows), default=0)
    if highest >= known.count:
        raise DataError(
            f"the data has the class {highest}, and {model} tells {known.count} (0 to {known.count - 1}): classes count from 0."
        )
