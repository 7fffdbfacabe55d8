"""Every method with its own defaults, beside before and gold: the README's table.

    python eval/table.py                                             all methods on the sandbox, seeds 0 1 2
    python eval/table.py --methods npo kl --seeds 0 --jobs 2         some of them, two at a time
    python eval/table.py --config recipes/tofu_forget10.yaml --methods npo nabla_tau concept_poison
    python eval/table.py --methods ssd "ssd lora=none" "random_label method.relabel_weight=1"      with other settings
    python eval/table.py --golds outputs/sandbox/gold-1 outputs/sandbox/gold-2      how far golds lie apart (rows "gold: ...")

Finished runs are kept in --output and not run again.  Writes table.md and table.json there.
"""

import argparse
import copy
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from llm_unlearn import cli
from llm_unlearn.errors import RecipeError
from llm_unlearn.files import write_json, write_text
from llm_unlearn.method import available, find
from llm_unlearn.recipe import SANDBOX, from_values, override
from llm_unlearn.scores import ModelScores
from llm_unlearn.settings import Text, load_yaml

COLUMNS = {  # heading: figure and split
    "exact": ("exact_answer", "forget"),
    "exact held out": ("exact_answer", "forget_heldout"),
    "ES": ("extraction_strength", "forget"),
    "ES held out": ("extraction_strength", "forget_heldout"),
    "EM": ("exact_memorisation", "forget"),
    "EM held out": ("exact_memorisation", "forget_heldout"),
    "quality p": ("forget_quality", "forget"),
    "loss AUC": ("mia_loss", "forget"),
    "retain": ("exact_answer", "retain"),
    "retain held out": ("exact_answer", "retain_heldout"),
    "neighbour": ("exact_answer", "neighbour"),
    "utility": ("model_utility", None),
}
Values = dict[str, float | None]


def figures(report: Mapping[str, Any], model: str) -> Values:
    """Return a model's figures of the table's columns; None where not measured."""
    found = {(figure["name"], figure["split"]): figure[model] for figure in report["figures"]}
    return {heading: found.get(key) for heading, key in COLUMNS.items()}


def settings_of(base: Mapping[str, Any], spec: str) -> dict[str, Any]:
    """Return the request of a line of the table: a method's name, then settings (key=value or key=value,value)."""
    name, *given = spec.split()
    pairs = [each.partition("=") for each in given]
    for key, sign, _ in pairs:
        if not sign or key.split(".")[0] not in ("method", "lora"):
            raise RecipeError(
                f"{spec!r}: {key!r} is no setting of the method or its adapter; write method.KEY=VALUE, lora.KEY=VALUE "
                "or lora=none behind the method's name."
            )
    values = {
        key: [Text(each) for each in value.split(",")] if "," in value else Text(value) for key, _, value in pairs
    }
    return override(copy.deepcopy(dict(base)), {"method": name, **values})


def folder_of(spec: str, seed: int) -> str:
    """Return the name of a run's folder."""
    return f"{'-'.join(spec.replace('=', '-').split())}-{seed}"


def one(settings: dict[str, Any], known: Mapping[str, ModelScores]) -> dict[str, Any]:
    """Run (or find finished) one request in this process and return its report."""
    cli.quiet()
    from llm_unlearn import api

    return api.unlearn(from_values(settings), command=["eval/table.py"], known=known)


def scores(settings: dict[str, Any], golds: Sequence[str]) -> dict[str, ModelScores]:
    """Return the scores of before, gold and further golds on the rows that every run will be measured on."""
    from llm_unlearn import api

    return api.standards(from_values(settings), {f"gold: {_name(Path(path))}": path for path in golds})


def _name(gold: Path) -> str:
    """Return what tells a gold from the others: its folder's name (gold-1), or the one that gold is in."""
    return gold.parent.name if gold.name == "gold" else gold.name


