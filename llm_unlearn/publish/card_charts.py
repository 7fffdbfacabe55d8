"""Two pictures of a report for its card, as PNG: what was to be forgotten and what was to be kept, before, after and gold."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from llm_unlearn.reporting.charts import FAINT, GRID, INK, MODELS
from llm_unlearn.reporting.report import ordered
from llm_unlearn.scores import RETAIN_TYPE

FORGET_TYPE = ("forget", "forget_heldout")
NAMES = (
    *("accuracy", "exact_answer", "extraction_strength", "exact_memorisation", "probability", "rouge_l_recall"),
    *("js_divergence",),
)
TITLES = {
    "forget": "To be forgotten: after should meet gold",
    "keep": "To be kept: after should stand as high as before",
}
SCALE = 2  # pixels of the file to one of the drawing
WIDTH, HEIGHT = 860, 390
LEFT, RIGHT, TOP, BOTTOM = 46, 850, 92, 330
MOST = 8  # groups of bars in a picture


def pictures(report: Mapping[str, Any]) -> dict[str, bytes]:
    """Return {file name: PNG}, without a picture for which nothing was measured."""
    splits = {"forget": FORGET_TYPE, "keep": RETAIN_TYPE}
    chosen = {name: groups_of(report, wanted) for name, wanted in splits.items()}
    return {f"pictures/{name}.png": _drawn(TITLES[name], groups) for name, groups in chosen.items() if groups}


def groups_of(report: Mapping[str, Any], splits: Sequence[str]) -> list[tuple[str, dict[str, float]]]:
    """Return (figure and split, value by model) of the figures between 0 and 1 that a picture shows."""
    found = []
    for figure in ordered(report["figures"]):
        if figure["split"] in splits and figure["name"] in NAMES and figure["after"] is not None:
            values = {model: float(figure[model]) for model in MODELS if figure.get(model) is not None}
            found.append((f"{figure['name']}\n{figure['split']}".replace("_", " "), values))
    return found[:MOST]


def _drawn(title: str, groups: Sequence[tuple[str, Mapping[str, float]]]) -> bytes:
    """The picture: a group of bars a figure, each with its value above."""
    from PIL import Image, ImageDraw, ImageFont

    sheet = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), "white")
    pen = ImageDraw.Draw(sheet)

    def write(x: float, y: float, words: str, size: int, colour: str = INK, anchor: str = "ma") -> None:
        pen.text((x * SCALE, y * SCALE), words, fill=colour, font=ImageFont.load_default(size * SCALE), anchor=anchor)

    def box(x: float, top: float, wide: float, bottom: float, colour: str) -> None:
        pen.rectangle([x * SCALE, top * SCALE, (x + wide) * SCALE, bottom * SCALE], fill=colour)

    write(LEFT, 14, title, 17, anchor="la")
    models = [model for model in MODELS if any(model in values for _, values in groups)]
    for place, model in enumerate(models):
        box(LEFT + 92 * place, 43, 11, 54, MODELS[model])
        write(LEFT + 16 + 92 * place, 41, model, 13, anchor="la")
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        level = BOTTOM - tick * (BOTTOM - TOP)
        box(LEFT, level, RIGHT - LEFT, level + 0.5, GRID)
        write(LEFT - 6, level, f"{tick:g}", 12, FAINT, "rm")
    room = (RIGHT - LEFT) / len(groups)
    wide = min(34.0, room * 0.8 / max(1, len(models)))
    for place, (label, values) in enumerate(groups):
        middle = LEFT + room * (place + 0.5)
        start = middle - wide * len(models) / 2
        for turn, model in enumerate(models):
            if model in values:
                level = BOTTOM - min(1.0, max(0.0, values[model])) * (BOTTOM - TOP)
                box(start + wide * turn + 1, level, wide - 2, BOTTOM, MODELS[model])
                write(start + wide * (turn + 0.5), level - 3, f"{values[model]:.2f}", 11, anchor="mb")
        for down, words in enumerate(label.split("\n")):
            write(middle, BOTTOM + 10 + 17 * down, words, 12 if down == 0 else 11, INK if down == 0 else FAINT)
    sheet.save(kept := io.BytesIO(), format="PNG", optimize=True)
    return kept.getvalue()
