"""From a recipe to rows: which are forgotten, which kept, which serve as the never-seen standard, and why."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from llm_unlearn.data.counterfactual import synthetic_holdout
from llm_unlearn.data.sources import load
from llm_unlearn.data.splits import by_concept, check
from llm_unlearn.errors import DataError, nearest
from llm_unlearn.recipe import SANDBOX, SPLITS, Recipe
from llm_unlearn.run import Splits
from llm_unlearn.tasks import Row

UNSEEN_FORGET = ("holdout", "forget_heldout")
RATIOS = 64  # facts of a kept split whose wrong answers are measured


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The rows of one request."""

    splits: dict[str, list[Row]]
    holdout: Literal["given", "synthetic", "none"]
    why: str = ""  # how the rows were split; it names the concept, so it is for the terminal only
    notes: tuple[str, ...] = ()  # for the report: counts only


def prepare(recipe: Recipe) -> Prepared:
    """Return the request's rows by split; raise DataError for what cannot be used.  No model is needed for this."""
    why = ""
    if recipe.data == SANDBOX:
        from llm_unlearn.sandbox import world

        concept = recipe.concept or world.CONCEPT
        if concept not in world.concepts():
            towns = ", ".join(name for name in world.concepts() if " " not in name)
            raise DataError(
                f"the sandbox knows no {concept!r}{nearest(concept, world.concepts())}. Towns: {towns}; any of its people too."
            )
        splits = {name: list(rows) for name, rows in world.splits(concept).items()}
    elif recipe.data:
        found = by_concept(load(recipe.data), recipe.concept or "", recipe.terms)
        splits, why = found.splits(), found.why
    else:
        splits = {}
    for name in SPLITS:
        if getattr(recipe, name):
            splits[name] = list(load(getattr(recipe, name)))
    splits = check(splits)
    return Prepared(splits=splits, holdout="given" if "holdout" in splits else "none", why=why)


def in_memory(rows: Splits) -> Prepared:
    """Return rows that are split and loaded already, checked like those of files."""
    splits = check({name: list(each) for name, each in rows.items()})
    return Prepared(splits=splits, holdout="given" if "holdout" in splits else "none")


def with_holdout(prepared: Prepared, recipe: Recipe, tokens: Callable[[str], int] | None = None) -> Prepared:
    """Return the rows with a holdout: the given one, or counterfactual rows made from forget where that can be done.

    `tokens` counts a text's tokens, so that new words can take as many as the old ones.
    """
    if prepared.holdout == "given":
        return prepared
    splits = prepared.splits
    retain = [row for name in ("retain", "neighbour", "general") for row in splits.get(name, ())]
    made = synthetic_holdout(
        splits["forget"], retain, concept=recipe.concept, terms=recipe.terms, seed=recipe.seed, tokens=tokens
    )
    if made is None:
        note = (
            "holdout: none was given and none could be made from the forget rows; forgetting stops stop.margin nats above "
            "the loss on retain, and figures that need a holdout are not measured"
        )
        return replace(prepared, notes=(*prepared.notes, note))
    note = f"holdout: synthetic, {len(made)} counterfactual rows made from the {len(splits['forget'])} forget rows"
    return replace(
        prepared, splits={**splits, "holdout": list(made)}, holdout="synthetic", notes=(*prepared.notes, note)
    )


def measured(splits: Splits, most: int, seed: int) -> dict[str, list[Row]]:
    """Return at most `most` rows a split to take figures on, chosen once by the seed.

    One row a fact comes first, of those that carry wrong answers (the truth ratio's, each worth six rows of arithmetic): all
    of forget's facts, `RATIOS` facts of the splits that are kept, none of the holdout's, where no figure asks for them.
    Of a classifier's unseen rows only those of forget's classes, where there are any: the others enter no figure.
    """
    out = {}
    for name, rows in splits.items():
        rows = _of_same_classes(rows, splits["forget"]) if name in UNSEEN_FORGET and "forget" in splits else rows
        ratios = {"forget": most, "holdout": 0}.get(name, RATIOS)
        order = [int(i) for i in np.random.default_rng([seed, len(rows)]).permutation(len(rows))]
        of_fact = {rows[i].get("fact", rows[i].get("id")): i for i in order if rows[i].get("wrong")}
        first = list(of_fact.values())[: min(most, ratios)]
        rest = [i for i in order if i not in set(first)][: most - len(first)]
        out[name] = [rows[i] if i in set(first) else _plain(rows[i]) for i in sorted(first + rest)]
    return out


def _of_same_classes(rows: Sequence[Row], forget: Sequence[Row]) -> Sequence[Row]:
    """Return the rows that share a class with a forget row; all of them where none does, or where rows have no label."""
    gone = {number for row in forget for number in _classes(row)}
    return [row for row in rows if not gone.isdisjoint(_classes(row))] or rows


def _classes(row: Row) -> list[int]:
    label = row.get("label")
    if label is None:
        return []
    return [number for number, there in enumerate(label) if there] if isinstance(label, list) else [label]


def _plain(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in ("paraphrase", "wrong")}
