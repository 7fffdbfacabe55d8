"""Parts of report.html that are words and tables: what was asked, the attacks, the worst rows, how to run it again."""

import re
import shlex
from collections.abc import Mapping
from html import escape
from typing import Any

from llm_unlearn.reporting import charts
from llm_unlearn.reporting.report import number
from llm_unlearn.scores import CLASSIFIERS

PANELS = {
    "forget": "What was to be forgotten, in the trained wordings: blue should meet gold, not zero.",
    "forget_heldout": "The same facts in wordings never trained on: has it forgotten the fact, or only the sentence?",
    "retain": "What was to stay: blue should stand as high as grey.",
    "retain_heldout": "What was to stay, in wordings never trained on: blue as high as grey.",
    "neighbour": "Kept facts nearest to the concept, where damage shows first: blue as high as grey.",
    "general": "Unrelated knowledge: blue as high as grey.",
}
PANELS_OF_CLASSES = PANELS | {
    "forget": "What was to be forgotten, rows that were trained on: blue should meet gold, not zero.",
    "forget_heldout": "Rows of the same classes that were never trained on: has it forgotten the class, or only the rows?",
    "retain_heldout": "Rows like those that were to stay, never trained on: blue as high as grey.",
    "neighbour": "Kept rows nearest to what was forgotten, where damage shows first: blue as high as grey.",
}
FEATURE = "test"  # the split that a feature's removal is measured on
PANELS_OF_FEATURES = {
    FEATURE: "What fresh probes still find of the feature, and what the answers hang on: blue should meet gold; the task's accuracy as high as grey."
}

ATTACKS = ("<!-- attacks -->", "<!-- end of attacks -->")
WORST = {
    "still_known": (
        "Still known",
        "forget rows whose answer can be drawn out more than from gold (extraction strength)",
    ),
    "lost": ("Lost", "kept rows answered exactly before and not now (exact answer)"),
}


def panels_of(report: Mapping[str, Any]) -> dict[str, str]:
    """Return what stands over each split's bars, by split."""
    request = report.get("request", {})
    if request.get("feature"):
        return PANELS_OF_FEATURES
    return PANELS_OF_CLASSES if request.get("task") in CLASSIFIERS else PANELS


def asked(report: Mapping[str, Any]) -> str:
    """Return one sentence with what was asked for, in counts; "" where the report has no counts."""
    rows = report.get("rows") or {}
    if not rows.get("forget"):
        return ""
    kept = sum(rows.get(name, 0) for name in ("retain", "neighbour", "general"))
    text = f"Asked: forget {rows['forget']:,} rows and keep everything else, of which {kept:,} rows are given."
    return f"<p class='asked'>{escape(text)}</p>"


def attacks(found: Mapping[str, Any] | None) -> str:
    """Return the attacks' section, `found` as in attacks.json; without it, how to make them.  `put_attacks` replaces it."""
    if found is None:
        body = "<p>Not measured: <code>accelerate launch eval/attack.py --run DIR</code> does, and puts the result here.</p>"
    else:
        heading = ("attack", "setting", "figure", "after", "under attack", "gold", "under attack", "difference", "n")
        lines = "".join(_attack_line(figure) for figure in found["figures"])
        body = (
            f"<div class='wide'><table><tr>{''.join(f'<th>{cell}</th>' for cell in heading)}</tr>{lines}</table></div>"
        )
        curves = [each for each in found["curves"] if each["figure"] == "extraction_strength"]
        body += "".join(f"<div style='max-width:640px'>{charts.attack_curve(curve)}</div>" for curve in curves[:1])
        body += f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in found['notes'])}</ul>" if found["notes"] else ""
    caption = (
        "What comes back when the model is attacked, beside what a model that never knew gains from the same attack. "
        "difference = rise of after - rise of gold: where after rises and gold does not, the knowledge was hidden, not removed."
    )
    return f"{ATTACKS[0]}{section('Attacks', caption, body)}{ATTACKS[1]}"


def _attack_line(figure: Mapping[str, Any]) -> str:
    values = [figure[name] for name in ("after_before_attack", "after", "gold_before_attack", "gold")]
    cells = [figure["attack"], figure["setting"], figure["figure"].replace("_", " "), *map(number, values)]
    last = figure["difference"] if figure["difference"] is not None else figure["recovery_after"]
    cells += [number(last, signed=True), str(figure["n"])]
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def put_attacks(page: str, found: Mapping[str, Any]) -> str:
    """Return the page with its attacks' section replaced by what was found; a page without one stays as it is."""
    pattern = f"{re.escape(ATTACKS[0])}.*?{re.escape(ATTACKS[1])}"
    return re.sub(pattern, lambda _: attacks(found), page, flags=re.DOTALL)


WORST_CLASSES = {
    "still_known": ("Still known", "forget rows that are classified right, and by gold are not"),
    "lost": ("Lost", "kept rows classified right before and not now"),
}


def worst(report: Mapping[str, Any]) -> str:
    """Return the rows that went worst, by their keyed marks; "" where the report does not hold them."""
    found = report.get("worst")
    if found is None:
        return ""
    caption = "A row is named by a mark made with the run's private key, so that nobody else can tell which it is."
    body = ""
    classes = any(figure["name"] == "accuracy" for figure in report["figures"])
    for name, (title, words) in (WORST_CLASSES if classes else WORST).items():
        lines = "".join(_line(line) for line in found.get(name, ()))
        head = "".join(f"<th>{cell}</th>" for cell in ("row", "split", "kind", "before", "after", "gold", "loss now"))
        table = f"<table><tr>{head}</tr>{lines}</table>" if lines else "<p>None.</p>"
        body += f"<h3>{title}: {escape(words)}</h3><div class='wide'>{table}</div>"
    return section("Worst rows", caption, body)


def _line(line: Mapping[str, Any]) -> str:
    values = [number(line[name]) for name in ("before", "after", "gold", "loss")]
    cells = (line["row"], line["split"], line["kind"], *values)
    return f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in cells)}</tr>"


def again(report: Mapping[str, Any]) -> str:
    """Return how to run the request again; "" where the report does not hold the command."""
    command = report.get("command")
    if not command:
        return ""
    caption = (
        "Paths and the concept are shown as keyed marks; private/request.json beside this report has them in full."
    )
    return section("Run it again", caption, f"<pre>{escape(shlex.join(command))}</pre>")


def legend(names: Mapping[str, str]) -> str:
    """Return a legend of (name, colour)."""
    items = "".join(
        f"<span><i style='background:{colour}'></i>{escape(name)}</span>" for name, colour in names.items()
    )
    return f"<div class='legend'>{items}</div>"


def section(title: str, caption: str, body: str) -> str:
    """Return a section of the page; `body` is HTML, the rest plain text."""
    return f"<section><h2>{escape(title)}</h2><p>{escape(caption)}</p>{body}</section>"


def pairs(settings: Mapping[str, Any]) -> str:
    """Return settings as a list of names and values, nested ones with dotted names."""
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in _flat(settings))
    return f"<dl>{lines}</dl>"


def _flat(settings: Mapping[str, Any], start: str = "") -> list[tuple[str, str]]:
    """Return (dotted name, value) of nested settings."""
    out: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            out += _flat(value, f"{start}{name}.")
        else:
            out.append(
                (f"{start}{name}", "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value))
            )
    return out
