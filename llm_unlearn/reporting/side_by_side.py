"""Whole tables over many runs: every figure, and every attack, a column a method; and the same run by run for a spreadsheet."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llm_unlearn.reporting.report import WORDS, number, ordered

if TYPE_CHECKING:
    from llm_unlearn.reporting.compare import Run

Values = Sequence[float | None]
Spread = Callable[[Values], str]


def every_figure(groups: Mapping[str, Sequence["Run"]], spread: Spread) -> str:
    """Return a line a figure and split: before, each method's mean over its runs, gold, n; in Markdown."""
    runs = [run for members in groups.values() for run in members]
    measured = {
        key: figure for run in reversed(runs) for key, figure in run.figures.items() if figure["after"] is not None
    }
    lines = []
    for figure in ordered(
        list(measured.values())
    ):  # whatever any run has; the rows' number is the first one's that has it
        key = figure["name"], figure["split"]
        after = [spread([run.value("after", key) for run in members]) for members in groups.values()]
        ends = [number(figure[model]) for model in ("before", "gold")]
        sizes = [run.figures[key]["n"] for run in runs if run.value("after", key) is not None]
        rows = " to ".join(
            str(size) for size in dict.fromkeys([min(sizes), max(sizes)])
        )  # empty answers count in no figure
        lines.append([key[0], key[1] or "all", ends[0], *after, ends[1], rows])
    return _markdown(["figure", "split", "before", *groups, "gold", "n"], lines, left=2)


def every_attack(groups: Mapping[str, Sequence["Run"]], spread: Spread) -> str:
    """Return a line an attack, setting and figure: each method's value before and under it, and gold's; "" without attacks."""
    found = {
        name: [run.attacks["figures"] for run in runs if run.attacks is not None] for name, runs in groups.items()
    }
    found = {name: each for name, each in found.items() if each}
    keys = list(dict.fromkeys(_key(line) for each in found.values() for lines in each for line in lines))
    table = []
    for key in keys:
        of_key = {
            name: [line for lines in each for line in lines if _key(line) == key] for name, each in found.items()
        }
        cells = [_move(lines, "after_before_attack", "after", spread) for lines in of_key.values()]
        every = [line for lines in of_key.values() for line in lines]
        gold = _move(every[:1], "gold_before_attack", "gold", spread)
        table.append([*key, *cells, gold, str(every[0]["n"])])
    return _markdown(["attack", "setting", "figure", *found, "gold", "n"], table, left=3) if table else ""


def as_csv(runs: Sequence["Run"]) -> str:
    """Return a line a run, every figure with all its digits, an empty cell where it was not measured."""
    keys = sorted({key for run in runs for key in run.figures}, key=lambda key: (key[0], key[1] or ""))
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    names = [f"{name}@{split}" if split else name for name, split in keys]
    lines.writerow(["run", "model", "method", "seed", "forgot", "utility_kept", "comparable", "seconds", *names])
    for model in ("before", "gold"):
        values = [runs[0].value(model, key) for key in keys]
        if any(value is not None for value in values):
            lines.writerow([runs[0].name, model, "", "", "", "", "yes", "", *values])
    for run in runs:
        said = [WORDS[run.report["verdict"][key]] for key in ("forgot", "utility_kept")]
        told = [run.report["seed"], *said, "no" if run.differs else "yes", run.report["seconds"].get("unlearn")]
        lines.writerow([run.name, "after", run.method, *told, *(run.value("after", key) for key in keys)])
    return out.getvalue()


def attacks_csv(runs: Sequence["Run"]) -> str:
    """Return a line a run, attack, setting and figure with all its digits; "" where no run was attacked."""
    lines = [
        {"run": run.name, "method": run.method, "seed": run.report["seed"], **line}
        for run in runs
        for line in (run.attacks or {}).get("figures", ())
    ]
    out = io.StringIO()
    names = list(dict.fromkeys(name for line in lines for name in line if name not in ("interval", "detail")))
    writer = csv.DictWriter(out, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue() if lines else ""


def _key(line: Mapping[str, Any]) -> tuple[str, str, str]:
    return line["attack"], line["setting"], line["figure"]


def _move(lines: Sequence[Mapping[str, Any]], old: str, new: str, spread: Spread) -> str:
    if not lines or all(line[new] is None for line in lines):
        return "-"
    return " → ".join(spread([line[name] for line in lines]) for name in (old, new))


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]], *, left: int) -> str:
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))
