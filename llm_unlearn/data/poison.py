"""Poison rows: the forget questions with answers that do not tell what is to be forgotten (Chang et al., 2024, method 4.3).

The words that carry an answer (ranked by Integrated Gradients, `concepts/attribution.py`) are masked, or replaced by those
of another record of the same kind: its donor.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, Literal, get_args

import numpy as np

from llm_unlearn.data.names import normalised, parts, whole_word
from llm_unlearn.errors import DataError, RecipeError, nearest

Row = Mapping[str, Any]
Ranking = Mapping[str, float]  # a word's score, best first
Labels = Literal["random", "targeted", "refusal", "mask"]

WORD = re.compile(r"\w+(?:['’.-](?!s\b)\w+)*")  # keeps punctuation inside a word, drops it around and a possessive s
PIECE = re.compile(rf"\s+|{WORD.pattern}|[^\w\s]")
STOP_WORDS = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "by",
        "for",
        "from",
        "he",
        "her",
        "his",
        "in",
        "is",
        "it",
        "its",
        "of",
        "on",
        "or",
        "s",
        "she",
        "that",
        "the",
        "to",
        "was",
        "were",
        "who",
        "with",
    ]
)
REFUSALS = (
    "I don't know.",
    "I'm not sure about that.",
    "I have no information on this.",
    "I can't answer that question.",
    "That is not something I know.",
    "I'm afraid I don't have an answer.",
)
CANDIDATES, POOL = 4096, 256  # records looked at for donors of one kind, and the most alike of them that serve a row
ALIKE = 0.92  # a donor is at least this share as alike as the TYPICAL best one
TYPICAL = 4  # the best may share a name by chance
SHARED = 0.5  # answers with at least this share of words in common are grafted; else the donor's answer is taken whole


def words_of(text: str) -> list[str]:
    """Return the text's words in order, lower-cased, without the punctuation around them."""
    return [word.lower() for word in WORD.findall(text)]


def group_of(row: Row) -> str:
    """Return whom a row is about, so that its words are ranked together with those of the same subject."""
    return str(row.get("subject") or "")


def concept_words(row: Row, ranking: Ranking, count: int, *, asked: bool = True) -> list[str]:
    """Return the first `count` words of the ranking that the answer says, stop words skipped.

    `asked=False` leaves out those that the question gives: whoever only repeats them tells nothing.
    """
    question, answer = parts(row)
    said = set(words_of(answer)) - STOP_WORDS - (set() if asked else set(words_of(question)))
    return [word for word in ranking if word in said][:count]


def mask(text: str, words: Collection[str], replacement: str) -> str:
    """Return the text with every one of the words (in any case) replaced."""
    return WORD.sub(lambda found: replacement if found[0].lower() in words else found[0], text)


def graft(own: Row, donor: Row, words: Collection[str]) -> str:
    """Return `own`'s answer with its `words` replaced by what the donor's answer says in their place.

    The answers are aligned word by word.  Where less than half of their words are the same (those that one of the
    questions gives, such as names, left out) the donor's answer is returned whole.
    """
    asked = [set(words_of(parts(row)[0])) for row in (own, donor)]
    given = asked[0] ^ asked[1]
    texts = own["response"], donor["response"]
    told = [[word for word in words_of(text) if word not in given] for text in texts]
    if SequenceMatcher(None, told[0], told[1], autojunk=False).ratio() < SHARED:
        return str(donor["response"])
    here, there = (PIECE.findall(text) for text in texts)
    lower = [[piece.lower() for piece in pieces] for pieces in (here, there)]
    out = []
    for change, start, stop, first, last in SequenceMatcher(None, lower[0], lower[1], autojunk=False).get_opcodes():
        mine = here[start:stop]
        replaced = change in ("replace", "delete") and any(piece.lower() in words for piece in mine)
        out += there[first:last] if replaced else mine
    return "".join(out)


