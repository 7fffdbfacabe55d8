"""The figures on held-out questions as a table, as JSON and as Markdown; the texts of rows only in a private file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_unlearn.errors import OutputError
from llm_unlearn.files import write_json, write_text
from llm_unlearn.held_out import KEPT, HeldOut
from llm_unlearn.manifest import versions
from llm_unlearn.measuring.figures import Figure
from llm_unlearn.reporting.report import number, plain_json

COLUMNS = ("figure", "kind", "before", "after", "gold", "gap", "n")
PRIVATE, ANSWERS, COMMAND = "private", "answers.jsonl", "command.json"
SCREEN = 60  # lines of a table that can still be looked over; a longer one shows FIRST only
FIRST = ("extraction_strength", "probability", "rouge_l_recall", "exact_answer")
FEW = 4


def to_json(result: HeldOut, seed: int) -> dict[str, Any]:
    """Return the content of held_out.json: figures by kind, the worst cases, notes; no row's text, no file's name."""
    content: dict[str, Any] = plain_json(
        {
            "schema": 1,
            "models": result.models,
            "seed": seed,
            "rows": {_shown(split): count for split, count in result.rows.items()},
            "figures": [_line(figure) for figure in result.figures],
            "worst": [_line(figure) for figure in result.worst],
            "notes": result.notes,
            "versions": versions(),
        }
    )
    return content


def _line(figure: Figure) -> dict[str, Any]:
    line = figure.to_json()
    split = line.pop("split") or ""
    return {"name": line.pop("name"), "kind": split.partition("/")[2] or split, "kept": _kept(split), **line}


def _kept(split: str) -> bool:
    return split.startswith(f"{KEPT}/")


def _shown(split: str) -> str:
    """Return a kind as the table shows it: what must stay is marked."""
    return (split.partition("/")[2] or split) + (" (kept)" if _kept(split) else "")


def _measured(figures: Sequence[Figure]) -> list[Figure]:
    return [figure for figure in figures if figure.after is not None]


def _cells(figure: Figure) -> list[str]:
    values = [number(value) for value in (figure.before, figure.after, figure.gold)]
    return [figure.name, _shown(figure.split or ""), *values, number(figure.gap, signed=True), str(figure.n)]


def remarks(result: HeldOut) -> list[str]:
    """Return what is said under the table: figures that were not measured, and the notes."""
    missing: dict[str, list[str]] = {}
    for figure in result.figures:
        if figure.after is None:
            missing.setdefault(f"{figure.name} ({figure.detail.removeprefix('not measured: ')})", []).append(
                _shown(figure.split or "")
            )
    lines = [
        f"not measured: {name} on {', '.join(kinds) if len(kinds) <= FEW else f'{len(kinds)} kinds'}"
        for name, kinds in missing.items()
    ]
    if "gold" not in result.models:
        lines.append("no gold model was given: what a model without the forget rows would answer is not known")
    return [*lines, *result.notes]


def table(result: HeldOut) -> str:
    """Return the terminal's table, the worst cases and the remarks; a long one without the figures that say less."""
    shown = _measured(result.figures)
    rest: list[str] = []
    if len(shown) > SCREEN:
        rest = list(dict.fromkeys(figure.name for figure in shown if figure.name not in FIRST))
        shown = [figure for figure in shown if figure.name in FIRST]
    figures = [*shown, *result.worst]
    lines = [[*COLUMNS, ""], *([*_cells(figure), figure.detail] for figure in figures)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    rule, starts = "-+-".join("-" * width for width in widths), len(lines) - len(result.worst)
    out = []
    for place, line in enumerate(lines):
        if place and (line[0] != lines[place - 1][0] or place == starts):
            out.append(rule)
        left = [line[i].ljust(widths[i]) for i in (0, 1)]
        right = [line[i].rjust(widths[i]) for i in range(2, len(COLUMNS))]
        out.append(" | ".join([*left, *right]) + (f"   {line[-1]}" if line[-1] else ""))
    more = [f"{', '.join(rest)}: in held_out.md"] if rest else []
    return "\n".join([*out, *(f"  * {remark}" for remark in [*more, *remarks(result)])])


def markdown(result: HeldOut, seed: int) -> str:
    """Return held_out.md: the same table with the interval of `after`."""
    head = [*COLUMNS[:4], "95 %", *COLUMNS[4:], "remark"]
    lines = ["| " + " | ".join(head) + " |", "|---|---|" + "---:|" * (len(head) - 3) + "---|"]
    for figure in [*_measured(result.figures), *result.worst]:
        interval = "-" if figure.interval is None else " - ".join(number(bound) for bound in figure.interval)
        cells = _cells(figure)
        lines.append("| " + " | ".join([*cells[:4], interval, *cells[4:], figure.detail]) + " |")
    told = (
        "gap: after less gold. 95 %: bootstrap over rows of the value after; of a worst case, of the maximum. "
        f"Seed {seed}. (kept): what must stay."
    )
    notes = [f"- {remark}" for remark in remarks(result)]
    return "\n".join(["# Held-out questions", "", *lines, "", told, "", *notes]).rstrip() + "\n"


def write(result: HeldOut, folder: str | Path, seed: int, command: Sequence[str]) -> list[Path]:
    """Write held_out.json, held_out.md, private/command.json and, where answers were generated, private/answers.jsonl.

    Return the paths; the private files have mode 0600.

    Raises OutputError where the folder cannot be written.
    """
    folder = Path(folder)
    private = folder / PRIVATE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        private.mkdir(mode=0o700, exist_ok=True)
        private.chmod(0o700)
    except OSError as error:
        raise OutputError(f"cannot write in {folder}: {error.strerror}. Give another folder with --output.") from error
    paths = [folder / "held_out.json", folder / "held_out.md"]
    write_json(paths[0], to_json(result, seed))
    write_text(paths[1], markdown(result, seed))
    paths.append(private / COMMAND)
    write_json(paths[-1], {"command": list(command)}, mode=0o600)
    if result.answers:
        paths.append(private / ANSWERS)
        write_text(paths[-1], "".join(_json_line(answer) for answer in result.answers), mode=0o600)
    return paths


def _json_line(answer: Mapping[str, Any]) -> str:
    return json.dumps(answer, ensure_ascii=False) + "\n"
