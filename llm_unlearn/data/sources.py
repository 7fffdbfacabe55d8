"""Rows from anywhere in one shape: load("my.jsonl") returns what every other part of the package expects.

A row is a dict: id, prompt (text, earlier messages, or None for plain text), response, kind; where the source has them also fact,
subject, unit, paraphrase, wrong (a list) and alternate.  For a classifier: id, text or image, label.
No error message repeats what a row says, since the row may be one that must be forgotten.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from llm_unlearn.data.files import records
from llm_unlearn.data.images import IMAGES, LABELS, cell
from llm_unlearn.errors import DataError, nearest

Row = dict[str, Any]

PROMPTS = ("prompt", "question", "instruction")
RESPONSES = ("response", "answer", "output", "completion")
EXTRAS = {  # column of a row: the names it goes by in files
    "kind": ("kind",),
    "fact": ("fact",),
    "subject": ("subject",),
    "unit": ("unit",),  # of what a mnemonic code stands for: an author, a customer, a topic
    "paraphrase": ("paraphrase", "paraphrased_answer"),
    "alternate": ("alternate",),
    "wrong": ("wrong", "perturbed_answer"),
}
LAYOUTS = "prompt/response, question/answer, instruction/output, messages, text; for classifiers text/label, image/label (also a folder of pictures a class, IDX files)"
NAME = re.compile(r"[^\W\d][\w.-]{0,39}")  # what a column is called: one word
ROLES = ("system", "developer", "user", "assistant", "tool")


def load(source: str, *, split: str = "train", answered: bool = True) -> list[Row]:
    """Return the rows of a file (JSONL, JSON, CSV, Parquet, IDX), of a folder with a sub-folder of pictures a class, or of a Hub data set (`owner/name` or `owner/name:configuration`).

    `split` is the Hub data set's; a file has none.  `answered=False` also takes questions without an answer: rows that have
    no `response`.  Raises DataError, naming the file and the line, for what cannot be used.
    """
    name = source.replace("\\", "/").rsplit("/", 1)[-1]
    rows = [_row(record, f"{name}, {place}", answered) for place, record in records(source, split)]
    if not rows:
        raise DataError(f"{name} holds no rows: give a file with at least one.")
    return _with_ids(rows)


def canonical(table: Iterable[Mapping[str, Any]], name: str = "rows") -> list[Row]:
    """Return records that are in memory already (a list of dicts, a `datasets.Dataset`) as rows; raises DataError as `load` does."""
    return _with_ids([_row(record, f"{name}, row {number}") for number, record in enumerate(table, 1)])


def fingerprint(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the sha256 (hexadecimal) of the rows' content, in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=_image_digest).encode() + b"\n")
    return digest.hexdigest()


def _row(record: Mapping[str, Any], place: str, answered: bool = True) -> Row:
    """Return the record in canonical form, without an id where it has none; `answered`: must it have an answer?"""
    prompts, responses = ([key for key in names if key in record] for names in (PROMPTS, RESPONSES))
    for found in (prompts, responses):
        if len(found) > 1:
            raise DataError(f"{place}: {found[0]} and {found[1]} are both columns; keep one of them.")
    if record.get("messages") is not None:
        row = _from_messages(record["messages"], "messages", place)
    elif prompts and not answered and all(record[name] is None for name in responses) and record[prompts[0]]:
        row = _from_pair({**record, "response": "-"}, prompts[0], "response", place)
        del row["response"]
    elif prompts and responses:
        row = _from_pair(record, prompts[0], responses[0], place)
    elif any(key in record for key in LABELS) and any(key in record for key in ("text", *IMAGES)):
        row = _from_label(record, place)
    elif "text" in record:
        row = {"prompt": None, "response": _text(record["text"], "text", place), "kind": "text"}
    else:
        raise DataError(f"{place}: {_unknown_layout(record)}")
    for key, names in EXTRAS.items():
        for name in names:
            if record.get(name) is not None:
                row[key] = _texts(record[name], name, place) if key == "wrong" else _text(record[name], name, place)
    if record.get("id") is not None:
        if not isinstance(record["id"], str | int) or isinstance(record["id"], bool) or record["id"] == "":
            raise DataError(f"{place}: id must be text or a number, got {type(record['id']).__name__}.")
        row = {"id": str(record["id"]), **row}
    return row


def _from_pair(record: Mapping[str, Any], asked: str, told: str, place: str) -> Row:
    prompt, response = record[asked], record[told]
    if isinstance(response, list):  # conversational prompt and completion
        start = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
        return _from_messages([*start, *response], told, place)
    response = _text(response, told, place)
    if isinstance(prompt, list):
        return _from_messages([*prompt, {"role": "assistant", "content": response}], asked, place)
    if prompt is None and asked == "prompt":
        return {"prompt": None, "response": response, "kind": "text"}
    prompt = _text(prompt, asked, place)
    if asked == "instruction" and record.get("input"):  # Alpaca's third column
        prompt = f"{prompt}\n{_text(record['input'], 'input', place)}"
    return {"prompt": prompt, "response": response, "kind": "qa"}


def _from_messages(messages: Any, column: str, place: str) -> Row:
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{place}: {column} must be a list of messages with role and content; got {_said(messages)}.")
    turns: list[dict[str, str]] = []
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise DataError(f"{place}: message {number} in {column} needs role and content.")
        role = _text(message["role"], f"message {number}'s role", place)
        if role not in ROLES:
            hint = nearest(role, ROLES)
            raise DataError(f"{place}: message {number} has an unknown role; choose one of {', '.join(ROLES)}{hint}.")
        turns.append({"role": role, "content": _text(message["content"], f"message {number}'s content", place)})
    if turns[-1]["role"] != "assistant":
        raise DataError(f"{place}: {column} must end with an assistant turn: that is what is trained on.")
    if len(turns) == 1:
        raise DataError(f"{place}: {column} holds the assistant's turn only; put the user's before it, or use text.")
    return {"prompt": turns[:-1], "response": turns[-1]["content"], "kind": "chat"}


def _from_label(record: Mapping[str, Any], place: str) -> Row:
    column = next(key for key in LABELS if key in record)
    label = record[column]
    if isinstance(label, str) and label.strip().isdecimal():  # from CSV
        label = int(label)
    whole = label if isinstance(label, list) else [label]
    if not whole or any(not isinstance(item, int) for item in whole):
        raise DataError(f"{place}: {column} must be a class number or a list of 0 and 1, got {_said(label)}.")
    label = [int(item) for item in label] if isinstance(label, list) else int(label)
    if "text" in record:
        return {"text": _text(record["text"], "text", place), "label": label, "kind": "label"}
    image = next(record[name] for name in IMAGES if name in record)
    if image is None:
        raise DataError(f"{place}: image is empty; give pixels in every row or leave the row out.")
    return {"image": cell(image, place), "label": label, "kind": "label"}


def _text(value: Any, column: str, place: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{place}: {column} must be text, got {_said(value)}.")
    if not value.strip():
        raise DataError(f"{place}: {column} is empty; fill it or leave the row out.")
    return value


def _texts(value: Any, column: str, place: str) -> list[str]:
    return [_text(item, column, place) for item in (value if isinstance(value, list) else [value])]


def _said(value: Any) -> str:
    """Return the type in words: never the value itself."""
    if value is None:
        return "nothing"
    return "an empty list" if value == [] else type(value).__name__


def _unknown_layout(record: Mapping[str, Any]) -> str:
    known = (*PROMPTS, *RESPONSES, "messages", "text", "image", *LABELS)
    columns = [key for key in map(str, record) if NAME.fullmatch(key)]  # a CSV without a header has content for names
    if not columns or len(columns) < len(record) / 2:
        return f"the {len(record)} columns have no names; put a first line with names there. Accepted: {LAYOUTS}."
    listed = ", ".join(columns[:12]) + (", ..." if len(columns) > 12 else "")
    hints = [(column, hint) for column in columns if column not in known and (hint := nearest(column, known))]
    advice = f"{hints[0][1]} (in place of {hints[0][0]!r})" if hints else "; rename them"
    return f"the columns {listed} are no layout known here. Accepted: {LAYOUTS}{advice}."


def _with_ids(rows: list[Row]) -> list[Row]:
    """Return the rows with an id each, first column: the given one or 12 digits of a hash; repeated ones get -2, -3, ..."""
    taken = {row["id"] for row in rows if "id" in row}
    seen: set[str] = set()
    done = []
    for row in rows:
        first = (
            row.get("id")
            or fingerprint([{k: row.get(k) for k in ("prompt", "response", "text", "image", "label")}])[:12]
        )
        name, number = first, 1
        while name in seen or (name in taken and name != row.get("id")):
            number += 1
            name = f"{first}-{number}"
        seen.add(name)
        done.append({**row, "id": name} if "id" in row else {"id": name, **row})
    return done


def _image_digest(value: Any) -> str:
    """Return the hash of a picture (PIL image, array or tensor): what stands for it in a fingerprint."""
    if hasattr(value, "numpy"):  # a tensor, whose text leaves its middle out
        value = value.numpy()
    raw = value.tobytes() if hasattr(value, "tobytes") else repr(value).encode()
    return hashlib.sha256(raw).hexdigest()
