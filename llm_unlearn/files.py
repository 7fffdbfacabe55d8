"""Files that are there whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

from llm_unlearn.errors import NotFinite, OutputError


def write_json(path: str | Path, content: Any, mode: int = 0o644) -> None:
    """Write JSON all or nothing: into a file beside it that then takes its place.

    Raises NotFinite for NaN and infinity, which are not JSON (a missing value is null), and OutputError where the disk refuses.
    """
    try:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise NotFinite(
            f"{Path(path).name} would hold a NaN or infinite number; a value that is missing is null."
        ) from error
    write_text(path, text + "\n", mode)


def write_text(path: str | Path, text: str, mode: int = 0o644) -> None:
    """Write text all or nothing, with these permissions from the first byte on; raises OutputError where the disk refuses."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {error.strerror}.") from error


def read_json(path: str | Path) -> dict[str, Any] | None:
    """Return the mapping in a JSON file, or None where there is no such file or no mapping in it."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror}.") from error
    return content if isinstance(content, dict) else None
