"""A picture of points: one colour a method, a point a run, a cross of deviations over its seeds, gold a star, before a square.

Drawn with Pillow at twice the size it is meant to be seen at; needs no model, no torch and no plotting library.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llm_unlearn.reporting.charts import FAINT, GRID, INK, MODELS, SHADE, Axis

if TYPE_CHECKING:
    from PIL.Image import Image

Point = tuple[float, float]
Series = tuple[str, Sequence[Point]]  # a method and its runs
SCALE = 2  # pixels of the file to one of the drawing
WIDTH, HEIGHT = 1000, 620
LEFT, RIGHT, TOP, BOTTOM = 78, 720, 52, 548  # the drawing's frame; the legend stands to its right
COLOURS = (
    "#2f6fde",
    "#c8432b",
    "#2d8a57",
    "#7b57c2",
    "#0f8ea8",
    "#c2578f",
    "#8a6d3b",
    "#4d5a68",
    "#6aa121",
    "#e07b39",
)
LEAST = 0.1  # an axis spans at least this
LEGEND = 30  # letters of a method's name


def deviation(values: Sequence[float]) -> float:
    """Return the standard deviation over runs, n - 1; 0 for a single one."""
    if len(values) < 2:
        return 0.0
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def draw(
    series: Sequence[Series],
    marks: Mapping[str, Point],
    *,
    band: tuple[float, float] | None,
    titles: tuple[str, str],
    heading: str | None = None,
) -> "Image":
    """Return the picture; `marks` places "before" and "gold", `band` is a stretch of the upward axis, `titles` name the axes.

    `heading` stands above it; the two titles where not given.
    """
    spots = [*marks.values(), *(point for _, points in series for point in points)]
    bars = [
        _bar(column) for _, points in series for column in zip(*points, strict=True)
    ]  # across, upward, across, ...
    across = _axis([*(x for x, _ in spots), *(end for bar in bars[::2] for end in bar)], LEFT, RIGHT)
    upward = _axis([*(y for _, y in spots), *(end for bar in bars[1::2] for end in bar), *(band or ())], BOTTOM, TOP)
    paper = _Paper()
    if band is not None:
        top, bottom = upward(band[1]), upward(band[0])
        paper.pen.rectangle([_px(LEFT), _px(top), _px(RIGHT), _px(bottom)], fill=SHADE)
    _frame(paper, across, upward, titles, heading)
    for place, (_, points) in enumerate(series):
        colour = COLOURS[place % len(COLOURS)]
        for x, y in points:
            paper.ring(across(x), upward(y), 4.5, colour)
        if len(points) > 1:
            _cross(paper, points, across, upward, colour)
    for model, (x, y) in marks.items():
        (paper.star if model == "gold" else paper.square)(across(x), upward(y), MODELS[model])
    _legend(paper, series, marks, band is not None)
    return paper.sheet


def _axis(values: Sequence[float], start: float, end: float) -> Axis:
    """Return a scale that holds the values with room round them; never so narrow that noise would fill the frame."""
    low, high = min(values), max(values)
    room = max(0.08 * (high - low), (LEAST - (high - low)) / 2)
    low, high = low - room, high + room
    if min(values) >= 0 and low < 0.12 * high:
        low = min(0.0, -0.02 * high)  # 0 itself is inside the frame
    return Axis(low, high, start, end)


def _frame(paper: "_Paper", across: Axis, upward: Axis, titles: tuple[str, str], heading: str | None) -> None:
    for tick in upward.ticks(6):
        paper.line(LEFT, upward(tick), RIGHT, upward(tick), GRID)
        paper.text(LEFT - 9, upward(tick), f"{tick:g}", anchor="rm", colour=FAINT)
    for tick in across.ticks(6):
        paper.line(across(tick), TOP, across(tick), BOTTOM, GRID)
        paper.text(across(tick), BOTTOM + 8, f"{tick:g}", anchor="mt", colour=FAINT)
    paper.line(LEFT, TOP, LEFT, BOTTOM, FAINT)
    paper.line(LEFT, BOTTOM, RIGHT, BOTTOM, FAINT)
    paper.text((LEFT + RIGHT) / 2, BOTTOM + 34, titles[0], anchor="mt", size=14)
    paper.upright(24, (TOP + BOTTOM) / 2, titles[1], size=14)
    paper.text(LEFT, 22, heading or f"{titles[1]} against {titles[0]}, after unlearning", anchor="lm", size=16)


def _cross(paper: "_Paper", points: Sequence[Point], across: Axis, upward: Axis, colour: str) -> None:
    """Draw the mean, and bars of one standard deviation over seeds to each side."""
    (left, right), (low, high) = (_bar(column) for column in zip(*points, strict=True))
    x, y = across((left + right) / 2), upward((low + high) / 2)
    paper.line(across(left), y, across(right), y, colour, 1.8)
    paper.line(x, upward(low), x, upward(high), colour, 1.8)
    for end in (across(left), across(right)):
        paper.line(end, y - 4, end, y + 4, colour, 1.8)
    for end in (upward(low), upward(high)):
        paper.line(x - 4, end, x + 4, end, colour, 1.8)
    paper.disc(x, y, 5.5, colour)


def _bar(values: Sequence[float]) -> Point:
    """Return the mean less and plus one standard deviation."""
    mean, spread = sum(values) / len(values), deviation(values)
    return mean - spread, mean + spread


def _legend(paper: "_Paper", series: Sequence[Series], marks: Mapping[str, Point], band: bool) -> None:
    x, y = RIGHT + 28, TOP + 10.0
    for model in marks:
        (paper.star if model == "gold" else paper.square)(x, y, MODELS[model])
        paper.text(x + 17, y, {"before": "before unlearning", "gold": "gold: never saw it"}[model], anchor="lm")
        y += 24
    if band:
        paper.pen.rectangle([_px(x - 8), _px(y - 7), _px(x + 8), _px(y + 7)], fill=SHADE)
        paper.text(x + 17, y, "the verdict's tolerance round gold", anchor="lm")
        y += 24
    y += 8
    for place, (name, points) in enumerate(series):
        colour = COLOURS[place % len(COLOURS)]
        (paper.disc if len(points) > 1 else paper.ring)(x, y, 5.5, colour)
        short = name if len(name) <= LEGEND else name[: LEGEND - 1] + "…"
        paper.text(x + 17, y, short, anchor="lm")
        runs = f"{len(points)} run{'s' if len(points) > 1 else ''}"
        paper.text(x + 17, y + 15, runs, anchor="lm", size=11, colour=FAINT)
        y += 38
    if any(len(points) > 1 for _, points in series):
        paper.text(x - 8, y + 4, "rings: runs; cross: mean and", anchor="lm", size=11, colour=FAINT)
        paper.text(x - 8, y + 19, "standard deviation over seeds", anchor="lm", size=11, colour=FAINT)


def _px(value: float) -> int:
    return round(value * SCALE)


class _Paper:
    """A white sheet, and what is drawn on it in the drawing's own units."""

    def __init__(self) -> None:
        from PIL import Image, ImageDraw

        self.sheet = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), "white")
        self.pen = ImageDraw.Draw(self.sheet)

    def _font(self, size: int) -> Any:
        from PIL import ImageFont

        return ImageFont.load_default(size * SCALE)

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1.0) -> None:
        self.pen.line([_px(x1), _px(y1), _px(x2), _px(y2)], fill=colour, width=_px(width))

    def text(
        self, x: float, y: float, words: str, *, anchor: str, size: int = 13, colour: str = INK
    ) -> None:  # anchors as in Pillow: left, middle, right; top, middle
        self.pen.text((_px(x), _px(y)), words, fill=colour, font=self._font(size), anchor=anchor)

    def upright(self, x: float, y: float, words: str, *, size: int) -> None:
        """Write from bottom to top, the middle at (x, y)."""
        from PIL import Image, ImageDraw

        font = self._font(size)
        wide, tall = math.ceil(font.getlength(words)) + 4, size * SCALE * 2
        strip = Image.new("RGB", (wide, tall), "white")
        ImageDraw.Draw(strip).text((wide // 2, tall // 2), words, fill=INK, font=font, anchor="mm")
        strip = strip.rotate(90, expand=True)
        self.sheet.paste(strip, (_px(x) - tall // 2, _px(y) - wide // 2))

    def disc(self, x: float, y: float, radius: float, colour: str) -> None:
        self.pen.ellipse(self._round(x, y, radius), fill=colour, outline="white", width=_px(0.8))

    def ring(self, x: float, y: float, radius: float, colour: str) -> None:
        self.pen.ellipse(self._round(x, y, radius), outline=colour, width=_px(1.6))

    def square(self, x: float, y: float, colour: str) -> None:
        self.pen.rectangle(self._round(x, y, 7), fill=colour, outline="white", width=_px(0.8))

    def star(self, x: float, y: float, colour: str) -> None:
        """Draw a star of five points, the first one upward."""
        corners = []
        for corner in range(10):
            reach, turn = (11.0, 4.6)[corner % 2], math.pi * corner / 5
            corners.append((_px(x + reach * math.sin(turn)), _px(y - reach * math.cos(turn))))
        self.pen.polygon(corners, fill=colour, outline="white")

    def _round(self, x: float, y: float, radius: float) -> list[int]:
        return [_px(x - radius), _px(y - radius), _px(x + radius), _px(y + radius)]
