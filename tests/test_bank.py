"""Concept vectors: found where the model has them, refused where it has none, and tied to their model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Bench

from llm_unlearn.concepts import bank
from llm_unlearn.errors import DataError, OutputError, TaskError


def test_chance_by_hand() -> None:
    """Four rows, two of them positive, two told to be: both right in 1 of the 6 ways to deal out the labels."""
    labels = torch.tensor([1, 1, 0, 0])
    assert bank.by_chance(torch.tensor([True] * 4), labels) == pytest.approx(1 / 6)
    assert bank.by_chance(torch.tensor([True, False, True, False]), labels) == pytest.approx(5 / 6)
    assert bank.by_chance(torch.tensor([False] * 4), labels) == 1.0


def test_a_concept_is_read_from_the_layer_that_tells_it() -> None:
    draw = torch.Generator().manual_seed(0)
    labels = (torch.arange(60) < 20).long()
    dull, told = torch.randn(60, 6, generator=draw), torch.randn(60, 6, generator=draw)
    told[:, 2] += 8 * labels
    found = bank._concept("x", {"a": dull, "b": told}, labels, 0.01, 0)
    assert found.layer == "b" and found.direction.abs().argmax() == 2 and found.n == 60
    assert found.direction.norm() == pytest.approx(1, abs=1e-6) and found.accuracy > 0.95
    assert ((found.scores(told) > 0).long() == labels).float().mean() > 0.95
    with pytest.raises(
        DataError, match=r"no direction for the concept 'x'.*20 examples, 40 negatives; chance does as well"
    ):
        bank._concept("x", {"a": dull}, labels, 0.01, 0)


@pytest.mark.parametrize("kind", ["causal_lm", "sequence_classifier", "image_classifier"])
def test_a_bank_of_each_kind_of_model(kind: str, bench: Callable[[str], Bench], tmp_path: Path) -> None:
    """Of classifiers the classes; of the language model the rows that say a word."""
    here = bench(kind)
    model = here.target.eval()
    rows = [*here.splits["forget"], *here.splits["retain"]]
    if kind == "causal_lm":
        examples = {"homes": bank.saying(rows, ["live"])}
        made = bank.build_bank(model, here.task, examples, [row for row in rows if row not in examples["homes"]])
    else:
        labels = sorted({row["label"] for row in rows})[:3]
        examples = bank.of_classes(rows, {label: f"class {label}" for label in labels})
        made = bank.build_bank(model, here.task, examples)
    assert all(concept.accuracy > 0.6 for concept in made.concepts)
    found = made.projections(model, here.task, rows)
    assert found.shape == (len(rows), len(made.names))
    again = bank.load_bank(made.save(tmp_path / "bank"))
    torch.testing.assert_close(again.projections(model, here.task, rows), found)
    said = (tmp_path / "bank" / bank.RECORD).read_text()
    assert not any(str(row.get("response", row.get("text"))) in said for row in rows)
    with pytest.raises(TaskError, match=r"made from another model \(.{12}; this one is .{12}\).*Build the bank again"):
        made.projections(here.wrapped(), here.task, rows)


def test_what_is_refused(language: Bench, tmp_path: Path) -> None:
    rows, others = language.splits["forget"], language.splits["retain"]
    for examples, negatives, message in (
        ({}, others, "at least one concept"),
        ({"it": rows[:3]}, others, "'it' has 3 different example rows; a vector needs at least 5"),
        ({"it": rows[:1] * 9}, others, "'it' has 1 different example rows"),
        ({"it": rows[:6], "that": rows[5::-1]}, others, "'it' and 'that' have the same 6 examples"),
        ({"it": rows[:6]}, None, "one concept alone has nothing to be told from"),
        ({"it": rows[:6]}, [], "there are no negatives"),
        ({"it": rows[:6]}, rows[:6], "no row without the concept 'it'"),
    ):
        with pytest.raises(DataError, match=message):
            bank.build_bank(language.target, language.task, examples, negatives)
    with pytest.raises(TaskError, match="has no layer 'model.layers.99'; did you mean 'model.layers"):
        bank.build_bank(language.target, language.task, {"it": rows[:6]}, others, layers=["model.layers.99"])
    with pytest.raises(OutputError, match="holds no concept bank"):
        bank.load_bank(tmp_path)


def test_examples_from_words() -> None:
    rows = [
        {"prompt": "Where?", "response": text} for text in ("In Quillmere's hall.", "Quillmeres.", "By the OLD port.")
    ]
    assert bank.saying(rows, ["quillmere", "old port"]) == [rows[0], rows[2]]
