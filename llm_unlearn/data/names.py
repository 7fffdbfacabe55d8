"""Words and names in text: where a term occurs as a whole word, which capitalised names a row is about, how often words occur."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

PIECE = re.compile(
    r"[^\W\d_]+|\d+|\s+|.", re.DOTALL
)  # a word, a number, blanks, or one other sign; joined they are the text
UNSPACED = (
    "CJK",
    "HIRAGANA",
    "KATAKANA",
    "HANGUL",
    "THAI",
    "LAO",
    "KHMER",
    "MYANMAR",
)  # words run together, or carry endings
SENTENCE_END = frozenset('.?!:"“”\n')
_OPENERS = (
    "a after all also an and any are as at because before both but by can could did do does each even every first for from give had "
    "has have he her here his how i if in into is it its like many maybe more most much my name no none not now of on once one only "
    "or other our over please she since so some still such tell that the their then there these they this those though through to "
    "until upon very was we well were what when where which while who whom whose why will with would yes yet you your"
)
OPENERS = frozenset(re.findall(r"\w+", _OPENERS))  # written with a capital at the start of a sentence, and no names


def pieces(text: str) -> list[str]:
    """Return the text cut into words, numbers, blanks and single signs; joined they are the text again."""
    return PIECE.findall(text)


def parts(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return what a row asks and what it answers, as text; messages are joined by line breaks, pictures have neither."""
    if "label" in row:
        return "", str(row.get("text", ""))
    prompt = row.get("prompt") or ""
    if not isinstance(prompt, str):
        prompt = "\n".join(message["content"] for message in prompt)
    return prompt, row["response"]


@lru_cache(maxsize=100_000)
def normalised(text: str) -> str:
    """Return the text as two people would call it the same: Unicode NFKC, case folded, plain apostrophes, single blanks."""
    plain = unicodedata.normalize("NFKC", text).casefold().replace("’", "'").replace("‘", "'")
    return " ".join(unicodedata.normalize("NFKC", plain).split())


def whole_word(term: str) -> re.Pattern[str]:
    """Return the pattern that finds `term` as whole words in `normalised` text (so in "Quillmere's", not in "Quillmeres").

    Scripts that put no blanks between words (Chinese, Japanese, Thai, ...) have no whole words: there any occurrence counts.
    """
    plain = normalised(term)
    before, after = (
        "" if _unspaced(edge) else boundary for edge, boundary in ((plain[0], r"(?<!\w)"), (plain[-1], r"(?!\w)"))
    )
    return re.compile(before + r"\s+".join(map(re.escape, plain.split())) + after)


def _unspaced(sign: str) -> bool:
    return unicodedata.name(sign, "").startswith(UNSPACED)


def words(text: str) -> list[str]:
    """Return the words and numbers of the text, as written."""
    return [piece for piece in pieces(text) if piece[0].isalnum()]


def document_frequency(texts: Iterable[str]) -> Counter[str]:
    """Return in how many of the texts each word occurs, as written."""
    return Counter(word for text in texts for word in set(words(text)))


def opens_sentence(before: Sequence[str]) -> bool:
    """Does the piece behind `before` begin a sentence, so that its capital says nothing?"""
    for piece in reversed(before):
        if not piece.isspace() or "\n" in piece:
            return piece in SENTENCE_END or "\n" in piece
    return True


def names(text: str, common: Mapping[str, int]) -> list[tuple[str, ...]]:
    """Return the runs of capitalised words in the text, a name each.

    `common` counts words as written in the corpus: a word that opens a sentence is no part of a name when it also occurs in lower case.
    Initials, hyphens and one blank may stand between the words of a name.
    """
    found: list[tuple[str, ...]] = []
    run: list[str] = []
    cut = pieces(text)
    for i, piece in enumerate([*cut, "."]):
        if piece[:1].isalpha() and piece[0].isupper():
            lower = piece.lower()
            if (
                not run
                and opens_sentence(cut[:i])
                and (lower in OPENERS or common.get(lower, 0) > common.get(piece, 0) / 4)
            ):
                continue
            run.append(piece)
        elif run and not (piece in (" ", "-") and i + 1 < len(cut) and cut[i + 1][0].isupper()):
            found.append(tuple(run))
            run = []
    return found
