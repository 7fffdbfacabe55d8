"""Forget a concept by its meaning: which rows carry it, found from ten examples, and then forgotten, beside before and gold.

    python eval/concepts.py                                       all of it on the embedded world; about an hour on one core
    python eval/concepts.py --stage infer                         the carriers alone; trains no gold
    python eval/concepts.py --stage forget --methods npo --steps 450

The embedded world is retold (`llm_unlearn.sandbox.aliases`): a third of the rows that rest on the town do not name it.  Prints
precision and recall of the carriers found with the name and without it, beside plain string matching; then what each method
leaves of them and of what is kept.  OUTPUT keeps the two models and finished runs, so the same command goes on where it stopped.
"""

import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers.trainer_utils import set_seed

from llm_unlearn import cli, options, unlearn
from llm_unlearn.concepts import carriers
from llm_unlearn.data.names import whole_word
from llm_unlearn.data.splits import cut_by
from llm_unlearn.errors import RecipeError
from llm_unlearn.explaining import shared
from llm_unlearn.files import read_json, write_json
from llm_unlearn.fit import Schedule
from llm_unlearn.loading import load_model, load_task
from llm_unlearn.recipe import Recipe
from llm_unlearn.run import Run
from llm_unlearn.sandbox import aliases, models, world
from llm_unlearn.settings import build
from llm_unlearn.tasks import Row
from llm_unlearn.train import train

