"""A sequence of requests: each from the result of the one before, none kept that is gone, and what comes back is said."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from classifier_runs import Setting, text_setting

from llm_unlearn import api, continual, sequence
from llm_unlearn.errors import DataError, RecipeError
from llm_unlearn.recipe import Recipe, from_values
from llm_unlearn.sequence import Requests, chosen, read_ids

SHORT = {"name": "grad_ascent", "training": {"steps": 12, "learning_rate": 2e-3, "forget_batch": 8, "warmup_steps": 1}}


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return text_setting(tmp_path_factory.mktemp("text"))


def recipe_of(setting: Setting, output: Path) -> Recipe:
    values = {"task": "sequence_classifier", "model": setting.settings["model"], "method": SHORT}
    quick = {"forget": "ids", "retain": "rows", "evaluation": {"suite": "quick"}, "output": str(output)}
    return from_values({**values, **quick})


@pytest.fixture(scope="module")
def done(
    setting: Setting, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], list[dict[str, Any]]]:
    """A sequence of two requests that was run, its record, and the splits that each run was given."""
    folder, given = tmp_path_factory.mktemp("sequence") / "out", []
    plain = api.unlearn

    def heard(*args: Any, **settings: Any) -> Any:
        given.append(settings["rows"])
        return plain(*args, **settings)

    rows = [*setting.splits["forget"], *setting.splits["retain"]]
    asked = [rows[:20], rows[20:40]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "unlearn", heard)
        record = continual.continual(
            recipe_of(setting, folder), rows, asked, others={"holdout": setting.splits["holdout"]}
        )
    return folder, record, given


def test_each_request_is_a_run_that_starts_from_the_one_before(done: Any, setting: Setting) -> None:
    folder, record, _ = done
    for number in (1, 2):
        report = json.loads((folder / f"request-{number}" / "report.json").read_text())
        assert report["rows"]["forget"] == 20 and report["verdict"]["changed"]
        assert (folder / f"request-{number}" / "merged" / "config.json").exists()
    asked = json.loads((folder / "request-2" / "private" / "request.json").read_text())["request"]
    assert asked["model"] == str(folder / "request-1" / "merged")
    assert record["model"] == "request-2/merged"
    before, first, second = (stage["right"] for stage in record["stages"])
    assert min(before["request-1"], before["request-2"]) > 0.9
    assert first["request-1"] < before["request-1"] - 0.1 and second["request-2"] < before["request-2"] - 0.1


def test_what_is_gone_is_never_kept(done: Any) -> None:
    _, _, given = done
    gone: set[str] = set()
    for number, splits in enumerate(given, start=1):
        gone |= {row["id"] for row in splits["forget"]}
        assert not gone & {row["id"] for row in splits["retain"]}
        assert len(splits["retain"]) == 120 - 20 * number


def test_a_classifier_s_method_is_told_what_was_forgotten_before(done: Any) -> None:
    folder, _, given = done
    assert "forgotten" not in given[0]
    assert [row["id"] for row in given[1]["forgotten"]] == [row["id"] for row in given[0]["forget"]]
    assert json.loads((folder / "request-2" / "report.json").read_text())["rows"]["forgotten"] == 20


def test_finished_requests_are_found(done: Any, setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, record, _ = done
    rows = [*setting.splits["forget"], *setting.splits["retain"]]
    times = [path.stat().st_mtime_ns for path in sorted(folder.glob("request-*/report.json"))]
    monkeypatch.setattr(continual, "load_model", lambda *args: pytest.fail("measured again"))
    again = continual.continual(
        recipe_of(setting, folder), rows, [rows[:20], rows[20:40]], others={"holdout": setting.splits["holdout"]}
    )
    assert again == record == json.loads((folder / continual.RECORD).read_text())
    assert times == [path.stat().st_mtime_ns for path in sorted(folder.glob("request-*/report.json"))]


def test_what_comes_back_is_said() -> None:
    shares = [
        {"request-1": 1.0, "request-2": 1.0},
        {"request-1": 0.10, "request-2": 0.9},
        {"request-1": 0.16, "request-2": 0.2},
    ]
    assert continual.came_back(shares, 0.05) == [
        {"request": 1, "after": 2, "right": 0.16, "right_after_its_own": 0.10}
    ]
    assert continual.came_back(shares, 0.07) == []
    assert continual.came_back(shares[:2], 0.0) == []
    stages = [{"after": number, "right": each} for number, each in enumerate(shares)]
    shown = continual.table({"stages": stages, "came_back": continual.came_back(shares, 0.05)})
    assert "| request 2 | 0.160 (came back) | 0.200 |" in shown and shown.count("came back") == 1


def test_a_request_is_a_file_of_ids(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("r1\n\n r2 \n")
    (tmp_path / "b.csv").write_text("id,why\nr3,asked\n")
    (tmp_path / "c.jsonl").write_text('{"id": 4}\n')
    assert [read_ids(tmp_path / name) for name in ("a.txt", "b.csv", "c.jsonl")] == [["r1", "r2"], ["r3"], ["4"]]
    (tmp_path / "d.csv").write_text("row\nr3\n")
    (tmp_path / "e.txt").write_text("\n")
    for name in ("d.csv", "e.txt"):
        with pytest.raises(DataError, match=f"the request {name} names no ids: give one a line, or a column `id`"):
            read_ids(tmp_path / name)
    with pytest.raises(DataError, match="cannot read the request f.txt"):
        read_ids(tmp_path / "f.txt")


def test_ids_are_looked_up() -> None:
    rows = [{"id": f"r{i}", "text": str(i), "label": 0} for i in range(4)]
    assert [[row["id"] for row in each] for each in chosen(rows, [["r2", "r2"], ["r0"]])] == [["r2"], ["r0"]]
    with pytest.raises(DataError, match=r"1 of the 2 ids of request 1 are not in the data \(4 rows\)"):
        chosen(rows, [["r1", "r9"]])
    with pytest.raises(DataError, match="request 2 names 1 rows that request 1 has already removed"):
        chosen(rows, [["r1"], ["r1", "r0"]])


def test_settings_that_contradict_each_other(setting: Setting, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="--data and --requests belong together"):
        Requests(data="rows.jsonl")
    with pytest.raises(RecipeError, match="nothing to forget"):
        Requests(model="mine")
    with pytest.raises(DataError, match="at least one request, and each request at least one row"):
        continual.continual(recipe_of(setting, tmp_path / "out"), setting.splits["retain"], [[]])


def test_the_sandbox_has_three_requests_of_its_own() -> None:
    rows, asked, others = sequence.of_people()
    ids = [{row["id"] for row in each} for each in asked]
    assert len(asked) == 3 and all(len(each) >= 20 for each in asked)
    assert not (ids[0] & ids[1] or ids[0] & ids[2] or ids[1] & ids[2])
    assert set.union(*ids) < {row["id"] for row in rows}
    assert others["holdout"] and others["retain_heldout"]


def test_the_command(setting: Setting, tmp_path: Path) -> None:
    """One request of 20 rows, given as a file of ids, with the settings of a method."""
    rows = [*setting.splits["forget"], *setting.splits["retain"]]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "monday.txt").write_text("".join(f"{row['id']}\n" for row in rows[:20]))
    script = Path(__file__).parent.parent / "recipes" / "forget_sequence.py"
    words = [
        "--task",
        "sequence_classifier",
        "--model",
        setting.settings["model"],
        "--data",
        str(tmp_path / "rows.jsonl"),
    ]
    words += ["--requests", str(tmp_path / "monday.txt"), "--output", str(tmp_path / "out"), "--method", "grad_ascent"]
    words += ["--method.training.steps=6", "--method.training.learning_rate=2e-3"]
    run = subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "| request 1 |" in run.stdout and (tmp_path / "out" / "continual.md").exists()
    assert rows[0]["text"] not in run.stdout + (tmp_path / "out" / "continual.json").read_text()
    wrong = subprocess.run(
        [sys.executable, str(script), *words[:6], "--output", str(tmp_path / "other")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: --data and --requests belong together")
