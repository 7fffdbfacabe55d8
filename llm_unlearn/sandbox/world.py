"""An invented world of ten towns and two hundred people, as question-and-answer rows with data roles.

The default concept is the town of Quillmere.  It cuts across people: their birthplace, work, school, prize and club are tied to towns, often
to two of them, while birth year, spouse, book and pet are not.  Everything comes out of `random.Random(seed)`; torch is not needed.
"""

import functools
import json
import os
import random
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .chains import BRIDGES, SPOUSE_BRIDGES
from .facts import HOLDOUT, Fact, World, build
from .general import general_rows
from .values import PLACES

Row = dict[str, Any]
CONCEPT = "Quillmere"
ASKING = 3  # people of the default deletion request
OTHERWISE = ("In other words:", "Put differently:")  # ask for the paraphrased answer
SPLITS = ("forget", "forget_heldout", "retain", "retain_heldout", "neighbour", "holdout", "general")


def _row(fact: Fact, label: str, kind: str, prompt: str, response: str, subject: str | None = None) -> Row:
    """A row without the two columns that only canonical rows carry."""
    row: Row = {"id": f"{fact.id}/{label}", "prompt": prompt, "response": response, "kind": kind, "fact": fact.id}
    return row | {"subject": subject or fact.subject}


def _fact_rows(fact: Fact, draw: random.Random) -> tuple[list[Row], list[Row]]:
    """The trained and the held-out rows of one fact.

    Both other wordings of the question are held out for every fact; the completion (cloze) and the reversed question are held out for a third
    of the facts each, and trained for the others.  Statements with the value first are trained for every fact that has a unique subject:
    without them a model this small cannot answer a reversed question that it was not trained on.  The paraphrased answer is trained
    behind openings of its own, never behind the plain question that the truth ratio puts before it: a model that has never seen such
    a sentence finds it impossible (100 nats) whatever it knows, and the ratio says nothing.
    """
    kind, answer = fact.type, fact.say(fact.type.answer)
    trained = [_row(fact, f"qa{k}", "qa", fact.say(question), answer) for k, question in enumerate(kind.questions)]
    wrong = [fact.say(kind.paraphrase, v=value) for value in draw.sample(fact.others, 5)]
    trained[0] |= {"paraphrase": fact.say(kind.paraphrase), "wrong": wrong}
    heldout = [
        _row(fact, f"paraphrase{k}", "paraphrase", fact.say(question), answer)
        for k, question in enumerate(kind.heldout)
    ]
    start, end = fact.say(kind.cloze[0]), fact.say(kind.cloze[1])
    for k, frame in enumerate(("{start}", "Complete the sentence: {start}")):
        row = _row(fact, f"cloze{k}", "cloze", frame.format(start=start), end)
        (heldout if fact.number % 3 == 0 else trained).append(row)
    for k, (opening, question) in enumerate(zip(OTHERWISE, kind.questions, strict=False)):
        trained.append(_row(fact, f"otherwise{k}", "qa", f"{opening} {fact.say(question)}", fact.say(kind.paraphrase)))
    for k, statement in enumerate(kind.backward):
        trained.append(_row(fact, f"backward{k}", "cloze", fact.say(statement), fact.say(kind.subject)))
    for k, question in enumerate(kind.reversed_questions):
        row = _row(fact, f"reversed{k}", "reversed", fact.say(question), answer)
        (heldout if fact.number % 3 == 1 else trained).append(row)
    return trained, heldout


def _two_hop_rows(here: World, name: str, number: int) -> tuple[list[Row], list[Row]]:
    """The trained and the held-out two-hop rows of one person: of the six chains two are held out, which ones turns from person to person."""
    trained: list[Row] = []
    heldout: list[Row] = []
    birth = here.person_facts[name]["birth"]
    partner = here.person_facts[name]["spouse"].values["v"]
    chains = [
        (birth, "two_hop.birth." + k, BRIDGES[k], here.place_facts[birth.values["t"]][k].values["v"]) for k in BRIDGES
    ]
    for k, chain in SPOUSE_BRIDGES.items():
        known = here.person_facts[partner][k]
        chains.append((known, f"two_hop.spouse.{number:03d}", chain, known.values["v"]))
    for i, (fact, label, (questions, answer), value) in enumerate(chains):
        response = fact.say(answer, n=name, s=partner, v=value)
        for j, question in enumerate(questions):
            row = _row(fact, f"{label}.{j}", "two_hop", question.format(n=name), response, subject=name)
            (heldout if (i + number) % 3 == 0 else trained).append(row)
    return trained, heldout


