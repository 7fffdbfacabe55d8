"""Which rows carry a concept, told from a few example rows: by the words that examples share, or by the model's own states.

Texts: a word that at least three examples say counts log(share of examples that say it / share of all rows); a row's score is
the sum over its words.  Where examples share no word, and of pictures, the score is the distance from the plane of the
concept's vector in the model's states (`bank.py`), which refuses a vector that is no better than chance.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from llm_unlearn.concepts.bank import LEAST, build_bank
from llm_unlearn.concepts.states import pooled_states
from llm_unlearn.data.names import parts
from llm_unlearn.data.poison import STOP_WORDS, words_of
from llm_unlearn.data.splits import content
from llm_unlearn.errors import DataError
from llm_unlearn.tasks import Row, Task, Texts

SAID = 3  # examples that say a word before it counts: a word of one or two is their own
PASSED = 0.2  # of the examples, each scored without itself, fall below the line; measured on three topics of AG News
NEGATIVES = 512


@dataclass(frozen=True, eq=False)
class Found:
    """Each row's score and the line above which it carries the concept."""

    scores: tuple[float, ...]
    line: float
    found: tuple[bool, ...]  # the examples are always among them
    words: tuple[str, ...]  # that count, the most telling first; none where states tell

    @property
    def count(self) -> int:
        """Return how many rows carry it."""
        return sum(self.found)


def like_examples(
    model: nn.Module, task: Task, rows: Sequence[Row], examples: Sequence[Row], others: Sequence[Row] = ()
) -> Found:
    """Return which of the rows carry what the examples share; `others` are rows to tell it from beside them.

    Raises DataError for too few examples, and where neither words nor states tell them apart.
    """
    own = {content(row) for row in examples}
    if len(own) < LEAST:
        raise DataError(
            f"{len(own)} different example rows are too few to tell a concept by; give at least {LEAST} (twenty serve better)."
        )
    if isinstance(task, Texts) and (found := _by_words(rows, examples, others)) is not None:
        return found
    against = [row for row in (*rows, *others) if content(row) not in own][:NEGATIVES]
    (concept,) = build_bank(model, task, {"examples": examples}, against).concepts
    states = pooled_states(model, task, rows, [concept.layer])[concept.layer]
    scores = concept.scores(states).tolist()
    return Found(tuple(scores), 0.0, _marked(rows, scores, 0.0, own), ())


def _by_words(rows: Sequence[Row], examples: Sequence[Row], others: Sequence[Row]) -> Found | None:
    """Return the carriers by the words that examples share, None where these share too few."""
    said = [_words(row) for row in rows]
    every = Counter(word for words in (*said, *map(_words, others)) for word in words)
    total = len(rows) + len(others)
    mine = [_words(row) for row in examples]
    weights = _weights(mine, every, total)
    without = [_score(words, _weights([*mine[:i], *mine[i + 1 :]], every, total)) for i, words in enumerate(mine)]
    line = float(np.quantile(without, PASSED))
    if line <= 0:  # one in five examples shares nothing with the others
        return None
    scores = [_score(words, weights) for words in said]
    told = tuple(sorted(weights, key=lambda word: (-weights[word], word)))
    return Found(tuple(scores), line, _marked(rows, scores, line, {content(row) for row in examples}), told)


def _marked(rows: Sequence[Row], scores: Sequence[float], line: float, own: set[str]) -> tuple[bool, ...]:
    return tuple(score >= line or content(row) in own for row, score in zip(rows, scores, strict=True))


def _words(row: Row) -> set[str]:
    return {word for text in parts(row) for word in words_of(text)} - STOP_WORDS


def _weights(examples: Sequence[set[str]], every: Counter[str], total: int) -> dict[str, float]:
    """Return the words that at least three examples say more often than rows do, in nats; words no row says are left out."""
    counts = Counter(word for words in examples for word in words)
    found = {
        word: float(np.log(count / len(examples) / (every[word] / total)))
        for word, count in counts.items()
        if count >= SAID and every[word]
    }
    return {word: weight for word, weight in found.items() if weight > 0}


def _score(words: set[str], weights: dict[str, float]) -> float:
    return sum(weights.get(word, 0.0) for word in sorted(words))
