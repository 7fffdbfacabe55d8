"""report.json (schema 1) and its table.  Holds figures, settings and verdict; never the text of a row."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_unlearn.errors import OutputError
from llm_unlearn.files import write_json
from llm_unlearn.measuring.figures import Assessment
from llm_unlearn.measuring.suites import CLASSES_QUICK, QUICK
from llm_unlearn.scores import SPLIT_NAMES

SCHEMA = 1
REPORT = "report.json"
HOLDOUTS = ("given", "synthetic", "none")
COLUMNS = ("figure", "split", "before", "after", "gold", "gap", "n")
ORDER = ("accuracy", *QUICK)  # most telling first
WORDS = {True: "yes", False: "no", None: "cannot tell"}
UNKNOWN = "before did not know"
ON_SCREEN = (*QUICK, *CLASSES_QUICK, "zrf", "overall")


def build(
    *,
    request: Mapping[str, Any],
    method: Mapping[str, Any],
    versions: Mapping[str, str],
    seed: int,
    assessment: Assessment,
    verdict: Mapping[str, Any],
    holdout: str,
    seconds: Mapping[str, float],
    peak_memory_bytes: int | None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the report as plain JSON types; `request` must hold no row's text (the caller's job)."""
    if holdout not in HOLDOUTS:
        raise ValueError(f"holdout must be one of {', '.join(HOLDOUTS)}; got {holdout!r}.")
    report = {
        "schema": SCHEMA,
        "request": request,
        "method": method,
        "versions": versions,
        "seed": seed,
        "holdout": holdout,
        "figures": [figure.to_json() for figure in assessment.figures],
        "by_kind": [figure.to_json() for figure in assessment.by_kind],
        "before_did_not_know": sorted(assessment.unknown),
        "verdict": verdict,
        "seconds": seconds,
        "peak_memory_bytes": peak_memory_bytes,
        "notes": list(notes),
    }
    clean: dict[str, Any] = plain_json(report)
    return clean


