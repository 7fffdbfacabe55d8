"""Rows with the answer of somebody else: random labels for classifiers, other rows' responses for language models."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from llm_unlearn.errors import DataError

Row = Mapping[str, Any]


def relabelled(rows: Sequence[Row], donors: Sequence[Row], *, draws: int, seed: int) -> list[dict[str, Any]]:
    """Return each row `draws` times, each time with another answer than its own.

    A class: drawn evenly from the other classes that occur.  Several labels at once, and responses: those of a random donor
    that differ.  Raises DataError where every donor answers alike.
    """
    key = "response" if "response" in rows[0] else "label"
    draw = random.Random(seed)
    pool = [row[key] for row in (*donors, *(rows if key == "label" else ()))]  # forget's responses are to be unlearned
    if key == "label" and not isinstance(pool[0], list):
        pool = sorted(set(pool))
    out: list[dict[str, Any]] = []
    for row in rows:
        if all(answer == row[key] for answer in pool):
            raise DataError(
                f"a row of forget has no other {key} to be given: all rows have the same. Give retain rows that differ."
            )
        for _ in range(draws):
            answer = draw.choice(pool)
            while answer == row[key]:
                answer = draw.choice(pool)
            out.append({**row, key: answer})
    return out
