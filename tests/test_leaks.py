"""Nothing leaks: unique strings in rows, tokens and paths, everything run with debug logging, every file and request searched."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Bench
from hub_server import TOKEN, Hub
from published import gold_of

ROW, PATH, SECRET = "zorblatt", "quuxhouse", "sk-plantedtoken77"
MARKS = (ROW, PATH, SECRET, TOKEN)

SCRIPT = """
import logging, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
from llm_unlearn import cli
from transformers.utils import logging as theirs

def call(*words):
    theirs.set_verbosity_debug()
    try:
        cli.main(words)
    except SystemExit as end:
        print("EXIT", words[0], end.code)

cli.quiet = lambda: None
home = sys.argv[1]
rows = [f"--{name}={home}/{name}.jsonl" for name in ("forget", "retain", "holdout")]
method = ["--method=grad_diff", "--method.training.steps=6", "--method.training.warmup_steps=1", "--evaluation.suite=quick"]
call("unlearn", f"--model={home}/base", f"--gold={home}/gold", *rows, *method, f"--output={home}/run", "--lora.r=4",
     "--push-to-hub=tester/first", "--allow-unverified")
call("unlearn", f"--request={home}/more.jsonl", "--continue", f"{home}/run", "--method.training.steps=6")
call("merge", f"{home}/run", "--quantise", "int8")
call("merge", f"{home}/run")
call("push", f"{home}/run", "tester/first", "--allow-unverified", "--kind", "merged")
call("push", f"{home}/run", "tester/second", "--allow-unverified")
call("push", f"{home}/run", "tester/stranger/x")
call("verify", f"{home}/run", "--row", "zorblatt0 lives where? In zorblatt0.", "--receipt", f"{home}/run/private/receipt.json")
call("verify", "tester/second", f"--base={home}/base", f"--forget={home}/more.jsonl", "--measure")
call("attack", f"--run={home}/run", "--attacks", "quantise", "--quantise.schemes=int8", f"--output={home}/attacks")
call("evaluate", f"--run={home}/run", "--suite=quick", f"--output={home}/evaluation")
call("doctor")
"""


@pytest.mark.slow
@pytest.mark.dist
def test_nothing_leaks(language: Bench, tmp_path: Path) -> None:
    home = tmp_path / PATH
    home.mkdir()
    for name, model in (("base", language.target), ("gold", gold_of(language))):
        model.save_pretrained(home / name)  # type: ignore[operator]
        language.task.tokenizer.save_pretrained(home / name)  # type: ignore[attr-defined]
    planted = [
        {"id": f"{ROW}{i}", "fact": f"{ROW}{i}", "prompt": f"{ROW}{i} lives where?", "response": f"In {ROW}{i}."}
        for i in range(8)
    ]
    splits = {"forget": [*planted[:4], *language.splits["forget"]], "more": planted[4:]}
    splits |= {name: language.splits[name] for name in ("retain", "holdout")}
    for name, rows in splits.items():
        (home / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    inputs = {path for path in home.rglob("*") if path.is_file()}
    secrets = {"OPENAI_API_KEY": SECRET, "WANDB_API_KEY": SECRET, "AWS_SECRET_ACCESS_KEY": SECRET}
    with Hub() as hub:
        environment = {**os.environ, **secrets, **hub.environment(tmp_path / "cache")}
        line = [sys.executable, "-c", SCRIPT, str(home)]
        done = subprocess.run(line, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
        requests = hub.requests
    ends = dict(line.split()[1:] for line in done.stdout.splitlines() if line.startswith("EXIT"))
    assert ends == {
        "unlearn": "0",
        "merge": "0",
        "push": "2",
        "verify": "0",
        "attack": "0",
        "evaluate": "0",
        "doctor": "0",
    }, done.stderr[-3000:]
    assert {"tester/first", "tester/second"} == set(hub.repos) and "DEBUG" in done.stderr

    files = [path for path in home.rglob("*") if path.is_file() and path not in inputs and "private" not in path.parts]
    names = {path.name for path in files}
    assert names >= {
        "report.json",
        "report.html",
        "unlearning.json",
        "ledger.json",
        "README.md",
        "attacks.json",
        "evaluation.json",
    }
    found = [(str(path), mark) for path in files for mark in MARKS if mark.encode() in path.read_bytes()]
    assert not found, "files"
    bodies = [
        (f"{method} {path}", mark)
        for method, path, _, body in requests
        for mark in MARKS
        if mark.encode() in body or mark in path
    ]
    assert not bodies and len(requests) > 30, "requests"
    assert not [path for _, path, _, _ in requests if path.startswith("/base/")], (
        "a folder's name is no model on the Hub"
    )
    heads = [(path, mark) for _, path, head, _ in requests for mark in (ROW, PATH, SECRET) if mark in json.dumps(head)]
    assert not heads, "headers hold the Hub's own token and nothing else"
    logs = [
        line for line in (done.stdout + done.stderr).splitlines() if any(mark in line for mark in (ROW, SECRET, TOKEN))
    ]
    assert not logs, "the terminal shows the user's own folders, and nothing of rows or tokens"
    kept = "".join(path.read_text(errors="ignore") for path in (home / "run/private").rglob("*.json"))
    assert ROW in kept, "the search would have found them: the private folder holds them"
