"""Attacks on an unlearned model and on its gold, side by side: what to run, the table, and the files.

OUT/attacks.json   figures, curves and notes (`llm_unlearn.attacks.read`); also RUN/attacks.json of a run
OUT/attacks.md     the table;  OUT/relearn.svg and relearn_dark.svg  the curve of relearning
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from llm_unlearn.attacks import FILE, SCHEMA, Attack, available, find
from llm_unlearn.attacks._attacked import Attacked
from llm_unlearn.attacks.prune import Prune
from llm_unlearn.attacks.quantise import Quantise
from llm_unlearn.attacks.relearn import Relearn
from llm_unlearn.attacks.sampling import Sampling
from llm_unlearn.errors import DataError, RecipeError
from llm_unlearn.files import write_json, write_text
from llm_unlearn.reporting import charts
from llm_unlearn.reporting.plots import PAGE
from llm_unlearn.reporting.report import number, plain_json
from llm_unlearn.reporting.sections import put_attacks
from llm_unlearn.runfolder import is_main, on_main
from llm_unlearn.subject import Subject, check_alike

COLUMNS = (
    *("attack", "setting", "figure", "before", "attacked", "after", "attacked", "gold", "attacked"),
    *("rise of after", "rise of gold", "difference", "95 %", "n", "facts"),
)
NO_GOLD = (
    "no gold model was given (--gold): what the attacks do to a model that never knew was not measured, so a rise may be "
    "ordinary learning or luck."
)
HOW_TO_READ = (
    "before: the model before unlearning; where the attack breaks even that, a rise could not show. rise = attacked - not attacked; difference = rise of after - rise of gold. "
    "95 %: bootstrap over facts, of the difference (without gold: of the rise of after); - where all rows have one value."
)


@dataclass(frozen=True, kw_only=True)
class Options(Subject):
    """What is attacked and how."""

    output: str = "outputs/attacks"  # the folder for what is written
    attacks: tuple[str, ...] = ()  # names; all when none is given
    rows: int = 200  # forget rows that an attack measures, at most
    beside_run: bool = True  # with --run: also write DIR/attacks.json, where the run's report looks for it
    relearn: Relearn = Relearn()
    quantise: Quantise = Quantise()
    prune: Prune = Prune()
    sampling: Sampling = Sampling()

    def __post_init__(self) -> None:
        """Raise RecipeError for an unknown attack and for contradictions."""
        super().__post_init__()
        for name in self.attacks:
            find(name)
        if self.rows < 2:
            raise RecipeError(f"--rows {self.rows}: at least 2 rows are needed to say anything.")

    @property
    def chosen(self) -> dict[str, Attack]:
        """The attacks to run, with their settings, by name."""
        return {name: getattr(self, name, None) or find(name)() for name in self.attacks or available()}


def attack(options: Options) -> dict[str, Any]:
    """Run the attacks, write what came of it and return it; every process of a job calls this."""
    if not options.splits.get("forget"):
        raise DataError("attacks need the forget rows: give --run DIR, or --forget FILE with --model.")
    for name in options.names:
        if name != "after":
            check_alike(options, name)
    attacked = Attacked(
        options.load,
        options.names,
        options.reader,
        options.splits,
        folder=Path(options.output),
        rows=options.rows,
        seed=options.seed,
        batch_size=options.batch_size,
        progress=is_main(),
    )
    result = run(attacked, options.chosen)
    folders = [Path(options.output), *([Path(options.run)] if options.run and options.beside_run else [])]
    on_main(lambda: write(result, folders))
    if len(folders) > 1:
        on_main(lambda: _into_page(folders[1] / PAGE, result))
    return result


def _into_page(page: Path, result: Mapping[str, Any]) -> None:
    """Put the attacks into a run's report.html, where there is one."""
    if page.is_file():
        write_text(page, put_attacks(page.read_text(encoding="utf-8"), result))


def run(attacked: Attacked, attacks: Mapping[str, Attack]) -> dict[str, Any]:
    """Return what attacks.json holds: schema, models, settings, figures, curves, notes, seconds."""
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "models": list(attacked.names),
        "seed": attacked.seed,
        "rows": len(attacked.rows),
        "settings": {name: _settings(each) for name, each in attacks.items()},
        "figures": [],
        "curves": [],
        "notes": [] if "gold" in attacked.names else [NO_GOLD],
        "seconds": {},
    }
    for name, each in attacks.items():
        if attacked.task.name not in each.tasks:
            result["notes"].append(f"{name}: left out; it works on {', '.join(sorted(each.tasks))} only.")
            continue
        start = time.perf_counter()
        found = each.run(attacked)
        result["seconds"][name] = round(time.perf_counter() - start, 1)
        result["figures"] += [figure.to_json() for figure in found.figures]
        result["curves"] += [asdict(curve) for curve in found.curves]
        result["notes"] += found.notes
    clean: dict[str, Any] = plain_json(result)
    return clean


def _settings(attack: Attack) -> dict[str, Any]:
    return {field.name: asdict(attack)[field.name] for field in fields(attack)}


def write(result: Mapping[str, Any], folders: Sequence[Path]) -> None:
    """Write attacks.json to every folder, and the table and the curve to the first."""
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILE, result)
    write_text(folders[0] / "attacks.md", markdown(result))
    for curve in result["curves"]:
        if curve["figure"] == "extraction_strength" and curve["seed"] == result["seed"]:
            for name, dark in (("relearn.svg", False), ("relearn_dark.svg", True)):
                write_text(folders[0] / name, charts.attack_curve(curve, dark=dark))


def cells(figure: Mapping[str, Any]) -> list[str]:
    """Return a figure's line of the table."""
    low_high = figure["interval"]
    return [
        *(figure[name] for name in ("attack", "setting", "figure")),
        *(
            number(figure[name])
            for name in ("before", "before_attacked", "after_before_attack", "after", "gold_before_attack", "gold")
        ),
        *(number(figure[name], signed=True) for name in ("recovery_after", "recovery_gold", "difference")),
        f"{low_high[0]:+.3f} to {low_high[1]:+.3f}" if low_high else "-",
        str(figure["n"]),
        str(figure["facts"]),
    ]


def table(result: Mapping[str, Any]) -> str:
    """Return the terminal's table, with the notes under it."""
    lines = [list(COLUMNS), *map(cells, result["figures"])]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    out = []
    for line in lines if result["figures"] else []:
        left = [line[i].ljust(widths[i]) for i in range(3)]
        out.append(" | ".join([*left, *(line[i].rjust(widths[i]) for i in range(3, len(COLUMNS)))]))
    return "\n".join([*out, "", *_remarks(result)])


def markdown(result: Mapping[str, Any]) -> str:
    """Return attacks.md."""
    head = ["| " + " | ".join(COLUMNS) + " |", "|---|---|---|" + "---:|" * (len(COLUMNS) - 3)]
    lines = ["| " + " | ".join(cells(figure)) + " |" for figure in result["figures"]]
    return "\n".join(["# Attacks", "", *head, *lines, "", *(f"- {remark}" for remark in _remarks(result)), ""])


def _remarks(result: Mapping[str, Any]) -> list[str]:
    """Return how to read the table, the notes, and what the figures' own remarks say, each once."""
    details = [
        f"{each['attack']}, {each['setting']}: {each['detail']}" for each in result["figures"] if each["detail"]
    ]
    return [HOW_TO_READ, *result["notes"], *dict.fromkeys(details)]
