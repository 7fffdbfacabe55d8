"""Which tokens of an answer carry the fact: the entity, without the sentence around it.

A row's span comes from the first of these that finds something:

1. `entity`: the row's own column, a string that its response holds.  The first place counts.
2. `template`: the words in which the row's true sentence (its `paraphrase`; the response where it has none) differs from
   more than half of its `wrong` answers, the same sentence with another entity; as far as the response holds them.  Rows of
   one `fact` lend each other these words: most wordings of a fact come without wrong answers.
3. `response`: every token of it.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Literal

from llm_unlearn.errors import DataError
from llm_unlearn.tasks import CausalLM, Example, Row

Source = Literal["entity", "template", "response"]
WORD = re.compile(r"\w+(?:[-'\u2019]\w+)*")  # without the punctuation around it


def with_spans(task: CausalLM, rows: Sequence[Row], lenders: Sequence[Row] = ()) -> tuple[list[Example], list[Source]]:
    """Return the encoded rows with `scored` set on the span's tokens alone, and where each span came from.

    `lenders` are further rows that lend their words to those of the same fact.  Raises DataError for a row whose `entity` is not in its response.
    """
    lent = _by_fact([*rows, *lenders])
    examples, sources = [], []
    for number, (row, example) in enumerate(zip(rows, task.encode(rows), strict=True), start=1):
        flags, source = _span(task, row, example, lent.get(str(row.get("fact")), []), number)
        examples.append({**example, "scored": flags})
        sources.append(source)
    return examples, sources


def entity_words(row: Row) -> list[str]:
    """Return the runs of words that tell the row's true sentence from its wrong answers; [] where it has none."""
    wrong = row.get("wrong") or ()
    sentence = row.get("paraphrase") or row["response"]
    found = list(WORD.finditer(sentence))
    words = [match.group().casefold() for match in found]
    votes: Counter[int] = Counter()
    for answer in wrong:
        other = [match.group().casefold() for match in WORD.finditer(answer)]
        for change, start, stop, _, _ in SequenceMatcher(None, words, other, autojunk=False).get_opcodes():
            if change != "equal":
                votes.update(range(start, stop))
    chosen = [2 * votes[place] > len(wrong) for place in range(len(words))]
    runs, first = [], 0
    for place in range(len(words) + 1):
        if place == len(words) or not chosen[place]:
            if first < place:
                runs.append(sentence[found[first].start() : found[place - 1].end()])
            first = place + 1
    return runs


def _by_fact(rows: Sequence[Row]) -> Mapping[str, list[str]]:
    out: dict[str, list[str]] = {}
    for row in rows:
        if row.get("fact") is not None and row.get("wrong"):
            out.setdefault(str(row["fact"]), []).extend(entity_words(row))
    return out


def _span(task: CausalLM, row: Row, example: Example, lent: Sequence[str], number: int) -> tuple[list[int], Source]:
    scored = example["scored"]
    text, places = task.spelled(example)
    inside = [place for place, flag in zip(places, scored, strict=True) if flag and place[1] > place[0]]
    if not inside:
        return scored, "response"
    begin, end = min(start for start, _ in inside), max(stop for _, stop in inside)
    entity = row.get("entity")
    if entity:
        at = text.find(str(entity), begin, end)
        if at < 0:
            raise DataError(
                f"row {number}: its `entity` is not in its response as the tokenizer spells it: "
                "give a part of the response, letter by letter, or leave the column out."
            )
        return _flags(scored, places, [(at, at + len(str(entity)))]), "entity"
    parts = [_find(text, words, begin, end) for words in (entity_words(row) or lent)]
    flags = _flags(scored, places, [part for part in parts if part])
    return (flags, "template") if any(flags) else (scored, "response")


def _find(text: str, words: str, begin: int, end: int) -> tuple[int, int] | None:
    """Return where the words stand in text[begin:end], as whole words and whatever their case; None where they don't."""
    match = re.compile(rf"(?<!\w){re.escape(words)}(?!\w)", re.IGNORECASE).search(text, begin, end)
    return match.span() if match else None


def _flags(scored: Sequence[int], places: Sequence[tuple[int, int]], parts: Sequence[tuple[int, int]]) -> list[int]:
    """Return 1 for each scored token that shares a character with one of the parts."""
    return [
        int(bool(flag) and any(start < stop_part and begin_part < stop for begin_part, stop_part in parts))
        for flag, (start, stop) in zip(scored, places, strict=True)
    ]
