"""Pictures with their classes: folders, IDX files and the cells of Parquet and Hub data sets, as plain records.

A picture is kept as bytes [H, W] (grey) or as a Pillow image in grey or RGB; sizes are the image processor's business.
No message here repeats more of a file than its name and the number of a row.
"""

import gzip
import io
import json
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llm_unlearn.errors import DataError

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
IDX = re.compile(r"(.*)(images|labels)([-.])idx[13]-ubyte(\.gz)?")
LABELS_MAGIC, IMAGES_MAGIC = 0x801, 0x803  # unsigned bytes of one and of three dimensions
IMAGES, LABELS = ("image", "img"), ("label", "labels", "fine_label")
SPLITS = ("train", "test", "val", "validation", "valid", "dev")


def is_idx(path: Path) -> bool:
    """Return whether a file's name is an IDX file's (train-images-idx3-ubyte.gz, t10k-labels.idx1-ubyte)."""
    return IDX.fullmatch(path.name) is not None


def class_names(source: str, split: str = "train") -> tuple[str, ...] | None:
    """Return the names of a source's classes in the order of their numbers; None where it states none.

    A folder's are its sub-folders' names, sorted; Parquet files and Hub data sets may hold them; IDX files never do.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return tuple(folder.name for folder in _class_folders(path))
    if path.suffix.lower() == ".parquet" and path.is_file():
        return _parquet_names(path)
    if path.exists():
        return None
    import datasets

    name, _, configuration = source.partition(":")
    try:
        info = datasets.load_dataset_builder(name, configuration or None).info
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{source!r} is no file here and no Hub data set that can be loaded.") from error
    return _feature_names(info.features or {})


def folder_records(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the pictures of a folder with a sub-folder a class: labels number the sub-folders' names in sorted order.

    A picture's id is its path in the folder.
    """
    for label, part in enumerate(_class_folders(folder)):
        for path in _pictures(part):
            where = f"{part.name}/{path.name}"
            yield where, {"id": where, "image": opened(path.read_bytes(), f"{folder.name}, {where}"), "label": label}


def _class_folders(folder: Path) -> list[Path]:
    parts = sorted(part for part in folder.iterdir() if part.is_dir() and not part.name.startswith("."))
    if not parts:
        raise DataError(
            f"{folder} is a folder without sub-folders: name one file in it, or a folder with a sub-folder of pictures a class."
        )
    empty = [part.name for part in parts if not _pictures(part)]
    if len(empty) == len(parts) and any(part.name.lower() in SPLITS for part in parts):
        raise DataError(f"{folder} holds splits ({', '.join(empty)}): name one of them, as {folder / empty[0]}.")
    if empty:
        raise DataError(
            f"{folder}: {empty[0]} holds no picture ({', '.join(ENDINGS)}); remove it, or put pictures in."
        )
    return parts


def _pictures(part: Path) -> list[Path]:
    return sorted(p for p in part.iterdir() if p.suffix.lower() in ENDINGS and not p.name.startswith("."))


def opened(raw: bytes, place: str) -> Any:
    """Return an encoded picture, decoded, as a Pillow image in grey (L) or RGB; raise DataError, naming the place."""
    from PIL import Image, UnidentifiedImageError

    from llm_unlearn.pixels import eight_bits

    try:
        image = Image.open(io.BytesIO(raw))
        image.load()
        return eight_bits(image)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, struct.error, zlib.error):
        raise DataError(
            f"{place}: no picture that can be read (damaged, or of no known format); mend or remove it."
        ) from None
    except Image.DecompressionBombError:
        raise DataError(f"{place}: the picture is too large to be opened safely; make it smaller.") from None


def cell(value: Any, place: str) -> Any:
    """Return the picture of a table's cell: encoded bytes ({"bytes", "path"} or plain), or what is in memory already."""
    if isinstance(value, Mapping):
        if isinstance(value.get("bytes"), bytes):
            return opened(value["bytes"], place)
        path = Path(str(value.get("path")))
        if not path.is_file():
            raise DataError(f"{place}: image holds neither bytes nor the path of a file.")
        return opened(path.read_bytes(), place)
    return opened(value, place) if isinstance(value, bytes) else value


def idx_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the pictures [H, W] of an IDX file with the classes of the labels' file beside it, whichever of the two is named.

    A picture's id is its number in the file, from 0.
    """
    images, labels = _beside(path, "images"), _beside(path, "labels")
    pixels, classes = _array(images, IMAGES_MAGIC), _array(labels, LABELS_MAGIC)
    if len(pixels) != len(classes):
        raise DataError(
            f"{images.name} holds {len(pixels)} pictures and {labels.name} {len(classes)} labels: they do not belong together."
        )
    for number, (image, label) in enumerate(zip(pixels, classes.tolist(), strict=True)):
        yield f"picture {number}", {"id": str(number), "image": image, "label": label}


def _beside(path: Path, what: str) -> Path:
    """Return the file of images or of labels that belongs to an IDX file, packed or not."""
    found = IDX.fullmatch(path.name)
    start, kind, mark, _ = found.groups() if found else ("", what, "-", "")
    if kind == what:
        return path
    plain = path.with_name(f"{start}{what}{mark}idx{3 if what == 'images' else 1}-ubyte")
    for candidate in (plain, plain.with_name(f"{plain.name}.gz")):
        if candidate.is_file():
            return candidate
    raise DataError(f"{path.name} needs {plain.name}[.gz] beside it: the {what} of its pictures.")


def _array(path: Path, magic: int) -> Any:
    """Return the bytes of an IDX file in its shape; DataError where it is none or not whole."""
    import numpy as np

    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path.name}: cannot be unpacked ({type(error).__name__}); fetch it again.") from None
    dimensions = magic & 0xFF
    start = 4 + 4 * dimensions
    if len(raw) < start or struct.unpack(">I", raw[:4])[0] != magic:
        raise DataError(f"{path.name}: not an IDX file of {'pictures' if dimensions == 3 else 'labels'} in bytes.")
    shape = struct.unpack(f">{dimensions}I", raw[4:start])
    content = np.frombuffer(raw, dtype=np.uint8, offset=start)
    if content.size != int(np.prod(shape)):
        raise DataError(f"{path.name}: {content.size} bytes for {' x '.join(map(str, shape))}; fetch it again.")
    return content.reshape(shape)


def _parquet_names(path: Path) -> tuple[str, ...] | None:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        known = pyarrow.parquet.ParquetFile(path).schema_arrow.metadata or {}
        features = json.loads(known.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path.name}: not a readable Parquet file ({type(error).__name__}).") from None
    return _feature_names(features)


def _feature_names(features: Mapping[str, Any]) -> tuple[str, ...] | None:
    for column in LABELS:
        feature = features.get(column)
        names = feature.get("names") if isinstance(feature, Mapping) else getattr(feature, "names", None)
        if names:
            return tuple(map(str, names))
    return None
