"""What the report says of attribution: figures always, words and pictures only with --show-records."""

import json
from pathlib import Path
from typing import Any

import pytest
from classifier_runs import image_setting, text_setting

from llm_unlearn import unlearn

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
