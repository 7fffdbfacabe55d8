"""The life of an output folder: new, unfinished (the same request goes on) or finished (its report is shown again).

`DIR/private/` (mode 700) holds `request.json` (mode 600: the full request, the command and the fingerprint key) and, while a
run is on, `lock.json`.  Nothing is ever removed but a folder with our own request in it, and that only with `overwrite`.
"""

import contextlib
import functools
import hashlib
import hmac
import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from llm_unlearn import errors
from llm_unlearn.errors import OutputError, UnlearnError
from llm_unlearn.files import read_json, write_json
from llm_unlearn.lock import lock

T = TypeVar("T")
KIND = "llm_unlearn run"
PRIVATE, REQUEST, LOCK, REPORT = "private", "request.json", "lock.json", "report.json"
IGNORED = (
    "output",
    "overwrite",
    "merge",
    "push_to_hub",
    "private",
    "allow_unverified",
)  # they do not change what a run computes
MODELS = ("model", "adapter", "gold", "origin")  # settings that may name a local folder


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """An output folder that is ours for the length of a run."""

    path: Path
    state: Literal["new", "unfinished", "finished"]  # as it was found
    key: bytes  # 16 random bytes of this folder: fingerprints in shipped files are keyed with it
    report: dict[str, Any] | None  # report.json of a finished run

    @property
    def private(self) -> Path:
        """The folder that is never pushed."""
        return self.path / PRIVATE


@contextlib.contextmanager
def open_run(
    path: str | Path,
    request: Mapping[str, Any],
    *,
    inputs: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    command: Sequence[str] | None = None,
) -> Iterator[RunFolder]:
    """Hold the output folder for one run of `request` (a recipe as plain values) on `inputs` (rows by split, JSON-able).

    The run counts as finished when the block ends without an error and report.json is there.  Raises OutputError for a folder
    that holds another request or something else, and while another process works in it.  In a distributed job the main
    process alone touches the disk, and every process gets the same answer or error.
    """
    folder = Path(path).expanduser().absolute()
    request = {key: value for key, value in request.items() if key not in IGNORED}
    command = list(sys.argv if command is None else command)
    content = {"request": request, "inputs": dict(inputs or {})}
    found = on_main(lambda: _enter(folder, content, overwrite, command))
    try:
        yield RunFolder(path=folder, state=found["state"], key=bytes.fromhex(found["key"]), report=found["report"])
        on_main(lambda: _finish(folder))
    finally:
        if is_main():
            (folder / PRIVATE / LOCK).unlink(missing_ok=True)


def _enter(folder: Path, content: dict[str, Any], overwrite: bool, command: list[str]) -> dict[str, Any]:
    """Look at the folder, lock it and write the request if it is new; nothing is touched where an error is raised."""
    earlier = read_request(folder)
    if earlier is None and not _is_free(folder):
        what = "is not empty and holds no run" if folder.is_dir() else "is a file"
        raise OutputError(f"{folder} {what}; it is left alone. Give another folder with --output.")
    key = secrets.token_bytes(16) if earlier is None or overwrite else bytes.fromhex(earlier["key"])
    models = {name: files_of(content["request"].get(name)) for name in MODELS}
    digest = fingerprint(key, {**content, "models": models})
    if earlier is not None and not overwrite and earlier["digest"] != digest:
        differing = ", ".join(_differences(earlier["request"], content["request"])) or "the rows or a model's files"
        raise OutputError(
            f"{folder} holds a run of another request (different: {differing}). "
            "Give another folder with --output, or remove that run with --overwrite."
        )
    try:
        (folder / PRIVATE).mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / PRIVATE).chmod(0o700)
    except OSError as error:
        raise OutputError(f"cannot write in {folder}: {error.strerror}. Give another folder with --output.") from error
    lock(folder / PRIVATE / LOCK)
    if earlier is not None and not overwrite:
        report = read_json(folder / REPORT) if earlier["finished"] else None
        return {"state": "unfinished" if report is None else "finished", "key": key.hex(), "report": report}
    try:
        _clear(folder)
        new = {"kind": KIND, "digest": digest, "key": key.hex(), "finished": False, "command": command}
        write_json(folder / PRIVATE / REQUEST, {**new, "request": content["request"]}, mode=0o600)
    except (OSError, OutputError) as error:
        (folder / PRIVATE / LOCK).unlink(missing_ok=True)
        raise OutputError(f"cannot make a run in {folder}: {error}") from error
    return {"state": "new", "key": key.hex(), "report": None}


