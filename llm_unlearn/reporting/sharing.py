"""The report's concept-by-class charts: who shares a concept, by mean scores and by the bottleneck's weights, and who is its donor."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from llm_unlearn.reporting.charts import INK, box, picture, text

CELL, LINE, LEFT = 50, 26, 112  # pixels of a column, of a line, and before the first column


def shown(found: Mapping[str, Any], used: bool) -> str:
    """Return the charts of a bottleneck; `used`: was the donor what targeted labels were made of?"""
    if "entities" not in found:
        return f"<h3>Who shares it</h3><p>Not measured: {escape(found.get('reason', 'no bottleneck'))}.</p>"
    names = found["entities"]
    columns = found.get("concepts", names)
    taken = "take their answers from it" if used else "would take their answers from it"
    words = (
        f"A class a line (what is to be forgotten first), a concept a column. The bottleneck on these scores is right on "
        f"{100 * found['accuracy']:.0f} % of {found['n']} held-out rows. The donor is {found['donor']} (rule: {found['rule']}): "
        f"targeted labels {taken}."
    )
    if found.get("vectors"):
        lowest, highest = (100 * end for end in (min(found["vectors"]), max(found["vectors"])))
        words += f" Each concept's vector alone is right on {lowest:.0f} to {highest:.0f} % of rows it was not fitted on (balanced)."
    charts = (
        ("How far each class's rows lie on each concept's side, standard deviations", "scores"),
        ("What the bottleneck makes of it: the weight of each concept for each class", "weights"),
    )
    drawn = "".join(f"<div><p>{what}</p>{_chart(names, columns, found[key])}</div>" for what, key in charts)
    return f"<h3>Who shares it</h3><p>{escape(words)}</p><div class='two'>{drawn}</div>"


def targeted(report: Mapping[str, Any], default: str) -> bool:
    """Did the report's method teach targeted labels?  `default`: the labels of a method that was asked for none."""
    method = report.get("method") or {}
    return method.get("name") == "concept_poison" and (method.get("labels") or default) == "targeted"


def _chart(names: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]]) -> str:
    top = max(abs(value) for row in values for value in row) or 1.0
    parts = [text(LEFT + CELL * (k + 0.5), 22, name[:9], size=8) for k, name in enumerate(columns)]
    for i, row in enumerate(values):
        bold = 'font-weight="700"' if i == 0 else ""
        parts.append(text(LEFT - 8, 30 + LINE * i + 17, names[i][:14], anchor="end", size=12, colour=INK, more=bold))
        for k, value in enumerate(row):
            parts += _cell(
                LEFT + CELL * k, 30 + LINE * i, value, top, f"{names[i]}, concept {columns[k]}: {value:+.2f}"
            )
    return picture(LEFT + CELL * len(columns), 36 + LINE * len(names), parts, "concept by class")


def _cell(x: float, y: float, value: float, top: float, title: str) -> list[str]:
    share, colour = abs(value) / top, "#2f6fde" if value > 0 else "#c8432b"
    drawn = [box(x + 1, y + 1, CELL - 2, LINE - 2, colour, title, f'rx="3" opacity="{share:.2f}"')]
    if round(abs(value), 1) > 0:
        ink = "#ffffff" if share > 0.55 else INK
        drawn.append(text(x + CELL / 2, y + 17, f"{value:.1f}", size=10, colour=ink))
    return drawn
