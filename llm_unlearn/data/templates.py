"""What varies from row to row and what is the wording: rows laid over the rows of the corpus that are worded alike."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST_ALIKE = 0.5  # share of the places where two rows of one wording have the same word
LEAST_ROWS = 3  # fewer rows of a wording say nothing about what varies
MOST_ROWS = 96  # the best matching ones are looked at
FIXED = 0.5  # a word that more than this share of them has is wording
LARGEST = 4000  # rows of one length that are compared, at most

Line = tuple[tuple[str, ...], tuple[str, ...]]  # the words and signs of a prompt and of a response


@dataclass(frozen=True)
class Slots:
    """One row's places, the prompt's first: None where the word belongs to the wording, else what stands there in kept rows."""

    fillers: list[Counter[str] | None]
    alike: list[tuple[str, ...]]  # the kept rows of the same wording, word by word


class Wordings:
    """The kept and forgotten rows by length, ready to be compared."""

    def __init__(self, kept: Sequence[Line], forgotten: Sequence[Line]):
        self.ids: dict[str, int] = {}
        self.known: dict[Line, Slots | None] = {}
        self.tables: dict[tuple[int, int], tuple[NDArray[np.int32], NDArray[np.bool_], list[Line]]] = {}
        by_length: dict[tuple[int, int], dict[Line, bool]] = defaultdict(dict)
        for lines, keep in ((kept, True), (forgotten, False)):
            for line in lines:
                by_length[len(line[0]), len(line[1])].setdefault(line, keep)
        for length, table in by_length.items():
            step = -(-len(table) // LARGEST)
            some = list(table)[::step]
            numbers = np.array(
                [[self._number(word) for half in line for word in half] for line in some], dtype=np.int32
            )
            self.tables[length] = (numbers, np.array([table[line] for line in some]), some)

    def _number(self, word: str) -> int:
        return self.ids.setdefault(word, len(self.ids))

    def slots(self, line: Line) -> Slots | None:
        """Return what varies in a row, or None where too few rows are worded like it."""
        if line not in self.known:
            self.known[line] = self._slots(line)
        return self.known[line]

    def _slots(self, line: Line) -> Slots | None:
        if (len(line[0]), len(line[1])) not in self.tables:
            return None
        numbers, kept, lines = self.tables[len(line[0]), len(line[1])]
        mine = np.array([self._number(word) for half in line for word in half], dtype=np.int32)  # [W]
        alike = (numbers == mine).mean(1)  # [R]
        alike[(numbers == mine).all(1)] = 0.0  # the row itself
        best = _alike(np.where(kept, alike, 0.0))  # kept rows say best what varies: forget rows may share the concept
        if len(best) < LEAST_ROWS:
            best = _alike(alike)
        if len(best) < LEAST_ROWS:
            return None
        same = (numbers[best] == mine).mean(0)  # [W]
        others = [(*lines[i][0], *lines[i][1]) for i in best if kept[i]]
        fillers = [None if share > FIXED else Counter(row[at] for row in others) for at, share in enumerate(same)]
        return Slots(fillers, others)


def _alike(share: NDArray[np.floating]) -> NDArray[np.intp]:
    """Return the rows most alike, best first: at least half of the words, and not much less than the best of them."""
    best = np.argsort(-share, kind="stable")[:MOST_ROWS]
    chosen: NDArray[np.intp] = best[share[best] >= max(LEAST_ALIKE, share[best[0]] - 0.25)]
    return chosen
