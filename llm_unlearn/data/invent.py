"""New words of the corpus' own make: the syllables of its rare words, put together as they never were."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

VOWELS = frozenset("aeiouyàáâãäåæèéêëìíîïòóôõöøùúûüœ")
TRIES = 400
THOROUGH = 10  # times as many for the concept: its tokens are in most rows
LEAST_KNOWN = 4  # fewer names of a kind are no choice


@dataclass(frozen=True, kw_only=True)
class Inventor:
    """Maps words to words that occur nowhere in the corpus; the same word always to the same one (deterministic in seed)."""

    vocabulary: Mapping[str, int]  # lower-cased words of the corpus: how often each occurs
    pool: Sequence[str]  # rare words to take syllables from, lower case
    seed: int
    tokens: Callable[[str], int] | None = (
        None  # how many tokens a word takes, where a tokenizer is at hand: new words take as many
    )
    made: dict[str, str] = field(default_factory=dict)  # lower-cased original -> new word

    def reuse(self, name: Sequence[str], others: Sequence[Sequence[str]]) -> None:
        """Map a name, word by word, to another known name of as many words (where there are enough of them), not to new words."""
        key = [word.lower() for word in name]
        taken = {*key, *self.made.values()}
        free = sorted({tuple(word.lower() for word in other) for other in others})
        free = [other for other in free if len(other) == len(key) and not taken & set(other)]
        if len(free) < LEAST_KNOWN or any(word in self.made for word in key):
            return
        for word, new in zip(key, random.Random(f"{self.seed} {key}").choice(free), strict=True):
            self.made[word] = new

    def word(self, original: str, like: Sequence[str] = (), *, tries: int = TRIES) -> str:
        """Return the new word for `original`, in its case; `like` are words of its kind, whose syllables are preferred."""
        key = original.lower()
        if key not in self.made:
            self.made[key] = self._new(key, [word.lower() for word in like], original, tries)
        return _cased(self.made[key], original)

    def _new(self, key: str, like: Sequence[str], case: str, tries: int) -> str:
        draw = random.Random(f"{self.seed} {key}")
        taken = set(self.made.values())
        size = self.tokens(" " + case) if self.tokens else 0
        best, least = "", float("inf")
        for attempt in range(tries):
            source = like if len(set(like)) >= 4 and attempt < tries // 2 else self.pool
            made = _splice(draw, source)
            if not made or made in self.vocabulary or made in taken or made == key or not made.isalpha():
                continue
            cost = abs(len(made) - len(key)) + 0.25 * (_pattern(made) != _pattern(key))
            if self.tokens:
                cost += 10 * abs(self.tokens(" " + _cased(made, case)) - size)
            if cost < least:
                best, least = made, cost
            if least == 0:
                break
        while (
            not best or best in self.vocabulary or best in taken
        ):  # a corpus of hardly any names: other letters, then more of them
            best = _respelled(draw, key) + "".join(
                draw.choice("aeiou") + draw.choice("lmnrt") for _ in range(draw.randint(0, 2))
            )
        return best


def _splice(draw: random.Random, source: Sequence[str]) -> str:
    """Return the head of one word and the tail of another, joined where a syllable begins; "" where these two have none."""
    if len(source) < 2:
        return ""
    head, tail = draw.choice(source), draw.choice(source)
    starts, ends = _cuts(head), _cuts(tail)
    return head[: draw.choice(starts)] + tail[draw.choice(ends) :] if starts and ends else ""


def _cuts(word: str) -> list[int]:
    """Return the places where a syllable begins: before a consonant that a vowel follows."""
    return [i for i in range(1, len(word) - 1) if word[i] not in VOWELS and word[i + 1] in VOWELS]


def _pattern(word: str) -> str:
    return "".join("v" if sign in VOWELS else "c" for sign in word)


def _respelled(draw: random.Random, word: str) -> str:
    """Return the word with other vowels for its vowels and other consonants for its consonants."""
    return "".join(draw.choice("aeiou") if sign in VOWELS else draw.choice("bdfgklmnprstvz") for sign in word)


def _cased(word: str, original: str) -> str:
    if original.isupper() and len(original) > 1:
        return word.upper()
    return word.capitalize() if original[:1].isupper() else word


def number(draw: random.Random, original: str, seen: Sequence[str], *, avoid: bool = False) -> str:
    """Return another number of as many digits, in the range of those seen in the corpus; with `avoid` none of those, if it can be."""
    alike = sorted({int(value) for value in seen if len(value) == len(original)})
    lowest = 10 ** (len(original) - 1) if len(original) > 1 else 0
    low, high = (alike[0], alike[-1]) if len(alike) > 1 else (lowest, 10 ** len(original) - 1)
    taken = {*alike, int(original)} if avoid else {int(original)}
    for _ in range(200):
        drawn = draw.randint(low, high)
        if drawn not in taken:
            return str(drawn).zfill(len(original))
    return number(draw, original, seen) if avoid else original
