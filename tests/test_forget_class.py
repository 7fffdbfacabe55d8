"""Whole classes and single records, from the command line to the verdict, on the embedded texts and on files."""

import json
from pathlib import Path
from typing import Any

import pytest
from classifier_runs import text_setting

from llm_unlearn import cli
from llm_unlearn.errors import DataError, RecipeError
from llm_unlearn.files import read_json, write_json
from llm_unlearn.method import find
from llm_unlearn.reporting.caveats import caveats
from llm_unlearn.sandbox import texts
from llm_unlearn.targets import training_seconds

SHORT = ["--method.training.steps=90", "--evaluation.rows=100", "--evaluation.suite=quick", "--precision=fp32"]


def figures(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    report = json.loads((folder / "report.json").read_text())
    return {(figure["name"], figure["split"]): figure for figure in report["figures"]}


def test_with_nothing_given_the_embedded_texts_forget_a_town(tmp_path: Path, capsys: Any) -> None:
    cli.forget_class(["--output", str(tmp_path / "out"), *SHORT])
    found = figures(tmp_path / "out")
    forget, seen, kept = (found["accuracy", split] for split in ("forget", "forget_heldout", "retain_heldout"))
    assert (forget["before"], forget["gold"]) == (1.0, 0.0) and forget["after"] <= 0.02
    assert seen["before"] > 0.6 and seen["after"] <= 0.02  # what its test rows are known by before is no place to stop
    assert abs(kept["after"] - kept["before"]) < 0.05
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert any("whole classes are forgotten" in note for note in report["notes"])
    assert ("accuracy", "holdout") not in found  # strangers are no rows to measure on
    said = capsys.readouterr().out
    assert "forget 150 rows" in said and texts.CLASS not in (tmp_path / "out" / "report.json").read_text()


def test_with_nothing_given_a_request_is_forgotten(tmp_path: Path) -> None:
    cli.forget_records(
        ["--output", str(tmp_path / "out"), *SHORT, "--method.training.steps=450"]
    )  # at 300 on the limit
    found = figures(tmp_path / "out")
    forget = found["accuracy", "forget"]
    assert forget["before"] == 1.0 and abs(forget["after"] - forget["gold"]) < 0.1
    assert found["accuracy", "holdout"]["n"] > 50 and found["accuracy", "retain"]["after"] > 0.95


def test_files_classes_and_a_class_that_is_not_there(tmp_path: Path) -> None:
    setting = text_setting(tmp_path)
    folder = tmp_path / "files"
    folder.mkdir()
    rows = [*setting.splits["forget"], *setting.splits["retain"]]
    for name, part in (("train", rows), ("test", setting.splits["retain_heldout"])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    given = ["--model", str(tmp_path / "target"), "--data", str(folder / "train.jsonl"), *SHORT]
    test = ["--test", str(folder / "test.jsonl")]
    with pytest.raises(DataError, match=r"no row has the class '7'"):
        cli.forget_class([*given, *test, "--classes", "7", "--output", str(tmp_path / "out")])
    with pytest.raises(DataError, match=r"names all 3 classes"):
        cli.forget_class([*given, "--classes", "0", "1", "2", "--output", str(tmp_path / "out")])
    with pytest.raises(RecipeError, match="--data without --concept: name what is to be forgotten"):
        cli.forget_class([*given, "--output", str(tmp_path / "out")])
    several = [{**row, "label": [int(row["label"] == i) for i in range(3)]} for row in rows]
    (folder / "several.jsonl").write_text("".join(json.dumps(row) + "\n" for row in several))
    config = json.loads((tmp_path / "target" / "config.json").read_text())
    write_json(tmp_path / "target" / "config.json", {**config, "problem_type": "single_label_classification"})
    with pytest.raises(DataError, match="several labels a row"):
        cli.forget_class(
            [*given[:3], str(folder / "several.jsonl"), "--classes", "1", "--output", str(tmp_path / "out")]
        )
    cli.forget_class([*given, *test, "--classes", "LABEL_1", "--output", str(tmp_path / "out")])
    assert figures(tmp_path / "out")["accuracy", "forget"]["after"] <= 0.1


@pytest.mark.parametrize("name", ["nabla_tau", "concept_poison", "random_label", "scrub", "bad_teacher"])
def test_every_method_says_what_it_does_on_classifiers(name: str) -> None:
    assert "sequence_classifier" in find(name).tasks and "image_classifier" in find(name).tasks


def test_how_long_gold_took_is_known_only_where_it_was_trained(tmp_path: Path) -> None:
    write_json(tmp_path / "training.json", {"seconds": {"gold": 12.5, "gold-1": 0.1}, "cached": ["gold-1"]})
    assert training_seconds(str(tmp_path / "gold")) == 12.5
    assert training_seconds(str(tmp_path / "gold-1")) is None and training_seconds("some/model") is None
    assert read_json(tmp_path / "training.json") is not None


def test_the_embedded_texts() -> None:
    made = texts.corpus()
    every = [row["text"] for rows in made.values() for row in rows]
    assert len(set(every)) == len(every) == 2500
    told = [texts.names()[row["label"]] in row["text"] for row in made["train"]]
    assert 0.65 < sum(told) / len(told) < 0.75  # the others must be known by heart
    assert len(texts.request()) == 120 and set(texts.request()) <= {row["id"] for row in made["train"]}
    for name in ("target", "gold", "gold_records"):
        assert (texts.path(name) / "model.safetensors").stat().st_size <= 400_000  # type: ignore[arg-type]


def test_what_a_method_says_of_itself_reaches_the_reader() -> None:
    assert caveats({}) == [] and caveats({"energy_kept": 0.95, "within_tolerance": 1, "finished_after_steps": 7}) == []
    found = caveats({"energy_kept": 0.38, "within_tolerance": 0, "finished_after_steps": None, "most_steps": 400})
    assert "38% of the edit's energy" in found[0] and "no strength" in found[1] and "not reached in 400" in found[2]
