"""What the benchmarks share: their options, one pass a model, lines of figures, and the table with its two files."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from llm_unlearn.errors import OutputError, RecipeError
from llm_unlearn.files import write_json, write_text
from llm_unlearn.manifest import versions
from llm_unlearn.measuring.evaluation import Evaluation
from llm_unlearn.measuring.figures import Figure
from llm_unlearn.recipe import SPLITS
from llm_unlearn.reporting.report import number, plain_json
from llm_unlearn.scores import Floats, ModelScores, Score, mean_score
from llm_unlearn.statistics import bootstrap_interval
from llm_unlearn.subject import Subject, check_alike

SCHEMA = 1
COLUMNS = ("figure", "before", "after", "gold", "n")
PATHS = (
    "data",
    "run",
    "model",
    "adapter",
    "before",
    "gold",
    "output",
    "scalability",
    "sustainability",
)  # shown by their last part
Models = Mapping[str, ModelScores]  # "before", "after", "gold", as far as there are any
Value = Callable[[ModelScores], Score | None]


@dataclass(frozen=True, kw_only=True)
class Request(Subject):
    """The models to measure and the benchmark's files.  Raises RecipeError where options contradict each other."""

    data: str = ""  # the benchmark's files: a folder in the layout they were published in, or a Hub id
    output: str = "outputs/benchmark"  # the folder for benchmark_NAME.json and .md

    def __post_init__(self) -> None:
        """Raise RecipeError without --data, and for rows of one's own."""
        super().__post_init__()
        if not self.data:
            raise RecipeError("give --data DIR, the folder with the benchmark's files, or a Hub id.")
        given = [name for name in SPLITS if getattr(self, name)]
        if given:
            raise RecipeError(f"a benchmark brings its own rows: leave --{given[0].replace('_', '-')} out.")
        if self.task != "causal_lm":
            raise RecipeError(
                f"the benchmarks are for language models: --task {self.task} cannot be measured by them."
            )

    def shown(self) -> dict[str, Any]:
        """Return the settings that are not the defaults; of a path the last part only."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        changed = {each.name: given[each.name] for each in fields(self) if given[each.name] != each.default}
        return {name: _short(value) if name in PATHS else value for name, value in changed.items()}


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a benchmark found."""

    name: str
    request: Mapping[str, Any]
    figures: Sequence[Figure]
    notes: Sequence[str] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return benchmark_NAME.json: figures and settings, never a row's text."""
        content = {**asdict(self), "figures": [figure.to_json() for figure in self.figures]}
        clean: dict[str, Any] = plain_json({"schema": SCHEMA, **content, "versions": versions()})
        return clean

    def cells(self) -> list[list[str]]:
        """Return the table's cells, a list a line, with a last column of remarks."""
        lines = []
        for figure in self.figures:
            values = [number(getattr(figure, model)) for model in ("before", "after", "gold")]
            told = figure.detail
            if figure.interval:
                told = f"95 % of after {number(figure.interval[0])} to {number(figure.interval[1])}" + (
                    told and f"; {told}"
                )
            lines.append([figure.name, *values, str(figure.n) if figure.n else "-", told])
        return lines

    def table(self) -> str:
        """Return the terminal's table with the notes under it."""
        lines = [[*COLUMNS, ""], *self.cells()]
        widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
        out = []
        for line in lines:
            cells = [line[0].ljust(widths[0]), *(line[i].rjust(widths[i]) for i in range(1, len(COLUMNS)))]
            out.append((" | ".join(cells) + (f"   {line[-1]}" if line[-1] else "")).rstrip())
        out.insert(1, "-+-".join("-" * width for width in widths))
        return "\n".join([*out, *(f"  * {note}" for note in self.notes)])

    def markdown(self) -> str:
        """Return the table for a README, with the settings that were used."""
        lines = ["| " + " | ".join([*COLUMNS, "remark"]) + " |", "|---|" + "---:|" * (len(COLUMNS) - 1) + "---|"]
        lines += ["| " + " | ".join(line) + " |" for line in self.cells()]
        words = {name: value if isinstance(value, list) else [value] for name, value in self.request.items()}
        told = " ".join(f"--{name.replace('_', '-')} {' '.join(map(str, value))}" for name, value in words.items())
        command = f"`accelerate launch eval/benchmark.py {self.name} {told}` (of paths the last part)"
        return "\n".join([*lines, "", command, "", *(f"- {note}" for note in self.notes)]).rstrip() + "\n"

    def write(self, folder: str | Path) -> list[Path]:
        """Write benchmark_NAME.json and .md, each whole or not at all, and return their paths; raises OutputError."""
        path = Path(folder).expanduser()
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot write in {path}: {error.strerror}. Give another folder with --output."
            ) from error
        paths = [path / f"benchmark_{self.name}.{ending}" for ending in ("json", "md")]
        write_json(paths[0], self.to_json())
        write_text(paths[1], self.markdown())
        return paths


def measured(request: Request, evaluations: Sequence[Evaluation], seconds: dict[str, float]) -> dict[str, ModelScores]:
    """Return the scores of every model the request names, loaded one at a time; adds each one's seconds to `seconds`."""
    out: dict[str, ModelScores] = {}
    for name in request.names:
        if name != "after":
            check_alike(request, name)
    for name in request.names:
        start = time.perf_counter()
        model = request.load(name)
        out[name] = {split: each for e in evaluations for split, each in e.scores(name, model).items()}
        seconds[name] = round(time.perf_counter() - start, 2)
        del model  # the next one takes its place
    return out


def line(name: str, value: Value, models: Models, *, needs: str, target: str = "gold", seed: int = 0) -> Figure:
    """Return one figure of every model; None, and "not measured: needs ..." in words, where it has no value."""
    found = {model: value(scores) for model, scores in models.items()}
    values = {model: score.value if score else None for model, score in found.items()}
    after, gold, mine = values.get("after"), values.get("gold"), found.get("after")
    interval = None
    if mine is not None and mine.per_example is not None:
        interval = bootstrap_interval(mine.per_example, seed=seed)
    return Figure(
        name=name,
        split=None,
        before=values.get("before"),
        after=after,
        gold=gold,
        gap=None if after is None or gold is None else after - gold,
        interval=interval,
        n=mine.n if mine else 0,
        target=target,
        detail=mine.detail if mine else f"not measured: needs {needs}",
    )


def mean_of(split: str, values: Callable[[Any], Floats | None]) -> Value:
    """Return the mean over a split's rows of `values(scores of the split)`; None where the split or the values are missing."""

    def value(scores: ModelScores) -> Score | None:
        rows = scores.get(split)
        found = None if rows is None else values(rows)
        return None if found is None else mean_score(found)

    return value


def _short(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_short(each) for each in value]
    text = str(value)
    return (
        Path(text).name
        if "/" in text and (text.count("/") > 1 or text.startswith((".", "~")) or Path(text).exists())
        else text
    )
