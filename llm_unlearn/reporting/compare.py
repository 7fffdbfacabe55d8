"""Many finished runs side by side: a table and a picture from their report.json alone.  No model is loaded.

Runs can be compared where they were measured on the same rows, beside the same model before and the same gold.  Reports hide
paths and rows behind keys of their own, so this is told from the figures: the same model on the same rows has the same ones.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llm_unlearn.errors import DataError, OutputError, nearest
from llm_unlearn.files import read_json, write_text
from llm_unlearn.measuring.verdict import TOLERANCE
from llm_unlearn.reporting import scatter
from llm_unlearn.reporting.report import REPORT, SCHEMA, number
from llm_unlearn.reporting.side_by_side import as_csv, attacks_csv, every_attack, every_figure

ATTACKS = "attacks.json"
WITH_HOLDOUT = ("mia_", "privleak", "u_lira")  # figures whose n counts the holdout too
SAME = 1e-3  # how far two measurements of one model on one set of rows may lie apart (another machine, batch or precision)
AXES = (
    ("extraction_strength@forget", "model_utility"),
    ("accuracy@forget", "accuracy@retain"),
)  # text; of classifiers
COLUMNS = {  # heading: figure and split
    "accuracy": ("accuracy", "forget"),
    "accuracy held out": ("accuracy", "forget_heldout"),
    "accuracy retain": ("accuracy", "retain"),
    "ES": ("extraction_strength", "forget"),
    "ES held out": ("extraction_strength", "forget_heldout"),
    "loss AUC": ("mia_loss", "forget"),
    "EM": ("exact_memorisation", "forget"),
    "EM held out": ("exact_memorisation", "forget_heldout"),
    "exact": ("exact_answer", "forget"),
    "truth ratio": ("truth_ratio", "forget"),
    "quality p": ("forget_quality", "forget"),
    "retain": ("exact_answer", "retain"),
    "neighbour": ("exact_answer", "neighbour"),
    "utility": ("model_utility", None),
}
Report = Mapping[str, Any]
Key = tuple[str, str | None]  # figure and split


@dataclass(frozen=True)
class Run:
    """One finished run."""

    name: str  # of its folder, with as many parents as tell it from the others
    method: str  # its name, with the settings in which runs of that method differ
    report: Report
    attacks: Report | None = None  # attacks.json beside it, where the run was attacked
    differs: tuple[str, ...] = ()  # why it can't be compared with the first run

    def value(self, model: str, key: Key) -> float | None:
        """Return a figure of "before", "after" or "gold"; None where it was not measured."""
        found = self.figures.get(key)
        return None if found is None else found[model]

    @property
    def figures(self) -> dict[Key, Mapping[str, Any]]:
        """The report's figures by name and split."""
        return {(figure["name"], figure["split"]): figure for figure in self.report["figures"]}


def read(folders: Sequence[str]) -> tuple[list[Run], list[str]]:
    """Return the finished runs in the folders, and the folders that hold none.

    Raises DataError where no folder holds one, and for a report that this version can't read.
    """
    paths = list(dict.fromkeys(Path(folder).expanduser().absolute() for folder in folders))
    reports, without = {}, []
    for path in paths:
        report = read_json(path / REPORT)
        if report is None:
            without.append(path.name)
        elif report.get("schema") != SCHEMA or "figures" not in report or "method" not in report:
            raise DataError(f"{path / REPORT} is no report of this version (schema {SCHEMA}): run it again.")
        else:
            reports[path] = report
    if not reports:
        raise DataError(f"no finished run among the {len(paths)} folders: each needs its {REPORT}.")
    methods = _methods(list(reports.values()))
    runs = [
        Run(name, method, report, read_json(path / ATTACKS))
        for name, method, (path, report) in zip(_names(list(reports)), methods, reports.items(), strict=True)
    ]
    return [replace(run, differs=tuple(differences(runs[0], run))) for run in runs], without


