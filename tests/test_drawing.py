"""The picture of a report: well-formed, what it shows is what the report says, and the committed one is such a picture."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from llm_unlearn.errors import OutputError
from llm_unlearn.reporting.drawing import drawn

SVG = "{http://www.w3.org/2000/svg}"


def figure(name: str, split: str, **values: float | None) -> dict[str, Any]:
    return {"name": name, "split": split, "gold": None, "interval": None, "n": 7, **values}


def report(*figures: dict[str, Any]) -> dict[str, Any]:
    return {"figures": list(figures), "method": {"name": "npo"}, "seed": 3}


def words(text: str) -> list[str]:
    return [each.text or "" for each in ElementTree.fromstring(text).iter(f"{SVG}text")]


def test_it_shows_what_the_report_says() -> None:
    made = drawn(
        report(
            figure("exact_answer", "forget", before=1.0, after=0.25, gold=0.5),
            figure("exact_answer", "retain", before=0.75, after=0.7),
            figure("probability", "retain", before=0.9, after=None),
        )
    )
    said = words(made)
    assert {".25", ".50", ".75", ".70", "–"} <= set(said) and said.count("1") == 3  # two ends of an axis, one bar
    assert {"before", "after", "gold"} <= set(said) and ".90" not in said
    assert any("npo, seed 3; rows measured: forget 7, retain 7" in each for each in said)


def test_without_a_gold_none_is_shown() -> None:
    assert "gold" not in words(drawn(report(figure("exact_answer", "forget", before=1.0, after=0.25))))


def test_a_report_without_figures_is_refused() -> None:
    with pytest.raises(OutputError, match="nothing to draw"):
        drawn(report(figure("model_utility", "all", before=1.0, after=0.25)))


def test_the_committed_picture_is_whole() -> None:
    path = Path(__file__).parents[1] / "recipes" / "report.svg"
    assert any("npo, seed 0; rows measured: forget 200" in each for each in words(path.read_text(encoding="utf-8")))
    assert path.stat().st_size < 40_000  # bytes
