"""The llm-unlearn command: quick help, exit codes that scripts can use, JSON everywhere, completion."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Bench
from published import make_run, vouch

from llm_unlearn import cli
from llm_unlearn.command_line import commands, help_texts
from llm_unlearn.command_line.completion import options_of, script
from llm_unlearn.continuing import read


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run the command in this process; return its exit code, output and errors."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    said = capsys.readouterr()
    return int(end.value.code or 0), said.out, said.err


@pytest.fixture(scope="module")
def made(language: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that vouches for itself, and is not to be changed."""
    run = make_run(language, tmp_path_factory.mktemp("made"))
    vouch(run)
    return run


@pytest.mark.parametrize(
    "words", [["--help"], ["unlearn", "--help"], ["attack", "-h"], ["push", "--help"], ["--version"]], ids=" ".join
)
def test_help_takes_less_than_half_a_second(words: list[str]) -> None:
    def seconds() -> float:
        start = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "llm_unlearn", *words], check=True, capture_output=True)
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
        return end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime

    assert min(seconds() for _ in range(2)) < 0.5  # of the processor, so that a busy machine doesn't matter


def test_a_reader_may_stop_early() -> None:
    line = [sys.executable, "-m", "llm_unlearn", "--help"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 0


def test_help_is_what_the_options_are() -> None:
    for name, text in help_texts.texts().items():
        assert (cli.HELP / f"{name}.txt").read_text() == text, "options changed: make help-texts"
    assert {path.stem for path in cli.HELP.glob("*.txt")} == set(cli.COMMANDS)
    assert all(callable(getattr(commands, name)) for name in cli.COMMANDS)


def test_help_with_a_method_shows_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "unlearn", "--help", "--method", "simnpo")
    assert code == 0 and "settings of the method simnpo" in out


def test_faults_are_one_line_and_exit_with_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = call(capsys, "pusch")
    assert (code, out) == (2, "") and "did you mean 'push'?" in err and err.count("\n") == 1
    code, out, err = call(capsys, "verify", str(tmp_path), "--json")
    assert code == 2 and "holds no unlearning.json" in json.loads(out)["error"] and "holds no unlearning.json" in err
    for words, said in (
        (["unlearn", "--modle", "x"], "unknown option --modle"),
        (["unlearn", "--push-to-hub", "name"], "expected user/name"),
        (["unlearn", "--push-to-hub", "a/b", "--show-records"], "goes with no --push-to-hub"),
        (["unlearn", "--continue", "x"], "needs --request FILE"),
        (["unlearn", "--request", "f", "--continue"], "expected a value"),
        (["unlearn", "--request", "f", "--continue", str(tmp_path)], "there is nothing to continue"),
        (["push", str(tmp_path)], "repo: missing"),
        (["compare"], "name the folders"),
        (["completion"], "name a shell"),
        (["completion", "bosh"], "did you mean 'bash'?"),
        (["methods", "nqo"], "did you mean 'npo'?"),
        (["evaluate"], "exactly one of the two"),
    ):
        code, out, err = call(capsys, *words)
        assert code == 2 and said in err, err
    code, out, _ = call(capsys)
    assert code == 2 and "usage: llm-unlearn COMMAND" in out
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, out, err = call(capsys, "merge", str(tmp_path))
    assert code == 2 and "runs in one process" in err


def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["methods"], ["metrics"], ["methods", "npo"], ["metrics", "accuracy"], ["doctor"]):
        code, out, _ = call(capsys, *words)
        assert code == 0 and out.strip()
        code, out, _ = call(capsys, *words, "--json")
        assert code == 0 and json.loads(out)
    code, out, _ = call(capsys, "methods", "--json")
    assert json.loads(out)["npo"].startswith("Negative preference optimisation")


def test_the_doctor_says_what_is_missing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_not_to_be_shown")
    monkeypatch.setenv("PATH", "")
    code, out, _ = call(capsys, "doctor")
    assert code == 0 and "ssh-keygen): missing" in out and "device:" in out and "hf_not_to_be_shown" not in out
    from llm_unlearn.command_line.doctor import _fault

    assert "is missing: pip install torch" in _fault("torch", ">=2", None)
    assert "is not >=3" in _fault("torch", ">=3", "2.13.0+cpu") and _fault("torch", ">=2.11", "2.13.0+cpu") == ""


