"""Rows that carry a concept, told from examples; and a concept inside a class, from the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
from classifier_runs import text_setting
from conftest import Bench

from llm_unlearn.concepts.like_examples import like_examples
from llm_unlearn.errors import DataError, RecipeError
from llm_unlearn.options import parse
from llm_unlearn.prepare import prepare

OIL = [
    f"{who} says crude oil prices {what} in {where}"
    for who, what, where in zip("ABCDEFGH", "klmnopqr", "stuvwxyz", strict=True)
]
OTHER = [
    f"{who} says shares of {what} rise in {where}"
    for who, what, where in zip("ABCDEFGH", "klmnopqr", "stuvwxyz", strict=True)
]


def rows_of(texts: list[str], start: int = 0) -> list[dict[str, Any]]:
    return [{"id": f"{start + i}", "text": text, "label": 1} for i, text in enumerate(texts)]


def test_words_that_examples_share_tell_the_other_rows(sentences: Bench) -> None:
    rows = rows_of([*OIL, *OTHER, "Z: the price of crude oil, again", "Y: prices"])
    found = like_examples(sentences.target, sentences.task, rows, rows[:6])
    assert set(found.words) >= {"crude", "oil", "prices"} and "says" not in found.words[:3]
    assert found.found[:8] == (True,) * 8 and not any(found.found[8:16]) and found.count == sum(found.found)
    assert found.scores[16] > found.scores[17] > found.scores[8]


def test_examples_are_carriers_and_few_are_refused(sentences: Bench) -> None:
    rows = rows_of([*OIL, *OTHER])
    odd = [*rows[:6], rows[8]]
    assert like_examples(sentences.target, sentences.task, rows, odd).found[8]
    with pytest.raises(DataError, match="4 different example rows are too few .*at least 5"):
        like_examples(sentences.target, sentences.task, rows, [*rows[:4], rows[0]])


def test_states_tell_pictures(images: Bench) -> None:
    """The toy's pictures are noise, so no direction holds on unseen ones: refused, and not guessed."""
    rows = images.splits["forget"]
    with pytest.raises(DataError, match="no direction for the concept 'examples'"):
        like_examples(images.target, images.task, rows, rows[:6], images.splits["retain"])


def test_a_concept_inside_a_class(tmp_path: Path) -> None:
    setting = text_setting(tmp_path)
    every = [*setting.splits["forget"], *setting.splits["retain"]]
    bakers = [row for row in every if "baker" in row["text"]]
    for name, rows in (
        ("train", every),
        ("test", setting.splits["retain_heldout"]),
        ("few", bakers[:4]),
        ("like", bakers[:8]),
    ):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [
        "--task",
        "sequence_classifier",
        "--model",
        str(tmp_path / "target"),
        "--data",
        str(tmp_path / "train.jsonl"),
    ]
    given += ["--test", str(tmp_path / "test.jsonl")]
    asked = [*given, "--classes", "0", "--examples", str(tmp_path / "like.jsonl")]
    found = prepare(parse(asked))
    wanted = {row["id"] for row in every if row["label"] == 0 and "baker" in row["text"]}
    assert {row["id"] for row in found.splits["forget"]} == wanted and "baker" in found.why
    assert len(found.splits["retain"]) == len(every) - len(wanted)
    assert {row["label"] for row in found.splits["holdout"]} == {0} and "forget_heldout" not in found.splits
    assert "those like the 8 examples" in found.notes[0] and "baker" not in found.notes[0]
    with pytest.raises(
        RecipeError,
        match="infers carriers for causal language models; for task sequence_classifier give --classes with --examples",
    ):
        parse([*given, "--ids", str(tmp_path / "ids.txt"), "--examples", str(tmp_path / "like.jsonl")])
    with pytest.raises(DataError, match="too few to tell a concept"):
        prepare(parse([*given, "--classes", "0", "--examples", str(tmp_path / "few.jsonl")]))
