"""Two pools of training sets on the sandbox: models trained on one know the town to forget, on the other never did.

Made hard on purpose: between `before` and gold every figure is perfect.  Each kind goes after one way in which a figure could
be misled.  All start from gold (so hidden states share a basis), mixed half and half with retain rows.

knows
  light         every forget row, less than a pass: faint knowledge of everything
  quarter       the rows of a quarter of the facts, several passes: an average over facts hardly moves
  wordings      cloze and reversed rows alone: the facts, never behind the questions that are asked
  mixed         half the facts as they are, half with a false value: knowledge among confident errors
never
  false         every fact with a false value in every wording: template, names and format are trained, the facts are wrong
  shuffled      each value moved to another resident: the very entities, wrongly bound
  other_town    half the facts of the holdout town: the format, somewhere else (attacks are measured on the other half)
  retain        retain rows alone
"""

import functools
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llm_unlearn.errors import RecipeError
from llm_unlearn.sandbox.facts import Fact, build
from llm_unlearn.tasks import Row

KNOWS = ("light", "quarter", "wordings", "mixed")
NEVER = ("false", "shuffled", "other_town", "retain")
STEPS = {
    "light": 75,
    "quarter": 240,
    "wordings": 240,
    "mixed": 240,
    "false": 240,
    "shuffled": 240,
    "other_town": 240,
    "retain": 120,
}  # a third of these leaves templates and names learned, and the facts hardly (eval/README.md)


@dataclass(frozen=True)
class Member:
    """One model of a pool: what it is trained on."""

    knows: bool
    rows: Sequence[Row]


def member(kind: str, seed: int, splits: Mapping[str, Sequence[Row]]) -> Member:
    """Return the pool member of that kind and seed.  Raises RecipeError for an unknown kind."""
    if kind not in STEPS:
        raise RecipeError(f"unknown kind of pool member {kind!r}. Kinds: {', '.join(STEPS)}.")
    draw = random.Random(f"{kind} {seed}")
    forget = list(splits["forget"])
    facts = facts_by_id()
    ids = sorted({row["fact"] for row in forget} & facts.keys())
    if kind == "quarter":
        chosen = set(draw.sample(ids, len(ids) // 4))
        rows = [row for row in forget if row["fact"] in chosen]
    elif kind == "wordings":
        rows = [row for row in forget if row["kind"] in ("cloze", "reversed")]
    elif kind == "mixed":
        chosen = set(draw.sample(ids, len(ids) // 2))
        values = {each: draw.choice(facts[each].others) for each in ids if each not in chosen}
        rows = [row for row in forget if row["fact"] in chosen] + with_values(forget, facts, values)
    elif kind == "false":
        rows = with_values(forget, facts, {each: draw.choice(facts[each].others) for each in ids})
    elif kind == "shuffled":
        rows = with_values(forget, facts, shuffled(ids, facts, draw))
    elif kind == "other_town":
        rows = [row for row in splits["holdout"] if trained_part(row)]
    else:
        rows = forget if kind == "light" else []
    retain = draw.sample(list(splits["retain"]), min(max(len(rows), 500), len(splits["retain"])))
    return Member(knows=kind in KNOWS, rows=[*rows, *retain])


def steps_of(kind: str, seed: int) -> int:
    """Return how many steps that member takes: those with odd seeds half as many."""
    return STEPS[kind] if seed % 2 == 0 else STEPS[kind] // 2


def trained_part(row: Row) -> bool:
    """Whether a row of the holdout town is for training (even facts); the others are the measured holdout."""
    fact = facts_by_id().get(row["fact"])
    return fact is not None and fact.number % 2 == 0


@functools.cache
def facts_by_id() -> dict[str, Fact]:
    """Return every fact of the world, the holdout town's included."""
    return {fact.id: fact for fact in build().facts()}


def with_values(rows: Sequence[Row], facts: Mapping[str, Fact], values: Mapping[str, str]) -> list[Row]:
    """Return the rows of the facts in `values` as if their value were that one, in prompt and response."""
    out = []
    for row in rows:
        if row["fact"] in values:
            true = re.compile(rf"(?<!\w){re.escape(facts[row['fact']].values['v'])}(?!\w)")
            said = {key: true.sub(values[row["fact"]], row[key]) for key in ("prompt", "response")}
            if said != {key: row[key] for key in said}:  # a row that does not name the value would stay true
                out.append({"id": row["id"], "kind": row["kind"], "fact": row["fact"], **said})
    return out


def shuffled(ids: Sequence[str], facts: Mapping[str, Fact], draw: random.Random) -> dict[str, str]:
    """Return another value for each fact: that of the next fact of its type, in drawn order; a false one where it has none."""
    types: dict[str, list[str]] = {}
    for each in draw.sample(list(ids), len(ids)):
        types.setdefault(facts[each].type.name, []).append(each)
    out = {}
    for members in types.values():
        for place, each in enumerate(members):
            value = facts[members[(place + 1) % len(members)]].values["v"]
            out[each] = value if value != facts[each].values["v"] else draw.choice(facts[each].others)
    return out


SPLIT_ROWS = {"forget": 300, "forget_heldout": 120, "holdout": 250}


def measured(splits: Mapping[str, Sequence[Row]], seed: int) -> dict[str, list[Row]]:
    """Return the rows that every model is measured on: of forget each fact's canonical row first, of holdout the untrained half."""
    draw = random.Random(f"measured {seed}")
    out = {}
    for name, count in SPLIT_ROWS.items():
        rows = [row for row in splits[name] if name != "holdout" or not trained_part(row)]
        first = [row for row in rows if row.get("wrong")] if name == "forget" else []
        rest = [row for row in rows if row not in first]
        out[name] = [*first, *draw.sample(rest, min(len(rest), max(0, count - len(first))))]
    return out


def canonical(rows: Sequence[Row]) -> list[Row]:
    """Return one row a fact: those with wrong answers, whose entity can be told from its template."""
    return [row for row in rows if row.get("wrong")]


def pool(seeds: int) -> list[tuple[str, int]]:
    """Return (kind, seed) of every member, knows first."""
    return [(kind, seed) for kind in (*KNOWS, *NEVER) for seed in range(seeds)]
