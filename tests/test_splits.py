"""Which row plays which role: overlaps are refused, and a concept cuts a corpus where its words stand."""

import os
from pathlib import Path
from typing import Any

import pytest

from llm_unlearn.data.names import document_frequency, names, normalised, whole_word
from llm_unlearn.data.sources import load
from llm_unlearn.data.splits import by_concept, check, kept
from llm_unlearn.errors import DataError

DATA = os.environ.get("LLM_UNLEARN_DATA")


def qa(prompt: str, response: str, **more: Any) -> dict[str, Any]:
    return {"id": prompt, "prompt": prompt, "response": response, "kind": "qa", **more}


FILLER = [qa(f"What is {i} plus one?", f"It is {i + 1}.") for i in range(30)]


def test_overlap_says_how_many_rows_and_where() -> None:
    forget = [qa("Where was Moze born?", "In Quillmere."), qa("b", "c")]
    retain = [qa(" where was  MOZE born?", "in Quillmere."), qa("d", "e"), qa("f", "g")]
    with pytest.raises(DataError, match=r"1 of 2 forget rows are in retain too \(3 rows\)") as error:
        check({"forget": forget, "retain": retain})
    assert "Moze" not in str(error.value)
    with pytest.raises(DataError, match="1 of 1 holdout rows are in forget too"):
        check({"forget": forget, "retain": retain[1:], "holdout": [qa("b", "c")]})
    with pytest.raises(DataError, match="1 of 1 holdout rows are in retain too"):
        check({"forget": forget, "retain": retain[1:], "holdout": [qa("d", "e")]})
    with pytest.raises(DataError, match="1 of 1 forget_heldout rows are in forget too"):
        check({"forget": forget, "retain": retain[1:], "forget_heldout": [qa("b", "c")]})
    same_question = [qa("b", "another answer")]
    assert check({"forget": forget, "retain": retain[1:], "holdout": same_question})["holdout"][0]["id"] == "holdout-b"


def test_messages_overlap_with_the_same_words() -> None:
    turns = [{"role": "user", "content": "b"}]
    chat = {"id": "1", "prompt": turns, "response": "c", "kind": "chat"}
    with pytest.raises(DataError, match="1 of 1 forget rows"):
        check({"forget": [chat], "retain": [{**chat, "id": "2"}]})


def test_missing_and_empty_splits() -> None:
    with pytest.raises(DataError, match="no retain split"):
        check({"forget": [qa("a", "b")]})
    with pytest.raises(DataError, match="the holdout split is empty"):
        check({"forget": [qa("a", "b")], "retain": [qa("c", "d")], "holdout": []})
    assert set(check({"retain": [qa("c", "d")]}, required=("retain",))) == {"retain"}


def test_ids_become_unique_but_the_same_row_keeps_its_own() -> None:
    forget, retain = [{**qa("a", "b"), "id": "0"}], [{**qa("c", "d"), "id": "0"}, {**qa("e", "f"), "id": "0"}]
    done = check({"forget": forget, "retain": retain, "neighbour": retain[:1]})
    assert [row["id"] for row in done["forget"]] == ["0"]
    assert [row["id"] for row in done["retain"]] == ["retain-0", "retain-0-2"]
    assert [row["id"] for row in done["neighbour"]] == ["retain-0"]
    general = [qa("x", "y")]
    done = check({"forget": forget, "retain": [*retain[:1], *general], "general": general})
    assert done["general"][0]["id"] == done["retain"][1]["id"] == "x"


@pytest.mark.parametrize(
    ("term", "text", "found"),
    [
        ("Quillmere", "the mayor of QUILLMERE.", True),
        ("quillmere", "Quillmere's mayor", True),
        ("quillmere", "Quillmere’s mayor", True),
        ("Quillmere", "(Quillmere)", True),
        ("Quillmere", "Quillmeresque", False),
        ("Quillmere", "Old-Quillmere", True),
        ("New Bray", "in new\n bray today", True),
        ("New Bray", "in newbray", False),
        ("C++", "written in C++, mostly", True),
        ("C++", "written in C, mostly", False),
        ("Zoë", "Zoe\u0308 said", True),
        ("Straße", "the STRASSE", True),
        ("O'Hara", "Mr O’Hara", True),
        ("an", "a man can", False),
        ("東京", "彼は東京で生まれた", True),
        ("Ли", "Лиза", False),
    ],
)
def test_whole_words(term: str, text: str, found: bool) -> None:
    assert bool(whole_word(term).search(normalised(text))) is found


def test_names_leave_out_sentence_openings() -> None:
    text = "Where was Moze Pasivi born? The Zido School taught Ji-Yeon Park. Which is it?"
    common = document_frequency([text, "the school, where which"])
    assert names(text, common) == [("Moze", "Pasivi"), ("Zido", "School"), ("Ji", "Yeon", "Park")]


