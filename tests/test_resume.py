"""Killed in the middle and started again: the result of a run that nobody disturbed."""

import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Bench, shortened, weights
from torch import Tensor

from llm_unlearn.fit import Batches, Module, Progress, Schedule, Stop, Terms, fit
from llm_unlearn.method import LossMethod, find
from llm_unlearn.run import Run

SAVING = {"save_steps": 4}  # with 16 steps: killed at step 10, a run has checkpoints 4 and 8
CASES = {
    "thermostat on": ("npo", Stop(every=3, tolerance=5.0), True),
    "thermostat off": ("npo", Stop(gate=False, thermostat=False), True),
    "state of its own": ("nabla_tau", Stop(gate=False, thermostat=False), True),
    "full fine-tuning": ("npo", Stop(every=3), False),
}


def method(case: str) -> LossMethod:
    name, stop, _ = CASES[case]
    short = shortened(find(name), steps=16, forget_batch=4, learning_rate=1e-2, retain_per_forget=2)
    return replace(short, stop=stop)  # type: ignore[type-var]


def disturbed(case: str, bench: Bench, folder: Path, before_step: Callable[[int], None]) -> Run:
    """Run the method with something happening before each step, and return the run."""
    run = bench.run(folder, lora=CASES[case][2], trainer=SAVING)
    chosen = method(case)
    inner = chosen.objective(run)

    def terms(model: Module, batch: Batches, progress: Progress) -> Terms:
        before_step(progress.step)
        return inner(model, batch, progress)

    object.__setattr__(chosen, "objective", lambda run: terms)  # the dataclass is frozen
    chosen.unlearn(run)
    return run


SCRIPT = """
    import os, pickle, signal, sys
    from pathlib import Path
    from test_resume import CASES, disturbed

    folder = Path(sys.argv[1])
    bench = pickle.loads((folder / "bench.pickle").read_bytes())

    def die(step):
        if step == 10:
            os.kill(os.getpid(), signal.SIGKILL)

    for case in CASES:
        if (child := os.fork()) == 0:
            disturbed(case, bench, folder / case, die)
            os._exit(0)
        (folder / f"{case}.signal").write_text(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
"""


@pytest.fixture(scope="module")
def killed(language: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with each case's run as a kill -9 left it."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "bench.pickle").write_bytes(pickle.dumps(language))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def record(folder: Path, name: str) -> Any:
    return json.loads((folder / "fit" / name).read_text())


def nearly(one: Any, other: Any) -> None:
    """Check that two records hold the same, numbers up to rounding."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            nearly(one[key], other[key])
    elif isinstance(one, list):
        for left, right in zip(one, other, strict=True):
            nearly(left, right)
    else:
        assert one == (pytest.approx(other, rel=1e-5, abs=1e-6) if isinstance(other, float) else other)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("case", list(CASES))
def test_a_killed_run_continues_as_if_nothing_had_been(
    case: str, killed: Path, language: Bench, tmp_path: Path
) -> None:
    assert (killed / f"{case}.signal").read_text() == str(-signal.SIGKILL)
    left = killed / case / "fit"
    assert (left / "checkpoint-8" / "progress.json").exists() and not (left / "done.json").exists()

    steps: list[int] = []
    resumed = disturbed(case, language, killed / case, steps.append)
    assert sorted(set(steps)) == list(range(8, 16))
    whole = disturbed(case, language, tmp_path, lambda step: None)
    start = weights(language.wrapped(lora=CASES[case][2]))
    assert any(not torch.allclose(weight, start[name], atol=1e-2) for name, weight in weights(whole.model).items())
    same(weights(whole.model), weights(resumed.model))
    for name in ("history.json", "done.json"):
        nearly(record(killed / case, name), record(tmp_path, name))


def test_a_checkpoint_that_was_cut_off_is_ignored_and_removed(language: Bench, tmp_path: Path) -> None:
    """Its record is written last: without it nothing else in it is believed."""

    class Stopped(Exception):
        pass

    def stop(step: int) -> None:
        if step == 10:
            raise Stopped

    case = "thermostat on"
    with pytest.raises(Stopped):
        disturbed(case, language, tmp_path / "cut", stop)
    folder = tmp_path / "cut" / "fit"
    assert (folder / "checkpoint-4" / "progress.json").exists()  # the one before stays until the next is whole
    (folder / "checkpoint-8" / "progress.json").unlink()
    (folder / "checkpoint-8" / "adapter_model.safetensors").write_bytes(b"half")
    (folder / "checkpoint-12").mkdir()
    steps: list[int] = []
    seen: list[bool] = []
    resumed = disturbed(
        case,
        language,
        tmp_path / "cut",
        lambda step: (steps.append(step), seen.append((folder / "checkpoint-12").exists())),
    )
    assert steps == list(range(4, 16)) and seen[0] is False
    whole = disturbed(case, language, tmp_path / "whole", lambda step: None)
    same(weights(whole.model), weights(resumed.model))


def test_a_run_without_a_complete_checkpoint_begins_again(language: Bench, tmp_path: Path) -> None:
    (tmp_path / "fit" / "checkpoint-4").mkdir(parents=True)
    steps: list[int] = []
    disturbed("thermostat off", language, tmp_path, steps.append)
    assert steps == list(range(16))


def test_a_finished_phase_is_loaded_and_not_run(language: Bench, tmp_path: Path) -> None:
    first = language.run(tmp_path)
    method("thermostat on").unlearn(first)
    again = language.run(tmp_path)

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a forward pass")

    again.model.register_forward_pre_hook(never)
    method("thermostat on").unlearn(again)
    same(weights(first.model), weights(again.model))
    assert {path.name for path in (tmp_path / "fit").iterdir()} == {"done.json", "final.safetensors", "history.json"}


def test_phases_do_not_take_each_other_for_done(language: Bench, tmp_path: Path) -> None:
    run, calls = language.run(tmp_path), []

    def terms(model: Module, batch: Batches, progress: Progress) -> Terms:
        calls.append(progress.step)
        (rows,) = run.task.streams(model, batch)
        return {"loss": rows.mean_nll().mean()}

    for phase in ("one", "two", "one"):
        fit(run, {"train": run.rows("retain")}, terms, schedule=Schedule(steps=2, forget_batch=4), phase=phase)
    assert calls == [0, 1, 0, 1]
