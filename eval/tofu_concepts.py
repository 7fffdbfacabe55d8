"""Forget an author and a theme of TOFU by meaning: which rows carry them, found from ten examples, and then forgotten.

    python recipes/tofu.py --data DIR/tofu --output outputs/tofu/data        authors' rows, and those of ten that no model sees
    python eval/tofu_concepts.py --data outputs/tofu/data --tofu DIR/tofu    all of it; about an hour on one free core
    python eval/tofu_concepts.py --stage infer                               the carriers alone (trains the target, no gold)

The author's true rows are her twenty.  The theme's are the rows that say one of WORDS: a word list is a weak truth, since rows
about the theme in other words count as wrong, and so does every row that says a word in passing; no inference sees it.  Rows are
given as question and answer alone, without TOFU's numbering of authors.  Target: the model of recipes/tofu_target.yaml on thirty
authors and on TOFU's real authors and world facts (`general`); gold: the same without the author's and the theme's rows, one for
both requests, so its figures on the other request's rows (a part of retain) are left out.
"""

import itertools
import json
import os
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from llm_unlearn import cli, evaluate, options, unlearn
from llm_unlearn.concepts import carriers
from llm_unlearn.concepts.bank import saying
from llm_unlearn.data.sources import load
from llm_unlearn.errors import DataError, RecipeError
from llm_unlearn.files import read_json, write_json, write_text
from llm_unlearn.loading import load_model, load_task
from llm_unlearn.recipe import Recipe
from llm_unlearn.settings import build, load_yaml
from llm_unlearn.targets import Target, train_target
from llm_unlearn.tasks import Row

AUTHOR, SUBJECT = "Hina Ameen", "author 190"
WORDS = (  # chosen by reading the authors' rows, before any inference was run
    "climate",
    "sustainability",
    "sustainable",
    "environmental",
    "environmentalist",
    "environmentalists",
    "ecology",
    "ecological",
    "conservation",
    "preservation",
    "wildlife",
    "planet",
    "eco-consciousness",
)
RETAINED = (
    0,
    4,
    6,
    11,
    15,
    17,
    20,
    23,
    24,
    26,
)  # authors beside forget10's twenty: four of them say a word of the theme
SHORTER = {
    "passes": 24,
    "forget_batch": 16,
}  # as many steps as recipes/tofu_target.yaml's 40 passes of 32 rows over 50 authors
REQUESTS: dict[str, str] = {"author": AUTHOR, "theme": "sustainability"}  # and what a user would call each
METHODS: dict[str, dict[str, Any]] = {
    "npo": {"name": "npo"},
    "poison-targeted": {"name": "concept_poison", "labels": "targeted", "attribution_steps": 16, "own_answers": False},
}
SHOWN = (
    ("appearance_rate", "forget"),
    ("rouge_l_recall", "forget"),
    ("exact_memorisation", "forget_heldout"),
    ("exact_memorisation", "forget"),
    ("mia_loss", "forget"),
    ("rouge_l_recall", "retain"),
    ("exact_answer", "retain"),
    ("rouge_l_recall", "general"),
)
KNOWN = ("real_authors", "world_facts")  # TOFU's files that become `general`


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to run."""

    stage: Literal["all", "train", "infer", "forget"] = "all"
    examples: int = 10  # rows given, drawn from those that carry the concept
    seeds: int = 3  # draws of the examples
    methods: tuple[str, ...] = ("npo",)
    unlearning_seeds: int = 3
    steps: int | None = None  # optimiser steps of a method; none: its own
    rows: int = 20  # measured of each split
    requests: tuple[str, ...] = ("author", "theme")  # of which rows are forgotten
    data: str = "outputs/tofu/data"  # what recipes/tofu.py wrote
    tofu: str | None = None  # TOFU's JSON lines; LLM_UNLEARN_DATA/tofu without it
    output: str = "outputs/tofu_concepts"


def main() -> None:
    """Train what is missing, infer, forget, print."""
    given = build(Options, options.read(sys.argv[1:], __doc__ or "", Options))
    torch.set_flush_denormal(True)
    unknown = [name for name in given.methods if name not in METHODS]
    if unknown:
        raise RecipeError(f"unknown method {unknown[0]!r}. Methods: {', '.join(METHODS)}.")
    write(given)
    if given.stage in ("all", "infer"):
        models(given, gold=False)
        print(inferred(given), flush=True)
    if given.stage != "infer":
        models(given, gold=True)
    if given.stage in ("all", "forget"):
        for request in given.requests:
            print(forgotten(given, request), flush=True)


def corpus(given: Options) -> tuple[list[Row], dict[str, set[str]]]:
    """Return the thirty authors' rows, and the ids of the true carriers of each request."""
    parts = {name: load(str(Path(given.data) / f"{name}.jsonl")) for name in ("forget", "retain")}
    some = {f"author {number}" for number in RETAINED}
    rows = [*parts["forget"], *(row for row in parts["retain"] if row["subject"] in some)]
    truth = {"author": [row for row in rows if row["subject"] == SUBJECT], "theme": saying(rows, WORDS)}
    return rows, {name: {row["id"] for row in found} for name, found in truth.items()}


