"""Reading tables: JSON lines, JSON, CSV, Parquet, Hub data sets, folders of pictures and IDX files as plain records, each with the place it came from.

A record may be one that must be forgotten, so no error message here repeats what a file says: name and line number only.
"""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from llm_unlearn.data.images import IMAGES, folder_records, idx_records, is_idx
from llm_unlearn.errors import DataError, nearest

Record = tuple[str, dict[str, Any]]  # where it stands ("line 3", "row 3") and its columns
FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")  # name, owner/name or owner/name:configuration


def records(source: str, split: str) -> Iterator[Record]:
    """Yield every record of a file or Hub data set; raise DataError for what is missing, malformed or of another format."""
    path = Path(source).expanduser()
    if path.is_dir():
        return folder_records(path)
    if not path.is_file():
        if not _looks_like_a_path(source):
            return _hub(source, split)
        _missing(path)
    if path.stat().st_size == 0:
        raise DataError(f"{path.name} is empty (0 bytes): give a file with at least one row.")
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return _json_lines(path)
    if path.suffix.lower() == ".json":
        return _json(path)
    if path.suffix.lower() in (".csv", ".tsv"):
        return _csv(path)
    if path.suffix.lower() == ".parquet":
        return _parquet(path)
    if is_idx(path):
        return idx_records(path)
    raise DataError(f"{path.name}: files of type {path.suffix!r} are not read; give one of {', '.join(FORMATS)}.")


def _looks_like_a_path(source: str) -> bool:
    """Is a name that is no file meant as one (by its ending, its folder, or a file of nearly that name), not as a Hub id?"""
    path = Path(source)
    if path.suffix.lower() in (*FORMATS, ".txt") or is_idx(path) or not HUB_ID.fullmatch(source):
        return True
    return path.parent.is_dir() and ("/" in source or bool(_nearest_file(path)))


def _nearest_file(path: Path) -> str:
    return nearest(path.name, (entry.name for entry in path.parent.iterdir() if entry.is_file()))


def _missing(path: Path) -> NoReturn:
    if not path.parent.is_dir():
        raise DataError(f"{path}: there is no such file, nor the folder {path.parent}; give the path of a file.")
    hint = _nearest_file(path) or "; give the path of a file, or the id of a Hub data set"
    raise DataError(f"{path}: there is no such file{hint}.")


def _decoded(name: str, raw: bytes, place: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}, {place}: not UTF-8 text; save the file as UTF-8.") from error


def _parsed(name: str, text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = place or f"line {error.lineno}"
        raise DataError(f"{name}, {where}: not valid JSON ({error.msg} at column {error.colno}); mend it.") from None
    except RecursionError:
        raise DataError(f"{name}, {place or 'line 1'}: JSON nested too deeply; give flat rows.") from None


def _record(name: str, value: Any, place: str) -> Record:
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise DataError(f"{name}, {place}: a row must be an object with named columns, got {kind}.")
    return place, value


def _json_lines(path: Path) -> Iterator[Record]:
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, 1):
            text = _decoded(path.name, raw, f"line {number}")
            if text.strip():
                yield _record(path.name, _parsed(path.name, text, f"line {number}"), f"line {number}")


def _json(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        start = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start.startswith(b"["):
        yield from _json_lines(path)
        return
    table = _parsed(path.name, _decoded(path.name, path.read_bytes(), "the file"), "")
    for number, value in enumerate(table, 1):
        yield _record(path.name, value, f"row {number}")


def _csv(path: Path) -> Iterator[Record]:
    name, tabs = path.name, path.suffix.lower() == ".tsv"
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter="\t" if tabs else ",", strict=True)
        columns: list[str] = []
        line = 1  # where the record began: a quoted cell may hold line breaks
        try:
            for cells in reader:
                place, line = f"line {line}", reader.line_num + 1
                if not any(cell.strip() for cell in cells):
                    continue
                if not columns:
                    columns = [cell.strip() for cell in cells]
                    if len(set(columns)) != len(columns):
                        raise DataError(f"{name}, {place}: two columns have the same name; rename one.")
                    continue
                if len(cells) != len(columns):
                    count = f"{len(cells)} cells for {len(columns)} columns"
                    raise DataError(f"{name}, {place}: {count}; quote cells that hold a delimiter.")
                yield place, {key: _cell(cell) for key, cell in zip(columns, cells, strict=True)}
        except csv.Error as error:
            raise DataError(f"{name}, line {line}: not valid CSV ({error}); mend it.") from None
        except UnicodeDecodeError:
            raise DataError(f"{name}, line {line} or later: not UTF-8 text; save the file as UTF-8.") from None


def _cell(text: str) -> Any:
    """Return a list where the cell holds one as JSON (messages, wrong answers), None where it is empty, else the text."""
    if text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text or None


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        table = pyarrow.parquet.ParquetFile(path)
        number = 0
        for batch in table.iter_batches():
            for value in batch.to_pylist():
                number += 1
                yield f"row {number}", value
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path.name}: not a readable Parquet file ({type(error).__name__}); write it again."
        ) from None


def _hub(source: str, split: str) -> Iterator[Record]:
    import datasets

    name, _, configuration = source.partition(":")
    advice = f"{source!r} is no file here, and as a Hub data set it cannot be loaded"
    try:
        table = datasets.load_dataset(name, configuration or None, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().split("\n")[0][:300]
        raise DataError(
            f"{advice}: {type(error).__name__}: {first}  Check the name (NAME or NAME:CONFIGURATION), the split "
            f"({split}) and the connection, or give the path of a file."
        ) from error
    for column in IMAGES:  # decoded here, where a damaged one can be named
        if isinstance((getattr(table, "features", None) or {}).get(column), datasets.Image):
            table = table.cast_column(column, datasets.Image(decode=False))
    for number, value in enumerate(table, 1):
        yield f"row {number}", value
