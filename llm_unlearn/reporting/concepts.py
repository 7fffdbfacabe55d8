"""The report's concept section: which rows carry it and why, whom it is shared with, and what the answers rest on, before and after."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from llm_unlearn.files import write_text
from llm_unlearn.reporting import charts, sharing
from llm_unlearn.reporting.charts import FAINT, INK, MODELS, box, line, picture, text
from llm_unlearn.reporting.report import number
from llm_unlearn.reporting.sections import legend, section

WHY = {
    "name": ("said by name", "#2f6fde"),
    "alias": ("by another name", "#7b57c2"),
    "inferred": ("inferred", "#2d8a57"),
    "example": ("given", "#9aa5b1"),
}
SHOWN = 12  # rows of the attribution's picture
HOW = {
    "name": "given, or what marks the examples",
    "alias": "the model takes it for the name (nats)",
    "inferred": "its rows' states lie on the found side (share of the way)",
}


def concept(report: Mapping[str, Any]) -> str:
    """Return the section; "" for a run that inferred nothing."""
    found = report.get("concept")
    if not found:
        return ""
    by = {how: found["by"][how] for how in WHY if found["by"].get(how)}
    total = sum(by.values())
    caption = (
        f"{total:,} of {found['rows']:,} rows carry the concept; {by.get('name', 0):,} of them say its name. The vector that tells "
        f"them from the rest is right on {100 * found['accuracy']:.1f} % of rows it was not fitted on (balanced, n = {found['n']:,})."
    )
    who = sharing.shown(found["sharing"], sharing.targeted(report, "mask"))
    body = legend({WHY[how][0]: WHY[how][1] for how in by}) + _stack(by)
    body += f"<div class='two' style='margin-top:16px'><div>{_terms(found['terms'])}</div><div>{who}</div></div>"
    return section("What carries the concept", caption, body + _attribution(found["attribution"]))


def write(folder: Path, body: str) -> Path:
    """Write folder/explanation.html, a section as a page of its own, and return its path."""
    page = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width, "
        f"initial-scale=1'><title>What carries the concept</title><style>{charts.STYLE}</style></head><body><main>"
        "<h1>What carries the concept</h1><p class='sub'>An explanation: the model was not changed.</p>"
        f"{body}</main></body></html>\n"
    )
    write_text(folder / "explanation.html", page)
    return folder / "explanation.html"


def _stack(by: Mapping[str, int]) -> str:
    """Return one bar of the carriers, parted by why."""
    width, left, total = 1000, 0.0, sum(by.values())
    parts = []
    for how, count in by.items():
        size = width * count / total
        parts.append(box(left, 4, size - 2, 30, WHY[how][1], f"{WHY[how][0]}: {count}", 'rx="4"'))
        if size > 46:
            parts.append(text(left + size / 2, 24, f"{count:,}", size=14, colour="#ffffff", more='font-weight="600"'))
        left += size
    return picture(width, 40, parts, "rows that carry the concept, by why")


def _terms(terms: Sequence[Mapping[str, Any]]) -> str:
    lines = "".join(
        f"<tr><td>{escape(each['term'])}</td><td>{WHY[each['how']][0]}</td>"
        f"<td>{number(each['value']) if each['value'] else '-'}</td><td>{HOW[each['how']]}</td></tr>"
        for each in terms
    )
    head = "<tr><th>word</th><th>how</th><th>measure</th><th></th></tr>"
    return f"<h3>Words that stand for it</h3><p>Keyed marks, unless records are shown.</p><div class='wide'><table>{head}{lines}</table></div>"


def _attribution(looks: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    if not any(looks.values()):
        return ""
    masses = {model: [each["mass"] for each in rows] for model, rows in looks.items() if rows}
    told = ", ".join(f"{model} {sum(m) / len(m):.3f} (n = {len(m)})" for model, m in masses.items())
    error = max(each["error"] for rows in looks.values() for each in rows)
    caption = (
        f"Share of the answer's attribution (Integrated Gradients) on the concept's words: {told}. Completeness error at most "
        f"{100 * error:.1f} %. A line a row, beginning to end of its text from left to right: the darker, the more the answer rests on it."
    )
    rows = list(dict.fromkeys(each["row"] for model in masses for each in looks[model]))[:SHOWN]
    width, half = 1000, 420
    parts = []
    for column, model in enumerate(masses):
        left = 120 + column * (half + 20)
        parts.append(text(left + half / 2, 16, model, size=13, colour=INK, more='font-weight="600"'))
        by_row = {each["row"]: each for each in looks[model]}
        for i, row in enumerate(rows):
            y = 26 + 22 * i
            if column == 0:
                parts.append(text(110, y + 14, row, anchor="end", size=11))
            if row not in by_row:
                parts.append(text(left + half / 2, y + 14, "not complete", size=11))
                continue
            bins = by_row[row]["bins"]
            for k, value in enumerate(bins):
                size = (half - 60) / len(bins)
                more = f'opacity="{min(1.0, 0.06 + 1.9 * value):.2f}"'
                parts.append(
                    box(left + k * size, y, size - 1, 18, MODELS["after"], f"{value:.0%} of the answer", more)
                )
            parts.append(
                text(left + half - 8, y + 14, f"{by_row[row]['mass']:.2f}", anchor="end", size=11, colour=INK)
            )
        parts.append(line(left, 28 + 22 * len(rows), left + half - 60, 28 + 22 * len(rows), FAINT))
        parts.append(text(left + half - 8, 42 + 22 * len(rows), "on its words", anchor="end", size=10))
    drawing = picture(width, 50 + 22 * len(rows), parts, "attribution by place in the row, before and after")
    return (
        f"<h3 style='margin-top:18px'>What the answers rest on</h3><p>{escape(caption)}</p>{drawing}{_tokens(looks)}"
    )


def _tokens(looks: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return the rows' texts with their tokens highlighted; "" unless records are shown."""
    out = ""
    for model, rows in looks.items():
        texts = [_highlighted(each["tokens"]) for each in rows if "tokens" in each]
        if texts:
            out += f"<h3>{escape(model)}</h3><p>{'<br>'.join(texts[:SHOWN])}</p>"
    return out


def _highlighted(tokens: Sequence[Sequence[Any]]) -> str:
    return "".join(
        f"<span style='background:rgba(47,111,222,{0.75 * share:.2f})'>{escape(word)}</span>" for word, share in tokens
    )
