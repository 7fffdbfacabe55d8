"""What is true in the sandbox's world: towns, people, and their facts."""

import functools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from .chains import PLACE_FACTS
from .templates import PERSON_FACTS, FactType
from .values import CLUBS, DISHES, FESTIVALS, NOUNS, PETS, PLACES, STREETS, SUBJECTS, TRADES

HOLDOUT = "Thornwick"  # the town whose facts no model is ever trained on
RESIDENTS = 20  # people born in each town
MOVES = {
    "work": (0, 1),
    "club": (1, 3),
    "prize": (2, 7),
}  # fact: every fifth resident from this one on has it in the town so many towns further
REFUSED = (
    "nazi",
    "kike",
    "dike",
    "puta",
    "puto",
    "pedo",
    "kaka",
    "fuk",
    "piss",
    "sodo",
)  # syllables that would read as a real word


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One fact: `values` fills its sentences, `others` are values of the same type that are false."""

    id: str
    type: FactType
    number: int  # counts through the world; decides which formats of this fact are held out
    subject: str
    values: dict[str, str]
    others: list[str]

    def say(self, template: str, **changed: str) -> str:
        """The sentence, filled."""
        return template.format(**{**self.values, **changed})


@dataclass(frozen=True, kw_only=True)
class World:
    """The facts, in a fixed order, and the names."""

    people: list[str]
    person_facts: dict[str, dict[str, Fact]]  # person -> fact type -> fact
    place_facts: dict[str, dict[str, Fact]]  # town -> fact type -> fact

    def facts(self) -> Iterator[Fact]:
        """Every fact, the towns' first."""
        for table in (self.place_facts, self.person_facts):
            for facts in table.values():
                yield from facts.values()


def new_words(draw: random.Random, count: int, syllables: int, taken: set[str]) -> list[str]:
    """New capitalised words made of open syllables, none of them in `taken` (which grows)."""
    made: list[str] = []
    while len(made) < count:
        word = "".join(draw.choice("bdfklmnprstvz") + draw.choice("aeiou") for _ in range(syllables)).capitalize()
        if word not in taken and not any(part in word.lower() for part in REFUSED):
            taken.add(word)
            made.append(word)
    return made


def _tied_values(draw: random.Random, kind: FactType, pool: list[str]) -> tuple[dict[int, str], dict[int, str]]:
    """The town and the value of one kind of place-tied fact for each person; within a town no value comes twice."""
    first, shift = MOVES.get(kind.name, (-1, 0))
    towns: dict[int, str] = {}
    for person in range(RESIDENTS * len(PLACES)):
        home, resident = divmod(person, RESIDENTS)
        towns[person] = PLACES[(home + shift * (resident % 5 == first)) % len(PLACES)]
    values: dict[int, str] = {}
    for town in PLACES:
        members = [person for person, where in towns.items() if where == town]
        values |= dict(zip(members, draw.sample(pool, len(members)), strict=True))
    return towns, values


def _place_facts(draw: random.Random, taken: set[str], number: Iterator[int]) -> dict[str, dict[str, Fact]]:
    """Six facts of every town."""
    count = len(PLACES)
    pools = {
        "river": new_words(draw, count, 2, taken),
        "mayor": new_words(draw, count, 3, taken),
        "festival": draw.sample(FESTIVALS, count),
        "dish": draw.sample(DISHES, count),
        "tower": new_words(draw, count, 2, taken),
        "founded": [str(year) for year in draw.sample(range(1210, 1790), count)],
    }
    table: dict[str, dict[str, Fact]] = {}
    for i, town in enumerate(PLACES):
        table[town] = {}
        for kind in PLACE_FACTS:
            pool = pools[kind.name]
            others = [value for value, other in zip(pool, PLACES, strict=True) if other not in (town, HOLDOUT)]
            values = {"t": town, "v": pool[i]}
            table[town][kind.name] = Fact(
                id=f"{town.lower()}.{kind.name}",
                type=kind,
                number=next(number),
                subject=town,
                values=values,
                others=others,
            )
    return table


@functools.lru_cache(maxsize=4)
def build(seed: int = 0) -> World:
    """The whole world, the holdout town included."""
    draw = random.Random(f"world {seed}")
    taken, number = set(PLACES) | set(STREETS) | set(NOUNS), iter(range(10**6))
    count = RESIDENTS * len(PLACES)
    people = [
        f"{first} {last}"
        for first, last in zip(new_words(draw, count, 2, taken), new_words(draw, count, 3, taken), strict=True)
    ]
    pairs = draw.sample(range(count), count)
    spouse = {
        a: people[b] for one, two in zip(pairs[::2], pairs[1::2], strict=True) for a, b in ((one, two), (two, one))
    }
    schools = new_words(draw, 32, 2, taken)
    pools = {
        "birth": [f"{street} Street" for street in STREETS],
        "work": TRADES,
        "school": schools,
        "prize": SUBJECTS,
        "club": CLUBS,
        "year": [str(year) for year in range(1890, 2000)],
        "book": [f"The {word} {draw.choice(NOUNS)}" for word in new_words(draw, count, 2, taken)],
        "pet": [f"the {draw.choice(PETS)} {word}" for word in new_words(draw, count, 2, taken)],
    }
    place_facts = _place_facts(draw, taken, number)
    person_facts: dict[str, dict[str, Fact]] = {name: {} for name in people}
    for kind in PERSON_FACTS:
        towns: dict[int, str] = {}
        if kind.tied:
            towns, given = _tied_values(draw, kind, pools[kind.name])
        elif kind.name == "spouse":
            given = spouse
        elif kind.name == "year":
            given = {person: draw.choice(pools["year"]) for person in range(count)}
        else:
            given = dict(enumerate(pools[kind.name]))
        for person, name in enumerate(people):
            values = {"n": name, "v": given[person]} | ({"t": towns[person]} if kind.tied else {})
            others = [value for value in pools.get(kind.name, people) if value not in (given[person], name)]
            fact = Fact(
                id=f"person{person:03d}.{kind.name}",
                type=kind,
                number=next(number),
                subject=name,
                values=values,
                others=others,
            )
            person_facts[name][kind.name] = fact
    return World(people=people, person_facts=person_facts, place_facts=place_facts)
