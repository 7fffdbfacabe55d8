"""Forgetting requests one after the other, each from the result of the one before, and whether a later one brings one back.

Every request is an ordinary run with a folder, a report and a verdict of its own (DIR/request-1, DIR/request-2, ...).  It starts
from the model that the one before left (merged: a further adapter cannot be switched on over an earlier one), and keeps neither
its own rows nor those of earlier requests; a classifier's method is told these as `forgotten`, and instance_wise keeps them so.
After each the share of rows answered right is measured on every request.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from llm_unlearn import api, hub
from llm_unlearn.data.splits import content
from llm_unlearn.errors import DataError
from llm_unlearn.files import read_json, write_json, write_text
from llm_unlearn.loading import load_model, load_task
from llm_unlearn.measuring.evaluation import Evaluation
from llm_unlearn.recipe import Recipe
from llm_unlearn.runfolder import is_main, on_main
from llm_unlearn.scores import CLASSIFIERS, ModelScores, Scores
from llm_unlearn.tasks import Row

RECORD, TABLE = "continual.json", "continual.md"
TOLERANCE = 0.05  # by which the share of right rows may rise after a later request; the verdict's own for accuracy
MEASURED = ("retain", "retain_heldout", "holdout")  # kept and unseen rows measured beside the requests
MOST = 1000  # rows of these


def continual(
    recipe: Recipe,
    rows: Sequence[Row],
    requests: Sequence[Sequence[Row]],
    *,
    others: Mapping[str, Sequence[Row]] | None = None,
    tolerance: float = TOLERANCE,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Run the requests in turn in recipe.output and return the record, also DIR/continual.json; DIR/continual.md shows it.

    `rows` are all training rows, the requests' among them; `others` are further splits (holdout, retain_heldout).  The
    recipe says model, method and settings; its own rows are not read.  Finished requests are found and not run again.
    """
    if not requests or not all(requests):
        raise DataError("a sequence needs at least one request, and each request at least one row.")
    folder, others = Path(recipe.output), dict(others or {})
    on_main(lambda: folder.mkdir(parents=True, exist_ok=True))
    measured = {f"request-{number}": list(each) for number, each in enumerate(requests, start=1)}
    measured |= {name: list(others[name])[:MOST] for name in MEASURED if name in others}
    measured["retain"] = _kept(rows, requests)[:MOST]
    evaluation = Evaluation(load_task(recipe, recipe.model), measured, batch_size=recipe.evaluation.batch_size)
    model, stages = recipe.model, []
    for number in range(len(requests) + 1):
        report: Mapping[str, Any] = {}
        place = folder / f"request-{number}" if number else folder
        loaded = recipe
        if number:
            here = replace(recipe, output=str(place), merge=True, model=model)
            if number > 1:  # what the recipe says about its own model does not hold for a merged one
                here = replace(here, adapter=None, revision=None)
            splits = {**others, **_splits(rows, requests[:number], recipe.task in CLASSIFIERS)}
            report = api.unlearn(here, rows=splits)
            loaded, model = replace(here, adapter=None, revision=None), str(place / hub.MERGED)
        shares = _shares(evaluation, number, loaded, model, place)
        stages.append({"after": number, "right": shares, **_of_report(report)})
        if say is not None and is_main() and number:
            told = ", ".join(f"{name} {value:.3f}" for name, value in shares.items())
            say(f"request {number} of {len(requests)}: {told}")
    record = {"requests": [len(each) for each in requests], "tolerance": tolerance, "stages": stages}
    record["came_back"] = came_back([stage["right"] for stage in stages], tolerance)
    record["model"] = Path(model).relative_to(folder).as_posix()

    def write() -> None:
        write_json(folder / RECORD, record)
        write_text(folder / TABLE, table(record))

    on_main(write)
    return record


def _splits(rows: Sequence[Row], requests: Sequence[Sequence[Row]], classifies: bool) -> dict[str, Sequence[Row]]:
    """Return the splits of the last of the requests; a classifier's method is told what the others made it forget."""
    *earlier, last = requests
    gone = [row for each in earlier for row in each] if classifies else []
    return {"forget": last, "retain": _kept(rows, requests), **({"forgotten": gone} if gone else {})}


def _kept(rows: Sequence[Row], gone: Sequence[Sequence[Row]]) -> list[Row]:
    """Return the rows that are like none of those that must go."""
    forgotten = {content(row) for each in gone for row in each}
    return [row for row in rows if content(row) not in forgotten]


def _shares(evaluation: Evaluation, number: int, recipe: Recipe, model: str, folder: Path) -> dict[str, float]:
    """Return the share of rows that the model answers right, by split; measured once, then kept in the folder."""
    place = folder / "right.json"
    asked = {name: len(rows) for name, rows in evaluation.splits.items()}
    kept = on_main(lambda: read_json(place))
    if kept is not None and kept["rows"] == asked:
        return dict(kept["right"])
    scores: ModelScores = evaluation.scores(f"after {number}", load_model(recipe, model))
    found = {name: right(each) for name, each in scores.items()}
    on_main(lambda: write_json(place, {"rows": asked, "right": found}))
    return found


def right(scores: Scores) -> float:
    """Return the share of rows of which every scored decision is right: a class, or a whole answer."""
    return float(np.mean([bool(np.all(hits)) for hits in scores.hits]))


def _of_report(report: Mapping[str, Any]) -> dict[str, Any]:
    if not report:
        return {}
    told = {key: report["verdict"][key] for key in ("forgot", "utility_kept")}
    return {**told, "seconds": report["seconds"].get("unlearn")}


def came_back(shares: Sequence[Mapping[str, float]], tolerance: float) -> list[dict[str, Any]]:
    """Return the requests of which, after a later one, more rows are right again than after their own, by more than `tolerance`.

    `shares` are the shares of right rows before (0) and after each request, by split.
    """
    out = []
    for number in range(1, len(shares)):
        own = shares[number][f"request-{number}"]
        for later in range(number + 1, len(shares)):
            now = shares[later][f"request-{number}"]
            if now > own + tolerance:
                out.append({"request": number, "after": later, "right": now, "right_after_its_own": own})
    return out


def table(record: Mapping[str, Any]) -> str:
    """Return the record as a Markdown table: a line for the model before and after each request."""
    names = list(record["stages"][0]["right"])
    back = {(each["request"], each["after"]) for each in record["came_back"]}
    lines = [["after", *names, "forgot", "kept", "seconds"]]
    for stage in record["stages"]:
        number, cells = stage["after"], []
        for name in names:
            own = int(name.removeprefix("request-")) if name.startswith("request-") else 0
            cells.append(f"{stage['right'][name]:.3f}" + (" (came back)" if (own, number) in back else ""))
        words = {True: "yes", False: "no", None: "cannot tell"}
        told = [words[stage[key]] if key in stage else "" for key in ("forgot", "utility_kept")]
        seconds = stage.get("seconds")
        lines.append(
            [f"request {number}" if number else "before", *cells, *told, "" if seconds is None else f"{seconds:.0f}"]
        )
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