def differences(first: Run, other: Run) -> list[str]:
    """Return why two runs can't be compared, in words; [] where they can."""
    reasons = []
    sizes, others = _sizes(first), _sizes(other)
    unlike = sorted(split for split in {*sizes, *others} if sizes.get(split) != others.get(split))
    if unlike:
        told = ", ".join(f"{split} {others.get(split, 0)} instead of {sizes.get(split, 0)}" for split in unlike)
        reasons.append(f"other rows: {told}")
    if first.report["request"].get("task") != other.report["request"].get("task"):
        reasons.append(f"another task: {other.report['request'].get('task')}")
    for model, words in (("before", "another model before, or other rows"), ("gold", "another gold")):
        if not unlike and (key := _unlike(first, other, model)):
            name, split = key
            reasons.append(
                f"{words}: {name} on {split or 'all'} {number(other.value(model, key))} "
                f"instead of {number(first.value(model, key))}"
            )
    return reasons


def refuse(runs: Sequence[Run]) -> None:
    """Raise DataError, naming them in one line, where runs can't be compared with the first."""
    unlike = [f"{run.name} ({'; '.join(run.differs)})" for run in runs if run.differs]
    if unlike:
        raise DataError(
            f"{len(unlike)} of {len(runs)} runs cannot be compared with {runs[0].name}: {', '.join(unlike)}. "
            "Leave them out, or put them beside it all the same with --force."
        )


def write(folder: Path, runs: Sequence[Run], *, forget: str | None = None, utility: str | None = None) -> list[Path]:
    """Write comparison.md, .csv and .png, and attacks.csv where a run was attacked, and return their paths.

    `forget` and `utility` are the picture's axes, written figure@split or figure: `axes` without them.  Raises DataError for
    one that no run has.
    """
    usual = axes(runs)
    forget, utility = forget or usual[0], utility or usual[1]
    across, upward = key_of(utility, runs), key_of(forget, runs)
    picture = draw(runs, upward, across)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write in {folder}: {error.strerror}. Give another folder with --output.") from error
    paths = [folder / f"comparison.{ending}" for ending in ("md", "csv", "png")]
    absent = [run.name for run in runs if None in (run.value("after", across), run.value("after", upward))]
    note = f"Not in the picture, {forget} or {utility} was not measured: {', '.join(absent)}.\n" if absent else ""
    write_text(paths[0], f"{markdown(runs)}\n\n![{forget} against {utility}](comparison.png)\n{note}")
    write_text(paths[1], as_csv(runs))
    beside = paths[2].with_name(".comparison.part.png")
    picture.save(beside, format="PNG", optimize=True)
    beside.replace(paths[2])
    if attacks := attacks_csv(runs):
        paths.append(folder / "attacks.csv")
        write_text(paths[3], attacks)
    return paths


def axes(runs: Sequence[Run]) -> tuple[str, str]:
    """Return what is drawn upward and across where nothing is asked for: of classifiers accuracies, they predict no words."""
    known = {key for run in runs for key in run.figures if run.value("after", key) is not None}
    return AXES[1] if ("accuracy", "forget") in known else AXES[0]


def key_of(text: str, runs: Sequence[Run]) -> Key:
    """Return the figure and split that `figure@split` names; DataError where no run has measured it."""
    name, _, split = text.partition("@")
    known = [key for run in runs for key in run.figures if run.value("after", key) is not None]
    if (name, split or None) in known:
        return name, split or None
    spelled = sorted({f"{figure}@{part}" if part else figure for figure, part in known})
    raise DataError(f"no run has measured {text}{nearest(text, spelled)}. Measured: {', '.join(spelled)}.")


