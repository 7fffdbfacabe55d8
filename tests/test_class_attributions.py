"""What the report says of attribution: figures always, words and pictures only with --show-records."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from classifier_runs import image_setting, text_setting

from llm_unlearn import cli, unlearn
from llm_unlearn.class_concepts import sharing
from llm_unlearn.concepts.bank import build_bank, of_classes
from llm_unlearn.poisoned import Poison

SHORT = {
    "method": {"name": "concept_poison", "training": {"steps": 40}},
    "evaluation": {"suite": "quick"},
    "precision": "fp32",
}


@pytest.mark.parametrize(("make", "kind"), [(text_setting, "words"), (image_setting, "pixels")])
def test_a_run_says_what_the_class_rests_on(make: Any, kind: str, tmp_path: Path) -> None:
    setting = make(tmp_path)
    for name, records in (("plain", False), ("shown", True)):
        out = tmp_path / name
        unlearn(**setting.settings, **SHORT, output=str(out), show_records=records)
        found = json.loads((out / "report.json").read_text())["attribution"]
        page = (out / "report.html").read_text()
        assert found["on"] == kind and set(found["difference"]) == {"before", "after", "gold"}
        assert 0 < found["n"]["before"] <= 24 and 0 < found["mass"]["before"] <= 1
        assert found["difference"]["before"] > found["difference"]["after"]
        assert "What the class rests on" in page and ("rows" in found) == records
        assert ("data:image/png" in page) == (records and kind == "pixels")
        assert ("rgba(" in page) == (records and kind == "words")


def by_class(setting: Any) -> dict[str, list[Any]]:
    rows = [*setting.splits["forget"], *setting.splits["retain"]]
    return {name: [row for row in rows if (row["label"] == 0) == (name == "forget")] for name in ("forget", "retain")}


def test_a_report_charts_the_banks_concepts_and_names_the_donor_that_the_method_takes(tmp_path: Path) -> None:
    setting = text_setting(tmp_path)
    splits = by_class(setting)
    for name, rows in splits.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [*splits["forget"], *splits["retain"]]
    examples = of_classes(rows, {0: "ovens", 1: "windows", 2: "barrels"})
    bank = build_bank(setting.target.eval(), setting.task, examples).save(tmp_path / "bank")
    method = {**SHORT["method"], "bank": str(bank)}
    out = tmp_path / "out"
    settings = {**setting.settings, "retain_heldout": None}
    unlearn(**settings, **{**SHORT, "method": method}, output=str(out), show_records=True)
    found = json.loads((out / "report.json").read_text())["attribution"]["sharing"]
    assert (
        found["concepts"] == ["ovens", "windows", "barrels"] and len(found["weights"]) == len(found["entities"]) == 3
    )
    assert found["entities"][0] == "LABEL_0" and min(found["vectors"]) > 0.5
    run = type("Run", (), {})  # what `donors` looks at
    run.model, run.task, run.splits, run.frozen_copy = setting.target, setting.task, splits, setting.target
    run.rows = lambda name: splits[name]
    donors, _ = Poison(bank=str(bank)).donors(run, torch.tensor([False, True, True]))  # type: ignore[arg-type]
    assert found["donors"] == {"LABEL_0": f"LABEL_{int(donors[0])}"} and found["donor"] == f"LABEL_{int(donors[0])}"
    page = (out / "report.html").read_text()
    assert "ovens" in page and f"The donor is LABEL_{int(donors[0])}" in page
    assert "targeted labels take their answers from it" in page
    hidden = sharing(setting.target, setting.task, splits, None, {0: "ovens", 1: "windows"})
    assert hidden["rule"] == "next" and hidden["concepts"] == ["ovens", "windows", "2"]


@pytest.mark.parametrize(("make", "kind"), [(text_setting, "sequence"), (image_setting, "image")])
def test_explain_shows_what_a_class_rests_on_and_changes_nothing(
    make: Any, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setting = make(tmp_path)
    words = [
        "--task",
        f"{kind}_classifier",
        "--model",
        setting.settings["model"],
        "--data",
        setting.settings["retain"],
    ]
    out = tmp_path / "out"
    cli.forget([*words, "--classes", "1", "--explain", "--output", str(out)])
    assert "nothing was changed" in capsys.readouterr().out and not out.exists()
    found = json.loads((tmp_path / "out.explanation" / "explanation.json").read_text())
    page = (tmp_path / "out.explanation" / "explanation.html").read_text()
    assert set(found["mass"]) == {"before"} and len(found["sharing"]["weights"]) == 3
    assert "What the class rests on" in page and "Who shares it" in page and "LABEL_1" not in page
