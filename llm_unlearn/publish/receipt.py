"""Marks of forgotten rows: public, and worth nothing without the receipt that only the requester holds.

Each row has a random 128-bit key of its own; its mark is HMAC-SHA256(key, text).  Whoever has only the marks cannot try out
texts, not even the true one; with a row and the receipt the requester shows that the row was in the request.
"""

import hashlib
import hmac
import json
import secrets
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_unlearn.errors import DataError
from llm_unlearn.files import read_json

RECEIPT = "receipt.json"
SCHEMA = 1
KEY_BYTES = 16


def said(row: Mapping[str, Any]) -> bytes:
    """Return what a row says, in bytes: prompt and response or the text, in NFC with single blanks; of an image its pixels.

    The id, the label and what else a file holds are left out: the requester knows the text, not our numbering.
    """
    if row.get("image") is not None:
        image = row["image"]
        shape = str(getattr(image, "size", "") if not hasattr(image, "shape") else tuple(image.shape))
        pixels = image.numpy().tobytes() if hasattr(image, "numpy") else image.tobytes()
        return b"image:" + shape.encode() + b":" + hashlib.sha256(pixels).digest()
    words = [str(row[name]) for name in ("text", "prompt", "response") if row.get(name) is not None]
    return " ".join(unicodedata.normalize("NFC", " ".join(words)).split()).encode()


def row_of(text: str) -> dict[str, Any]:
    """Return the row that --row names: a JSON object with its fields, or its text as it stands."""
    if text.lstrip().startswith("{"):
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(
                f"--row begins like JSON and is none ({error.msg}); give an object or plain text."
            ) from error
        return {name: value for name, value in content.items() if name in ("text", "prompt", "response")}
    return {"text": text}


def mark_rows(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[dict[str, str]]]:
    """Return (the marks in hex, shuffled; the keys with each row's id, in the rows' order)."""
    keys = [secrets.token_bytes(KEY_BYTES) for _ in rows]
    marks = [_mark(key, row) for key, row in zip(keys, rows, strict=True)]
    secrets.SystemRandom().shuffle(marks)
    named = [
        {"id": str(row.get("id", i)), "key": key.hex()} for i, (row, key) in enumerate(zip(rows, keys, strict=True))
    ]
    return marks, named


def read_receipt(path: str | Path) -> dict[str, Any]:
    """Return a receipt; raise DataError where the file is none."""
    content = read_json(path)
    keys = None if content is None else content.get("keys")
    if content is None or content.get("schema") != SCHEMA or not isinstance(keys, list):
        raise DataError(f"{path} is no receipt: give the receipt.json that came with the request (DIR/private).")
    return content


def was_in(row: Mapping[str, Any], marks: Sequence[str], receipt: Mapping[str, Any]) -> bool:
    """Return whether one of the receipt's keys turns the row into one of the published marks."""
    published = set(marks)
    return any(_mark(bytes.fromhex(each["key"]), row) in published for each in receipt["keys"])


def _mark(key: bytes, row: Mapping[str, Any]) -> str:
    return hmac.new(key, said(row), hashlib.sha256).hexdigest()
