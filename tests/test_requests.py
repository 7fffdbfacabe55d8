"""What a request asks to forget: classes by number or name, rows by id, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Splits

from llm_unlearn.data.requests import (
    Classes,
    by_classes,
    by_ids,
    check_labels,
    class_numbers,
    read_ids,
    removed_classes,
    repeated,
    strangers_to,
)
from llm_unlearn.errors import DataError
from llm_unlearn.prepare import prepare, with_holdout
from llm_unlearn.recipe import from_values
from llm_unlearn.sandbox import texts

NAMES = Classes(names={0: "cat", 1: "dog", 2: "eel"}, multi_label=False)
ROWS = [{"id": f"r{i}", "text": f"text {i}", "label": i % 3, "kind": "label"} for i in range(12)]
TEST = [{"id": f"t{i}", "text": f"unseen {i}", "label": i % 3, "kind": "label"} for i in range(6)]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_classes_go_by_number_or_name() -> None:
    assert class_numbers(["1", "cat"], ROWS, NAMES) == {0, 1}
    assert class_numbers(["2"], ROWS, None) == {2}
    cut = by_classes(ROWS, TEST, frozenset({1}))
    assert {name: [row["id"] for row in rows] for name, rows in cut.items() if "held" in name} == {
        "forget_heldout": ["t1", "t4"],
        "retain_heldout": ["t0", "t2", "t3", "t5"],
    }
    assert all(row["label"] == 1 for row in cut["forget"]) and all(row["label"] != 1 for row in cut["retain"])
    assert len(cut["forget"]) + len(cut["retain"]) == len(ROWS)
    assert by_classes(ROWS, [], frozenset({1})).keys() == {"forget", "retain"}


@pytest.mark.parametrize(
    ("asked", "rows", "message"),
    [
        (["dgo"], ROWS, r"no row has the class 'dgo'; did you mean 'dog'\?  Classes: cat, dog, eel\."),
        (["3"], ROWS, r"no row has the class '3'"),
        (["0", "dog", "2"], ROWS, r"names all 3 classes of the data: nothing is left to keep"),
        (["1"], [{**row, "label": 1} for row in ROWS], r"all 12 rows are of one class: without it"),
        (["1"], [{"id": "a", "prompt": "x", "response": "y"}], r"needs rows with a label in every row"),
    ],
)
def test_classes_that_cannot_go_are_refused(asked: list[str], rows: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        class_numbers(asked, rows, NAMES)
    assert "\n" not in str(caught.value)


def test_a_request_is_read_from_any_kind_of_list(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("\ufeffr3\n\nr5 \nr3\n")
    assert read_ids(str(tmp_path / "ids.txt")) == ["r3", "r5"]
    (tmp_path / "ids.csv").write_text("id,why\nr3,asked\nr5,asked\n")
    assert read_ids(str(tmp_path / "ids.csv")) == ["r3", "r5"]
    assert read_ids(write(tmp_path / "ids.jsonl", [{"id": 3}])) == ["3"]
    with pytest.raises(DataError, match=r"ids\.jsonl, line 1: a request needs a column `id`"):
        read_ids(write(tmp_path / "ids.jsonl", [{"name": "r3"}]))
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(DataError, match="holds no ids"):
        read_ids(str(tmp_path / "none.txt"))
    with pytest.raises(DataError, match="there is no such file"):
        read_ids(str(tmp_path / "missing.txt"))


def test_ids_that_are_not_there_are_counted_and_named() -> None:
    assert [row["id"] for row in by_ids(ROWS, ["r3", "r5"])["forget"]] == ["r3", "r5"]
    with pytest.raises(DataError, match=r"7 of 8 ids are in no row of --data: 'q0', 'q1', 'q2', 'q3', 'q4', \.\.\."):
        by_ids(ROWS, ["r1", *(f"q{i}" for i in range(7))])
    with pytest.raises(DataError, match=r"asks for all 12 rows"):
        by_ids(ROWS, [row["id"] for row in ROWS])
    assert repeated([*ROWS, {**ROWS[0], "id": "r3-2"}], ["r3", "r4"]) == 1


def several(*labels: int) -> dict[str, Any]:
    return {"id": "", "text": "x", "label": list(labels)}


@pytest.mark.parametrize(
    ("rows", "known", "message"),
    [
        ([several(0, 1, 0)], NAMES, r"several labels a row .* m tells one class"),
        (ROWS, Classes(names=NAMES.names, multi_label=True), r"one class a row, and m tells several labels"),
        ([several(0, 1)], Classes(names=NAMES.names, multi_label=None), r"lists have 2 entries, and m tells 3"),
        ([several(0, 1), several(1)], None, r"different lengths \(1, 2\)"),
        ([ROWS[0], several(1)], None, r"some rows have one class and some a list"),
        ([{**ROWS[0], "label": 3}], NAMES, r"the data has the class 3, and m tells 3 \(0 to 2\)"),
        ([{"id": "", "prompt": None, "response": "x"}], NAMES, r"a row of forget has no label"),
    ],
)
def test_labels_of_another_kind_than_the_models_are_refused(rows: Any, known: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_labels({"forget": rows}, known, "m")


def test_whole_classes_are_told_from_single_rows() -> None:
    rows: Splits = {"forget": ROWS[1::3]}
    assert removed_classes(rows, ROWS[::3]) == {1}
    assert not removed_classes(rows, ROWS) and not removed_classes({"forget": ROWS}, ROWS[::3])
    assert removed_classes({"forget": [several(0, 1, 1), several(0, 1, 0)]}, [several(0, 0, 1)]) == {1}


def test_strangers_claim_to_be_of_the_forgotten_classes_in_their_shares() -> None:
    forget = [{**row, "label": 1 + (i % 4 == 0)} for i, row in enumerate(ROWS)]
    found = strangers_to(frozenset({1, 2}), forget, [row for row in TEST * 20 if row["label"] == 0], seed=0)
    claims = [row["label"] for row in found]
    assert len(found) == 40 and claims.count(2) == 10 and claims.count(1) == 30
    (both,) = strangers_to(frozenset({1}), [several(0, 1, 0)], [several(0, 0, 1)], seed=0)
    assert both["label"] == [0, 1, 1]


def test_a_class_of_the_embedded_texts() -> None:
    recipe = from_values({"task": "sequence_classifier"})
    assert recipe.classes == (texts.CLASS,) and recipe.gold == "sandbox"
    prepared = with_holdout(prepare(recipe), recipe)
    counts = {name: len(rows) for name, rows in prepared.splits.items()}
    assert counts == {"forget": 150, "retain": 1350, "forget_heldout": 100, "retain_heldout": 900}
    strangers = prepared.for_method()["holdout"]  # measured nowhere: what methods stop at
    unseen = {row["text"] for row in prepared.splits["retain_heldout"]}
    assert {row["label"] for row in strangers} == {0} and {row["text"] for row in strangers} <= unseen
    assert from_values({"task": "sequence_classifier", "classes": [3]}).gold is None


@pytest.mark.parametrize("task", ["sequence_classifier", "causal_lm"])
def test_a_request_to_the_embedded_models(task: str) -> None:
    recipe = from_values({"task": task, "ids": "sandbox", "data": "sandbox"})
    prepared = with_holdout(prepare(recipe), recipe)
    assert prepared.holdout == "given" and not prepared.strangers
    assert recipe.gold == ("sandbox" if task != "causal_lm" else None)
    if task != "causal_lm":
        assert len(prepared.splits["forget"]) == 120 and len(prepared.splits["holdout"]) == 1000


def test_without_test_rows_the_notes_say_what_is_missing(tmp_path: Path) -> None:
    data = write(tmp_path / "train.jsonl", ROWS)
    base = {"task": "sequence_classifier", "model": "none/such", "data": data}
    recipe = from_values({**base, "classes": ["1"]})
    prepared = with_holdout(prepare(recipe), recipe)
    assert any("--test" in note and "not measured" in note for note in prepared.notes)
    assert len(prepared.strangers) == 8  # of retain, for lack of others
    only = write(tmp_path / "test.jsonl", [row for row in TEST if row["label"] != 1])
    found = prepare(from_values({**base, "classes": ["1"], "test": only}))
    assert any("no rows for forget_heldout" in note for note in found.notes)
    with pytest.raises(DataError, match=r"4 of 4 forget_heldout rows are in forget too"):
        prepare(from_values({**base, "classes": ["1"], "test": write(tmp_path / "same.jsonl", ROWS)}))
