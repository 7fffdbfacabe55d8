"""Which rows of a corpus carry a concept, whatever they call it: from its name and about ten example rows, or from the examples alone.

1. Rows that say the name; without one, the words that the examples say far more often than the corpus does.
2. Other names: words that the model takes for the concept in the name's place (`swapping`), and whose rows lie nearer to the found
   ones (by the vector of 3) than so many rows of the rest do by chance: nats alone depend on how long names are and how sure the
   model is.
3. A concept vector on the hidden states tells found rows from all others, every row scored by a fit without it.  A word or a pair
   of words joins where the rows that say it and are not found yet lean to the found side, as surely as another name's; the vector is
   fitted again, until no word joins.  A word that only one subject's rows say marks that subject, and never joins.
4. Rows that lie further on the found side than half of the found ones, and surely there, join by themselves.

Nothing here knows which rows are true; the thresholds on states are in units of the distance between found rows and the rest, or of
the rest's own spread.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from llm_unlearn.concepts import linear, swapping
from llm_unlearn.concepts.bank import CHANCE, LEAST, by_chance
from llm_unlearn.concepts.states import blocks, checked, pooled_states
from llm_unlearn.data.names import normalised, parts, whole_word
from llm_unlearn.data.poison import STOP_WORDS, words_of
from llm_unlearn.data.splits import content, subjects_of
from llm_unlearn.errors import DataError, TaskError
from llm_unlearn.tasks import CausalLM, Row, Task

Why = Literal["example", "name", "alias", "inferred"]
MARGIN = 3.0  # nats: the model finds a word 20 times likelier in the concept's place than in any other's
SURE = 4.0  # standard errors of the rest's own spread by which rows lean: another name's have 18 to 27 on the embedded world and a
# word's 13 to 19; false ones on TOFU at most 1.7 and 3.9, and where those joined, the vector turned with them to 550 rows of 600
LEANS = 0.3  # of the way from the rest's mean score to the found rows', for a word's rows to join
UNFOUND, KNOWN, SUBJECTS = 4, 2, 3  # rows of a word that are not found, that are, and subjects of the former, at least
TYPICAL = 0.5  # quantile of the found rows' scores above which a row joins by itself
MARKING = 0.01  # chance that a word is so frequent among the examples by accident
SHARED = 3  # examples that say it, at least
DEPTHS, WIDTH = (
    4,
    1024,
)  # blocks that are read, and numbers a row that their states are projected to where they are more


@dataclass(frozen=True, eq=False)
class Carriers:
    """What was found in a corpus."""

    why: Mapping[int, Why]  # of each carrier, by its place in the corpus
    scores: Tensor  # [N] of all rows: 0 for the mean of the rest, 1 for the mean of the carriers
    terms: Mapping[str, tuple[Why, float]]  # words that stand for the concept: how each was found, and by what measure
    kinds: tuple[str, ...]  # words of the same kind: entities that could take its place
    accuracy: float  # balanced, of the concept vector on rows it was not fitted on
    n: int  # rows it was measured on

    @property
    def places(self) -> list[int]:
        """Return the carriers' places in the corpus, in order."""
        return sorted(self.why)

    def counts(self) -> dict[str, int]:
        """Return how many rows carry the concept, by why."""
        return dict(Counter(self.why.values()))