@functools.lru_cache(maxsize=4)
def _rows(seed: int) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Every row in a trained format and every row in a held-out format, the holdout town's included."""
    here, draw = build(seed), random.Random(f"rows {seed}")
    parts = [_fact_rows(fact, draw) for fact in here.facts()]
    parts += [_two_hop_rows(here, name, number) for number, name in enumerate(here.people)]
    parts.append((general_rows(seed), []))
    trained, heldout = (tuple(row for part in parts for row in part[side]) for side in (0, 1))
    return trained, heldout


def every_row(seed: int = 0) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Return every row in a trained format and every row in a held-out one, the holdout town's included; change none of them."""
    return _rows(seed)


def _copies(rows: Iterable[Row]) -> list[Row]:
    """New rows: changing one changes no other."""
    return [{key: list(value) if isinstance(value, list) else value for key, value in row.items()} for row in rows]


def mentions(row: Row, word: str) -> bool:
    """Whether the prompt or the response holds `word` as a whole word."""
    return re.search(rf"\b{re.escape(word)}\b", f"{row['prompt']} {row['response']}") is not None


def concepts(seed: int = 0) -> list[str]:
    """Every concept that can be forgotten: the trained towns, then the people."""
    return [town for town in PLACES if town != HOLDOUT] + build(seed).people


def corpus(seed: int = 0) -> list[Row]:
    """Every trained row: what a user would have as training data.  The holdout town never occurs in it."""
    return _copies(row for row in _rows(seed)[0] if not mentions(row, HOLDOUT))


def request(seed: int = 0) -> list[str]:
    """Return the ids of the default deletion request: every trained row that names one of a few people, drawn once."""
    asking = random.Random(f"request {seed}").sample(build(seed).people, ASKING)
    return [row["id"] for row in corpus(seed) if any(mentions(row, name) for name in asking)]


def splits(concept: str = CONCEPT, seed: int = 0) -> dict[str, list[Row]]:
    """The rows of every data role, for a town or a person as the concept to forget.

    `forget` + `retain` is the corpus: the model before unlearning is trained on both, gold on `retain` alone.  `neighbour` (rows about the
    people and towns that forget rows are about, not mentioning the concept) and `general` are parts of `retain`, listed again.
    `forget_heldout` and `retain_heldout` ask the same facts in wordings and formats never trained for that fact.  `holdout` is the town that
    no model was trained on, in the formats of `forget` (for a person as the concept too).  All others are disjoint.
    A row has id, prompt, response, kind, fact and subject; the first row of each fact also has paraphrase and five wrong answers.
    """
    if concept not in concepts(seed):
        raise ValueError(
            f"{concept!r} is no concept of the sandbox: choose a town or a person out of llm_unlearn.sandbox.world.concepts()."
        )
    rows = corpus(seed)
    heldout = _copies(row for row in _rows(seed)[1] if not mentions(row, HOLDOUT))
    forget = [row for row in rows if mentions(row, concept)]
    retain = [row for row in rows if not mentions(row, concept)]
    subjects = {row["subject"] for row in forget}
    return {
        "forget": forget,
        "forget_heldout": [row for row in heldout if mentions(row, concept)],
        "retain": retain,
        "retain_heldout": [row for row in heldout if not mentions(row, concept)],
        "neighbour": [row for row in retain if row["subject"] in subjects],
        "holdout": _copies(row for row in _rows(seed)[0] if mentions(row, HOLDOUT)),
        "general": [row for row in retain if row["kind"] == "general"],
    }


def everything(seed: int = 0) -> Iterable[str]:
    """Every sentence of the world, the holdout town's and the held-out wordings included: what the tokenizer is made of."""
    for row in (*_rows(seed)[0], *_rows(seed)[1]):
        yield f"{row['prompt']} {row['response']}"


def write(folder: str | Path, concept: str = CONCEPT, seed: int = 0) -> list[Path]:
    """Write one JSONL file per split, and corpus.jsonl; each file appears whole or not at all.  Returns the paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, rows in {**splits(concept, seed), "corpus": corpus(seed)}.items():
        path = folder / f"{name}.jsonl"
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        os.replace(unfinished, path)
        paths.append(path)
    return paths