def plain_json(value: Any) -> Any:
    """Return `value` in JSON's own types: NaN and infinity become null, never 0; tuples lists; paths and others text."""
    if isinstance(value, Mapping):
        return {str(key): plain_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain_json(each) for each in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a numpy or torch number
        return plain_json(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def write_report(folder: Path, report: Mapping[str, Any]) -> Path:
    """Write folder/report.json atomically and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / REPORT, plain_json(report))
    return folder / REPORT


def read_report(folder: Path) -> dict[str, Any]:
    """Return folder/report.json; raise OutputError where it is missing, broken, or of another schema."""
    path = folder / REPORT
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise OutputError(
            f"{folder} holds no {REPORT}: the run in it has not finished; run the same command again."
        ) from error
    except json.JSONDecodeError as error:
        raise OutputError(f"{path} is not JSON ({error}); delete it and run the same command again.") from error
    if report.get("schema") != SCHEMA:
        raise OutputError(f"{path} has schema {report.get('schema')!r}; this version reads {SCHEMA}.")
    return report


def number(value: float | None, *, signed: bool = False) -> str:
    """Return a figure with three decimals ("-" for a missing one), or with an exponent where those would all be 0."""
    if value is None or not math.isfinite(value):
        return "-"
    if value != 0 and abs(value) < 0.0005:
        return "0.000" if signed else f"{value:.0e}"
    return f"{value:+.3f}" if signed else f"{value:.3f}"


def ordered(figures: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the figures that have a value, split by split (those across splits last)."""

    def place(figure: Mapping[str, Any]) -> tuple[int, str, int, str]:
        split = (figure["split"] or "").partition("/")[0]
        rank = SPLIT_NAMES.index(split) if split in SPLIT_NAMES else len(SPLIT_NAMES)
        return (
            rank,
            figure["split"] or "",
            ORDER.index(figure["name"]) if figure["name"] in ORDER else 99,
            figure["name"],
        )

    shown = [f for f in figures if any(f[model] is not None for model in ("before", "after", "gold"))]
    return sorted(shown, key=place)


def not_measured(report: Mapping[str, Any]) -> list[str]:
    """Return "name (why)" for each figure without a value on any split."""
    with_value = {figure["name"] for figure in ordered(report["figures"])}
    reasons = {f["name"]: f.get("detail", "") for f in report["figures"] if f["name"] not in with_value}
    return [f"{name} ({reason.removeprefix('not measured: ')})" for name, reason in sorted(reasons.items())]


def cells(report: Mapping[str, Any], key: str = "figures") -> list[list[str]]:
    """Return the table's cells, a list a line, with a last column of remarks."""
    unknown = report.get("before_did_not_know", ())
    lines = []
    for figure in ordered(report[key]):
        remarks = [UNKNOWN if figure["split"] in unknown else figure.get("detail", ""), between_golds(figure)]
        values = [number(figure[model]) for model in ("before", "after", "gold")]
        gap = number(figure["gap"], signed=True)
        lines.append(
            [
                figure["name"],
                figure["split"] or "all",
                *values,
                gap,
                str(figure["n"]),
                "; ".join(filter(None, remarks)),
            ]
        )
    return lines


def between_golds(figure: Mapping[str, Any]) -> str:
    """Return in words how the gap compares with what lies between golds by chance; "" with fewer than two golds."""
    spread = figure.get("spread")
    if spread is None or figure["gap"] is None:
        return ""
    inside = abs(figure["gap"]) <= spread
    judged = "indistinguishable from retraining by this figure" if inside else "more than chance"
    return f"golds lie {number(spread)} apart: {judged}"


def table(report: Mapping[str, Any]) -> str:
    """Return the terminal's table (figure | split | before | after | gold | gap | n) with the verdict under it.

    It shows the quick suite's figures and the overall one; all of them are in the report's files.
    """
    shown = {**report, "figures": [figure for figure in report["figures"] if figure["name"] in ON_SCREEN]}
    lines = [[*COLUMNS, ""], *cells(shown)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    out = []
    for number_of_line, line in enumerate(lines):
        left = [line[i].ljust(widths[i]) for i in (0, 1)]
        right = [line[i].rjust(widths[i]) for i in range(2, len(COLUMNS))]
        out.append(" | ".join([*left, *right]) + (f"   {line[-1]}" if line[-1] else ""))
        split_ends = number_of_line + 1 < len(lines) and line[1] != lines[number_of_line + 1][1]
        if split_ends:
            out.append("-+-".join("-" * width for width in widths))
    missing, more = not_measured(shown), len(ordered(report["figures"])) - len(lines) + 1
    if missing:
        out.append(f"not measured: {'; '.join(missing)}")
    if more:
        out.append(f"{more} more lines (further attacks and others) are in report.html and report.json")
    return "\n".join([*out, "", *verdict_lines(report)])


def verdict_lines(report: Mapping[str, Any]) -> list[str]:
    """Return the verdict in words, with its reasons and the report's notes."""
    verdict = report["verdict"]
    titles = {"forgot": "forgot", "utility_kept": "utility kept", "changed": "outputs changed"}
    lines = [f"{title + ':':<17}{WORDS[verdict[key]]}" for key, title in titles.items()]
    return [*lines, *(f"  - {reason}" for reason in verdict["reasons"]), *(f"  * {note}" for note in report["notes"])]


def markdown_table(report: Mapping[str, Any]) -> str:
    """Return the table for a model card or a README."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|---|" + "---:|" * (len(COLUMNS) - 2)]
    lines += ["| " + " | ".join(line[:-1]) + " |" for line in cells(report)]
    return "\n".join(lines)


def headline(report: Mapping[str, Any]) -> tuple[str, str]:
    """Return the verdict as one plain sentence, and the colour of its tone."""
    verdict = report["verdict"]
    forgot, kept = verdict["forgot"], verdict["utility_kept"]
    stranger = "a model that never saw it" if has(report, "gold") else "rows it never saw"
    if not verdict["changed"]:
        return "Nothing happened: the model's outputs are what they were before.", "#a12c16"
    first = {
        True: f"It forgot: on the forget set the model now looks like {stranger}.",
        False: f"It did not forget as it should: on the forget set the model does not look like {stranger}.",
        None: "Whether it forgot cannot be told.",
    }[forgot]
    second = {
        True: "The rest was kept.",
        False: "But the rest was damaged." if forgot else "The rest was damaged.",
        None: "Nothing was measured that had to be kept.",
    }[kept]
    good = "#14653b" if forgot and kept else "#a12c16" if forgot is False or kept is False else "#46535f"
    return str(verdict.get("in_words") or f"{first} {second}"), good  # a job that forgets no rows has words of its own


def has(report: Mapping[str, Any], model: str) -> bool:
    """Return whether the report has any figure of `model`."""
    return any(figure[model] is not None for figure in report["figures"])