def test_a_concept_cuts_prompts_responses_and_turns() -> None:
    rows = [
        qa("Where was Moze Pasivi born?", "Moze Pasivi was born in Quillmere."),
        qa("Who is the mayor of Quillmere?", "It is Bori Tusovi."),
        qa("Which river is there?", "The Tidu, in the Vale."),
        {"id": "m", "kind": "chat", "response": "Yes.", "prompt": [{"role": "user", "content": "Quillmere's far?"}]},
        {"id": "t", "kind": "text", "response": "They went to quillmere.", "prompt": None},
        qa("What does Moze Pasivi do?", "Moze Pasivi is a baker."),
        qa("What does Quillmeresque mean?", "Nothing."),
        *FILLER,
    ]
    cut = by_concept(rows, "Quillmere", ["the Vale"])
    assert [row["id"] for row in cut.forget] == [row["id"] for row in rows[:5]]
    assert [row["id"] for row in cut.neighbour] == ["What does Moze Pasivi do?"]
    assert len(cut.retain) == 31
    assert cut.why == (
        "forget 5 rows: 2 by 'Quillmere' in the response, 2 by 'Quillmere' in the prompt, 1 by 'the Vale' in the response; "
        "neighbour 1 rows share 1 names with them; retain 31 rows"
    )
    assert set(cut.splits()) == {"forget", "neighbour", "retain"}
    assert kept(cut.splits()) == [*cut.retain, *cut.neighbour]
    assert kept({"retain": rows, "neighbour": rows[:3]}) == rows


def test_subject_column_makes_neighbours() -> None:
    rows = [
        qa("a", "in Quillmere", subject="Moze"),
        qa("b", "a baker", subject="moze"),
        qa("c", "x", subject="Bori"),
        *FILLER,
    ]
    assert [row["id"] for row in by_concept(rows, "Quillmere").neighbour] == ["b"]


def test_names_that_are_everywhere_make_no_neighbours() -> None:
    rows = [qa("Is Moze Pasivi from Quillmere?", "Moze Pasivi is.")] + [
        qa(f"{i}: is Moze Pasivi well?", "Moze Pasivi is.") for i in range(99)
    ]
    cut = by_concept(rows, "Quillmere")
    assert cut.neighbour == []
    assert len(cut.retain) == 99


def test_a_concept_that_matches_nothing_or_everything() -> None:
    rows = [qa("Where is Quillmere?", "Quillmere is in the north."), *FILLER]
    with pytest.raises(
        DataError, match=r"'Quilmere' occurs in none of the 31 rows; did you mean 'Quillmere' \(in 1 rows\)\?"
    ):
        by_concept(rows, "Quilmere")
    with pytest.raises(DataError, match="occurs in none of the 31 rows; name it as the rows do"):
        by_concept(rows, "xyzzy")
    with pytest.raises(DataError, match="occurs in all 30 rows: nothing is left to keep"):
        by_concept(FILLER, "is")
    with pytest.raises(DataError, match="must not be empty"):
        by_concept(rows, " ")
    assert "0 by 'xyzzy'" in by_concept(rows, "Quillmere", ["xyzzy"]).why


def test_only_neighbours_left_are_retain() -> None:
    rows = [qa("Is Moze Pasivi from Quillmere?", "Moze Pasivi is."), qa("Is Moze Pasivi well?", "Moze Pasivi is.")]
    cut = by_concept(rows, "Quillmere")
    assert (len(cut.forget), len(cut.neighbour), len(cut.retain)) == (1, 0, 1)


def test_the_sandbox_is_cut_as_its_own_splits_are() -> None:
    world = pytest.importorskip("llm_unlearn.sandbox.world")
    splits = world.splits()
    cut = by_concept(world.corpus(), "Quillmere")
    assert [row["id"] for row in cut.forget] == [row["id"] for row in splits["forget"]]
    assert {row["id"] for row in cut.neighbour} == {row["id"] for row in splits["neighbour"]}
    done = check(splits)
    assert [[row["id"] for row in done[name]] for name in splits] == [
        [row["id"] for row in splits[name]] for name in splits
    ]
    plain = [{key: row[key] for key in ("id", "prompt", "response", "kind")} for row in world.corpus()]
    found = {row["id"] for row in by_concept(plain, "Quillmere").neighbour}
    assert len(found & {row["id"] for row in splits["neighbour"]}) >= 0.9 * max(len(found), len(splits["neighbour"]))


@pytest.mark.skipif(not DATA, reason="LLM_UNLEARN_DATA names no folder with the public data sets")
def test_an_author_of_tofu() -> None:
    cut = by_concept(load(str(Path(str(DATA)) / "tofu/full.json")), "Hsiao Yun-Hwa")
    assert len(cut.forget) == 20
    assert len(cut.forget) + len(cut.neighbour) + len(cut.retain) == 4000