def groups(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return the runs by method, in order of appearance; one that can't be compared stands by itself."""
    out: dict[str, list[Run]] = {}
    for run in runs:
        out.setdefault(f"{run.method}, {run.name} (not comparable)" if run.differs else run.method, []).append(run)
    return out


def table(runs: Sequence[Run]) -> list[list[str]]:
    """Return the cells: heading, before, gold, and a line a method with mean and deviation over its seeds."""
    shown = {
        heading: key for heading, key in COLUMNS.items() if any(run.value("after", key) is not None for run in runs)
    }
    lines = [["method", "seeds", "forgot", "kept", *shown, "seconds"]]
    for model in ("before", "gold"):
        values = [[runs[0].value(model, key)] for key in shown.values()]
        if any(value is not None for (value,) in values):
            lines.append([model, "", "", "", *map(_spread, values), ""])
    for method, members in groups(runs).items():
        verdicts = [_verdicts(members, key) for key in ("forgot", "utility_kept")]
        values = [[run.value("after", key) for run in members] for key in shown.values()]
        seconds = [run.report["seconds"].get("unlearn") for run in members]
        seeds = " ".join(str(run.report["seed"]) for run in members)
        lines.append([method, seeds, *verdicts, *map(_spread, values), _spread(seconds, digits=False)])
    return lines


def markdown(runs: Sequence[Run]) -> str:
    """Return the table, how many rows each figure stands on, and what was put in by force."""
    first, *rest = table(runs)
    methods = groups(runs)
    lines = [first, ["---"] * 4 + ["---:"] * (len(first) - 4), *rest]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    sizes = ", ".join(f"{split} {size}" for split, size in sorted(_sizes(runs[0]).items()))
    text += f"\n\nMean ± standard deviation over seeds (n - 1). Rows: {sizes}. Forgot, kept: runs of which the verdict says so."
    text += f"\n\n## Every figure\n\n{every_figure(methods, _spread)}"
    if attacks := every_attack(methods, _spread):
        text += f"\n\n## Every attack\n\nWithout it → under it.\n\n{attacks}"
    forced = [f"{run.name} ({'; '.join(run.differs)})" for run in runs if run.differs]
    return text + (f"\n\nNot comparable, shown by force: {', '.join(forced)}." if forced else "")


def draw(runs: Sequence[Run], forget: Key, utility: Key) -> Any:
    """Return the picture (a PIL image): utility to the right, the forget figure upward, the band round gold's."""
    series = []
    for method, members in groups(runs).items():
        points = [(run.value("after", utility), run.value("after", forget)) for run in members]
        series.append((method, [(x, y) for x, y in points if x is not None and y is not None]))
    marks = {}
    for model in ("before", "gold"):
        x, y = runs[0].value(model, utility), runs[0].value(model, forget)
        if x is not None and y is not None:
            marks[model] = (x, y)
    titles = [f"{name.replace('_', ' ')}{f' on {split}' if split else ''}" for name, split in (utility, forget)]
    gold = runs[0].value("gold", forget)
    width = TOLERANCE.get(forget[0])
    band = None if gold is None or width is None else (gold - width, gold + width)
    return scatter.draw([one for one in series if one[1]], marks, band=band, titles=(titles[0], titles[1]))


def _sizes(run: Run) -> dict[str, int]:
    """Return the rows measured by split (those of figures across splits are in their parts)."""
    out: dict[str, int] = {}
    for (name, split), figure in run.figures.items():
        if split is not None and not name.startswith(WITH_HOLDOUT):
            out[split] = max(out.get(split, 0), figure["n"])
    return out


def _unlike(first: Run, other: Run, model: str) -> Key | None:
    """Return the first figure in which two runs' `model` differ: a value, or measured in one of them only."""
    for key in sorted({*first.figures} & {*other.figures}, key=str):
        one, two = first.value(model, key), other.value(model, key)
        if (one is None) != (two is None) or (one is not None and two is not None and not _close(one, two)):
            return key
    return None


def _close(one: float, two: float) -> bool:
    return math.isclose(one, two, rel_tol=SAME, abs_tol=SAME)


def _verdicts(runs: Sequence[Run], key: str) -> str:
    said = [run.report["verdict"][key] for run in runs]
    return f"{sum(value is True for value in said)}/{len(said)}" + ("?" if None in said else "")


def _spread(values: Sequence[float | None], digits: bool = True) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = sum(known) / len(known)
    shown = [number(value) if digits else f"{value:.0f}" for value in (mean, scatter.deviation(known))]
    return " ± ".join(shown) if len(known) > 1 else shown[0]


def _names(paths: Sequence[Path]) -> list[str]:
    """Return each folder's name, with as many parents as tell them apart."""
    for parts in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _methods(reports: Sequence[Report]) -> list[str]:
    """Return each run's method, with the settings in which the runs of that method differ."""
    settings = [dict(_flat(report["method"])) for report in reports]
    out = []
    for mine in settings:
        same = [other for other in settings if other["name"] == mine["name"]]
        differing = [key for key in mine if any(other.get(key) != mine[key] for other in same)]
        out.append(" ".join([str(mine["name"]), *(f"{key}={mine[key]}" for key in differing)]))
    return out


def _flat(settings: Mapping[str, Any], start: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{start}{name}.")
        else:
            yield f"{start}{name}", value
