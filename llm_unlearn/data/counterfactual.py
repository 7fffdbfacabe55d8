"""Rows that the model never saw, made from the rows to be forgotten: the stand-in for a holdout nobody has.

Each forget row's wording stays; what it tells changes.  The concept and the names it is about become words that occur nowhere in the
corpus (the same name the same word everywhere), unless kept rows tell of them too: then they become other known names.  Values that
kept rows also have (a trade, a year, a school) become other values of that kind.  What is known stays known and what is not stays
unknown; so a row's loss is near that of a row that was never trained on, which is where forgetting must stop.
"""

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_unlearn.data.invent import THOROUGH, TRIES, Inventor, number
from llm_unlearn.data.names import document_frequency, names, normalised, opens_sentence, parts, pieces, words
from llm_unlearn.data.sources import Row
from llm_unlearn.data.splits import content
from llm_unlearn.data.templates import Line, Slots, Wordings

LEAST_CHANGED = 0.9  # share of the forget rows that must come out changed in what they tell
COMMON_WORD = 0.05  # a word in more than this share of the rows carries grammar rather than facts
DROPPED = ("paraphrase", "wrong", "alternate", "fact")  # true only of the original


def synthetic_holdout(
    forget: Sequence[Row],
    retain: Sequence[Row],
    *,
    concept: str | None = None,
    terms: Sequence[str] = (),
    seed: int = 0,
    tokens: Callable[[str], int] | None = None,
) -> list[Row] | None:
    """Return one counterfactual row per forget row that could be changed, or None where fewer than nine in ten could.

    `retain` are all rows that are kept.  `tokens` says how many tokens a text takes; with it new words take as many as the old ones.
    Classifier rows have no counterfactual: None.  Deterministic in `seed`.
    """
    if not forget or any("label" in row for row in forget):
        return None
    made = _Maker.of(forget, retain, [term for term in (concept, *terms) if term], seed, tokens)
    known = {content(row) for rows in (forget, retain) for row in rows}
    done = [new for row in forget if (new := made.row(row)) is not None and content(new) not in known]
    return done if len(done) >= LEAST_CHANGED * len(forget) else None


