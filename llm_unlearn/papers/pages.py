"""The tables and the picture of the papers' command, from finished cells."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_unlearn.papers.cells import ACCURACIES, STANDARDS, Cell, cells_of, kept
from llm_unlearn.papers.claims import Case, verdict
from llm_unlearn.papers.plan import Entry, Group
from llm_unlearn.reporting.scatter import deviation, draw

if TYPE_CHECKING:
    from PIL.Image import Image

COLUMNS = {  # heading: figure, in percent
    "forget train": "forget_train",
    "forget test": "forget_test",
    "retain": "retain",
    "test": "test",
    "MIA loss": "mia_loss_accuracy",
    "MIA entropy": "mia_entropy_accuracy",
    "AUC loss": "mia_loss",
    "AUC entropy": "mia_entropy",
}
DASH = "-"
READING = (
    "Accuracies and attacks in %, mean ± standard deviation over seeds. MIA: accuracy of the attack; 50 is chance and "
    "gold's value is the aim. AUC: signed; above 50 the forget rows still look trained on. Seconds are processor seconds "
    "of one thread; retraining's are those of the fewest epochs within 0.5 points of its schedule's best test accuracy. "
    "Gap to gold: mean over the four accuracies, in points; JS: Jensen-Shannon divergence, in bits."
)
Runs = Sequence[tuple[Group, Mapping[str, Cell]]]  # a scenario's seeds with their cells


def scenarios(groups: Sequence[Group], folder: Path) -> list[Runs]:
    """Return the finished groups, those of one setup and scenario together."""
    out: list[Runs] = []
    for _, same in groupby(groups, key=lambda group: (group.setup.name, group.scenario.name)):
        runs = [(group, found) for group in same if (found := _found(group, folder)) is not None]
        if runs:
            out.append(runs)
    return out


def _found(group: Group, folder: Path) -> dict[str, Cell] | None:
    cells = {name: kept(folder, group, name, asked) for name, asked in cells_of(group).items()}
    whole = {name: cell for name, cell in cells.items() if cell is not None}
    return whole if len(whole) == len(cells) else None


def page(every: Sequence[Runs]) -> str:
    """Return the tables in Markdown."""
    parts = [READING]
    for runs in every:
        parts += [f"## {runs[0][0].setup.name}: {runs[0][0].scenario.name}", table(runs), _note(runs)]
    return "\n\n".join(parts) + "\n"


def table(runs: Runs) -> str:
    """Return a scenario's table: before, gold, then the methods."""
    heading = ["model", *COLUMNS, "seconds", "% of retraining", "gap to gold", "JS to gold", "claim", "settings"]
    lines = [heading, ["---"] + ["---:"] * (len(heading) - 3) + ["---"] * 2]
    lines += [_line(runs, name, None) for name in STANDARDS]
    lines += [_line(runs, entry.name, entry) for entry in runs[0][0].entries]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _line(runs: Runs, name: str, entry: Entry | None) -> list[str]:
    cells = [found[name] for _, found in runs]
    figures = [spread([cell["figures"][key] for cell in cells], 100) for key in COLUMNS.values()]
    gaps = spread([gap(found[name], found["gold"]) for _, found in runs], 100)
    apart = spread([cell["figures"]["js_divergence"] for cell in cells], 1, digits=3)
    if entry is None:
        seconds = [cell.get("retraining_seconds") for cell in cells]
        share = DASH if None in seconds else "100"
        return [name, *figures, spread(seconds, 1), share, gaps, apart, "", ""]
    shares = [found[name]["seconds"] / found["gold"]["retraining_seconds"] for _, found in runs]
    claim = verdict(entry, runs[0][0].scenario, case(runs, name))
    spent = [spread([cell["seconds"] for cell in cells], 1), spread(shares, 100, digits=0)]
    return [name, *figures, *spent, gaps, apart, claim, settings(entry)]


