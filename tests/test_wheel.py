"""The wheel: what is in it and what is not, and that it works away from the checkout."""

import email
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import llm_unlearn
from llm_unlearn import cli

pytestmark = [pytest.mark.slow, pytest.mark.dist]
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of what git knows (or would take)."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("needs a git checkout")
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    line = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(out), str(source)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode and "No matching distribution found for setuptools" in done.stderr:
        pytest.skip("needs a package index, for the setuptools that builds it")
    assert done.returncode == 0, done.stderr[-2000:]
    (made,) = out.glob("*.whl")
    return made


def test_what_is_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
        about = next(name for name in names if name.endswith("/METADATA"))
        metadata = email.message_from_bytes(content.read(about))
    package = ROOT / "llm_unlearn"
    wanted = {path.relative_to(ROOT).as_posix() for path in package.rglob("*.py")}
    wanted |= {f"llm_unlearn/{name}" for name in ("py.typed", "held_out/wrappers.yaml")}
    wanted |= {f"llm_unlearn/command_line/help/{name}.txt" for name in cli.COMMANDS}
    models = [
        path
        for path in (package / "sandbox").rglob("*")
        if path.suffix in (".safetensors", ".json", ".jsonl", ".jinja")
    ]
    wanted |= {path.relative_to(ROOT).as_posix() for path in models}
    assert len(models) > 15 and wanted <= names, sorted(wanted - names)
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"llm_unlearn"}, "no tests, no recipes, no eval"
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert wheel.stat().st_size < 12e6, "bytes"
    assert metadata["Version"] == llm_unlearn.__version__ and metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0" and metadata["Description-Content-Type"] == "text/markdown"
    versions = [
        each for each in metadata.get_all("Classifier", []) if each.startswith("Programming Language :: Python :: 3.")
    ]
    assert versions == ["Programming Language :: Python :: 3.11"], "only those on which the tests ran"


def test_it_works_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """Help, doctor, a tiny unlearning of the embedded world, and its certificate, from another folder."""
    site, away = tmp_path / "site", tmp_path / "away"
    away.mkdir()
    line = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(line, check=True)
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def call(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words], cwd=away, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode in (0, 1), done.stderr[-2000:]  # 1: too little was done for a good verdict
        return done.stdout

    assert call("-c", "import llm_unlearn; print(llm_unlearn.__file__)").startswith(str(site))
    assert (site / "bin/llm-unlearn").exists()
    assert "usage: llm-unlearn COMMAND" in call("-m", "llm_unlearn", "--help")
    assert "llm-unlearn: " in call("-m", "llm_unlearn", "doctor") and "npo" in call("-m", "llm_unlearn", "methods")
    short = ["--method.training.steps=2", "--evaluation.rows=8", "--evaluation.suite=quick", "--output=out"]
    assert "extraction_strength" in call("-m", "llm_unlearn", "unlearn", *short)
    assert "nothing differs from what was certified" in call("-m", "llm_unlearn", "verify", "out")
