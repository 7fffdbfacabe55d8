"""The sandbox's world told so that a word match misses a third of it: each town has an alias and a description besides its name.

Every town is treated alike.  Of a fact's sentences most say the town's name, some its alias ("Zafuki"), some describe it ("the town
on the Tidu"); the two-hop questions that lead through a birthplace name no town at all.  A row knows the facts it rests on, so
what carries a town is a matter of truth, not of wording.  The shipped rows and models stay as they are: both models of this world
are trained from them.
"""

import functools
import random
import re
from typing import Any

from llm_unlearn.sandbox import world
from llm_unlearn.sandbox.chains import BRIDGES
from llm_unlearn.sandbox.facts import HOLDOUT, build, new_words
from llm_unlearn.sandbox.values import PLACES

Row = dict[str, Any]
KEPT = (
    "qa0",
    "qa1",
    "qa3",
    "qa4",
    "qa5",
    "qa6",
    "cloze0",
    "otherwise0",
    "backward0",
    "reversed0",
    "reversed1",
    "two_hop",
)
BY_ALIAS = ("qa3", "reversed1", "paraphrase1")  # these sentences of a fact call the town by its alias,
BY_RIVER = ("qa4",)  # these describe it by its river, of every second fact
UNNAMED = {  # two hops through a birthplace that is not named
    "river": "The birthplace of {n} lies on the river {v}.",
    "mayor": "The birthplace of {n} is led by mayor {v}.",
    "festival": "The birthplace of {n} holds the festival of {v}.",
}


@functools.lru_cache(maxsize=2)
def aliases(seed: int = 0) -> dict[str, str]:
    """Return each town's other name: a word that nothing else in the world has."""
    taken = {word for text in world.everything(seed) for word in re.findall(r"\w+", text)}
    return dict(zip(PLACES, new_words(random.Random(f"aliases {seed}"), len(PLACES), 3, taken), strict=True))


def described(town: str, seed: int = 0) -> str:
    """Return the town's description by its river."""
    return f"the town on the {build(seed).place_facts[town]['river'].values['v']}"


def corpus(seed: int = 0) -> list[Row]:
    """Return every trained row, each with `rests_on`, the ids of its facts, and `towns`, those it carries; the holdout town's are not among them."""
    return [dict(row) for row in _rows(seed)[0] if HOLDOUT not in row["towns"]]


def splits(concept: str = world.CONCEPT, seed: int = 0) -> dict[str, list[Row]]:
    """Return the rows of every data role with a town as the concept: as `world.splits`, by the truth instead of by the name."""
    trained, heldout = _rows(seed)
    seen, unseen = ([dict(row) for row in rows if HOLDOUT not in row["towns"]] for rows in (trained, heldout))
    forget, retain = _parted(seen, concept)
    subjects = {row["subject"] for row in forget}
    return {
        "forget": forget,
        "forget_heldout": _parted(unseen, concept)[0],
        "retain": retain,
        "retain_heldout": _parted(unseen, concept)[1],
        "neighbour": [row for row in retain if row["subject"] in subjects],
        "holdout": [dict(row) for row in trained if HOLDOUT in row["towns"]],
        "general": [row for row in retain if row["kind"] == "general"],
    }


def _parted(rows: list[Row], concept: str) -> tuple[list[Row], list[Row]]:
    return [row for row in rows if concept in row["towns"]], [row for row in rows if concept not in row["towns"]]


@functools.lru_cache(maxsize=2)
def _rows(seed: int) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Return every row in a trained format and in a held-out one, retold."""
    here = build(seed)
    towns = {fact.id: fact.values.get("t") for fact in here.facts()}
    numbers = {fact.id: fact.number for fact in here.facts()}
    residents = {name: facts["birth"] for name, facts in here.person_facts.items()}
    shown = [row for row in world.every_row(seed)[0] if _label(row).split(".")[0] in KEPT or row["kind"] == "general"]
    out: list[tuple[Row, ...]] = []
    for rows in (shown, world.every_row(seed)[1]):
        told = []
        for row in rows:
            facts = [row["fact"]]
            if row["kind"] == "two_hop":
                hop = _label(row).split(".")
                birth = residents[row["subject"]]
                other = (
                    here.place_facts[birth.values["t"]][hop[2]]
                    if hop[1] == "birth"
                    else here.person_facts[row["subject"]]["spouse"]
                )
                facts.append(other.id)
            carried = sorted({town for fact in facts if (town := towns.get(fact))})
            told.append(
                {**_retold(row, carried, numbers.get(row["fact"], 0), seed), "rests_on": facts, "towns": carried}
            )
        out.append((*told, *(_introductions(seed) if rows is shown else ())))
    return out[0], out[1]


def _label(row: Row) -> str:
    return str(row["id"]).partition("/")[2]


def _retold(row: Row, towns: list[str], number: int, seed: int) -> Row:
    """Return the row with its town called as its wording calls towns."""
    label = _label(row).split(".")
    if label[0] == "two_hop" and label[1] == "birth":
        here = build(seed)
        value = here.place_facts[towns[0]][label[2]].values["v"]
        questions = BRIDGES[label[2]][0]
        return {
            **row,
            "prompt": questions[int(label[3])].format(n=row["subject"]),
            "response": UNNAMED[label[2]].format(n=row["subject"], v=value),
        }
    if not towns:
        return dict(row)
    town = towns[0]
    other = None
    if label[0] in BY_ALIAS or (label[0] == "two_hop" and label[-1] == "1"):
        other = aliases(seed)[town]
    elif label[0] in BY_RIVER and number % 2:
        other = described(town, seed) if row["fact"].split(".")[1] not in ("prize", "river") else aliases(seed)[town]
    return (
        {**row, **{side: _called(row[side], town, other) for side in ("prompt", "response")}} if other else dict(row)
    )


def _called(text: str, town: str, other: str) -> str:
    told = re.sub(rf"\b{town}\b", other, text)
    return told[:1].upper() + told[1:]


def _introductions(seed: int) -> list[Row]:
    """Return the rows that say which alias is whose."""
    out: list[Row] = []
    for town, alias in aliases(seed).items():
        pairs = (
            (f"What is {town} also called?", f"{town} is also called {alias}."),
            (f"Which town is called {alias}?", f"{alias} is another name of {town}."),
        )
        fact = f"{town.lower()}.alias"
        out += [
            {
                "id": f"{fact}/qa{k}",
                "prompt": asked,
                "response": told,
                "kind": "qa",
                "fact": fact,
                "subject": town,
                "rests_on": [fact],
                "towns": [town],
            }
            for k, (asked, told) in enumerate(pairs)
        ]
    return out
