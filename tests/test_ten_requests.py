"""eval/ten_requests.py: its table by hand, and two requests for real on the embedded world."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "eval" / "ten_requests.py"


def module() -> Any:
    spec = importlib.util.spec_from_file_location("ten_requests", SCRIPT)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made  # its dataclass asks for the module it is in
    spec.loader.exec_module(made)
    return made


def figures(strength: float, exact: float) -> dict[str, float]:
    return {"extraction_strength": strength, "exact_answer": exact}


def test_the_table_says_what_came_back() -> None:
    """After the second request the first has risen by 0.2 - 0.1 = 0.1, more than 0.05; retain is 0.6 / 0.8 = 0.75 of before."""
    before = {"retain": figures(0.9, 0.8), "request-1": figures(1.0, 1.0), "request-2": figures(0.8, 0.6)}
    first = {"retain": figures(0.9, 0.8), "request-1": figures(0.1, 0.0)}
    second = {"retain": figures(0.9, 0.6), "request-1": figures(0.2, 0.05), "request-2": figures(0.3, 0.0)}
    seconds = {"clock": 9.0, "processor": 4.0}
    stages = [{"rows": 7, "seconds": seconds, "figures": first}, {"rows": 8, "seconds": seconds, "figures": second}]
    lines = module().table({"before": before, "stages": stages}).splitlines()
    assert lines[2] == "| before |  | 0.900 (all) | 0.800 (all) |  |  |  | 0.800 | 1.000 |  |"
    assert lines[3] == "| 1 | 7 | 0.100 | 0.000 |  |  |  | 0.800 | 1.000 | 4 |"
    assert lines[4] == "| 2 | 8 | 0.300 | 0.000 | 0.200 | +0.100 (came back) | 0.050 | 0.600 | 0.750 | 4 |"


@pytest.mark.slow
@pytest.mark.dist
def test_two_requests(tmp_path: Path) -> None:
    line = [sys.executable, str(SCRIPT), "--count", "2", "--steps", "2", "--output", str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads((tmp_path / "requests.json").read_text())
    assert [set(stage["figures"]) - {"retain"} for stage in record["stages"]] == [
        {"request-1"},
        {"request-1", "request-2"},
    ]
    assert record["before"]["request-2"]["exact_answer"] > 0.9
    assert len(json.loads((tmp_path / "run/ledger.json").read_text())["requests"]) == 2
    again = subprocess.run(line, capture_output=True, text=True, check=True)
    assert json.loads((tmp_path / "requests.json").read_text()) == record and "| 2 |" in again.stdout