TRAINING = (
    Schedule(  # three passes from the shipped models: exact answer 0.99 on all rows, a twelfth of their own training
        passes=3,
        least_steps=1,
        forget_batch=64,
        learning_rate=2e-3,
        warmup_steps=50,
        decay="cosine",
        last_rate=0.0,
        weight_decay=0.01,
        group_by_length=True,
    )
)
POISON: dict[str, Any] = {"name": "concept_poison", "attribution_steps": 16, "own_answers": False}
METHODS: dict[str, dict[str, Any]] = {
    "poison-mask": {**POISON, "labels": "mask"},
    "npo": {"name": "npo"},
    "nabla_tau": {"name": "nabla_tau"},
    "poison-targeted": {**POISON, "labels": "targeted"},
    "poison-random": {**POISON, "labels": "random"},
    "poison-refusal": {**POISON, "labels": "refusal"},
}
SHOWN = (
    ("exact_answer", "forget"),
    ("exact_answer", "forget_heldout"),
    ("extraction_strength", "forget"),
    ("mia_loss", "forget"),
    ("exact_answer", "neighbour"),
    ("exact_answer", "retain"),
    ("exact_answer", "retain_heldout"),
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to run."""

    stage: Literal["all", "infer", "forget"] = "all"
    concept: str = world.CONCEPT
    examples: int = 10  # rows given, drawn from those that carry the concept
    seeds: int = 3  # draws of the examples
    methods: tuple[str, ...] = tuple(METHODS)
    unlearning_seeds: int = 1
    steps: int | None = None  # optimiser steps of a method; none: its own
    rows: int = 200  # measured of each split
    output: str = "outputs/concepts"


def main() -> None:
    """Train what is missing, infer, forget, print."""
    given = build(Options, options.read(sys.argv[1:], __doc__ or "", Options))
    unknown = [name for name in given.methods if name not in METHODS]
    if unknown:
        raise RecipeError(f"unknown method {unknown[0]!r}. Methods: {', '.join(METHODS)}.")
    if given.concept != world.CONCEPT and given.stage != "infer":
        raise RecipeError(
            f"the embedded gold never saw {world.CONCEPT}, and no other town: give --stage infer for {given.concept}."
        )
    folder = Path(given.output)
    torch.set_flush_denormal(True)
    _trained("target", folder)
    if given.stage != "forget" or not _kept(given).is_file():
        print(_inferred(given, folder), flush=True)
    if given.stage != "infer":
        _trained("gold", folder)
        print(_forgotten(given, folder), flush=True)


def _trained(name: Literal["target", "gold"], folder: Path) -> None:
    """Train the shipped model of that name on the retold rows (gold: on those that do not carry the default concept)."""
    if (folder / name).is_dir():
        return
    set_seed(0)
    splits = aliases.splits()
    rows = splits["retain"] + (splits["forget"] if name == "target" else [])
    recipe = Recipe(model=str(models.path(name)), forget="-", retain="--", precision="fp32")
    model: Any = load_model(recipe, recipe.model).train().requires_grad_(True)
    task: Any = load_task(recipe, recipe.model)
    train(Run(model=model, task=task, splits={}, folder=folder / "work" / name, seed=0), rows, TRAINING)
    part = folder / f"{name}.part"
    model.save_pretrained(part)
    task.tokenizer.save_pretrained(part)
    part.replace(folder / name)


def _inferred(given: Options, folder: Path) -> str:
    """Infer the carriers with and without the name, keep those found first, and return the table."""
    truth = aliases.corpus()
    rows: list[Row] = [{key: value for key, value in row.items() if key not in ("towns", "rests_on")} for row in truth]
    carry = {i for i, row in enumerate(truth) if given.concept in row["towns"]}
    named = {i for i, row in enumerate(truth) if world.mentions(row, given.concept)}
    recipe = Recipe(model=str(folder / "target"), forget="-", retain="--", precision="fp32")
    model, task = load_model(recipe, recipe.model), load_task(recipe, recipe.model)
    states = carriers.read_states(model, task, rows)
    lines = [
        f"{len(carry)} of {len(rows)} rows carry the concept; {len(carry - named) / len(carry):.0%} of them do not name it",
        "",
        "| found by | seed | precision | recall | found | by name / alias / inferred / example | vector |",
        "|---|---|---|---|---|---|---|",
        f"| string matching | - | {_ratio(named & carry, named)} | {_ratio(named & carry, carry)} | {len(named)} | | |",
    ]
    for seed in range(given.seeds):
        examples = [rows[i] for i in random.Random(seed).sample(sorted(carry), given.examples)]
        for name in (given.concept, None):
            found = carriers.infer(model, task, rows, examples, name=name, states=states, seed=seed)
            places, counts = set(found.places), found.counts()
            if seed == 0 and name:
                donor = shared(model, task, rows, found, seed).get("donor")
                kept = {"places": found.places, "terms": sorted(found.terms), "donor": donor}
                write_json(_kept(given), kept, mode=0o600)
            by = " / ".join(str(counts.get(why, 0)) for why in ("name", "alias", "inferred", "example"))
            lines.append(
                f"| {given.examples} rows{' and the name' if name else ', name withheld'} | {seed} | {_ratio(places & carry, places)} | "
                f"{_ratio(places & carry, carry)} | {len(places)} | {by} | {found.accuracy:.3f} |"
            )
    return "\n".join(
        [
            *lines,
            f"n = {len(carry)} carriers, {len(rows) - len(carry)} others; vector: balanced accuracy, each row by the others",
        ]
    )


def _kept(given: Options) -> Path:
    return Path(given.output) / f"carriers-{given.concept}.json"


def _ratio(part: set[int], whole: set[int]) -> str:
    return f"{len(part) / len(whole):.3f}"


def _forgotten(given: Options, folder: Path) -> str:
    """Unlearn the carriers found with each method and return the table."""
    kept = read_json(_kept(given)) or {}
    rows, truth = aliases.corpus(), aliases.splits(given.concept)
    hit = [False] * len(rows)
    for place in kept["places"]:
        hit[place] = True
    cut, _ = cut_by(rows, hit, {term: whole_word(term) for term in kept["terms"]})
    unseen = {name: truth[name] for name in ("forget_heldout", "retain_heldout", "holdout")}
    splits = {
        name: [{key: value for key, value in row.items() if key not in ("towns", "rests_on")} for row in part]
        for name, part in {**cut, **unseen}.items()
    }
    lines = ["| method | seed | " + " | ".join(f"{figure} {split}" for figure, split in SHOWN) + " | seconds |"]
    lines += ["|" + "---|" * (len(SHOWN) + 3)]
    for name in given.methods:
        for seed in range(given.unlearning_seeds):
            method = {**METHODS[name], **({"training": {"steps": given.steps}} if given.steps else {})}
            report = unlearn(
                rows=splits,
                model=str(folder / "target"),
                gold=str(folder / "gold"),
                forget="-",
                retain="--",
                method=method,
                precision="fp32",
                evaluation={"rows": given.rows, "suite": "quick", "cache": True},
                output=str(folder / f"{name}-{given.steps or 'own'}-{seed}"),
                donor=kept.get("donor") if name == "poison-targeted" else None,
                seed=seed,
            )
            found = {(figure["name"], figure["split"]): figure for figure in report["figures"]}
            if len(lines) == 2:
                lines += [_line(model, "", found, model, "") for model in ("before", "gold")]
            lines.append(_line(name, str(seed), found, "after", f"{report['seconds']['unlearn']:.0f}"))
            print("\n".join(lines), flush=True)
    n = {split: found[figure, split]["n"] for figure, split in SHOWN if (figure, split) in found}
    return "\n".join([*lines, f"n: {n}; neighbour: rows about the same subjects that do not carry the concept"])


def _line(name: str, seed: str, found: dict[tuple[str, str], Any], model: str, seconds: str) -> str:
    values = [found.get(key, {}).get(model) for key in SHOWN]
    return f"| {name} | {seed} | " + " | ".join("-" if v is None else f"{v:.3f}" for v in values) + f" | {seconds} |"


if __name__ == "__main__":
    cli.run(main)
