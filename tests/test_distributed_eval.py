"""Evaluation on two processes: the figures of one, and every row's own numbers, where the rows don't divide."""

import json
import os
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Bench, learn

from llm_unlearn.loading import load_model, load_task
from llm_unlearn.measuring.evaluation import measure
from llm_unlearn.recipe import from_values

SCRIPTS = Path(__file__).parents[1] / "eval"
ROWS = 11  # of forget: no multiple of two processes, of the batch, nor of a step
TOLERANCE = 1e-6
LAUNCHED = """
    import sys
    from pathlib import Path

    from test_distributed_eval import evaluate_everything

    evaluate_everything(Path(sys.argv[1]), "two")
"""


def evaluate_everything(folder: Path, name: str) -> None:
    """Run the scripts on the folder's models as somebody would, and keep each row's numbers, by process."""
    models = ["--model", "target", "--adapter", "adapter", "--gold", "gold", "--batch-size", "4"]
    attacks = ["--attacks", "prune", "relearn", "sampling", "--relearn.batch", "4", "--relearn.points", "2"]
    rows = ["--forget", "forget.jsonl", "--retain", "retain.jsonl"]
    commands = {
        "held_out_prompts": ["--prompts", "forget.jsonl", "--generate", "--wrappers", "prefix_sure"],
        "attack": [*rows, *attacks, "--prune.shares", "0.4", "--sampling.samples", "2", "--sampling.rows", "5"],
        "benchmark": ["tofu", "--data", "data", "--max-new-tokens", "12"],
    }
    os.chdir(folder)
    for script, words in commands.items():
        sys.argv = [script, *words, *models, "--output", f"{name}/{script}"]
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPTS / f"{script}.py"), run_name="__main__")
        assert ended.value.code == 0, script
    recipe = from_values({"model": "target", "forget": "forget.jsonl", "retain": "retain.jsonl"})
    task = load_task(recipe, recipe.model)
    given = {split: _read(Path(f"{split}.jsonl")) for split in ("forget", "retain")}
    scores = measure(load_model(recipe, recipe.model), task, given, batch_size=4, grad_norm=True, progress=False)
    records = {split: each.records() for split, each in scores.items()}
    Path(f"{name}/rows.{os.environ.get('RANK', 'alone')}.json").write_text(json.dumps(records))


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def folder(language: Bench, tmp_path: Path) -> Path:
    """Three models and their rows, as files."""
    forget = [
        {
            **row,
            "kind": ("qa", "cloze")[i % 2],
            "paraphrase": f"It is {row['response']}",
            "wrong": ["Ostrand", "a cooper"],
        }
        for i, row in enumerate(language.splits["forget"][:ROWS])
    ]
    retain = language.splits["retain"][:7]
    _lines(tmp_path / "forget.jsonl", forget)
    _lines(tmp_path / "retain.jsonl", retain)
    published = {"forget10_perturbed": forget, "retain_perturbed": [{**row, "wrong": ["x"]} for row in retain]}
    for name, rows in published.items():
        columns = ("question", "answer", "paraphrased_answer", "perturbed_answer")
        told = [(row["prompt"], row["response"], row.get("paraphrase", row["response"]), row["wrong"]) for row in rows]
        _lines(tmp_path / "data" / f"{name}.json", [dict(zip(columns, each, strict=True)) for each in told])
    for name, model in (
        ("target", language.target),
        ("gold", learn(language.task, language.wrapped(lora=False, start="origin"), retain, steps=40, rate=1e-2)),
    ):
        model.save_pretrained(tmp_path / name)  # type: ignore[operator]
        language.task.tokenizer.save_pretrained(tmp_path / name)  # type: ignore[attr-defined]
    adapted = language.wrapped()
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    adapted.save_pretrained(tmp_path / "adapter")  # type: ignore[operator]
    (tmp_path / "two").mkdir()
    (tmp_path / "one").mkdir()
    return tmp_path


def _alike(one: Any, two: Any, place: str = "") -> int:
    """Compare two JSON values, numbers to TOLERANCE, and return how many numbers there were."""
    if isinstance(one, bool | str) or one is None:
        assert one == two, place
        return 0
    if isinstance(one, int | float):
        assert two == pytest.approx(one, abs=TOLERANCE, rel=TOLERANCE), place
        return 1
    assert type(one) is type(two) and len(one) == len(two), place
    if isinstance(one, dict):
        return sum(_alike(one[key], two[key], f"{place}/{key}") for key in one if key != "seconds")
    return sum(_alike(a, b, f"{place}/{i}") for i, (a, b) in enumerate(zip(one, two, strict=True)))


@pytest.mark.dist
def test_two_processes_measure_what_one_does(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "launched.py").write_text(textwrap.dedent(LAUNCHED))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    paths = os.pathsep.join([str(Path(__file__).parent), str(SCRIPTS.parent)])
    settings = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(
        [*command, str(folder / "launched.py"), str(folder)],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.chdir(folder)
    evaluate_everything(folder, "one")

    for path in ("held_out_prompts/held_out.json", "attack/attacks.json", "benchmark/benchmark_tofu.json"):
        one, two = (json.loads((folder / name / path).read_text()) for name in ("one", "two"))
        for each in (one, two):
            for key in ("command", "request"):  # they name their own folder
                each.pop(key, None)
        assert _alike(one, two, path) > 30, f"{path} holds hardly any number"
    one, two = (
        [
            json.loads(line)
            for line in (folder / name / "held_out_prompts/private/answers.jsonl").read_text().splitlines()
        ]
        for name in ("one", "two")
    )
    assert one == two and len(one) >= ROWS, "the greedy answers, row by row"
    alone, *others = (
        json.loads((folder / name).read_text())
        for name in ("one/rows.alone.json", "two/rows.0.json", "two/rows.1.json")
    )
    assert others[0] == others[1], "every process returns all rows"
    assert [record["id"] for record in others[0]["forget"]] == [record["id"] for record in alone["forget"]]
    assert len(alone["forget"]) == ROWS and _alike(alone, others[0]) > 100
    assert any(record["generated"] for record in alone["forget"]) and all(
        record["grad_norm"] for record in alone["forget"]
    )


def test_the_comparison_sees_a_difference() -> None:
    """Non-vacuity: one number, one row more, another text."""
    _alike({"a": [1.0, "x"]}, {"a": [1.0 + 1e-8, "x"]})
    for other in ({"a": [1.0 + 1e-5, "x"]}, {"a": [1.0, "y"]}, {"a": [1.0, "x", 2.0]}, {"b": [1.0, "x"]}):
        with pytest.raises((AssertionError, KeyError)):
            _alike({"a": [1.0, "x"]}, other)
    assert np.isclose(TOLERANCE, 1e-6)
