"""The step benchmark runs and prints both ratios; how fast it is depends on the machine and is asserted nowhere."""

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[1] / "eval" / "bench_step.py"
TINY = (
    "--hidden 32 --layers 2 --heads 2 --kv-heads 2 --inner 48 --vocab 300 --tokens 12 --forget 2 --rank 2 --repeats 2"
)


def test_bench_prints_both_ratios(tmp_path: Path) -> None:
    """One command gives seconds and bytes of both sides at 1:1 and 1:4, as a table and as JSON."""
    command = [sys.executable, str(BENCH), *TINY.split(), "--steps", "1", "--json", str(tmp_path / "bench.json")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "| 2 : 2 | plain / toolkit |" in done.stdout and "| 2 : 8 | plain / toolkit |" in done.stdout
    report = json.loads((tmp_path / "bench.json").read_text())
    assert [result["retain_per_forget"] for result in report["results"]] == [1, 4]
    for result in report["results"]:
        assert len(result["time_ratios"]) == 2 and all(ratio > 0 for ratio in result["time_ratios"])
        assert 0 < result["operations"]["toolkit"] < result["operations"]["plain"]
        assert set(result["bytes"]) == {"toolkit", "plain"}
