"""The ledger of an unlearned model: every request in order, each entry chained to the one before by its digest."""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llm_unlearn.errors import OutputError
from llm_unlearn.files import read_json, write_json

LEDGER = "ledger.json"
SCHEMA = 1


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def digest_of(value: Any) -> str:
    """Return the SHA-256 of a value as canonical JSON (sorted keys, no blanks), in hex."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def entry(request_id: str, *, method: str, rows: int, files: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return one request's entry: `files` are the digests of what it made, `more` what else was measured."""
    return {"request_id": request_id, "time": now(), "method": method, "rows": rows, "files": dict(files), **more}


def append(earlier: Mapping[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ledger with one more entry; its `previous` is the digest of the entry before it."""
    requests = list((earlier or {}).get("requests", ()))
    previous = digest_of(requests[-1]) if requests else None
    return {"schema": SCHEMA, "requests": [*requests, {**new, "previous": previous}]}


def write(folder: Path, ledger: Mapping[str, Any]) -> None:
    """Write folder/ledger.json."""
    write_json(folder / LEDGER, ledger)


def read(folder: Path) -> dict[str, Any] | None:
    """Return folder/ledger.json, None where there is none; raise OutputError for one of another schema."""
    if not (folder / LEDGER).exists():
        return None
    content = read_json(folder / LEDGER)
    if content is None or content.get("schema") != SCHEMA or not isinstance(content.get("requests"), list):
        raise OutputError(f"{folder / LEDGER} is no ledger that this version reads; restore it from a copy.")
    return content


def broken_at(ledger: Mapping[str, Any]) -> int | None:
    """Return the number of the first entry that does not follow on the one before, from 0; None where all do."""
    previous = None
    for number, each in enumerate(ledger["requests"]):
        if each.get("previous") != previous:
            return number
        previous = digest_of(each)
    return None