@dataclass(frozen=True)
class _Maker:
    inventor: Inventor
    wordings: Wordings
    contexts: "_Contexts"
    frequency: Counter[str]  # of words as written, in how many rows
    kept: Counter[str]  # the same for kept rows
    subjects: frozenset[str]  # lower-cased words that become invented ones everywhere
    numbers: list[str]
    rows: int
    seed: int

    @classmethod
    def of(
        cls,
        forget: Sequence[Row],
        retain: Sequence[Row],
        terms: Sequence[str],
        seed: int,
        tokens: Callable[[str], int] | None,
    ) -> "_Maker":
        """Return the maker for a corpus."""
        gone, stay = [parts(row) for row in forget], [parts(row) for row in retain]
        kept = document_frequency(" ".join(text) for text in stay)
        lost = document_frequency(" ".join(text) for text in gone)
        every = kept + lost
        total = len(gone) + len(stay)
        rare = sorted(
            word.lower()
            for word, n in every.items()
            if word[0].isupper() and word.isalpha() and len(word) > 2 and n <= COMMON_WORD * total
        )
        concept = _concept_words(terms, lost, kept)
        wordings = Wordings([_line(text) for text in stay], [_line(text) for text in gone])
        asked = _asked(gone, concept, every, wordings)
        inventor = Inventor(vocabulary=Counter(word.lower() for word in every), pool=rare, seed=seed, tokens=tokens)
        for word in sorted(every, key=lambda word: (-every[word], word)):  # the concept as it is mostly written
            if word.lower() in concept:
                inventor.word(word, tries=THOROUGH * TRIES)
        for name in sorted(asked):
            if all(kept[word] for word in name):
                others = [other for other in asked[name] if all(kept[word] and word[0].isupper() for word in other)]
                inventor.reuse(name, others)
        return cls(
            inventor=inventor,
            wordings=wordings,
            contexts=_Contexts(text[1] for text in stay[:20_000]),
            frequency=every,
            kept=kept,
            subjects=concept | _subjects(gone, every, lost) | {word.lower() for name in asked for word in name},
            numbers=sorted(word for word in every if word.isdigit()),
            rows=total,
            seed=seed,
        )

    def row(self, row: Row) -> Row | None:
        """Return the counterfactual row; None where what it tells could not be changed."""
        prompt, response = parts(row)
        cut = pieces(prompt), pieces(response)
        slots = self.wordings.slots(_line((prompt, response)))
        swapped = self._by_slots(cut, slots) if slots else self._by_names(cut, bool(prompt))
        asked = {word.lower() for word in words(prompt)}
        told = [(old, new) for old, new in zip(cut[1], swapped[1], strict=True) if old != new]
        if not told or (prompt and all(old.lower() in asked for old, _ in told)):
            return None
        changed = {"prompt": _in_place(row.get("prompt"), swapped[0]), "response": "".join(swapped[1])}
        rest = {key: value for key, value in row.items() if key not in DROPPED}
        return {**rest, **changed, "id": f"synthetic-{row.get('id', '')}"}

    def _by_slots(self, cut: tuple[list[str], list[str]], slots: Slots) -> tuple[list[str], list[str]]:
        """Change what varies among the rows of the same wording: the answer's values, and the names asked about."""
        fillers = iter(slots.fillers)
        places = [[None if piece.isspace() else next(fillers) for piece in half] for half in cut]
        there = " ".join(sorted({p.lower() for half in cut for p in half if p.lower() in self.subjects}))
        named = any(piece.lower() in self.subjects for piece in cut[0] or cut[1])
        chosen: dict[str, str] = {}
        for half, column in zip((1, 0), (places[1], places[0]), strict=True):
            for piece, filler in zip(cut[half], column, strict=True):
                if piece.isalnum() and piece not in chosen and (filler is not None or piece.lower() in self.subjects):
                    chosen[piece] = self._value(piece, filler or Counter(), there, named)
        return [chosen.get(piece, piece) for piece in cut[0]], [chosen.get(piece, piece) for piece in cut[1]]

    def _value(self, piece: str, filler: Mapping[str, int], there: str, named: bool) -> str:
        """Return the new word for one varying place; the same fact in another wording gets the same one.

        Where a question names nothing (`named`), its number is what it asks about, and becomes one that the corpus doesn't have.
        """
        if piece.lower() in self.subjects:
            return self.inventor.word(piece, [word for word in filler if word.isalpha()])
        others = [word for word in filler if word != piece and word.isalnum() and word.isdigit() == piece.isdigit()]
        if others and (named if piece.isdigit() else self.kept[piece]):
            return min(others, key=lambda word: _hash(f"{self.seed} {there} {piece} {word}"))
        if piece.isdigit():
            return number(random.Random(f"{self.seed} {there} {piece}"), piece, self.numbers, avoid=not named)
        return self.inventor.word(piece, [word for word in filler if word.isalpha()])

    def _by_names(self, cut: tuple[list[str], list[str]], asked: bool) -> tuple[list[str], list[str]]:
        """Change names and numbers; in an answer also the words that carry its content.  Within a row a word changes one way."""
        there = "".join(cut[1])
        chosen: dict[str, str] = {}
        for half, told in zip(cut, (False, True), strict=True):
            for i, piece in enumerate(half):
                if piece in chosen or not piece.isalnum():
                    continue
                if piece.lower() in self.subjects:
                    chosen[piece] = self.inventor.word(piece)
                elif piece.isdigit():
                    chosen[piece] = number(random.Random(f"{self.seed} {piece}"), piece, self.numbers)
                elif asked and self._tells(piece) and (told or piece[0].isupper()) and not _opens(half, i):
                    chosen[piece] = self.contexts.other(half, i, f"{self.seed} {there} {piece}")
                else:
                    chosen[piece] = piece  # asked for in these words, so answered in them
        return [chosen.get(piece, piece) for piece in cut[0]], [chosen.get(piece, piece) for piece in cut[1]]

    def _tells(self, word: str) -> bool:
        return len(word) > 3 and self.frequency[word] <= COMMON_WORD * self.rows


def _opens(half: Sequence[str], place: int) -> bool:
    """Is the capital of the word at `place` only that of a sentence's beginning?"""
    return half[place][0].isupper() and opens_sentence(half[:place])