def spread(values: Sequence[Values]) -> dict[str, str]:
    """Return mean and standard deviation over the seeds (of p the range), a dash where a figure was not measured."""
    out = {}
    for heading in COLUMNS:
        known = [value[heading] for value in values if value[heading] is not None]
        if heading == "quality p" and known:
            ends = dict.fromkeys(f"{end:.1g}" for end in (min(known), max(known)))  # type: ignore[type-var]
            out[heading] = " to ".join(ends)
            continue
        text = f"{np.mean(known):.2f}" if known else "-"  # type: ignore[arg-type]
        out[heading] = text + (f" ± {np.std(known):.2f}" if len(known) > 1 else "")  # type: ignore[arg-type]
    return out


def lines(reports: Mapping[str, Sequence[Mapping[str, Any]]], others: Mapping[str, Values]) -> Iterator[list[str]]:
    """Yield the table's lines: before, gold and other golds, then a line a method."""
    first = next(iter(reports.values()))[0]
    for name in ("before", "gold"):
        yield [name, "", "", *spread([figures(first, name)]).values(), ""]
    for name, values in others.items():
        yield [name, "", "", *spread([values]).values(), ""]
    for name, runs in reports.items():
        verdicts = [
            f"{sum(run['verdict'][key] is True for run in runs)}/{len(runs)}" for key in ("forgot", "utility_kept")
        ]
        seconds = f"{np.mean([run['seconds'].get('unlearn', float('nan')) for run in runs]):.0f}"
        yield [name, *verdicts, *spread([figures(run, "after") for run in runs]).values(), seconds]


def main() -> None:
    """Run what is missing, then print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="a recipe; the sandbox without one")
    parser.add_argument(
        "--methods",
        nargs="+",
        help="names, with settings behind them in quotes if any; every method that starts from the target without this",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--golds", nargs="+", default=[], help="further golds, measured as if they were results")
    parser.add_argument("--output", default="outputs/table")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="runs at a time")
    given = parser.parse_args()
    base = load_yaml(given.config) if given.config else {"model": SANDBOX}
    names = given.methods or [name for name in available() if find(name).starts_from == "target"]
    folder = Path(given.output)
    known = scores({**base, "output": str(folder / "standards")}, given.golds)
    standards: dict[str, ModelScores] = {name: known[name] for name in ("before", "gold") if name in known}
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
        waiting = {
            name: [
                pool.submit(
                    one,
                    {**settings_of(base, name), "seed": seed, "output": str(folder / folder_of(name, seed))},
                    standards,
                )
                for seed in given.seeds
            ]
            for name in names
        }
        reports = {name: [each.result() for each in runs] for name, runs in waiting.items()}
    others = {name: _others(scores, standards) for name, scores in known.items() if name not in standards}
    heading = ["method", "forgot", "kept", *COLUMNS, "seconds"]
    table = [heading, ["---"] * len(heading), *lines(reports, others)]
    text = "\n".join("| " + " | ".join(line) + " |" for line in table) + "\n"
    write_text(folder / "table.md", text)
    write_json(folder / "table.json", json.loads(json.dumps(reports)))
    print(text + f"n: {_counts(next(iter(reports.values()))[0])}; seeds {', '.join(map(str, given.seeds))}")
    for name, runs in reports.items():
        for run in runs:
            for reason in (
                run["verdict"]["reasons"] if not (run["verdict"]["forgot"] and run["verdict"]["utility_kept"]) else []
            ):
                print(f"{name}, seed {run['seed']}: {reason}")


def _others(scores: ModelScores, standards: Mapping[str, ModelScores]) -> Values:
    from llm_unlearn.measuring.figures import assess

    found = assess(scores, before=standards["before"], gold=standards.get("gold")).figures
    return figures({"figures": [figure.to_json() for figure in found]}, "after")


def _counts(report: Mapping[str, Any]) -> str:
    found = {(figure["name"], figure["split"]): figure["n"] for figure in report["figures"]}
    return ", ".join(f"{heading} {found.get(key, 0)}" for heading, key in COLUMNS.items())


if __name__ == "__main__":
    cli.run(main)
