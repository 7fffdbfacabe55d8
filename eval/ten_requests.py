"""Deletion requests one after the other by `llm-unlearn unlearn --continue`: is each forgotten, does none come back, what is kept?

    OMP_NUM_THREADS=1 python eval/ten_requests.py                     ten people of the embedded sandbox, one a request
    OMP_NUM_THREADS=1 python eval/ten_requests.py --gold              and a model that never saw any of them, trained here, beside

The first request is an ordinary run, each later one goes on from it (DIR/run).  After each, every request's rows so far and 500
kept ones are measured again, apart from what the command itself says.  DIR/requests.json and DIR/requests.md hold the
table; started again, it goes on.  A person's rows stand in retain until they are asked for: nobody knows of later requests.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_unlearn import cli, options
from llm_unlearn.files import read_json, write_json, write_text
from llm_unlearn.settings import build

Rows = list[dict[str, Any]]
KEPT = 500  # kept rows that are measured
RISE = 0.05  # by which an earlier request's extraction strength may rise


@dataclass(frozen=True, kw_only=True)
class Ten:
    """What is asked for, and how it is forgotten."""

    count: int = 10  # people, one a request
    method: Any = "npo"  # how: the name of a file in llm_unlearn/methods
    steps: int = 100  # of each request
    gold: bool = (
        False  # also train a model that never saw any of them (the sandbox's schedule; 12 minutes on one core)
    )
    output: str = "outputs/ten_requests"
    seed: int = 0


def main() -> None:
    """Run what is missing, then print the table."""
    asked = build(Ten, options.read(sys.argv[1:], __doc__ or "", Ten))
    folder = Path(asked.output)
    requests, kept = rows_of(asked, folder)
    measured = {"retain": kept, **{f"request-{number}": rows for number, rows in enumerate(requests, start=1)}}
    record = read_json(folder / "requests.json") or {"before": figures_of("sandbox", None, measured), "stages": []}
    if asked.gold and "gold" not in record:
        record["gold"] = figures_of(gold(asked, folder), None, measured)
        write_json(folder / "requests.json", record)
    for number in range(len(record["stages"]) + 1, len(requests) + 1):
        seconds = forget(asked, folder, number)
        so_far = {name: measured[name] for name in ("retain", *(f"request-{each + 1}" for each in range(number)))}
        found = figures_of("sandbox", str(folder / "run/adapter"), so_far)
        record["stages"].append({"rows": len(requests[number - 1]), "seconds": seconds, "figures": found})
        write_json(folder / "requests.json", record)
        print(table(record).splitlines()[-1], flush=True)
    write_text(folder / "requests.md", table(record))
    print(table(record))


def rows_of(asked: Ten, folder: Path) -> tuple[list[Rows], Rows]:
    """Return each request's rows and some of those that nobody asks to delete; what the runs read is written into files."""
    from llm_unlearn.sequence import of_people

    rows, requests, _ = of_people(asked.count)
    gone = [{row["id"] for row in each} for each in requests]
    kept = [row for row in rows if row["id"] not in set().union(*gone)]
    files = {f"request-{number}": each for number, each in enumerate(requests, start=1)}
    files |= {
        "retain": [row for row in rows if row["id"] not in gone[0]],
        "all": [row for each in requests for row in each],
        "kept": kept,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, each in files.items():
        write_text(folder / f"{name}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in each))
    return requests, kept[:: len(kept) // KEPT][:KEPT]


def forget(asked: Ten, folder: Path, number: int) -> dict[str, float]:
    """Make the run forget a request, the first in a run of its own; return the whole command's seconds, by clock and processor."""
    from llm_unlearn import api, continuing

    method: dict[str, Any] = {"name": asked.method} if isinstance(asked.method, str) else dict(asked.method)
    method["training"] = {"steps": asked.steps, **method.get("training", {})}
    settings: dict[str, Any] = {"method": method, "evaluation": {"suite": "quick"}, "seed": asked.seed}
    start, rows = (time.perf_counter(), time.process_time()), str(folder / f"request-{number}.jsonl")
    if number == 1:
        output: dict[str, Any] = {
            "forget": rows,
            "retain": str(folder / "retain.jsonl"),
            "output": str(folder / "run"),
        }
        api.unlearn(command=["eval/ten_requests.py"], **output, **settings)
    else:
        continuing.go_on(continuing.Request(run=str(folder / "run"), request=rows, settings=settings))
    return {"clock": round(time.perf_counter() - start[0], 1), "processor": round(time.process_time() - start[1], 1)}


def gold(asked: Ten, folder: Path) -> str:
    """Return the folder of a model trained on all but the requests' rows, from the sandbox's origin by its schedule."""
    from llm_unlearn import api
    from llm_unlearn.settings import load_yaml

    schedule = load_yaml(Path(__file__).parent.parent / "recipes/sandbox_target.yaml")["training"]
    rows: dict[str, Any] = {
        "forget": str(folder / "all.jsonl"),
        "retain": str(folder / "kept.jsonl"),
        "output": str(folder / "gold"),
    }
    method = {"name": "retrain", "training": schedule}
    api.unlearn(command=["eval/ten_requests.py"], **rows, method=method, lora=None, evaluation={"suite": "quick"})
    return str(folder / "gold/model")


def figures_of(model: str, adapter: str | None, splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Return {split: {figure: mean over its rows}} of a model, with an adapter where one is named."""
    from llm_unlearn.continual import right
    from llm_unlearn.loading import load_model, load_task
    from llm_unlearn.measuring.evaluation import measure
    from llm_unlearn.metrics.extraction_strength import extraction_strength
    from llm_unlearn.recipe import from_values
    from llm_unlearn.subject import with_adapter

    recipe = from_values({})
    loaded = load_model(recipe, model)
    loaded = loaded if adapter is None else with_adapter(loaded, adapter)
    bare = {
        split: [{key: value for key, value in row.items() if key not in ("paraphrase", "wrong")} for row in rows]
        for split, rows in splits.items()
    }
    scores = measure(loaded, load_task(recipe, "sandbox"), bare, generate_on=(), progress=False)
    return {
        split: {"extraction_strength": float(extraction_strength(each.hits).mean()), "exact_answer": right(each)}
        for split, each in scores.items()
    }


def table(record: Mapping[str, Any]) -> str:
    """Return a line a request: itself, all earlier ones after it, what is kept beside before, and its seconds."""
    head = [
        "after request",
        "rows",
        "its extraction strength",
        "its exact answers",
        "earlier: extraction strength, mean",
    ]
    head += ["worst rise since its own", "exact answers, most", "retain", "of before", "processor s"]
    lines, before = [head, ["---"] + ["---:"] * (len(head) - 1)], record["before"]
    names = [f"request-{number + 1}" for number in range(len(record["stages"]))]
    for label, figures in (("before", before), ("gold", record.get("gold"))):
        if figures is not None:
            every = [figures[name] for name in figures if name != "retain"]
            strength = sum(each["extraction_strength"] for each in every) / len(every)
            cells = [f"{strength:.3f} (all)", f"{sum(each['exact_answer'] for each in every) / len(every):.3f} (all)"]
            lines.append([label, "", *cells, "", "", "", *_kept(figures, before), ""])
    for number, stage in enumerate(record["stages"], start=1):
        own, earlier = stage["figures"][names[number - 1]], names[: number - 1]
        now = [stage["figures"][name] for name in earlier]
        then = [record["stages"][i]["figures"][name]["extraction_strength"] for i, name in enumerate(earlier)]
        cells = [f"{own['extraction_strength']:.3f}", f"{own['exact_answer']:.3f}", "", "", ""]
        if now:
            strengths = [each["extraction_strength"] for each in now]
            rise = max(one - other for one, other in zip(strengths, then, strict=True))
            cells[2:] = [f"{sum(strengths) / len(now):.3f}", f"{rise:+.3f}{' (came back)' if rise > RISE else ''}"]
            cells.append(f"{max(each['exact_answer'] for each in now):.3f}")
        lines.append(
            [
                str(number),
                str(stage["rows"]),
                *cells,
                *_kept(stage["figures"], before),
                f"{stage['seconds']['processor']:.0f}",
            ]
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _kept(figures: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    now, then = figures["retain"]["exact_answer"], before["retain"]["exact_answer"]
    return [f"{now:.3f}", f"{now / then:.3f}"]


if __name__ == "__main__":
    cli.run(main)
