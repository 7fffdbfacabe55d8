"""Rows of four public data sets for classifiers, read from the folder that LLM_UNLEARN_DATA names.  Nothing is downloaded.

Fashion-MNIST (IDX), CIFAR-10 (a Parquet copy of JPEGs), AG News (its public test split alone, cut here) and GoEmotions (28
labels, several a row).  Test rows measure; holdout rows are what methods may know as unseen: the two share no row.
"""

import csv
import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llm_unlearn.errors import DataError
from llm_unlearn.fresh import Size, new_tokenizer
from llm_unlearn.tasks import ImageClassifier, Row, SequenceClassifier, Task

VARIABLE = "LLM_UNLEARN_DATA"
HOLDOUT = 2000  # rows
TEST = 5000  # rows
CONTEXT = 40  # tokens of a text that are read
WORDS = 4000  # of the vocabulary made from the training texts
Bytes = npt.NDArray[np.uint8]
Pixels = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]  # of rows
Pictures = Callable[[Numbers], Pixels]
FILES = {
    "fashion": tuple(
        f"fashion_mnist/{part}-{what}-ubyte.gz"
        for part in ("train", "t10k")
        for what in ("images-idx3", "labels-idx1")
    ),
    "cifar": ("cifar10_jpg/train.parquet", "cifar10_jpg/test.parquet"),
    "ag_news": ("ag_news/test.csv",),
    "goemotions": ("goemotions/train.tsv", "goemotions/test.tsv", "goemotions/labels.txt"),
}


@dataclass(frozen=True)
class Corpus:
    """A data set cut for one seed."""

    task: Task
    train: Sequence[Row]
    holdout: Sequence[Row]  # what methods may know as unseen
    test: Sequence[Row]  # what is measured
    classes: int
    multi_label: bool = False
    channels: int = 0  # of a picture; 0: texts
    side: int = 0  # pixels

    @property
    def words(self) -> int:
        """Return the size of the vocabulary, 0 for pictures."""
        return len(self.task.tokenizer) if isinstance(self.task, SequenceClassifier) else 0


def folder(given: str | None) -> Path:
    """Return where the data sets are; raise DataError where nobody said."""
    place = given or os.environ.get(VARIABLE)
    if not place:
        raise DataError(f"where are the data sets? Give --data FOLDER or set {VARIABLE}; nothing is downloaded.")
    return Path(place)


def digest(name: str, place: Path) -> str:
    """Return the sha256 of a data set's files, in hex."""
    out = hashlib.sha256()
    for file in FILES[name]:
        out.update(_bytes(place / file))
    return out.hexdigest()


def corpus(name: str, place: Path, rows: int, seed: int) -> Corpus:
    """Return `rows` training rows (fewer where there are fewer) and the unseen ones, drawn by the seed.

    Raises DataError for a file that is missing or is no such file.
    """
    if name in ("fashion", "cifar"):
        return _pictures(name, place, rows, seed)
    return _texts(name, place, rows, seed)


def _pictures(name: str, place: Path, rows: int, seed: int) -> Corpus:
    read = _fashion if name == "fashion" else _cifar
    draw = np.random.default_rng(seed)
    pictures, labels = read(place, "train")
    chosen = draw.permutation(len(labels))[:rows]
    known = pictures(chosen)
    mean, deviation = known.mean((0, 2, 3), keepdims=True), known.std((0, 2, 3), keepdims=True)

    def made(pixels: Pixels, labels: Bytes, chosen: Numbers, split: str) -> list[Row]:
        pixels = (pixels - mean) / deviation
        return [
            {"id": f"{split}{number}", "image": image, "label": int(labels[number])}
            for number, image in zip(chosen.tolist(), pixels, strict=True)
        ]

    train = made(known, labels, chosen, "train")
    pictures, labels = read(place, "test")
    order = draw.permutation(len(labels))
    share = _held_back(len(order))
    unseen = {"holdout": order[:share], "test": order[share : share + TEST]}
    holdout, test = (made(pictures(chosen), labels, chosen, split) for split, chosen in unseen.items())
    return Corpus(ImageClassifier(), train, holdout, test, classes=10, channels=known.shape[1], side=known.shape[2])