class _Contexts:
    """What stands between two words in kept answers."""

    def __init__(self, texts: Iterable[str]):
        self.between: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self.behind: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self.shaped: dict[str, Counter[str]] = defaultdict(Counter)
        for text in texts:
            cut = ["", *(piece for piece in pieces(text) if not piece.isspace()), ""]
            for before, word, after in zip(cut, cut[1:], cut[2:], strict=False):
                if len(word) > 3 and word.isalpha():
                    self.between[before, after][word] += 1
                    self.behind[before, _shape(word)][word] += 1
                    self.shaped[_shape(word)][word] += 1

    def other(self, cut: Sequence[str], place: int, key: str) -> str:
        """Return another word for the one at `place`: one seen between its neighbours, else behind the first, else of its ending."""
        word = cut[place]
        before = next((piece for piece in reversed(cut[:place]) if not piece.isspace()), "")
        after = next((piece for piece in cut[place + 1 :] if not piece.isspace()), "")
        for table in (self.between[before, after], self.behind[before, _shape(word)], self.shaped[_shape(word)]):
            others = [
                other for other in table if other.lower() != word.lower() and other[0].isupper() == word[0].isupper()
            ]
            if len(others) > 1:
                return min(others, key=lambda other: _hash(f"{key} {other}"))
        return word


def _shape(word: str) -> str:
    return ("A" if word[0].isupper() else "a") + word[-2:].lower()


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _line(text: tuple[str, str]) -> Line:
    prompt, response = (tuple(piece for piece in pieces(half) if not piece.isspace()) for half in text)
    return prompt, response


def _concept_words(terms: Sequence[str], lost: Mapping[str, int], kept: Mapping[str, int]) -> frozenset[str]:
    """Return the concept's words that are its own, lower case; all of its longer words where none is."""
    mine = {word for term in terms for word in words(term)}
    count = [Counter[str](), Counter[str]()]
    for table, into in ((lost, count[0]), (kept, count[1])):
        for word, n in table.items():
            into[normalised(word)] += n
    own = {word for word in mine if count[0][normalised(word)] >= max(1, count[1][normalised(word)])}
    return frozenset(word.lower() for word in own or {word for word in mine if len(word) > 3} or mine)


def _subjects(texts: Sequence[tuple[str, str]], every: Mapping[str, int], lost: Mapping[str, int]) -> frozenset[str]:
    """Return the words, lower case, of names that occur mostly in forget rows."""
    found = {word for text in texts for half in text for name in names(half, every) for word in name}
    return frozenset(
        word.lower() for word in found if _own(word, every, lost) and every[word] > 4 * every[word.lower()]
    )


def _asked(
    texts: Sequence[tuple[str, str]], concept: frozenset[str], every: Mapping[str, int], wordings: Wordings
) -> dict[tuple[str, ...], set[tuple[str, ...]]]:
    """Return the names that questions without the concept ask for, and plain texts begin with; with each the names that stand there in
    other rows.

    In a known wording these are the runs of varying words with capitals (so not "School" in "Zido School"): those of two words or
    more, else the only one.
    """
    found: dict[tuple[str, ...], set[tuple[str, ...]]] = defaultdict(set)
    for text in texts:
        line = _line(text)
        half = line[0] or line[1]
        if line[0] and concept & {word.lower() for word in half}:
            continue
        slots = wordings.slots(line)
        if slots:
            runs = _runs(half, slots, concept)
            long = [run for run in runs if len(run) > 1] or (runs if len(runs) == 1 and line[0] else [])
        else:
            long = [dict.fromkeys(name, -1) for name in names(text[0], every) if len(name) > 1]
        for run in long if line[0] else long[:1]:
            if all(every[word] > 4 * every[word.lower()] for word in run):
                found[tuple(run)].update(
                    tuple(row[at] for at in run.values()) for row in (slots.alike if slots else ())
                )
    return found


def _runs(half: Sequence[str], slots: Slots, concept: frozenset[str]) -> list[dict[str, int]]:
    """Return the runs of varying words with capitals, each word with its place, the concept's left out."""
    runs: list[dict[str, int]] = [{}]
    for place, (word, filler) in enumerate(zip(half, slots.fillers, strict=False)):
        if filler is not None and word[0].isupper() and word.lower() not in concept:
            runs[-1][word] = place
        else:
            runs.append({})
    return [run for run in runs if run]


def _own(word: str, every: Mapping[str, int], lost: Mapping[str, int]) -> bool:
    return lost[word] >= 0.8 * every[word]


def _in_place(prompt: Any, new: Sequence[str]) -> Any:
    """Return the new prompt in the form of the old: text, or messages (which `parts` joined by line breaks)."""
    if prompt is None or isinstance(prompt, str):
        return None if prompt is None else "".join(new)
    done, at = [], 0
    for message in prompt:
        count = len(pieces(message["content"]))
        done.append({**message, "content": "".join(new[at : at + count])})
        at += count + 1  # the line break
    return done
