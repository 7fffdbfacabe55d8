"""Golds that were trained once and are needed again: kept by what made them, for every later request.

A gold depends on four things: its origin's weights, the rows it was trained on, the schedule and the seed.  The method and
the settings of unlearning are none of them, so one gold serves every run of a request.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

from llm_unlearn.data.sources import fingerprint
from llm_unlearn.fit import Schedule
from llm_unlearn.tasks import Row

VARIABLE = "LLM_UNLEARN_CACHE"
BLOCK = 2**20  # bytes read at a time


def folder(given: str | None) -> Path:
    """Return where golds are kept: the given folder, else `golds` in LLM_UNLEARN_CACHE or ~/.cache/llm_unlearn."""
    if given is not None:
        return Path(given).expanduser()
    return home() / "golds"


def home() -> Path:
    """Return the folder of everything that is kept for later runs: LLM_UNLEARN_CACHE or ~/.cache/llm_unlearn."""
    return Path(os.environ.get(VARIABLE) or Path.home() / ".cache" / "llm_unlearn").expanduser()


def key(origin: str, rows: Sequence[Row], schedule: Schedule, seed: int, extra: Mapping[str, Any]) -> str | None:
    """Return what tells one gold from another, in hex; None for an origin whose weights are in no local folder.

    `extra` is what else decides the result, such as the task.  Another torch or transformers makes another gold.
    """
    weights = digest(Path(origin))
    if weights is None:
        return None
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    made = {"rows": fingerprint(rows), "schedule": asdict(schedule), "seed": seed, **extra, **versions}
    return hashlib.sha256(json.dumps({"origin": weights, **made}, sort_keys=True).encode()).hexdigest()[:32]


def digest(checkpoint: Path) -> str | None:
    """Return the sha256 of a checkpoint's files, names and contents (or of one file of weights); None where there are none."""
    files = [checkpoint] if checkpoint.is_file() else sorted(checkpoint.iterdir()) if checkpoint.is_dir() else []
    if not files:
        return None
    out = hashlib.sha256()
    for path in (path for path in files if path.is_file()):
        out.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                out.update(block)
    return out.hexdigest()


def take(cache: Path, name: str | None, place: Path) -> bool:
    """Copy the kept gold to `place`; return whether there was one."""
    if name is None or not (cache / name).is_dir():
        return False
    _copy(cache / name, place)
    return True


def keep(cache: Path, name: str | None, made: Path) -> None:
    """Copy a gold that was just made into the cache."""
    if name is not None and not (cache / name).is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        _copy(made, cache / name)


def _copy(source: Path, place: Path) -> None:
    """Copy a folder so that it is there whole or not at all."""
    part = place.with_name(f"{place.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part)
    try:
        part.replace(place)
    except OSError:  # another process was faster: the same content is there
        shutil.rmtree(part, ignore_errors=True)
        if not place.is_dir():
            raise
