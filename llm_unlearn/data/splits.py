"""Which row plays which role: cutting one corpus by a concept, and refusing splits that contradict each other."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from llm_unlearn.data.names import document_frequency, names, normalised, parts, whole_word, words
from llm_unlearn.data.sources import Row, fingerprint
from llm_unlearn.errors import DataError

Splits = Mapping[str, Sequence[Row]]
TRAINED = ("forget", "retain", "neighbour")  # the model before unlearning has seen these
KEPT = ("retain", "neighbour", "general")  # none of these may be forgotten
UNSEEN = ("holdout", "forget_heldout", "retain_heldout")  # and never these
COMMON_NAME = 0.05  # a name in more than this share of the rows tells no subject from another
MANY_NAMES = 8  # names with the same last word: the word is "Street" rather than a family's
FEW_ROWS = 20  # ... unless that is a handful of rows


@dataclass(frozen=True, kw_only=True)
class ConceptSplit:
    """One corpus cut by a concept.  The three lists are disjoint; neighbour rows are kept (trained on) as retain rows are."""

    forget: list[Row]
    neighbour: list[Row]  # rows about something the forget rows are about, without the concept
    retain: list[Row]  # all others
    why: str  # how many rows went where by which rule, in one line; it names the concept, so it is for the terminal only

    def splits(self) -> dict[str, list[Row]]:
        """Return the three lists by name, an empty neighbour list left out."""
        every = {"forget": self.forget, "neighbour": self.neighbour, "retain": self.retain}
        return {name: rows for name, rows in every.items() if rows}


def kept(splits: Splits) -> list[Row]:
    """Return the rows that training keeps, each once: retain, then those neighbour and general rows that are not among them."""
    rows = [row for name in KEPT for row in splits.get(name, ())]
    return list({content(row): row for row in rows}.values())


def content(row: Mapping[str, Any]) -> str:
    """Return what makes two rows the same for a model: normalised prompt and response (for classifiers the input)."""
    if "image" in row:
        return fingerprint([{"image": row["image"]}])
    return "\x00".join(map(normalised, parts(row)))


def check(splits: Splits, *, required: Sequence[str] = ("forget", "retain")) -> dict[str, list[Row]]:
    """Return the splits with ids that are unique across them; raise DataError for a missing or empty split or an overlap.

    Refused: forget rows that are also to be kept, and rows called unseen (holdout, held-out wordings) that the model is trained on.
    neighbour and general may be parts of retain: the same row keeps the same id there.
    """
    for name in required:
        if name not in splits:
            raise DataError(f"there is no {name} split: give --{name} (or --data with --concept).")
    for name, rows in splits.items():
        if not rows:
            raise DataError(f"the {name} split is empty: give at least one row or leave the split out.")
    contents = {name: [content(row) for row in rows] for name, rows in splits.items()}
    pairs = [("forget", name) for name in KEPT]
    pairs += [(unseen, name) for unseen in UNSEEN for name in (*TRAINED, "general")]
    for first, second in pairs:
        if first in contents and second in contents:
            _refuse_overlap(first, contents[first], second, contents[second])
    return _unique_ids(splits, contents)


def _refuse_overlap(first: str, rows: Sequence[str], second: str, others: Sequence[str]) -> None:
    there = set(others)
    shared = sum(row in there for row in rows)
    if not shared:
        return
    why = (
        "what is forgotten cannot be kept"
        if first == "forget"
        else f"{first} must be rows the model was never trained on"
    )
    raise DataError(
        f"{shared} of {len(rows)} {first} rows are in {second} too ({len(others)} rows): {why}; take them out of one of the two."
    )


def _unique_ids(splits: Splits, contents: Mapping[str, Sequence[str]]) -> dict[str, list[Row]]:
    owner: dict[str, str] = {}  # id -> content
    given: dict[
        tuple[str, str], str
    ] = {}  # (id as it came, content) -> id, so that one row has one id in all its splits
    done: dict[str, list[Row]] = {}
    for name, rows in splits.items():
        done[name] = []
        here: set[str] = set()
        for row, what in zip(rows, contents[name], strict=True):
            first = str(row.get("id") or fingerprint([row])[:12])
            key, number = given.get((first, what), first), 1
            while key in here or owner.get(key, what) != what:
                key = f"{name}-{first}" if number == 1 else f"{name}-{first}-{number}"
                number += 1
            given.setdefault((first, what), key)
            owner[key] = what
            here.add(key)
            done[name].append({**row, "id": key})
    return done


def by_concept(rows: Sequence[Row], concept: str, terms: Sequence[str] = ()) -> ConceptSplit:
    """Return the rows cut into forget, neighbour and retain.

    forget: the concept or a term occurs in the prompt (any turn) or the response, as whole words, whatever the case.
    neighbour: the row shares a subject with a forget row (its `subject` column; without one, a name that is rare in the corpus).
    Raises DataError where the concept matches no row, or leaves nothing to keep.
    """
    asked = list(dict.fromkeys(term for term in (concept, *terms)))
    if any(not term.strip() for term in asked):
        raise DataError("the concept and its terms must not be empty: name what is to be forgotten.")
    patterns = {term: whole_word(term) for term in asked}
    texts = [tuple(map(normalised, parts(row))) for row in rows]
    counts: Counter[tuple[str, str]] = Counter()
    hit = [_match(text, patterns, counts) for text in texts]
    if not any(hit):
        listed = ", ".join(map(repr, asked))
        raise DataError(f"{listed} occurs in none of the {len(rows)} rows{_nearest_word(rows, concept)}.")
    if all(hit):
        raise DataError(
            f"{', '.join(map(repr, asked))} occurs in all {len(rows)} rows: nothing is left to keep; add rows without it."
        )
    cut, near = cut_by(rows, hit, patterns)
    found = [
        f"{counts[term, side]} by {term!r} in the {side}"
        for term in asked
        for side in ("response", "prompt")
        if counts[term, side]
    ]
    found += [f"0 by {term!r}" for term in asked if not counts[term, "response"] + counts[term, "prompt"]]
    why = f"forget {len(cut['forget'])} rows: {', '.join(found)}; "
    why += f"neighbour {len(cut['neighbour'])} rows share {near} names with them; retain {len(cut['retain'])} rows"
    return ConceptSplit(**cut, why=why)


def cut_by(rows: Sequence[Row], hit: Sequence[bool], patterns: Mapping[str, Any]) -> tuple[dict[str, list[Row]], int]:
    """Return forget (the rows hit), neighbour (those that share a subject with one) and retain, and how many subjects are shared.

    `patterns`: whole-word patterns of what the concept is called, which is no subject.
    """
    subjects = subjects_of(rows, patterns)
    about = {
        subject for row_subjects, forgotten in zip(subjects, hit, strict=True) if forgotten for subject in row_subjects
    }
    shared = [set() if forgotten else about & mine for mine, forgotten in zip(subjects, hit, strict=True)]
    forget = [row for row, forgotten in zip(rows, hit, strict=True) if forgotten]
    neighbour = [row for row, common in zip(rows, shared, strict=True) if common]
    retain = [row for row, forgotten, common in zip(rows, hit, shared, strict=True) if not forgotten and not common]
    if not retain:  # everything near is everything there is
        retain, neighbour, shared = neighbour, [], []
    near = len(set().union(*shared)) if shared else 0
    return {"forget": forget, "neighbour": neighbour, "retain": retain}, near


def _match(text: tuple[str, ...], patterns: Mapping[str, Any], counts: Counter[tuple[str, str]]) -> bool:
    """Does a term occur?  Counts the first that does, in the response before the prompt."""
    for side, place in ((1, "response"), (0, "prompt")):
        for term, pattern in patterns.items():
            if pattern.search(text[side]):
                counts[term, place] += 1
                return True
    return False


def subjects_of(rows: Sequence[Row], patterns: Mapping[str, Any]) -> list[set[str]]:
    """Return for each row what it is about, the concept left out.

    That is its `subject`; without one the names in both prompt and response, else in either.  A single word is a name only in plain
    text, and what ends like many other names ("Zido School", "The Sado Window") names a kind of thing.
    """
    texts = [parts(row) for row in rows]
    common = document_frequency(f"{prompt} {response}" for prompt, response in texts)
    named = [tuple(set(names(half, common)) for half in text) for text in texts]
    every = {name for row_names in named for half in row_names for name in half}
    heads = Counter(name[-1] for name in every if len(name) > 1)
    found: list[set[str]] = []
    for row, (prompt, _), row_names in zip(rows, texts, named, strict=True):
        if isinstance(row.get("subject"), str):
            subjects = {normalised(row["subject"])}
        else:
            least = 2 if prompt else 1
            some = [[n for n in half if len(n) >= least and heads[n[-1]] < MANY_NAMES] for half in row_names]
            asked, told = ({normalised(" ".join(name)) for name in half} for half in some)
            subjects = asked & told or asked or told
        found.append({name for name in subjects if not any(pattern.search(name) for pattern in patterns.values())})
    frequency = Counter(name for subjects in found for name in subjects)
    most = max(FEW_ROWS, COMMON_NAME * len(rows))
    return [{name for name in subjects if frequency[name] <= most} for subjects in found]


def _nearest_word(rows: Sequence[Row], concept: str) -> str:
    """Return "; did you mean 'x' (in n rows)?" for the words of the corpus closest to the concept, else what to do."""
    length = len(normalised(concept).split())
    counts: Counter[str] = Counter()
    for row in rows:
        here = words(" ".join(parts(row)))
        counts.update({" ".join(here[i : i + length]) for i in range(len(here) - length + 1)})
    plain = normalised(concept)
    near = {
        normalised(word): word for word in sorted(counts, key=counts.__getitem__) if abs(len(word) - len(plain)) <= 3
    }
    found = get_close_matches(plain, [word for word in near if set(word) & set(plain[:2])], n=1, cutoff=0.7)
    if not found:
        return "; name it as the rows do, or add other names as terms"
    return f"; did you mean {near[found[0]]!r} (in {counts[near[found[0]]]} rows)?"
