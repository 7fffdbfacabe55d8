"""One picture of a report as an SVG file of its own: figures before, after and for gold, on what was to go and what was to stay.

python -m llm_unlearn.reporting.drawing DIR picture.svg          DIR: a finished run
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_unlearn.errors import OutputError
from llm_unlearn.files import write_text
from llm_unlearn.reporting import charts
from llm_unlearn.reporting.plots import NAMES
from llm_unlearn.reporting.report import ordered, read_report

TITLES = {"forget": "To be forgotten: after should meet gold", "retain": "To be kept: after as high as before"}
WIDTH, PANEL, TALL, HEIGHT = 1100, 540, 262, 360
FONT = 'font-family="system-ui, -apple-system, Segoe UI, Roboto, DejaVu Sans, sans-serif"'


def drawn(report: Mapping[str, Any]) -> str:
    """Return the SVG; raise OutputError for a report that has no figure to show."""
    found = {(figure["name"], figure["split"]): figure for figure in ordered(report["figures"])}
    models = [model for model in charts.MODELS if any(each.get(model) is not None for each in found.values())]
    parts = [charts.box(0, 0, WIDTH, HEIGHT, "#ffffff")]
    for place, (split, title) in enumerate(TITLES.items()):
        shown = [found[name, split] for name in NAMES if name != "forget_quality" and (name, split) in found]
        groups = [
            (NAMES[each["name"]], {model: each[model] for model in models}, each["interval"])
            for each in shown
            if each["after"] is not None
        ]
        if not groups:
            continue
        left = place * (WIDTH - PANEL)
        chart = charts.grouped_bars(groups, label=title).replace(
            "<svg ", f'<svg x="{left}" y="58" width="{PANEL}" height="{TALL}" ', 1
        )
        parts += [charts.text(left + 40, 52, title, anchor="start", size=15, colour=charts.INK), chart]
    if len(parts) == 1:
        raise OutputError("the report holds no figure on forget or retain: there is nothing to draw.")
    for number, model in enumerate(models):
        parts.append(charts.box(40 + 90 * number, 14, 12, 12, charts.MODELS[model]))
        parts.append(charts.text(57 + 90 * number, 24, model, anchor="start", size=13, colour=charts.INK))
    counts = ", ".join(f"{split} {rows_of(report, split)}" for split in TITLES)
    said = f"{report['method']['name']}, seed {report['seed']}; rows measured: {counts}; thin lines: 95 % bootstrap over rows"
    parts.append(charts.text(40, HEIGHT - 12, said, anchor="start"))
    return charts.picture(WIDTH, HEIGHT, [f"<g {FONT}>", *parts, "</g>"], "figures before, after and for gold") + "\n"


def rows_of(report: Mapping[str, Any], split: str) -> int:
    """Return on how many rows a split was measured."""
    shown = [
        each for each in report["figures"] if each["split"] == split and each["name"] in ("accuracy", "exact_answer")
    ]
    return int(shown[0]["n"]) if shown else 0


def main() -> None:
    """Draw."""
    run, place = sys.argv[1:]
    write_text(place, drawn(read_report(Path(run))))


if __name__ == "__main__":
    main()
