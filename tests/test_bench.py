"""The step benchmark runs and prints both ratios; how fast it is depends on the machine and is asserted nowhere."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from torch import Tensor

BENCH = Path(__file__).parents[1] / "eval" / "bench_step.py"
TINY = (
    "--hidden 32 --layers 2 --heads 2 --kv-heads 2 --inner 48 --vocab 300 --tokens 12 --forget 2 --rank 2 --repeats 2"
)


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """Return the script as a module."""
    spec = importlib.util.spec_from_file_location("bench_step", BENCH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_prints_both_ratios(bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench.main([*TINY.split(), "--memory", "no", "--json", str(tmp_path / "bench.json")])
    printed = capsys.readouterr().out
    assert "| 2 : 2 | plain / toolkit |" in printed and "| 2 : 8 | plain / toolkit |" in printed
    report = json.loads((tmp_path / "bench.json").read_text())
    assert [result["retain_per_forget"] for result in report["results"]] == [1, 4]
    for result in report["results"]:
        assert len(result["time_ratios"]) == 2 and all(ratio > 0 for ratio in result["time_ratios"])
        assert 0 < result["operations"]["toolkit"] < result["operations"]["plain"]


def test_both_sides_minimise_the_same_loss(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first step: otherwise the comparison is of two different things."""
    losses: list[float] = []
    backward = Tensor.backward
    monkeypatch.setattr(Tensor, "backward", lambda self: (losses.append(self.item()), backward(self))[1])
    given = bench.parse(TINY.split())
    for side in bench.SIDES:
        bench.BUILD[side](given, 4)()
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_memory_is_measured_in_a_process_of_its_own(bench: ModuleType) -> None:
    found = bench.in_subprocess(bench.parse(TINY.split()), "toolkit", 1)
    if not Path("/proc/self/clear_refs").exists():
        assert found == {"held": None, "above": None}
    else:
        assert found["held"] > 0 and found["above"] >= 0
