"""A lock file that outlives no process: one whose holder was killed is recognised and taken over."""

import contextlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_unlearn.errors import OutputError
from llm_unlearn.files import read_json, write_json


def lock(path: Path) -> None:
    """Take the lock, or raise OutputError while its holder lives; a lock whose process is gone is taken over."""
    mine = {"pid": os.getpid(), "started": _started(os.getpid()), "host": socket.gethostname(), "boot": _boot()}
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    write_json(beside, mine, mode=0o600)
    try:
        for _ in range(3):
            with contextlib.suppress(FileExistsError):
                os.link(beside, path)  # fails if it exists, and never shows a half-written lock
                return
            holder = read_json(path)
            if holder is not None and _alive(holder):
                raise OutputError(
                    f"process {holder['pid']} on {holder['host']} works in {path.parents[1]}. Wait for it, or give another "
                    f"folder with --output; if it is not running, delete {path}."
                )
            _take_away(path, holder)
        raise OutputError(f"several processes want {path.parents[1]} at once; give each its own --output.")
    finally:
        beside.unlink(missing_ok=True)


def _take_away(path: Path, stale: dict[str, Any] | None) -> None:
    """Remove a stale lock, but not one that another process has put in its place meanwhile."""
    aside = path.with_name(f".{path.name}.stale.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, aside)
        if read_json(aside) != stale:
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()


def _alive(holder: Mapping[str, Any]) -> bool:
    """Could the process that wrote this lock still be running?  On another host there is no telling: yes."""
    if holder.get("host") != socket.gethostname():
        return True
    if holder.get("boot") != _boot():
        return False
    try:
        os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it runs, as somebody else
    return holder.get("started") == _started(int(holder["pid"]))


def _boot() -> str:
    """An id of the machine's current boot; "" where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process started, in clock ticks since boot: tells it from a later one with its number; "" where unknown."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