def _held_back(count: int) -> int:
    """Return how many of so many unseen rows are the holdout."""
    return min(HOLDOUT, count // 3)


def _fashion(place: Path, split: str) -> tuple[Pictures, Bytes]:
    """Return what gives chosen pictures [n, 1, side, side], 0 to 1, and all labels, of IDX files."""
    stem = "train" if split == "train" else "t10k"
    images = _idx(place / f"fashion_mnist/{stem}-images-idx3-ubyte.gz")[:, None]
    labels = _idx(place / f"fashion_mnist/{stem}-labels-idx1-ubyte.gz")
    return lambda chosen: np.divide(images[chosen], 255, dtype=np.float32), labels


def _idx(path: Path) -> Bytes:
    """Return the array of bytes in a gzipped IDX file."""
    try:
        raw = gzip.decompress(_bytes(path))
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is no gzip file ({error}); get the data set again.") from error
    sizes = np.frombuffer(raw, ">u4", count=raw[3], offset=4).tolist() if raw[:3] == b"\0\0\x08" else [-1]
    start = 4 + 4 * len(sizes)
    if len(raw) - start != np.prod(sizes):
        raise DataError(f"{path} is no IDX file of bytes, or it was cut off; get the data set again.")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(sizes)


def _cifar(place: Path, split: str) -> tuple[Pictures, Bytes]:
    """Return what gives chosen pictures [n, 3, 32, 32], 0 to 1, and all labels, of a Parquet file of image bytes."""
    from PIL import Image
    from pyarrow import parquet  # type: ignore[import-untyped]

    table = parquet.read_table(io.BytesIO(_bytes(place / f"cifar10_jpg/{split}.parquet"))).to_pydict()

    def pictures(chosen: Numbers) -> Pixels:
        cells = (table["image"][number]["bytes"] for number in chosen)
        arrays = [np.asarray(Image.open(io.BytesIO(cell)).convert("RGB"), dtype=np.uint8) for cell in cells]
        return np.divide(np.stack(arrays).transpose(0, 3, 1, 2), 255, dtype=np.float32)

    return pictures, np.array(table["label"], dtype=np.uint8)


def _texts(name: str, place: Path, rows: int, seed: int) -> Corpus:
    draw = np.random.default_rng(seed)
    if name == "ag_news":  # one file: a seventh of it is the holdout, as much the test
        every = _ag_news(place / FILES[name][0])
        every = [every[i] for i in draw.permutation(len(every))]
        share = min(HOLDOUT, len(every) // 7)
        holdout, test, known = every[:share], every[share : 2 * share], every[2 * share :]
        classes = 4
    else:
        known, unseen = (_goemotions(place / f"goemotions/{split}.tsv") for split in ("train", "test"))
        known, unseen = ([part[i] for i in draw.permutation(len(part))] for part in (known, unseen))
        share = _held_back(len(unseen))
        holdout, test = unseen[:share], unseen[share : share + TEST]
        classes = len(_bytes(place / "goemotions/labels.txt").decode().split())
    train = known[:rows]
    tokenizer = new_tokenizer((row["text"] for row in train), Size(words=WORDS, context=CONTEXT))
    task = SequenceClassifier(tokenizer=tokenizer, max_length=CONTEXT)
    return Corpus(task, train, holdout, test, classes=classes, multi_label=name == "goemotions")


def _ag_news(path: Path) -> list[Row]:
    """Return the rows of class, title and description."""
    lines = csv.reader(io.StringIO(_bytes(path).decode("utf-8")))
    return [
        {"id": f"row{number}", "text": f"{title} {said}", "label": int(label) - 1}
        for number, (label, title, said) in enumerate(lines)
    ]


def _goemotions(path: Path) -> list[Row]:
    """Return the rows of text, label numbers and id; a label is a list of 28 times 0 or 1."""
    out: list[Row] = []
    for line in _bytes(path).decode("utf-8").splitlines():
        text, numbers, name = line.split("\t")
        wanted = {int(number) for number in numbers.split(",")}
        out.append({"id": name, "text": text, "label": [int(number in wanted) for number in range(28)]})
    return out


def _bytes(path: Path) -> Any:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}. Is that the folder of the data sets?") from error