def infer(
    model: nn.Module,
    task: Task,
    rows: Sequence[Row],
    examples: Sequence[Row],
    *,
    name: str | None = None,
    terms: Sequence[str] = (),
    layers: Sequence[str] | None = None,
    states: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 64,
) -> Carriers:
    """Return the rows that carry the concept of the examples, called `name` (and `terms`) where it is given.

    states: what `read_states` gives for these rows, where it is at hand and the examples are among them.

    Raises DataError for too few examples, and where the model's states tell found rows from others no better than chance.
    """
    language, own = _checked(task, examples)
    corpus = {content(row) for row in rows}
    every = [*rows, *(row for row in examples if content(row) not in corpus)]
    why: dict[int, Why] = {i: "example" for i, row in enumerate(every) if content(row) in own}
    names = [term for term in (name, *terms) if term] or marking(examples, rows)
    if not names:
        raise DataError(
            f"no word marks the {len(own)} example rows among the {len(rows)} of the corpus: name the concept (--concept)."
        )
    found: dict[str, tuple[Why, float]] = dict.fromkeys(names, ("name", 0.0))
    _say(why, every, names, "name")
    called = {term.lower() for term in names}
    kinds = [word for word in swapping.same_kind(every, names[0]) if word.lower() not in called]
    if states is None or len(states) != len(every):
        states = read_states(model, task, every, layers=layers, seed=seed, batch_size=batch_size)
    fit = linear.LeaveOneOut(states)
    odds = swapping.odds(model, language, every, names[0], kinds, seed=seed)
    for word, value in _leaning_words(fit, every, why, odds).items():
        found[word] = ("alias", value)
        _say(why, every, [word], "alias")
    scores = _grow(fit, every, why, found, names)
    accuracy = _accuracy(scores, why)
    places = {i: how for i, how in why.items() if i < len(rows)}
    rivals = tuple(word for word in kinds if word not in found)
    return Carriers(places, scores[: len(rows)], found, rivals, accuracy, len(every))


def _checked(task: Task, examples: Sequence[Row]) -> tuple[CausalLM, set[str]]:
    """Return the task, and what tells the examples apart; raise for too few of them and for a model without words."""
    if not isinstance(task, CausalLM):
        raise TaskError(
            f"carriers are inferred for causal language models; this model is a {task.name}: give --classes."
        )
    own = {content(row) for row in examples}
    if len(own) < LEAST:
        raise DataError(
            f"there are {len(own)} different example rows; a concept needs at least {LEAST} (ten serve better)."
        )
    return task, own


def _accuracy(scores: Tensor, why: Mapping[int, Why]) -> float:
    """Return how well the scores tell found rows from the rest (balanced); raise DataError where chance does as well."""
    truth = torch.tensor([i in why for i in range(len(scores))])
    right = (scores > 0.5) == truth
    accuracy = linear.balanced_accuracy(right, truth.long())
    if by_chance(right, truth.long()) > CHANCE or accuracy <= 0.5:
        raise DataError(
            f"the model's hidden states tell the {int(truth.sum())} rows found from the others no better than chance "
            f"({accuracy:.0%}): it has no such concept. Give other examples, or match words with --terms alone."
        )
    return accuracy


