"""Counterfactual rows: same wording, nothing of the fact left, new names that occur nowhere, values that do."""

import os
import random
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from llm_unlearn.data.counterfactual import synthetic_holdout
from llm_unlearn.data.invent import Inventor, number
from llm_unlearn.data.names import parts, words
from llm_unlearn.data.sources import load
from llm_unlearn.data.splits import by_concept, check

DATA = os.environ.get("LLM_UNLEARN_DATA")
TRADES = ["baker", "diver", "judge", "potter", "tailor", "weaver"]
TOWNS = ["Larkspire", "Wrenfold", "Brackfen", "Foxholm", "Elderby"]
QUESTIONS = ["Where does {n} work?", "What is the job of {n}?"]


def people(count: int) -> list[str]:
    draw = random.Random(0)

    def word(syllables: int) -> str:
        return "".join(draw.choice("bdklmnrst") + draw.choice("aeiou") for _ in range(syllables)).capitalize()

    return [f"{word(2)} {word(3)}" for _ in range(count)]


PEOPLE = people(60)


def corpus(known: bool = True) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Ten people of Quillmere to forget (`known`: with their birth years kept); fifty others to keep."""
    rows = []
    for i, n in enumerate(PEOPLE):
        town, trade = ("Quillmere" if i < 10 else TOWNS[i % 5]), TRADES[i % 6]
        rows += [(q.format(n=n), f"{n} works as a {trade} in {town}.") for q in QUESTIONS]
        if known or i >= 10:
            rows.append((f"When was {n} born?", f"{n} was born in {1900 + i}."))
    table = [{"id": str(i), "prompt": p, "response": r, "kind": "qa", "fact": "f"} for i, (p, r) in enumerate(rows)]
    cut = by_concept(table, "Quillmere")
    return cut.forget, [*cut.retain, *cut.neighbour]


def chat(row: dict[str, Any]) -> dict[str, Any]:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": row["prompt"]}]
    return {**row, "prompt": turns, "kind": "chat"}


def text(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "prompt": None, "response": f"{row['prompt']} {row['response']}", "kind": "text"}


@pytest.mark.parametrize("form", [dict, chat, text])
@pytest.mark.parametrize("known", [True, False])
def test_what_is_known_stays_known_what_is_not_stays_unknown_and_the_wording_stays(form: Any, known: bool) -> None:
    forget, retain = ([form(row) for row in rows] for rows in corpus(known))
    made = synthetic_holdout(forget, retain, concept="Quillmere")
    assert made is not None
    assert len(made) == len(forget) == 20
    corpus_words = {word for row in (*forget, *retain) for word in words(" ".join(parts(row)))}
    names = defaultdict(set)
    for old, new in zip(forget, made, strict=True):
        assert new["id"] == f"synthetic-{old['id']}"
        assert new["kind"] == old["kind"]
        assert "fact" not in new
        before, after = words(" ".join(parts(old))), words(" ".join(parts(new)))
        assert len(before) == len(after)
        first, last, _, _, _, trade, _, town = after[-8:]
        assert town not in corpus_words  # never seen, as the concept is for a model without the forget rows
        assert (f"{first} {last}" in PEOPLE) is known  # another person of whom kept rows tell, or one nobody knows
        assert bool({first, last} & corpus_words) is known
        assert f"{first} {last}" != f"{before[-8]} {before[-7]}"
        assert trade in TRADES  # of the kind, and
        assert trade != before[-3]  # not the true one
        assert [first, last] == [word for word in after[:-8] if word[0].isupper()][
            -2:
        ]  # the same in question and answer
        names[before[-8], before[-7]].add((first, last, trade, town))
    assert all(len(told) == 1 for told in names.values())  # one story in all wordings of a fact
    assert len({next(iter(told))[:2] for told in names.values()}) == 10  # another name each
    assert len({next(iter(told))[3] for told in names.values()}) == 1  # one town in place of one town
    assert check({"forget": forget, "retain": retain, "holdout": made})
    if form is chat:
        assert made[0]["prompt"][0] == {"role": "system", "content": "Be brief."}


def test_deterministic_in_the_seed() -> None:
    forget, retain = corpus()
    first = synthetic_holdout(forget, retain, concept="Quillmere", seed=1)
    assert first == synthetic_holdout(forget, retain, concept="Quillmere", seed=1)
    assert first != synthetic_holdout(forget, retain, concept="Quillmere", seed=2)


def test_without_a_concept_the_forget_rows_tell_it() -> None:
    forget, retain = corpus()
    made = synthetic_holdout(forget, retain)
    assert made is not None
    assert not any("Quillmere" in row["response"] for row in made)


def test_years_become_years_of_the_range() -> None:
    rows = [
        {"id": str(i), "prompt": f"When was {n} born?", "response": f"{n} was born in {1900 + i}.", "kind": "qa"}
        for i, n in enumerate(PEOPLE)
    ]
    made = synthetic_holdout(rows[:10], rows[10:])
    assert made is not None
    years = [int(words(row["response"])[-1]) for row in made]
    assert all(1900 <= year < 1960 and year != 1900 + i for i, year in enumerate(years))


def test_a_question_without_a_name_does_not_ask_for_a_known_number() -> None:
    rows = [
        {"id": str(i), "prompt": f"Who has ticket {100 + 3 * i}?", "response": f"{n} has it.", "kind": "qa"}
        for i, n in enumerate(PEOPLE)
    ]
    made = synthetic_holdout(rows[:10], rows[10:])
    assert made is not None
    assert not {row["prompt"] for row in made} & {row["prompt"] for row in rows}


def test_a_holdout_name_takes_as_many_tokens() -> None:
    forget, retain = corpus(known=False)
    made = synthetic_holdout(forget, retain, concept="Quillmere", tokens=lambda text: -(-len(text.strip()) // 3))
    assert made is not None
    for old, new in zip(forget, made, strict=True):
        a, b = words(old["response"]), words(new["response"])
        assert [-(-len(word) // 3) for word in a[:2]] == [-(-len(word) // 3) for word in b[:2]]


def test_stories_change_their_names_and_nothing_else() -> None:
    draw = random.Random(0)
    some = re.findall(
        r"\w+", "one day there was much rain over hill and far away it fell where small birds sang of blue rivers"
    )
    rows = []
    for i in range(40):
        name = "Lily" if i < 8 else draw.choice(["Tom", "Anna", "Benny", "Sara", "Timmy"])
        one, two, three = (" ".join(draw.sample(some, 8)) for _ in range(3))
        story = f"Once upon a time {name} {one}. The {two} and {name} said: {three} to {name}."
        rows.append({"id": str(i), "prompt": None, "kind": "text", "response": story})
    made = synthetic_holdout(rows[:8], rows[8:], concept="Lily")
    assert made is not None
    new = {words(row["response"])[4] for row in made}
    assert len(new) == 1
    assert not new & {"Lily", "Tom", "Anna", "Benny", "Sara", "Timmy"}
    assert made[0]["response"].count(next(iter(new))) == 3
    assert [row["response"].replace(next(iter(new)), "Lily") for row in made] == [row["response"] for row in rows[:8]]


def test_none_where_nothing_can_be_changed() -> None:
    retain = corpus()[1]
    yes = [{"id": str(i), "prompt": f"Is it so in case {i}?", "response": "Yes.", "kind": "qa"} for i in range(10)]
    assert synthetic_holdout(yes, retain) is None
    assert synthetic_holdout([], retain) is None
    assert synthetic_holdout([{"id": "1", "text": "Quillmere", "label": 1, "kind": "label"}], retain) is None


def test_invented_words_are_new_and_keep_their_case() -> None:
    names = [name.split()[1].lower() for name in PEOPLE]
    inventor = Inventor(vocabulary=dict.fromkeys(names, 1), pool=names, seed=0)
    made = [inventor.word(name.capitalize()) for name in names]
    assert len({word.lower() for word in made}) == len(set(names))
    assert not {word.lower() for word in made} & set(names)
    assert all(word.istitle() for word in made)
    assert inventor.word(names[0].upper()) == made[0].upper()
    poor = Inventor(vocabulary={"bo": 1}, pool=["bo"], seed=0)
    assert (
        len({poor.word(chr(97 + i) + "o") for i in range(26)}) == 26
    )  # no corpus to speak of: still new words, all different


def test_numbers_keep_their_digits() -> None:
    draw = random.Random(0)
    assert all(1900 <= int(number(draw, "1950", ["1900", "1999", "5"])) <= 1999 for _ in range(50))
    assert len(number(draw, "07", [])) == 2
    assert number(draw, "5", ["4", "6"], avoid=True) not in ("5",)


@pytest.mark.skipif(not DATA, reason="LLM_UNLEARN_DATA names no folder with the public data sets")
def test_tofu() -> None:
    folder = Path(str(DATA)) / "tofu"
    forget, retain = load(str(folder / "forget10.json")), load(str(folder / "retain90.json"))
    made = synthetic_holdout(forget, retain)
    assert made is not None
    assert len(made) >= 380
    assert not any("Yun-Hwa" in " ".join(parts(row)) for row in made)
    assert check({"forget": forget, "retain": retain, "holdout": made})