def case(runs: Runs, name: str) -> Case:
    """Return a method's mean figures over the seeds, beside those of before and gold."""

    def means(model: str) -> dict[str, float | None]:
        return {key: _mean([found[model]["figures"][key] for _, found in runs]) for key in COLUMNS.values()}

    shares = [found[name]["seconds"] / found["gold"]["retraining_seconds"] for _, found in runs]
    ends = [found[name]["learned"].get("finished_after_steps") is not None for _, found in runs]
    return Case(
        after=means(name),
        before=means("before"),
        gold=means("gold"),
        time=sum(shares) / len(shares),
        reached=sum(ends) / len(ends),
    )


def gap(cell: Cell, gold: Cell) -> float | None:
    """Return the mean absolute gap of the four accuracies to gold's; None where one is missing."""
    pairs = [(cell["figures"][key], gold["figures"][key]) for key in ACCURACIES]
    if any(None in pair for pair in pairs):
        return None
    return sum(abs(one - other) for one, other in pairs) / len(pairs)


def spread(values: Sequence[float | None], scale: float, digits: int = 1) -> str:
    """Return mean ± standard deviation (n - 1); a dash where any is missing."""
    known = [value * scale for value in values if value is not None]
    if len(known) < len(values) or not known:
        return DASH
    text = f"{sum(known) / len(known):.{digits}f}"
    return f"{text} ± {deviation(known):.{digits}f}" if len(known) > 1 else text


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def settings(entry: Entry) -> str:
    """Return the settings that are not the method's defaults."""
    return ", ".join(f"{name}={value}" for name, value in _flat(entry.settings)) or "defaults"


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _note(runs: Runs) -> str:
    group, found = runs[0]
    setup, rows, n = group.setup, found["gold"]["rows"], found["before"]["n"]
    sizes = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in n.items())
    seeds = ", ".join(str(group.seed) for group, _ in runs)
    first = (
        f"{setup.data}, {rows['forget']:,} rows to forget, gold trained on {rows['retain']:,} others; {setup.epochs} epochs of "
        f"{setup.batch} rows a step, AdamW {setup.learning_rate:g}, cosine. n measured: {sizes}. Seeds {seeds}."
    )
    lines = [first]
    for entry in group.entries:
        last = [
            cells[entry.name]["forget_by_request"][-1] for _, cells in runs if "forget_by_request" in cells[entry.name]
        ]
        if last:
            each = ", ".join(spread(list(values), 100, digits=0) for values in zip(*last, strict=True))
            lines.append(f"{entry.name}: accuracy on the rows of each request after the last one: {each} %.")
    return "\n".join(lines)


def content(every: Sequence[Runs]) -> dict[str, Any]:
    """Return every figure by setup, scenario, model and seed, as papers.json holds it."""
    out: dict[str, Any] = {}
    for runs in every:
        group = runs[0][0]
        of_setup = out.setdefault(group.setup.name, {})
        of_setup[group.scenario.name] = {
            name: {
                str(group.seed): {key: value for key, value in found[name].items() if key != "request"}
                for group, found in runs
            }
            for name in runs[0][1]
        }
    plain: dict[str, Any] = json.loads(json.dumps(out))
    return plain


def picture(every: Sequence[Runs]) -> "Image":
    """Return a panel a scenario: test accuracy against forget accuracy, before a square and gold a star."""
    from PIL import Image

    panels = [_panel(runs) for runs in every]
    wide, tall = panels[0].size
    columns = min(3, len(panels))
    sheet = Image.new("RGB", (columns * wide, math.ceil(len(panels) / columns) * tall), "white")
    for number, panel in enumerate(panels):
        sheet.paste(panel, (number % columns * wide, number // columns * tall))
    return sheet


def _panel(runs: Runs) -> "Image":
    group = runs[0][0]
    series = [(entry.name, [_point(found[entry.name]) for _, found in runs]) for entry in group.entries]
    marks = {}
    for model in STANDARDS:
        points = [_point(found[model]) for _, found in runs]
        marks[model] = tuple(sum(column) / len(points) for column in zip(*points, strict=True))
    titles = ("accuracy on forget", "accuracy on test")
    name = f"{group.setup.name}, {group.scenario.name}"
    panel = draw(series, marks, band=None, titles=titles, heading=name)
    return panel.resize((panel.width // 2, panel.height // 2))


def _point(cell: Cell) -> tuple[float, float]:
    return cell["figures"]["forget_train"], cell["figures"]["test"]