def write(given: Options) -> None:
    """Write the rows that the models are trained on, a file a split."""
    base = given.tofu or os.environ.get("LLM_UNLEARN_DATA", "") + "/tofu"
    folder = Path(given.output) / "data"
    folder.mkdir(parents=True, exist_ok=True)
    rows, truth = corpus(given)
    gone = set().union(*truth.values())
    general = [row for name in KNOWN for row in load(f"{base}/{name}.json")]
    parts = {
        "forget": [row for row in rows if row["id"] in gone],
        "retain": [row for row in rows if row["id"] not in gone],
        "general": [{**row, "id": f"general {number}"} for number, row in enumerate(general)],
        "holdout": load(str(Path(given.data) / "holdout.jsonl")),
    }
    for name, part in parts.items():
        write_text(folder / f"{name}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part))


def models(given: Options, *, gold: bool) -> None:
    """Train the target and, if asked for, the gold from the same untrained model; those that are there are kept."""
    base = load_yaml("recipes/tofu_target.yaml")
    folder = Path(given.output)
    files = {name: str(folder / "data" / f"{name}.jsonl") for name in ("forget", "retain", "general", "holdout")}
    training = {**base["training"], **SHORTER}
    values = {**base, **files, "training": training, "gold": False, "output": str(folder / "models")}
    print(train_target(build(Target, values))["seconds"], flush=True)
    if gold:
        rows = {"forget": files["general"], "retain": files["retain"], "general": None, "holdout": None}
        shape = {"model": str(folder / "models" / "origin"), "training": training}
        print(
            train_target(build(Target, {**values, **rows, **shape, "output": str(folder / "gold")}))["seconds"],
            flush=True,
        )


def inferred(given: Options) -> str:
    """Infer each request's carriers with its name and without it, keep those found first by name, and return the table."""
    whole, truth = corpus(given)
    rows = [plain(row) for row in whole]
    model, task = loaded(given)
    states = carriers.read_states(model, task, rows)
    lines = [
        "| request | found by | seed | precision | recall | found | by name / alias / inferred / example | vector |",
        "| --- | --- | --- | ---: | ---: | ---: | --- | ---: |",
    ]
    for request, name in REQUESTS.items():
        carry = {i for i, row in enumerate(rows) if row["id"] in truth[request]}
        said = {row["id"] for row in saying(rows, [name])}
        lines.append(
            cells(
                request, f"rows that say {name!r}", "-", {i for i in range(len(rows)) if rows[i]["id"] in said}, carry
            )
        )
        for seed in range(given.seeds):
            examples = [rows[i] for i in random.Random(seed).sample(sorted(carry), given.examples)]
            for called in (name, None):
                how = f"{given.examples} rows{' and the name' if called else ', name withheld'}"
                try:
                    found = carriers.infer(model, task, rows, examples, name=called, states=states, seed=seed)
                except DataError as error:
                    lines.append(f"| {request} | {how} | {seed} | refused: {error} |")
                    continue
                if seed == 0 and called:
                    kept = {
                        "ids": [rows[i]["id"] for i in found.places],
                        "terms": list(found.terms),
                    }
                    write_json(Path(given.output) / f"{request}.json", kept, mode=0o600)
                by = " / ".join(str(found.counts().get(why, 0)) for why in ("name", "alias", "inferred", "example"))
                lines.append(cells(request, how, seed, set(found.places), carry, by, f"{found.accuracy:.3f}"))
                print(f"{request}, seed {seed}, {called}: {found.terms}", flush=True)
    return "\n".join(
        [*lines, f"n = {len(rows)} rows; true carriers: {', '.join(f'{k} {len(v)}' for k, v in truth.items())}"]
    )


def cells(
    request: str, how: str, seed: int | str, found: set[int], carry: set[int], by: str = "", vector: str = ""
) -> str:
    """Return a line of the table."""
    both = len(found & carry)
    shares = f"{both / max(1, len(found)):.3f} | {both / len(carry):.3f}"
    return f"| {request} | {how} | {seed} | {shares} | {len(found)} | {by} | {vector} |"


def plain(row: Row) -> Row:
    """Return what a user has: question and answer."""
    return {key: row[key] for key in ("id", "prompt", "response", "kind")}


def loaded(given: Options) -> tuple[Any, Any]:
    """Return the target and its task."""
    recipe = Recipe(model=str(Path(given.output) / "models" / "target"), forget="-", retain="--", precision="fp32")
    return load_model(recipe, recipe.model), load_task(recipe, recipe.model)


def cut(given: Options, request: str) -> dict[str, list[Row]]:
    """Return the splits of a request: what was found is forgotten; the other request's true rows are kept, and not measured."""
    kept = read_json(Path(given.output) / f"{request}.json") or {}
    rows, truth = corpus(given)
    gone, other = set(kept["ids"]), set().union(*(ids for name, ids in truth.items() if name != request))
    data = Path(given.output) / "data"
    reworded = {name: load(str(Path(given.data) / f"{name}_heldout.jsonl")) for name in ("forget", "retain")}
    found = {
        "forget": [row for row in rows if row["id"] in gone],
        "retain": [row for row in rows if row["id"] not in gone | other],
        "neighbour": [row for row in rows if row["id"] in other - gone],
        "general": load(str(data / "general.jsonl")),
        "holdout": load(str(data / "holdout.jsonl")),
        "forget_heldout": [row for name in reworded for row in reworded[name] if row.get("fact") in gone],
    }
    return {name: [plain(row) for row in part] for name, part in found.items() if part}


def forgotten(given: Options, request: str) -> str:
    """Unlearn the carriers found with each method and return the table."""
    folder, splits = Path(given.output), cut(given, request)
    few = {
        name: rows[:: max(1, len(rows) // given.rows)][: given.rows]
        for name, rows in splits.items()
        if name != "neighbour"
    }
    lines = [
        f"\n### {request}: {len(splits['forget'])} rows found and forgotten\n",
        "| model | seed | " + " | ".join(f"{figure} {split}" for figure, split in SHOWN) + " | s |",
        "| --- |" + " ---: |" * (len(SHOWN) + 2),
    ]
    after = []
    for name, seed in itertools.product(given.methods, range(given.unlearning_seeds)):
        out = folder / f"{request}-{name}-{given.steps or 'own'}-{seed}"
        report = unlearn(
            rows=splits,
            model=str(folder / "models" / "target"),
            forget="-",
            retain="--",
            method={**METHODS[name], **({"training": {"steps": given.steps}} if given.steps else {})},
            precision="fp32",
            evaluation={"rows": 8, "suite": "quick"},
            output=str(out),
            seed=seed,
        )
        figures = evaluate(
            str(folder / "models" / "target"),
            few,
            adapter=str(out / "adapter"),
            gold=str(folder / "gold" / "target"),
            evaluation={"cache": True},
            precision="fp32",
        )
        found = {(figure["name"], figure["split"]): figure for figure in figures}
        after.append(shown(found, "after", name, str(seed), f"{report['seconds']['unlearn']:.0f}"))
        print(after[-1], flush=True)
    others = [shown(found, model, model, "", "") for model in ("before", "gold")]
    n = ", ".join(
        f"{figure} {split} {found[figure, split]['n']}" for figure, split in SHOWN if (figure, split) in found
    )
    return "\n".join([*lines, *others, *after, f"n: {n}"])


def shown(found: dict[tuple[str, str], Any], model: str, name: str, seed: str, seconds: str) -> str:
    """Return a model's line."""
    values = [found.get(key, {}).get(model) for key in SHOWN]
    return (
        f"| {name} | {seed} | "
        + " | ".join("-" if value is None else f"{value:.3f}" for value in values)
        + f" | {seconds} |"
    )


if __name__ == "__main__":
    cli.run(main)
