"""report.json, its tables and the page: schema, missing values, no row's text, nothing half-written."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from test_metrics import made_up, model

from llm_unlearn.errors import OutputError
from llm_unlearn.measuring.figures import assess
from llm_unlearn.measuring.suites import STANDARD
from llm_unlearn.measuring.verdict import verdict
from llm_unlearn.reporting import charts, plots, report, sections
from llm_unlearn.reporting.worst import worst_rows
from llm_unlearn.runfolder import fingerprint
from llm_unlearn.scores import ModelScores


def built(after: ModelScores, before: ModelScores, gold: ModelScores | None = None, **changes: Any) -> dict[str, Any]:
    """Return a report on made-up scores."""
    seen = assess(after, before=before, gold=gold)
    values: dict[str, Any] = {
        "request": {"model": "tiny", "concept": "k:12ab"},
        "method": {"name": "npo", "beta": 0.1, "training": {"steps": 300}},
        "versions": {"torch": "2.13"},
        "seed": 0,
        "assessment": seen,
        "verdict": verdict(seen.judged, changed=True, unknown=seen.unknown),
        "holdout": "given",
        "seconds": {"unlearn": 1.5},
        "peak_memory_bytes": 10**9,
        "notes": ["an adapter can be switched off"],
    }
    return report.build(**{**values, **changes})


@pytest.fixture(scope="module")
def full() -> dict[str, Any]:
    """A report with everything in it."""
    kinds = tuple("cloze" if i % 2 else "paraphrase" for i in range(40))
    before, after, gold = model(knows=1, n=80), model(knows=0, n=80, seed=2), model(knows=0, n=80, seed=1)
    for scores in (before, after, gold):
        scores["retain_heldout"] = made_up("retain_heldout", knows=1, kinds=kinds)
    return built(after, before, gold)


HISTORY = [
    {
        "step": step,
        "forget_loss": step / 5,
        "holdout_loss": 3.0,
        "retain_loss": None if step % 2 else 0.1,
        "on": step < 15,
    }
    for step in range(25)
]


def test_schema(full: dict[str, Any], tmp_path: Path) -> None:
    path = report.write_report(tmp_path / "new", full)
    stored = json.loads(path.read_text())
    assert stored["schema"] == 1 and report.read_report(tmp_path / "new") == stored == full
    parts = {"schema", "request", "method", "versions", "seed", "figures", "verdict", "seconds", "peak_memory_bytes"}
    assert set(stored) >= parts | {"by_kind", "holdout", "notes"}
    for figure in stored["figures"]:
        assert set(figure) >= {"name", "split", "before", "after", "gold", "gap", "interval", "n", "target"}
        assert figure["target"] in ("gold", "high", "low")
    names = {figure["name"] for figure in stored["figures"]}
    assert names == set(STANDARD) and all(figure["after"] is not None for figure in stored["figures"])
    assert {figure["split"] for figure in stored["by_kind"]} == {"retain_heldout/cloze", "retain_heldout/paraphrase"}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.json"], "no temporary file is left"


def test_a_missing_value_is_null_and_never_0() -> None:
    before, after = model(knows=1, wrong_losses=None), model(knows=0, wrong_losses=None)
    for scores in (before, after):
        del scores["holdout"]
    out = built(after, before, holdout="none")
    for figure in out["figures"]:
        assert figure["gold"] is None and figure["gap"] is None
        if figure["name"] in ("truth_ratio", "forget_quality", "mia_loss"):
            assert figure["before"] is figure["after"] is figure["interval"] is None
    text = report.table(out)
    assert "not measured: forget_quality (needs gold" in text and "mia_loss (needs a holdout)" in text
    assert not re.search(r"^(mia_loss|truth_ratio|forget_quality) ", text, re.MULTILINE)
    assert report.plain_json({"a": float("nan"), "b": (float("inf"), 1)}) == {"a": None, "b": [None, 1]}


def test_the_table_lines_up(full: dict[str, Any]) -> None:
    lines = report.table(full).splitlines()
    assert [word.strip() for word in lines[0].split("|")] == list(report.COLUMNS)
    rows = [line for line in lines if line.count("|") == 6]
    on_screen = [figure for figure in full["figures"] if figure["name"] in report.ON_SCREEN]
    assert len(rows) == len(on_screen) + 1 < len(full["figures"])
    assert f"{len(report.ordered(full['figures'])) - len(on_screen)} more lines" in "\n".join(lines)
    assert len({tuple(i for i, sign in enumerate(row) if sign == "|") for row in rows}) == 1, "bars below bars"
    assert rows[1].startswith("extraction_strength") and "| forget " in rows[1]
    assert any(re.match(r"forgot: +yes", line) for line in lines)
    assert any(line.startswith("  - forgot: ") for line in lines)
    assert report.markdown_table(full).splitlines()[0] == "| figure | split | before | after | gold | gap | n |"


@pytest.mark.parametrize(
    ("value", "signed", "shown"),
    [
        (None, False, "-"),
        (float("nan"), False, "-"),
        (0.0, False, "0.000"),
        (0.12345, False, "0.123"),
        (4.2e-51, False, "4e-51"),
        (0.05, True, "+0.050"),
        (-0.00001, True, "0.000"),
    ],
)
def test_numbers(value: float | None, signed: bool, shown: str) -> None:
    assert report.number(value, signed=signed) == shown


def test_what_before_did_not_know_is_said() -> None:
    out = built(model(knows=0, n=80), model(knows=0.4, n=80), model(knows=0, n=80, seed=1))
    assert out["before_did_not_know"] == ["forget", "forget_heldout"]
    assert "before did not know" in next(line for line in report.table(out).splitlines() if "forget_heldout" in line)
    assert out["verdict"]["forgot"] is None


def test_no_text_of_a_row_gets_out(full: dict[str, Any], tmp_path: Path) -> None:
    before, after = model(knows=1, n=80), model(knows=0, n=80)
    path = plots.write_html(tmp_path, full, history=HISTORY, before=before, after=after)
    for text in (path.read_text(), json.dumps(full), report.table(full), report.markdown_table(full)):
        assert "town number" not in text and "somewhere else" not in text and "forget-1" not in text


def test_the_page_needs_nothing_else(full: dict[str, Any], tmp_path: Path) -> None:
    scores = {
        "before": model(knows=1, n=80),
        "after": model(knows=0, n=80, seed=2),
        "gold": model(knows=0, n=80, seed=1),
    }
    text = plots.write_html(tmp_path, full, history=HISTORY, **scores).read_text()
    assert not re.search(r"<script|<link|<img|url\(|@import|src=|href=", text)
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) == 1 + len(sections.PANELS) + 3, "losses, a panel a split, three histograms"
    for drawing in drawings:
        ElementTree.fromstring(drawing)
        assert "nan" not in drawing and "inf" not in drawing.replace("info", "")
    assert (
        "It forgot: on the forget set the model now looks like a model that never saw it. The rest was kept." in text
    )
    assert charts.SHADE in drawings[0] and "By kind of row" in text


def test_the_page_without_gold_holdout_or_history(tmp_path: Path) -> None:
    before, after = model(knows=1, wrong_losses=None), model(knows=0, wrong_losses=None)
    for scores in (before, after):
        del scores["holdout"]
    text = plots.write_html(tmp_path, built(after, before, holdout="none"), before=before, after=after).read_text()
    for words in (
        "cannot be told",
        "were not followed: the method takes no steps on them",
        "no gold model",
        "No holdout was measured",
        "no holdout",
    ):
        assert words in text
    assert charts.MODELS["gold"] not in "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    bare = plots.write_html(tmp_path, built(after, before, holdout="none")).read_text()
    assert "Losses, row by row" not in bare


def test_settings_are_escaped(full: dict[str, Any], tmp_path: Path) -> None:
    text = plots.write_html(tmp_path, {**full, "request": {"model": "<b>&"}, "notes": ["<i>x</i>"]}).read_text()
    assert "<b>&" not in text and "&lt;b&gt;&amp;" in text and "<i>x</i>" not in text


def test_a_second_phase_goes_on_where_the_first_ended() -> None:
    steps = [entry["step"] for entry in plots._continued([{"step": 0}, {"step": 10}, {"step": 0}, {"step": 5}])]
    assert steps == [0, 10, 10, 15]


@pytest.mark.parametrize(
    ("forgot", "kept", "changed", "says"),
    [
        (True, True, True, "It forgot"),
        (False, True, True, "did not forget as it should"),
        (True, False, True, "But the rest was damaged"),
        (None, None, True, "cannot be told. Nothing was measured that had to be kept"),
        (True, True, False, "Nothing happened"),
    ],
)
def test_headlines(full: dict[str, Any], forgot: bool | None, kept: bool | None, changed: bool, says: str) -> None:
    judged = {"forgot": forgot, "utility_kept": kept, "changed": changed, "reasons": []}
    assert says in report.headline({**full, "verdict": judged})[0]


def test_unfinished_broken_and_foreign_reports_are_errors(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="has not finished"):
        report.read_report(tmp_path)
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(OutputError, match="not JSON"):
        report.read_report(tmp_path)
    (tmp_path / "report.json").write_text('{"schema": 2}')
    with pytest.raises(OutputError, match="schema 2"):
        report.read_report(tmp_path)
    with pytest.raises(ValueError, match="given, synthetic, none"):
        built(model(knows=0, n=80), model(knows=1), holdout="yes")


def test_axis_ticks_are_round() -> None:
    assert charts.Axis(0, 1, 0, 100).ticks(4) == [0, 0.25, 0.5, 0.75, 1.0]
    assert charts.Axis(0, 300, 0, 100).ticks(6) == [0, 50, 100, 150, 200, 250, 300]
    assert charts.Axis(5, 5, 0, 100)(5) == 0


def test_the_worst_rows_are_named_by_a_mark_alone() -> None:
    before, gold = model(knows=1, n=80), model(knows=0, n=80, seed=1)
    after = model(knows=0, n=80, seed=2)
    after["forget"] = made_up("forget", knows=0.1, n=80)  # rows 0 to 7 still known
    after["neighbour"] = made_up("neighbour", knows=0.975, n=80)  # rows 78 and 79 lost
    found = worst_rows(before, after, gold, b"key")
    assert [line["after"] for line in found["still_known"]] == [1.0] * 5
    assert {line["row"] for line in found["still_known"]} <= {
        fingerprint(b"key", f"forget-{i}")[:12] for i in range(8)
    }
    assert {line["row"] for line in found["lost"]} == {fingerprint(b"key", f"neighbour-{i}")[:12] for i in (78, 79)}
    assert "forget-" not in str(found) and worst_rows(before, gold, gold, b"key")["still_known"] == []


def test_attacks_take_their_place_in_the_page(full: dict[str, Any], tmp_path: Path) -> None:
    page = plots.write_html(tmp_path, full).read_text()
    assert "eval/attack.py --run DIR" in page
    figure = {"attack": "relearn", "setting": "1 epoch", "figure": "extraction_strength", "n": 80, "difference": 0.4}
    figure |= {"after_before_attack": 0.1, "after": 0.7, "gold_before_attack": 0.1, "gold": 0.3}
    curve = {"figure": "extraction_strength", "setting": "1 epoch", "steps": [0, 10], "after": [0.1, 0.7]}
    found = {"figures": [figure], "curves": [{**curve, "gold": [0.1, 0.3], "before": 1.0}], "notes": ["a <note>"]}
    once = sections.put_attacks(page, found)
    assert "+0.400" in once and "a &lt;note&gt;" in once and "eval/attack.py" not in once
    assert sections.put_attacks(once, found) == once, "a second attack replaces the first"
    assert sections.put_attacks("no such section", found) == "no such section"
