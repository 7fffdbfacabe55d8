"""Requests one after the other: joined into one adapter, the earlier ones measured again, a ledger, no half-done state."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Bench
from published import make_run

from llm_unlearn import continuing, earlier, hub
from llm_unlearn.continuing import Request, go_on
from llm_unlearn.errors import DataError, OutputError
from llm_unlearn.files import read_json
from llm_unlearn.publish import ledger, receipt
from llm_unlearn.publish.verification import Options, verify
from llm_unlearn.subject import Subject

STRONG = {
    "name": "grad_diff",
    "forget_weight": 1.0,
    "training": {"steps": 30, "learning_rate": 1e-2, "forget_batch": 4, "warmup_steps": 2},
}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def first(language: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that forgot something indeed."""
    return make_run(language, tmp_path_factory.mktemp("made"), method=STRONG)


def test_three_requests(first: Path, language: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    shutil.copytree(first, run)
    kept = language.splits["retain"]
    old = receipt.read_receipt(run / "private/receipt.json")["request_id"]
    files = [write_rows(tmp_path / f"{i}.jsonl", [dict(row) for row in kept[4 * i : 4 * i + 4]]) for i in range(2)]
    entry = go_on(Request(run=str(run), request=files[0]))
    assert [each["request_id"] for each in entry["earlier"]] == [old] and entry["rows"] == 4
    assert entry["earlier"][0]["now"] is not None and entry["forgotten"] is entry["earlier"][0]["holds"]
    assert entry["retain"]["now"] and entry["retain"]["base"] and entry["seconds"]["unlearn"] > 0
    report = read_json(run / "report.json") or {}
    figures = {(f["name"], f["split"]): f for f in report["figures"]}
    assert figures["probability", "forget"]["after"] < 0.9 * figures["probability", "forget"]["before"]
    config = json.loads((run / "adapter/adapter_config.json").read_text())
    assert config["r"] == 8, "both adapters, side by side"
    checks = verify(Options(where=str(run)))
    assert [check.ok for check in checks] == [True] * len(checks)
    assert "exact_memorisation on forget" in {check.name for check in checks}, (
        "of the last request's rows, measured again"
    )
    asked = [row["response"] for row in Subject(run=str(run)).splits["forget"]]
    assert asked == [row["response"] for row in kept[:4]], "what eval scripts look at is what the report is about"
    rows = Options(where=str(run), rows=files[0], receipt=str(run / "private/receipt.json"))
    assert all(check.ok for check in verify(rows))
    assert (run / f"private/receipts/{old}.json").exists() and not (run / "private/next").exists()
    assert not [name for name in (run / "private").iterdir() if "ready" in name.name]

    again = go_on(Request(run=str(run), request=files[0]))
    assert again["done_before"] and again["request_id"] == entry["request_id"]

    Path(files[0]).unlink()  # a controller may have deleted the rows: then nothing is claimed about them
    moves: list[str] = []

    def stop(folder: Path) -> None:
        if (folder / "private/ready").exists():
            moves.append("ready")
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(continuing, "_move", stop)
        go_on(Request(run=str(run), request=files[1]))
    assert moves and len((ledger.read(run) or {})["requests"]) == 2, "not yet"
    entry = go_on(Request(run=str(run), request=files[1]))
    assert [each["holds"] for each in entry["earlier"]][1] is None and entry["earlier"][1]["now"] is None
    book = ledger.read(run) or {}
    assert len(book["requests"]) == 3 and ledger.broken_at(book) is None
    assert all(check.ok for check in verify(Options(where=str(run))))
    with monkeypatch.context() as patched:
        patched.setattr(continuing.Path, "is_file", lambda path: str(path) != files[1] and os.path.isfile(path))
        found = {check.name: check.words for check in verify(Options(where=str(run)))}
        assert found["figures"].startswith("not measured: the last request's rows are no longer where they were")
        with pytest.raises(DataError, match="no longer where they were"):
            _ = Subject(run=str(run)).recipe
    left = [json.loads(line)["id"] for line in (run / "private/retain.jsonl").read_text().splitlines()]
    assert left == [row["id"] for row in kept[8:]], "what is to go is never rehearsed, nor is what went before"
    assert "not measured: its rows" in earlier.table(entry)
    text = "".join(path.read_text(errors="ignore") for path in run.glob("*.json"))
    assert not [row for row in kept[:8] if row["prompt"] in text]


def test_what_cannot_be_continued(first: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="there is nothing to continue"):
        go_on(Request(run=str(tmp_path), request="x"))
    run = tmp_path / "run"
    shutil.copytree(first, run)
    path = run / hub.ADAPTER / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(OutputError, match="is not what was certified"):
        go_on(Request(run=str(run), request="x"))
