"""The report's section on attribution: how much of it lies on what carried the class before, and with records the rows."""

from collections.abc import Mapping
from html import escape
from typing import Any

from llm_unlearn.reporting import sharing
from llm_unlearn.reporting.report import number
from llm_unlearn.reporting.sections import section

WHAT = {"words": "the five words of each row", "pixels": "the hottest tenth of each picture's pixels"}


def shown(report: Mapping[str, Any]) -> str:
    """Return the section; "" where nothing was attributed."""
    found = report.get("attribution")
    if not found:
        return ""
    caption = (
        f"Integrated Gradients of the forgotten rows' own class: the share of positive attribution on {WHAT[found['on']]} that "
        "carried the class most before, and how much that is in nats. difference: how much likelier the class is for the row than for the baseline, nats."
    )
    head = "".join(f"<th>{name}</th>" for name in ("model", "share on them", "nats", "n", "difference"))
    lines = "".join(
        f"<tr><td>{escape(name)}</td><td>{number(found['mass'].get(name))}</td><td>{number(found['nats'].get(name))}</td><td>{found['n'].get(name, 0)}</td>"
        f"<td>{number(value)}</td></tr>"
        for name, value in found["difference"].items()
    )
    chart = sharing.shown(found["sharing"], sharing.targeted(report, "targeted")) if "sharing" in found else ""
    table = f"<table><tr>{head}</tr>{lines}</table>"
    return section("What the class rests on", caption, f"{table}{_rows(found)}{chart}")


def _rows(found: Mapping[str, Any]) -> str:
    """Return the shown rows, a line each with a column a model, or side by side where there is one model; "" without records."""
    rows = found.get("rows", ())
    lines = ["".join(f"<div><p>{escape(name)}</p>{_row(each)}</div>" for name, each in row.items()) for row in rows]
    lines = ["".join(lines)] if all(len(row) == 1 for row in rows) else lines
    return "".join(f"<div class='three'>{line}</div>" for line in lines if line)


def _row(each: Any) -> str:
    """Return a picture, or a text with each piece coloured by its share of the row's strongest."""
    if isinstance(each, str):
        return f"<img alt='attribution map' src='{escape(each)}'>"
    most = max((abs(value) for _, value in each), default=0.0) or 1.0
    return "".join(_piece(text, value / most) for text, value in each)


def _piece(text: str, strength: float) -> str:
    colour = "200,67,43" if strength > 0 else "47,111,222"
    return f"<span style='background:rgba({colour},{abs(strength):.2f})'>{escape(text)}</span>"
