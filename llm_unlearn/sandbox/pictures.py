"""The sandbox for image classifiers: ten kinds of drawn shapes, and two small residual networks that were trained on them.

`target` was trained on all ten kinds, `gold` on nine, without class 3 (stars).  `make sandbox` trains both again:

    accelerate launch recipes/train_target.py --config recipes/pictures_target.yaml
    python -m llm_unlearn.sandbox.pictures outputs/pictures              copies them into the package

Shapes are turned, moved, stretched, drawn with thick and thin pens, crossed by a stray line, and noisy: some are hard.
"""

import json
import math
import shutil
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw

from llm_unlearn.files import write_json

Row = dict[str, Any]
Points = list[tuple[float, float]]

CLASSES = ("circle", "triangle", "square", "star", "cross", "arrow", "crescent", "heart", "hourglass", "spiral")
FORGOTTEN = (3,)  # what the shipped gold never saw
SIDE = 32  # pixels
FINER = 3  # drawn so many times larger, then averaged
COUNTS = {"train": 300, "test": 100}  # pictures a class
SEEDS = {"train": 0, "test": 1}
NOISE = 50.0  # standard deviation of the pixels' noise, of 255


@cache
def _drawn(split: Literal["train", "test"]) -> tuple[Row, ...]:
    draw = np.random.default_rng(SEEDS[split])
    labels = [number % len(CLASSES) for number in range(COUNTS[split] * len(CLASSES))]
    return tuple(
        {"id": f"{split}-{number}", "image": picture(label, draw), "label": label, "kind": "label"}
        for number, label in enumerate(labels)
    )


def rows(split: Literal["train", "test"]) -> list[Row]:
    """Return the split's rows, the same every time: id, image (bytes [32, 32], grey), label (a number of CLASSES)."""
    return [dict(row) for row in _drawn(split)]


def splits(classes: Sequence[int] = FORGOTTEN) -> dict[str, list[Row]]:
    """Return the rows by role, to forget all pictures of `classes`.

    forget and retain were trained on; holdout (of the same classes) and retain_heldout (of the others) never were.
    """
    gone = set(classes)
    out: dict[str, list[Row]] = {}
    for split, (forgotten, kept) in {"train": ("forget", "retain"), "test": ("holdout", "retain_heldout")}.items():
        every = rows(split)  # type: ignore[arg-type]
        out[forgotten] = [row for row in every if row["label"] in gone]
        out[kept] = [row for row in every if row["label"] not in gone]
    return out


def picture(label: int, draw: np.random.Generator) -> np.ndarray[Any, Any]:
    """Return one shape of the class as bytes [SIDE, SIDE], white on black with noise."""
    turn, size = draw.uniform(-0.9, 0.9), draw.uniform(0.22, 0.40)
    stretch, middle = draw.uniform(0.75, 1.0), draw.uniform(0.38, 0.62, 2)
    pen = int(draw.integers(3, 9))  # of the finer picture
    canvas = Image.new("L", (SIDE * FINER, SIDE * FINER))
    paint = ImageDraw.Draw(canvas)
    ink = int(draw.integers(130, 256))

    def placed(points: Points) -> Points:
        cos, sin = math.cos(turn), math.sin(turn)
        moved = [(x * cos - y * stretch * sin, x * sin + y * stretch * cos) for x, y in points]
        scale = SIDE * FINER
        return [((middle[0] + size * x) * scale, (middle[1] + size * y) * scale) for x, y in moved]

    wobble = draw.normal(0.0, 0.05, (64, 2))
    for line in outline(label):
        shaken = [(x + dx, y + dy) for (x, y), (dx, dy) in zip(line, wobble, strict=False)]
        paint.line(placed(shaken), fill=ink, width=pen, joint="curve")
    stray = [tuple(end) for end in draw.uniform(0, SIDE * FINER, (2, 2)).tolist()]
    paint.line(stray, fill=ink // 2, width=3)
    fine = np.asarray(canvas, dtype=np.float64).reshape(SIDE, FINER, SIDE, FINER).mean((1, 3))
    noisy = fine + draw.normal(0.0, NOISE, fine.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def outline(label: int) -> list[Points]:
    """Return the lines of a class's shape in a square from -1 to 1, y downwards."""
    name = CLASSES[label]
    if name == "circle":
        return [_arc(1.0, 0.0, 2 * math.pi)]
    if name in ("triangle", "square"):
        corners = 3 if name == "triangle" else 4
        return [_closed([_at(1.0, 2 * math.pi * i / corners) for i in range(corners)])]
    if name == "star":
        return [_closed([_at(1.0 if i % 2 == 0 else 0.42, math.pi * i / 5) for i in range(10)])]
    if name == "cross":
        return [[(-0.8, -0.8), (0.8, 0.8)], [(-0.8, 0.8), (0.8, -0.8)]]
    if name == "arrow":
        return [[(-1.0, 0.0), (1.0, 0.0)], [(0.3, -0.6), (1.0, 0.0), (0.3, 0.6)]]
    if name == "crescent":
        outer, inner = _arc(1.0, 0.9, 2 * math.pi - 0.9), _arc(0.75, 1.25, 2 * math.pi - 1.25)
        return [_closed([*outer, *[(x + 0.38, y) for x, y in reversed(inner)]])]
    if name == "heart":
        steps = [2 * math.pi * i / 24 for i in range(24)]
        return [
            _closed(
                [
                    (math.sin(t) ** 3, -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t)) / 16)
                    for t in steps
                ]
            )
        ]
    if name == "hourglass":
        return [_closed([(-0.7, -1.0), (0.7, -1.0), (-0.7, 1.0), (0.7, 1.0)])]
    return [[_at(0.15 + 0.85 * i / 28, 4 * math.pi * i / 28) for i in range(29)]]  # spiral


def _at(radius: float, angle: float) -> tuple[float, float]:
    return radius * math.sin(angle), -radius * math.cos(angle)


def _arc(radius: float, start: float, stop: float) -> Points:
    """Return an arc around the middle, from the right (3 o'clock) clockwise; it is open towards the right."""
    return [
        (radius * math.cos(start + (stop - start) * i / 20), radius * math.sin(start + (stop - start) * i / 20))
        for i in range(21)
    ]


def _closed(points: Points) -> Points:
    return [*points, points[0]]


def path(name: Literal["target", "gold"]) -> Path:
    """Return the folder of a model that ships with the package: config, weights in fp32, what makes pixels of pictures."""
    return Path(__file__).parent / "picture_models" / name


def new_model(seed: int = 0) -> Any:
    """Return the origin of both models: untrained, drawn from the seed."""
    from llm_unlearn.fresh_classifiers import for_pictures

    return for_pictures(rows("train"), seed)[0]


def ship(trained: Path) -> None:
    """Copy a finished output folder of train_target into the package."""
    for name in ("target", "gold"):
        place = path(name)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for file in ("model.safetensors", "preprocessor_config.json"):
            shutil.copyfile(trained / name / file, place / file)
        config = json.loads((trained / name / "config.json").read_text(encoding="utf-8"))
        config["id2label"] = {str(number): shape for number, shape in enumerate(CLASSES)}
        config["label2id"] = {shape: number for number, shape in enumerate(CLASSES)}
        write_json(place / "config.json", config)


if __name__ == "__main__":
    ship(Path(sys.argv[1]))
