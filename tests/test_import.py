"""`import llm_unlearn` is quick and brings no torch; every public name is there."""

import subprocess
import sys
from pathlib import Path

import pytest

import llm_unlearn


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


HEAVY = "import sys; print([m for m in ('torch', 'transformers', 'numpy', 'yaml', 'peft') if m in sys.modules])"


def test_import_brings_nothing_heavy() -> None:
    assert run(f"import llm_unlearn; {HEAVY}") == "[]"


@pytest.mark.parametrize("module", ["errors", "settings", "recipe", "options", "runfolder", "manifest"])
def test_what_checks_a_request_brings_no_torch(module: str) -> None:
    assert "torch" not in run(f"import llm_unlearn.{module}; {HEAVY}")


def test_import_is_quick() -> None:
    code = "import time; t = time.process_time(); import llm_unlearn; print(time.process_time() - t)"
    assert min(float(run(code)) for _ in range(3)) < 0.3  # CPU seconds, so that a busy machine doesn't matter


@pytest.mark.parametrize("name", llm_unlearn.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(llm_unlearn, name) is not None
    assert name in dir(llm_unlearn)


def test_find_method_is_methods_find() -> None:
    assert llm_unlearn.find_method("npo").__name__ == "NPO"


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'forgett'"):
        _ = llm_unlearn.forgett


def test_typed_and_versioned() -> None:
    assert (Path(llm_unlearn.__file__).parent / "py.typed").exists()
    assert llm_unlearn.__version__.count(".") == 2