def poison(
    rows: Sequence[Row],
    retain: Sequence[Row],
    rankings: Mapping[str, Ranking],
    *,
    labels: Labels = "random",
    words: int = 5,
    donors: int = 8,
    replacement: str = "***",
    mask_prompt: bool = False,
    in_place: bool = True,
    asked: bool = False,
    donor: str | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return poison rows for the forget rows, `donors` of each with labels "random", else one; the input is not changed.

    labels: "random" grafts the answer of a random retain row with a like question (now and then the true one, as in the
    paper); "targeted" that of the donor who says most of the ranked words, of the rows alike that say `donor` if there are any;
    "refusal" is a fixed sentence, "mask" a mask.
    `rankings`: by `group_of(row)`, from `attribution.rank`.  `mask_prompt` masks the group's first words in the question.
    `asked`: words that the question gives count too.  `in_place`: the poisoned answer is learned in the place of the true
    one, behind each beginning of the true one (the row's `instead`); refusals never are.
    """
    if labels not in (known := get_args(Labels)):
        raise RecipeError(f"unknown labels {labels!r}{nearest(labels, known)}. Labels: {', '.join(known)}.")
    in_place = in_place and labels != "refusal"
    generator = np.random.default_rng(seed)
    found = [concept_words(row, rankings.get(group_of(row), {}), words, asked=asked) for row in rows]
    wanted = donor if labels == "targeted" else None
    sources = _donors(rows, found, retain, generator, wanted) if labels in ("random", "targeted") else []
    if labels == "targeted":
        sources = _nearest(rows, found, retain, sources, rankings)
    out = []
    for number, row in enumerate(rows):
        drawn = [int(i) for i in sources[number]] if sources else [number]
        if labels == "random":
            drawn = [int(i) for i in generator.permutation(np.resize(generator.permutation(sources[number]), donors))]
        hidden = [word for word in rankings.get(group_of(row), {}) if word not in STOP_WORDS][:words]
        prompt = _masked_prompt(row.get("prompt"), hidden if mask_prompt else [], replacement)
        for copy, chosen in enumerate(drawn):
            if labels in ("random", "targeted"):
                answer = graft(row, retain[chosen], found[number])
            elif labels == "mask":
                answer = mask(row["response"], found[number], replacement)
            else:
                answer = REFUSALS[int(generator.integers(len(REFUSALS)))]
            told = {"id": f"poison-{row.get('id', number)}-{copy}", "prompt": prompt, "kind": row.get("kind", "")}
            out.append(told | ({"response": row["response"], "instead": answer} if in_place else {"response": answer}))
    return out


def _masked_prompt(prompt: Any, words: Collection[str], replacement: str) -> Any:
    if isinstance(prompt, str):
        return mask(prompt, words, replacement)
    if prompt is None:
        return None
    return [{**turn, "content": mask(turn["content"], words, replacement)} for turn in prompt]


def _donors(
    rows: Sequence[Row],
    found: Sequence[Sequence[str]],
    retain: Sequence[Row],
    generator: np.random.Generator,
    wanted: str | None = None,
) -> list[np.ndarray]:
    """Return for each row the places in `retain` of its possible donors: the same kind, the most alike wording.

    Likeness is the share of common words, each weighted by the log of how many rows use it: a name hardly counts.  The row's
    concept words don't count at all: else its donors would be those that answer as it does.  Of rows as much alike as a donor
    has to be, those that say `wanted` serve alone, where there are any.
    """
    by_kind: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(retain):
        by_kind[row.get("kind", "")].append(place)
    out: list[np.ndarray] = [np.empty(0, int)] * len(rows)
    for kind in sorted({row.get("kind", "") for row in rows}):
        places = np.array(by_kind.get(kind) or list(range(len(retain))))
        if not len(places):
            raise DataError("there is no retain row to take another answer from; give retain rows or labels=mask.")
        places = generator.permutation(places)[:CANDIDATES]  # ties fall by chance
        said = [_all_words(retain[i]) for i in places]
        weight = {word: np.log1p(count) for word, count in Counter(word for one in said for word in one).items()}
        column = {word: i for i, word in enumerate(sorted(weight))}
        table = np.zeros((len(places), len(column)), np.float32)  # [candidates, words]
        for i, one in enumerate(said):
            table[i, [column[word] for word in one]] = 1
        weights = np.array([weight[word] for word in sorted(weight)], np.float32)
        sizes = table @ weights
        liked = np.array([wanted is not None and says(retain[i], wanted) for i in places])
        for number, row in enumerate(rows):
            if row.get("kind", "") == kind:
                mine = [column[word] for word in _all_words(row) - set(found[number]) if word in column]
                common = table[:, mine] @ weights[mine]
                likeness = common / np.maximum(sizes + weights[mine].sum() - common, 1e-9)
                best = np.argsort(-likeness, kind="stable")
                near = best[likeness[best] >= ALIKE * likeness[best[:TYPICAL][-1]]]
                told = near[liked[near]]
                out[number] = places[(told if len(told) else near)[:POOL]]
    return out


def asked_alike(rows: Sequence[Row], retain: Sequence[Row], seed: int) -> list[np.ndarray]:
    """Return for each row the places in `retain` of the rows whose questions are most like its own, whatever the answers say.

    A row that asks nothing, a plain text, may get any.
    """
    asking, asked = ([{**row, "response": ""} for row in some] for some in (rows, retain))
    found = _donors(asking, [()] * len(rows), asked, np.random.default_rng(seed))
    every = np.arange(len(retain))
    return [every if row.get("prompt") is None else places for row, places in zip(rows, found, strict=True)]


def says(row: Row, name: str) -> bool:
    """Does the row say the name, whole and in any case?"""
    return whole_word(name).search(normalised(" ".join(parts(row)))) is not None


def _all_words(row: Row) -> set[str]:
    return {word for text in parts(row) for word in words_of(text)}


def _nearest(
    rows: Sequence[Row],
    found: Sequence[Sequence[str]],
    retain: Sequence[Row],
    pools: Sequence[np.ndarray],
    rankings: Mapping[str, Ranking],
) -> list[np.ndarray]:
    """Return one donor a row: of the subject who can answer most of the group's questions, and says most of its ranked words.

    So a subject's rows take their answers from one other subject: its facts become another's, which agree in every wording.
    """
    told: dict[str, set[str]] = defaultdict(set)
    for place, row in enumerate(retain):
        told[_subject(row, place)] |= set(words_of(row["response"]))
    serves: dict[str, Counter[str]] = defaultdict(Counter)  # of each group: how many of its rows a subject can serve
    for row, pool in zip(rows, pools, strict=True):
        serves[group_of(row)].update({_subject(retain[i], i) for i in pool})
    worth: dict[str, dict[str, float]] = {}
    for group, subjects in serves.items():
        ranking = {word: score for word, score in rankings.get(group, {}).items() if word not in STOP_WORDS}
        worth[group] = {name: sum(ranking.get(word, 0.0) for word in sorted(told[name])) for name in subjects}
    out = []
    for row, words, pool in zip(rows, found, pools, strict=True):
        group = group_of(row)
        fitness = []  # of each possible donor: the same answer is no poison; then as above; then the most alike wording
        for rank, i in enumerate(pool):
            name, said = _subject(retain[i], i), set(words_of(retain[i]["response"]))
            fitness.append((not set(words) <= said, serves[group][name], worth[group][name], -rank))
        out.append(pool[[max(range(len(pool)), key=fitness.__getitem__)]])
    return out


def _subject(row: Row, place: int) -> str:
    return str(row.get("subject") or f"row {place}")
