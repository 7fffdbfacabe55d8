"""How the page looks: its style sheet, and charts as SVG text (lines over steps, grouped bars, rows of histograms).

Numbers in, markup out; no library, no script.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from llm_unlearn.scores import Floats

INK, FAINT, GRID = "#1f2933", "#66727f", "#e6eaee"
MODELS = {"before": "#9aa5b1", "after": "#2f6fde", "gold": "#d99a00"}
STREAMS = {"forget": "#c8432b", "holdout": "#7b57c2", "retain": "#2d8a57"}
SHADE = "#dbe7fb"  # where the forget term is on

STYLE = """
:root { color-scheme: light dark; }
body { margin: 0; background: #f5f7f9; color: #1f2933; font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", "DejaVu Sans", sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 30px 22px 60px; }
h1 { font-size: 27px; margin: 0; letter-spacing: -.01em; } h2 { font-size: 18px; margin: 0 0 2px; }
h3 { font-size: 14px; margin: 0; } p { margin: 4px 0 12px; color: #52606d; } .sub { margin-bottom: 18px; }
section { background: #fff; border: 1px solid #e3e8ed; border-radius: 12px; padding: 20px 24px; margin: 16px 0; }
svg { width: 100%; height: auto; display: block; font-family: inherit; }
.banner { border-left: 7px solid var(--tone); } .banner h2 { font-size: 21px; color: var(--tone); }
.banner ul { margin: 8px 0 0; padding-left: 20px; color: #3e4c59; font-size: 14px; }
.pills { display: flex; gap: 9px; flex-wrap: wrap; margin: 10px 0 4px; }
.pill { border-radius: 99px; padding: 3px 13px; font-size: 13px; font-weight: 600; }
.yes { background: #def2e6; color: #14653b; } .no { background: #fbe3de; color: #a12c16; } .unsure { background: #eceff3; color: #46535f; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(215px, 1fr)); gap: 12px; margin: 16px 0; }
.tile { background: #fff; border: 1px solid #e3e8ed; border-radius: 12px; padding: 13px 17px; }
.tile .what { font-size: 13px; color: #52606d; } .tile .value { font-size: 27px; font-weight: 650; color: #2f6fde; }
.tile .value small { font-size: 16px; color: #7b8794; font-weight: 500; } .tile .goal { font-size: 13px; color: #8a6100; }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 20px 26px; } .three { display: grid; grid-template-columns: repeat(3, 1fr); gap: 18px; }
@media (max-width: 760px) { .two, .three { grid-template-columns: 1fr; } }
.legend { display: flex; gap: 18px; font-size: 13px; color: #3e4c59; margin: 2px 0 10px; flex-wrap: wrap; }
.legend i { display: inline-block; width: 13px; height: 13px; border-radius: 3px; margin-right: 6px; vertical-align: -2px; }
h3 + p { font-size: 13px; } details { margin-top: 14px; } summary { cursor: pointer; color: #2f6fde; font-size: 14px; }
.panel p { font-size: 13px; margin: 0 0 6px; min-height: 40px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 9px; text-align: right; border-bottom: 1px solid #edf0f3; white-space: nowrap; }
th { color: #52606d; font-weight: 600; } th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
td:last-child, th:last-child { text-align: left; white-space: normal; color: #66727f; font-size: 12.5px; min-width: 170px; }
tr.first td { border-top: 2px solid #cbd2d9; } tr.faded td { color: #9aa5b1; } .wide { overflow-x: auto; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 18px; margin: 8px 0 0; font-size: 13.5px; }
dt { color: #66727f; } dd { margin: 0; overflow-wrap: anywhere; } footer { color: #7b8794; font-size: 13px; }
@media (prefers-color-scheme: dark) {  /* a rule wins over a drawing's own colours, which are attributes */
  body { background: #0d1117; color: #e4e9ee; } section, .tile { background: #161b22; border-color: #2b3440; }
  p, th, .tile .what, .legend, .banner ul { color: #a9b4c0; } td { border-bottom-color: #242d38; } tr.first td { border-top-color: #465362; }
  .banner h2 { color: color-mix(in srgb, var(--tone) 45%, #ffffff); } .banner { border-left-color: color-mix(in srgb, var(--tone) 45%, #ffffff); } .tile .value, summary { color: #7aa7ff; }
  .tile .goal { color: #e3b341; } .yes { background: #123324; color: #7ddba3; } .no { background: #3f1d17; color: #ff9e8a; }
  .unsure { background: #28313c; color: #c3ccd6; } svg [fill="#1f2933"] { fill: #e4e9ee; } svg [fill="#66727f"] { fill: #9aa7b4; }
  svg [stroke="#e6eaee"] { stroke: #333e4a; } svg [stroke="#1f2933"] { stroke: #e4e9ee; } svg [fill="#dbe7fb"] { fill: #1b2a44; }
  svg [fill="#ffffff"] { fill: #161b22; } pre, code { color: #c3ccd6; }
}
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px; margin: 6px 0 0; } .asked { margin: 0 0 14px; }
"""


@dataclass(frozen=True)
class Axis:
    """A linear scale from data to pixels."""

    low: float
    high: float
    start: float  # pixels at `low`
    end: float  # pixels at `high`

    def __call__(self, value: float) -> float:
        span = self.high - self.low or 1.0
        return self.start + (min(max(value, self.low), self.high) - self.low) / span * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Return round numbers within the scale, about `count` of them."""
        rough = (self.high - self.low) / max(count, 1) or 1.0
        magnitude = 10.0 ** np.floor(np.log10(rough))
        step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= rough * 0.999)
        first = int(np.ceil(self.low / step - 1e-9))
        last = int(np.floor(self.high / step + 1e-9))
        return [float(k * step) for k in range(first, last + 1)]


def text(
    x: float, y: float, words: str, *, anchor: str = "middle", size: int = 12, colour: str = FAINT, more: str = ""
) -> str:
    """Return one line of text, its base line at (x, y)."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}" {more}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str = GRID, width: float = 1.0, more: str = "") -> str:
    """Return a straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}" {more}/>'


def box(x: float, y: float, width: float, height: float, colour: str, title: str = "", more: str = "") -> str:
    """Return a filled rectangle; `title` shows on hovering."""
    tip = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}" fill="{colour}" {more}>'
        f"{tip}</rect>"
    )


def picture(width: int, height: int, parts: Sequence[str], label: str) -> str:
    """Return the SVG element; `label` is what a screen reader says."""
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _spans(steps: Sequence[float], on: Sequence[bool | None]) -> list[tuple[float, float]]:
    """Return the stretches of steps on which the forget term was on; a state holds until the next entry."""
    out: list[tuple[float, float]] = []
    for i, state in enumerate(on):
        if not state:
            continue
        stop = steps[i + 1] if i + 1 < len(steps) else steps[i]
        if out and out[-1][1] == steps[i]:
            out[-1] = (out[-1][0], stop)
        else:
            out.append((steps[i], stop))
    return out


def loss_lines(
    steps: Sequence[float],
    series: Mapping[str, Sequence[float | None]],
    *,
    on: Sequence[bool | None] | None = None,
    marks: Mapping[str, float] | None = None,
    unit: str = "nats a token",
) -> str:
    """Return losses over steps: a line a stream, shading where `on`, a dashed level a model in `marks`."""
    width, height = 1000, 360
    known = [v for values in series.values() for v in values if v is not None and np.isfinite(v)]
    top = max([*known, *(marks or {}).values(), 0.1]) * 1.08
    x, y = Axis(min(steps), max(steps), 52, width - 118), Axis(0.0, top, height - 46, 14)
    parts = [box(x(a), y(top), max(x(b) - x(a), 1), y(0) - y(top), SHADE) for a, b in _spans(steps, on or ())]
    for tick in y.ticks(5):
        parts += [line(x.start, y(tick), x.end, y(tick)), text(x.start - 8, y(tick) + 4, f"{tick:g}", anchor="end")]
    parts += [text(x(tick), height - 26, f"{tick:g}") for tick in x.ticks(8) if tick == int(tick)]
    parts.append(text((x.start + x.end) / 2, height - 6, "optimiser step"))
    turned = f'transform="rotate(-90 14 {(y.start + y.end) / 2})"'
    parts.append(text(14, (y.start + y.end) / 2, f"loss, {unit}", more=turned))
    ends: list[tuple[float, str, str]] = []
    for model, level in (marks or {}).items():
        parts.append(line(x.start, y(level), x.end, y(level), MODELS[model], 1.6, 'stroke-dasharray="5 4"'))
        ends.append((y(level), f"forget, {model}", MODELS[model]))
    for name, values in series.items():
        points = [(x(s), y(v)) for s, v in zip(steps, values, strict=True) if v is not None and np.isfinite(v)]
        if not points:
            continue
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{STREAMS[name]}" stroke-width="2.2" stroke-linejoin="round"/>'
        )
        ends.append((points[-1][1], name, STREAMS[name]))
    for place, words, colour in _apart(ends, 15):
        parts.append(text(x.end + 8, place + 4, words, anchor="start", colour=colour, more='font-weight="600"'))
    return picture(width, height, parts, "forget, holdout and retain loss over the steps of unlearning")


def _apart(labels: Sequence[tuple[float, str, str]], gap: float) -> list[tuple[float, str, str]]:
    """Return the labels moved down until none overlaps the one above."""
    out: list[tuple[float, str, str]] = []
    for place, words, colour in sorted(labels):
        out.append((max(place, out[-1][0] + gap) if out else place, words, colour))
    excess = max(0.0, out[-1][0] - 318) if out else 0.0
    return [(place - excess, words, colour) for place, words, colour in out]


def grouped_bars(
    groups: Sequence[tuple[str, Mapping[str, float | None], tuple[float, float] | None]],
    *,
    label: str,
) -> str:
    """Return a bar a model in each group, from 0 to 1; a group is (name, values by model, after's interval)."""
    width, height = 540, 262
    y = Axis(0.0, 1.0, height - 50, 26)
    parts: list[str] = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts += [line(40, y(tick), width - 6, y(tick)), text(33, y(tick) + 4, f"{tick:g}", anchor="end", size=11)]
    slot = (width - 50) / max(len(groups), 1)
    bar = min(20.0, slot / 4)
    for i, (name, values, interval) in enumerate(groups):
        middle = 42 + slot * (i + 0.5)
        for k, (model, value) in enumerate(values.items()):
            colour, left = MODELS[model], middle + (k - len(values) / 2) * (bar + 2)
            if value is None:
                parts.append(text(left + bar / 2, y(0) - 5, "–", colour=colour, more='font-weight="700"'))
                continue
            parts.append(box(left, y(value), bar, y(0) - y(value), colour, f"{name}, {model}: {value:.3f}", 'rx="2"'))
            shown = y(interval[1]) if model == "after" and interval else y(value)
            parts.append(text(left + bar / 2, min(shown, y(value)) - 5, _short(value), size=10, colour=INK))
            if model == "after" and interval:
                centre = left + bar / 2
                parts.append(line(centre, y(interval[0]), centre, y(interval[1]), INK, 1.3))
        for row, words in enumerate(_two_lines(name)):
            parts.append(text(middle, height - 32 + 13 * row, words, size=11, colour=INK))
    parts.append(line(40, y(0), width - 6, y(0), FAINT))
    return picture(width, height, parts, label)


def _short(value: float) -> str:
    return "1" if value >= 0.995 else "0" if value < 0.005 else f"{value:.2f}"[1:]


def _two_lines(name: str) -> list[str]:
    words = name.split()
    return [name] if len(words) < 2 else [" ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])]


def ridges(
    rows: Mapping[str, Floats], *, high: float, bins: int = 44, label: str = "", unit: str = "nats a token"
) -> str:
    """Return one histogram a model, above each other on one scale from 0 to `high`, each as tall as its own highest bar.

    A tick under each marks its median; losses above `high` are counted in the last bar.
    """
    width, each = 330, 84
    height = each * len(rows) + 52
    x = Axis(0.0, high, 12, width - 12)
    parts = [line(x(tick), 8, x(tick), height - 40) for tick in x.ticks(5)]
    for i, (model, losses) in enumerate(rows.items()):
        floor = 8 + each * (i + 1) - 4
        counts, edges = np.histogram(np.clip(losses, 0, high), bins=bins, range=(0, high))
        peak = max(int(counts.max()), 1)
        for count, left, right in zip(counts, edges, edges[1:], strict=False):
            tall = (each - 36) * count / peak
            title = f"{model}: {count} of {len(losses)} rows between {left:.2f} and {right:.2f}"
            if count:
                parts.append(box(x(left) + 0.4, floor - tall, x(right) - x(left) - 0.8, tall, MODELS[model], title))
        middle = float(np.median(losses))
        parts.append(line(x.start, floor, x.end, floor, FAINT, 0.8))
        parts.append(f'<path d="M{x(middle):.1f},{floor} l-4.5,7 h9 z" fill="{INK}"/>')
        parts.append(
            text(x.end, floor - each + 28, f"{model}, median {middle:.2f}", anchor="end", colour=INK, size=11)
        )
    parts += [text(x(tick), height - 24, f"{tick:g}", size=11) for tick in x.ticks(5)]
    parts.append(text(width / 2, height - 6, f"loss of a row, {unit}", size=11))
    return picture(width, height, parts, label)


DARK = {"ink": "#e4e9ee", "faint": "#9aa7b4", "grid": "#333e4a", "page": "#161b22"}
LIGHT = {"ink": INK, "faint": FAINT, "grid": GRID, "page": "#ffffff"}


def attack_curve(curve: Mapping[str, Any], *, dark: bool = False) -> str:
    """Return a figure from 0 to 1 over the steps of an attack: after and gold as lines, before as a dashed level.

    `curve` is one of the `curves` of attacks.json: steps, after, gold (or None), before (or None), figure, setting, and
    after_control and gold_control (or None), thin dotted lines: the same steps on kept rows.
    """
    width, height, tone = 640, 320, DARK if dark else LIGHT
    x, y = Axis(0.0, max(curve["steps"]), 52, width - 110), Axis(0.0, 1.0, height - 46, 34)
    parts = [box(0, 0, width, height, tone["page"])]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(line(x.start, y(tick), x.end, y(tick), tone["grid"]))
        parts.append(text(x.start - 8, y(tick) + 4, f"{tick:g}", anchor="end", colour=tone["faint"]))
    parts += [text(x(step), height - 26, f"{step}", colour=tone["faint"], size=11) for step in curve["steps"]]
    name = str(curve["figure"]).replace("_", " ")
    parts.append(text(x.start, 18, f"{name} of facts that were not trained", anchor="start", colour=tone["ink"]))
    parts.append(text((x.start + x.end) / 2, height - 6, "optimiser steps of relearning", colour=tone["faint"]))
    ends: list[tuple[float, str, str]] = []
    if curve["before"] is not None:
        level = y(curve["before"])
        parts.append(line(x.start, level, x.end, level, MODELS["before"], 1.6, 'stroke-dasharray="5 4"'))
        ends.append((level, "before", MODELS["before"]))
    for model, key in ((model, model + end) for end in ("", "_control") for model in ("after", "gold")):
        if curve.get(key) is None:
            continue
        points = [(x(step), y(value)) for step, value in zip(curve["steps"], curve[key], strict=True)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        width_of = 'stroke-width="2.2"' if key == model else 'stroke-width="1.5" stroke-dasharray="2 4"'
        parts.append(f'<polyline points="{path}" fill="none" stroke="{MODELS[model]}" {width_of}/>')
        parts += [
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{MODELS[model]}"/>' for a, b in points if key == model
        ]
        ends.append((points[-1][1], key.replace("_", ", "), MODELS[model]))
    for place, words, colour in _apart(ends, 15):
        parts.append(text(x.end + 8, place + 4, words, anchor="start", colour=colour, more='font-weight="600"'))
    alone = '<g font-family="system-ui, -apple-system, Segoe UI, Roboto, DejaVu Sans, sans-serif">'
    parts = [alone, *parts, "</g>"]  # as a file of its own it inherits no font
    return picture(width, height, parts, f"{name} over the steps of an attack, {curve['setting']}")