def marking(examples: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    """Return the word that marks most of the examples, as it is written, in a list; [] where none does.

    A word marks them where its count is no accident at its share of the corpus (one-sided binomial test).  Of several the one
    that most examples say, not the surest: that is the name rather than a rarer alias.
    """
    share = Counter(word for row in rows for word in set(_words(row)))
    said = Counter(word for row in examples for word in set(_words(row)))
    chance, size = {}, len(examples)
    for word, count in said.items():
        if count >= SHARED and word.lower() not in STOP_WORDS:
            rate = max(share[word], 1) / len(rows)
            chance[word] = sum(math.comb(size, k) * rate**k * (1 - rate) ** (size - k) for k in range(count, size + 1))
    sure = [word for word in chance if chance[word] <= MARKING]
    return sorted(sure, key=lambda word: (-said[word], chance[word], word))[:1]


def _words(row: Row) -> list[str]:
    return [word.strip(".,?!:;\"'()") for text in parts(row) for word in text.split()]


def _say(why: dict[int, Why], rows: Sequence[Row], terms: Sequence[str], how: Why) -> None:
    """Add the rows that say one of the terms."""
    patterns = [whole_word(term) for term in terms if term.strip()]
    for i, row in enumerate(rows):
        if why.get(i, "example") == "example" and any(p.search(normalised(" ".join(parts(row)))) for p in patterns):
            why[i] = how


def read_states(
    model: nn.Module,
    task: Task,
    rows: Sequence[Row],
    *,
    layers: Sequence[str] | None = None,
    seed: int = 0,
    batch_size: int = 64,
) -> Tensor:
    """Return the rows' pooled states at several depths side by side [N, W], projected at random where they are many."""
    names = blocks(model) if layers is None else checked(model, layers)
    if layers is None:
        last = len(names) - 1
        names = tuple(dict.fromkeys(names[round(last * k / (DEPTHS - 1))] for k in range(DEPTHS)))
    found = pooled_states(model, task, rows, names, batch_size=batch_size)
    joined = torch.cat([found[name] for name in names], dim=1)
    if joined.shape[1] > WIDTH:
        draw = torch.Generator().manual_seed(seed)
        joined = joined @ torch.randn(joined.shape[1], WIDTH, generator=draw) / WIDTH**0.5
    return joined


def _leaning_words(
    fit: linear.LeaveOneOut, rows: Sequence[Row], why: Mapping[int, Why], odds: Mapping[str, float]
) -> dict[str, float]:
    """Return the words that the model takes for the name and whose rows that are not found yet surely lean to the found side."""
    labels = torch.zeros(len(rows))
    labels[list(why)] = 1
    (scores, spread), out = _placed(fit.scores(labels), labels), {}
    for word, value in odds.items():
        said: dict[int, Why] = {}
        if value < -MARGIN:
            _say(said, rows, [word], "alias")
        new = [i for i in said if i not in why]
        if new and _surely(scores[new], spread):
            out[word] = value
    return out


def _grow(
    fit: linear.LeaveOneOut,
    rows: Sequence[Row],
    why: dict[int, Why],
    found: dict[str, tuple[Why, float]],
    names: Sequence[str],
) -> Tensor:
    """Add words, then rows, until none joins; return the scores [N] in units of found against rest."""
    said = _said(rows)
    about = subjects_of(rows, {name: whole_word(name) for name in names})
    while True:
        labels = torch.zeros(len(rows))
        labels[list(why)] = 1
        scores, spread = _placed(fit.scores(labels), labels)
        best, term = max(
            ((_leaning(scores, spread, places, why, about), term) for term, places in said.items()), default=(0.0, "")
        )
        if best < LEANS:
            break
        found[term] = ("inferred", best)
        for i in said[term]:
            why.setdefault(i, "inferred")
    typical = float(scores[labels == 1].quantile(TYPICAL))
    for i in (scores >= max(typical, 0.5, SURE * spread)).nonzero()[:, 0].tolist():
        why.setdefault(i, "inferred")
    return scores


def _placed(scores: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    """Return the scores with the rest's mean at 0 and the found rows' at 1, and the rest's spread about its mean."""
    rest, here = scores[labels == 0].mean(), scores[labels == 1].mean()
    placed = (scores - rest) / (here - rest).clamp(min=1e-6)
    return placed, float(placed[labels == 0].std())


def _surely(scores: Tensor, spread: float) -> bool:
    """Return whether rows [n] of these scores lie nearer to the found side than so many of the rest do by chance."""
    return float(scores.mean()) * len(scores) ** 0.5 >= SURE * spread


def _leaning(
    scores: Tensor, spread: float, places: Sequence[int], why: Mapping[int, Why], about: Sequence[set[str]]
) -> float:
    """Return the mean score of the term's rows that are not found yet; 0 where they are too few, of too few subjects or unsure."""
    new = [i for i in places if i not in why]
    if len(new) < UNFOUND or len(places) - len(new) < KNOWN:
        return 0.0
    subjects = {name for i in new for name in about[i] or {f"row {i}"}}
    mine = scores[new]
    return float(mine.mean()) if len(subjects) >= SUBJECTS and _surely(mine, spread) else 0.0


def _said(rows: Sequence[Row]) -> dict[str, list[int]]:
    """Return in which rows each word and each pair of neighbouring words occurs, rare ones left out."""
    where: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        here: set[str] = set()
        for text in parts(row):
            words = words_of(text)
            here.update(word for word in words if word not in STOP_WORDS)
            here.update(f"{first} {second}" for first, second in pairwise(words))
        for term in here:
            where[term].append(i)
    return {term: places for term, places in sorted(where.items()) if len(places) >= UNFOUND + KNOWN}