def _is_free(folder: Path) -> bool:
    """Is there nothing, an empty folder, or what a run leaves that was killed before its request was written?"""
    if not folder.exists():
        return True
    if not folder.is_dir() or any(child.name != PRIVATE for child in folder.iterdir()):
        return False
    private = folder / PRIVATE
    return not private.exists() or (
        private.is_dir() and all(LOCK in p.name or REQUEST in p.name for p in private.iterdir())
    )


def _finish(folder: Path) -> None:
    """Mark the run as finished if its report is there."""
    content = read_json(folder / PRIVATE / REQUEST)
    if content is not None and not content["finished"] and read_json(folder / REPORT) is not None:
        write_json(folder / PRIVATE / REQUEST, {**content, "finished": True}, mode=0o600)


def _clear(folder: Path) -> None:
    """Empty a folder that held one of our runs, the request last, so that an interrupted clearing can be taken up again."""
    for child in folder.iterdir():
        if child.name != PRIVATE:
            shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
    for child in sorted((folder / PRIVATE).iterdir(), key=lambda child: child.name == REQUEST):
        if child.name != LOCK:
            shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()


def read_request(folder: str | Path) -> dict[str, Any] | None:
    """Return private/request.json of a run in `folder`, or None where there is none of ours."""
    content = read_json(Path(folder) / PRIVATE / REQUEST)
    return content if content is not None and content.get("kind") == KIND else None


MARK = 12  # hexadecimal digits of a fingerprint that a page shows in the place of a row, a word or a name


def fingerprint(key: bytes, value: Any) -> str:
    """Return HMAC-SHA256 of a value in hex: of bytes as they are, of anything else as canonical JSON.

    Without the key nobody can try out what the value might have been.
    """
    if not isinstance(value, bytes):
        value = json.dumps(value, sort_keys=True, ensure_ascii=False, default=_canonical).encode()
    return hmac.new(key, value, hashlib.sha256).hexdigest()


def _canonical(value: Any) -> str:
    """What stands for a value that JSON hasn't got: the digest of an image or array, the text of a path."""
    return hashlib.sha256(value.tobytes()).hexdigest() if hasattr(value, "tobytes") else str(value)


def files_of(path: str | None) -> list[tuple[str, int, int]]:
    """Return (name, bytes, time of last change in ns) of each file of a model's local folder; [] for a Hub id."""
    if not path or not Path(path).is_dir():
        return []
    files = sorted(file for file in Path(path).rglob("*") if file.is_file())
    return [(str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def _differences(earlier: Mapping[str, Any], request: Mapping[str, Any], where: str = "") -> list[str]:
    """The dotted names of the settings in which two requests differ."""
    names: list[str] = []
    for key in sorted({*earlier, *request}):
        one, other = earlier.get(key), request.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            names += _differences(one, other, f"{where}{key}.")
        elif one != other:
            names.append(f"{where}{key}")
    return names


def is_main() -> bool:
    """Is this the only process of the job, or its main one?"""
    return int(os.environ.get("RANK", "0")) == 0


def on_main(work: Callable[[], T]) -> T:
    """Run `work` in the main process alone and return its result (JSON-able) in all of them; an UnlearnError likewise."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return work()
    from accelerate.utils import broadcast_object_list

    _join()
    answer: list[Any] = [None, None]
    if is_main():
        try:
            answer[0] = work()
        except UnlearnError as error:
            answer[1] = (type(error).__name__, str(error))
    broadcast_object_list(answer)
    if answer[1] is not None:
        name, message = answer[1]
        raise getattr(errors, name, UnlearnError)(message)
    result: T = answer[0]
    return result


@functools.cache
def _join() -> None:
    """Join the job's other processes; `processes.leave`, which importing it registers, leaves them when this one exits."""
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    from llm_unlearn import processes  # noqa: F401

    # Without cpu=True each of two CPU processes would take itself for the only one.
    PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())