def completed(
    words: str, place: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    monkeypatch.setenv(cli.COMPLETE, "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(place))
    code, out, _ = call(capsys)
    assert code == 0
    return [line.partition(",")[2] for line in out.splitlines()]


def test_completion(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert completed("llm-unlearn pu", 1, monkeypatch, capsys) == ["push"]
    assert set(completed("llm-unlearn un", 1, monkeypatch, capsys)) == {"unlearn"}
    assert completed("llm-unlearn unlearn --push", 2, monkeypatch, capsys) == ["--push-to-hub"]
    assert "npo" in completed("llm-unlearn unlearn --method n", 3, monkeypatch, capsys)
    assert completed("llm-unlearn unlearn --task im", 3, monkeypatch, capsys) == ["image_classifier"]
    assert "extraction_strength" in completed("llm-unlearn metrics ex", 2, monkeypatch, capsys)
    monkeypatch.setenv(cli.COMPLETE, "tcsh_complete")
    assert call(capsys)[0] == 1
    assert all(cli.COMPLETE in script(shell) for shell in ("bash", "zsh", "fish"))
    assert len(options_of("unlearn")) > 30 and options_of("nothing") == {}


def test_a_run_from_the_command_line(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(made, run)
    code, out, _ = call(capsys, "verify", str(run))
    assert code == 0 and "nothing differs" in out
    code, out, _ = call(capsys, "merge", str(run), "--json")
    assert code == 0 and json.loads(out)["kind"] == "merged"
    if shutil.which("ssh-keygen"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
        code, out, _ = call(capsys, "sign", str(run), "--key", str(tmp_path / "key"), "--json")
        assert code == 0 and json.loads(out)["key"].startswith("SHA256:")
    report = run / "report.json"
    report.write_text(report.read_text().replace('"seed": 0', '"seed": 1', 1))
    code, out, _ = call(capsys, "verify", str(run), "--json")
    found: dict[str, Any] = json.loads(out)
    assert code == 1 and [each["name"] for each in found["checks"] if each["ok"] is False] == ["report.json"]


def test_evaluate_and_unlearn_say_no_with_1(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, rows = str(made.parent / "base"), [f"--{name}={made.parent}/{name}.jsonl" for name in ("forget", "retain")]
    words = ["--adapter", str(made / "adapter"), *rows, "--suite", "quick", "--output", str(tmp_path / "out")]
    code, out, _ = call(capsys, "evaluate", "--model", base, *words)
    assert code == 0 and "exact_memorisation" in out, "too few rows for a verdict: it is not no"
    assert json.loads((tmp_path / "out/evaluation.json").read_text())["verdict"]["forgot"] is None
    words = [*rows, "--method", "grad_ascent", "--method.training.steps=30", "--method.training.learning_rate=0.05"]
    words += [
        "--method.stop.gate=false",
        "--evaluation.suite=quick",
        "--output",
        str(tmp_path / "run"),
        "--method.training.warmup-steps=1",
    ]
    words = [word.replace("warmup-steps", "warmup_steps") for word in words]
    code, out, _ = call(capsys, "unlearn", "--model", base, *words, "--json")
    assert json.loads(out)["verdict"]["utility_kept"] is False and code == 1


def test_continue_is_read() -> None:
    found = read(["--request=f.jsonl", "--continue", "run", "--gold", "g", "--method", "npo", "--method.beta=0.1"])
    assert (found.run, found.request, found.gold, found.retain) == ("run", "f.jsonl", "g", None)
    assert found.settings["method"] == {"name": "npo", "beta": "0.1"}


@pytest.mark.slow
def test_under_accelerate() -> None:
    line = [
        "accelerate",
        "launch",
        "--quiet",
        "--num_processes",
        "1",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
    ]
    line += ["--dynamo_backend", "no", "-m", "llm_unlearn", "methods", "--json"]
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(line, capture_output=True, text=True, check=True, env={**os.environ, "PATH": paths})
    assert "npo" in json.loads(done.stdout)
