"""From a recipe to rows: which are forgotten, which kept, which serve as the never-seen standard, and why."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from torch import nn

from llm_unlearn.concepts.like_examples import like_examples
from llm_unlearn.data.counterfactual import synthetic_holdout
from llm_unlearn.data.requests import (
    Classes,
    among,
    by_classes,
    by_ids,
    check_labels,
    class_numbers,
    classes_in,
    read_ids,
    removed_classes,
    repeated,
    strangers_to,
)
from llm_unlearn.data.sources import load
from llm_unlearn.data.splits import by_concept, check, kept
from llm_unlearn.errors import DataError, nearest
from llm_unlearn.loading import classes_of_model, load_model, load_task
from llm_unlearn.recipe import SANDBOX, SPLITS, Recipe
from llm_unlearn.run import Splits
from llm_unlearn.scores import CLASSIFIERS
from llm_unlearn.tasks import Row, Task

UNSEEN_FORGET = ("holdout", "forget_heldout")
RATIOS = 64  # facts of a kept split whose wrong answers are measured


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The rows of one request."""

    splits: dict[str, list[Row]]
    holdout: Literal["given", "synthetic", "none"]
    why: str = ""  # how the rows were split; it names the concept, so it is for the terminal only
    notes: tuple[str, ...] = ()  # for the report: counts only
    explanation: Any = None  # of inferred carriers, an explaining.Explanation; of a classifier a ClassAttribution
    donor: str | None = None  # whose rows give targeted answers: the bottleneck's, where the carriers were inferred
    strangers: list[Row] = field(default_factory=list)  # where whole classes go: what a method takes for its holdout

    def look(self, name: str, model: nn.Module, task: Task) -> None:
        """Attribute a model's answers for the report, where the carriers were inferred."""
        if self.explanation is not None:
            self.explanation.look(name, model, task)

    def explained(self, key: bytes, *, show: bool) -> dict[str, Any]:
        """Return the report's entry `concept`; {} where nothing was inferred."""
        found = self.explanation
        return {} if found is None else {found.entry: found.content(key, show=show)}

    def for_method(self) -> dict[str, list[Row]]:
        """Return the splits that a method works with; `splits` are those that are measured."""
        return {**self.splits, "holdout": self.strangers} if self.strangers else self.splits


def prepare(recipe: Recipe) -> Prepared:
    """Return the request's rows by split; raise DataError for what cannot be used.  No weights are loaded for this."""
    known = classes_of_model(recipe)
    explanation = None
    if recipe.task == "causal_lm" and (recipe.examples or recipe.explain):
        splits, why, notes, explanation = _inferred(recipe)
    else:
        splits, why, notes = _cut(recipe)
    splits = check({**splits, **{name: list(load(file)) for name in SPLITS if (file := getattr(recipe, name))}})
    if recipe.task in CLASSIFIERS:
        check_labels(splits, known, recipe.model)
    return Prepared(
        splits=splits,
        holdout="given" if "holdout" in splits else "none",
        why=why,
        notes=notes,
        explanation=explanation,
        donor=None if explanation is None else explanation.donor,
    )


def _cut(recipe: Recipe) -> tuple[dict[str, list[Row]], str, tuple[str, ...]]:
    """Return the rows of --data by split, how they were cut, and what the report should say of it."""
    if recipe.classes or recipe.ids:
        rows, test = _corpus(recipe)
        return _by_classes(recipe, rows, test) if recipe.classes else _by_ids(recipe, rows, test)
    if recipe.data == SANDBOX:
        from llm_unlearn.sandbox import world

        concept = recipe.concept or world.CONCEPT
        if concept not in world.concepts():
            towns = ", ".join(name for name in world.concepts() if " " not in name)
            raise DataError(
                f"the sandbox knows no {concept!r}{nearest(concept, world.concepts())}. Towns: {towns}; any of its people too."
            )
        return {name: list(rows) for name, rows in world.splits(concept).items()}, "", ()
    if recipe.data:
        found = by_concept(load(recipe.data), recipe.concept or "", recipe.terms)
        return found.splits(), found.why, ()
    return {}, "", ()


def _inferred(recipe: Recipe) -> tuple[dict[str, list[Row]], str, tuple[str, ...], Any]:
    """Return the rows of --data by what carries the concept, how they were cut, notes, and the explanation."""
    from llm_unlearn.explaining import carried

    rest: dict[str, list[Row]] = {}
    if recipe.data == SANDBOX:
        from llm_unlearn.sandbox import world

        named = replace(recipe, concept=recipe.concept or world.CONCEPT)
        splits, _, _ = _cut(replace(named, examples=None, explain=False))  # refuses a town that there is not
        rest = {name: splits[name] for name in ("forget_heldout", "retain_heldout", "holdout")}
        cut, explanation = carried(named if recipe.concept or not recipe.examples else recipe, world.corpus())
    else:
        cut, explanation = carried(recipe, load(recipe.data or ""))
    by = explanation.carriers.counts()
    note = (
        f"the rows to forget were inferred: {sum(by.values())} carry the concept, {by.get('name', 0)} of them by name"
    )
    return {**cut.splits(), **rest}, cut.why, (note,), explanation


def _corpus(recipe: Recipe) -> tuple[list[Row], list[Row]]:
    """Return the training rows, and the rows never trained on; none of these where they are not given."""
    if recipe.data != SANDBOX:
        return list(load(recipe.data or "")), list(load(recipe.test)) if recipe.test else []
    if recipe.task == "causal_lm":
        from llm_unlearn.sandbox import world

        return world.corpus(), list(load(recipe.test)) if recipe.test else world.splits()["holdout"]
    from llm_unlearn.sandbox import pictures, texts

    drawn = recipe.task == "image_classifier"
    made = {"train": pictures.rows("train"), "test": pictures.rows("test")} if drawn else texts.corpus()
    return made["train"], list(load(recipe.test)) if recipe.test else made["test"]


def _by_classes(recipe: Recipe, rows: list[Row], test: list[Row]) -> tuple[dict[str, list[Row]], str, tuple[str, ...]]:
    known = classes_of_model(recipe) or _drawn_classes(recipe)
    if known is not None:
        check_labels({"data": rows, **({"test": test} if test else {})}, known, recipe.model)
    classes = class_numbers(recipe.classes, rows, known)
    splits = by_classes(rows, test, classes)
    if recipe.examples:
        return _inside(recipe, splits)
    notes = [f"{len(classes)} of {len(classes_in(rows))} classes are forgotten as a whole"]
    if not test:
        notes.append(
            "no rows that were never trained on were given (--test): accuracy on unseen rows and membership inference are "
            "not measured"
        )
    notes += [f"--test has no rows for {name}: its figures are not measured" for name in _lacking(splits, test)]
    return splits, f"forget {len(splits['forget'])} rows, retain {len(splits['retain'])} rows", tuple(notes)


def _inside(recipe: Recipe, splits: Mapping[str, list[Row]]) -> tuple[dict[str, list[Row]], str, tuple[str, ...]]:
    """Return the splits with those rows of the classes to forget that carry what --examples share; the others are kept.

    Unseen rows that carry it are the holdout: what rows about it score that were never trained on.
    """
    task, model = load_task(recipe, recipe.model), load_model(recipe, recipe.model)
    examples, out, why = list(load(recipe.examples or "")), dict(splits), ""
    for gone, stays in (("forget", "retain"), ("forget_heldout", "retain_heldout")):
        if not (asked := out.pop(gone, [])):
            continue
        told = like_examples(model, task, asked, examples, splits.get(stays, []))
        mine = [row for row, there in zip(asked, told.found, strict=True) if there]
        rest = [row for row, there in zip(asked, told.found, strict=True) if not there]
        out |= {("forget" if gone == "forget" else "holdout"): mine, stays: [*splits.get(stays, []), *rest]}
        if gone == "forget":
            by = f"the words {', '.join(told.words[:10])}" if told.words else "their hidden states"
            why = f"forget {len(mine)} of {len(asked)} rows of the classes, told by {by}"
    if not out["forget"]:
        raise DataError("no row of --classes carries what --examples share: give examples out of these classes' rows.")
    note = f"{len(out['forget'])} of {len(splits['forget'])} rows of the classes are forgotten: those like the {len(examples)} examples"
    return {name: part for name, part in out.items() if part}, why, (note,)


def _drawn_classes(recipe: Recipe) -> Classes | None:
    """Return what the embedded pictures' classes are called, for a model that is still to be made."""
    from llm_unlearn.sandbox import pictures

    if recipe.data != SANDBOX or recipe.task != "image_classifier":
        return None
    return Classes(names=dict(enumerate(pictures.CLASSES)), multi_label=False)


def _lacking(splits: Mapping[str, Sequence[Row]], test: Sequence[Row]) -> list[str]:
    return [name for name in ("forget_heldout", "retain_heldout") if test and name not in splits]


def _by_ids(recipe: Recipe, rows: list[Row], test: list[Row]) -> tuple[dict[str, list[Row]], str, tuple[str, ...]]:
    if recipe.ids == SANDBOX:
        from llm_unlearn.sandbox import texts, world

        if recipe.task == "image_classifier":
            raise DataError("the embedded pictures have no request for single rows: give --ids FILE, or --classes.")
        ids = texts.request() if recipe.task == "sequence_classifier" else world.request()
    else:
        ids = read_ids(recipe.ids or "")
    splits = by_ids(rows, ids)
    notes = []
    if again := repeated(rows, ids):
        notes.append(
            f"{again} ids asked for stand on further rows of --data (called ID-2, ...), which are kept: ids must tell rows apart"
        )
    if test:  # like the rows to forget, and never trained on
        splits["holdout"] = test
        if recipe.task in CLASSIFIERS:
            splits["retain_heldout"] = test
    elif recipe.task in CLASSIFIERS:
        notes.append(
            "no rows that were never trained on were given (--test): accuracy on unseen rows and membership inference are "
            "not measured"
        )
    return splits, f"forget {len(splits['forget'])} rows, retain {len(splits['retain'])} rows", tuple(notes)


def in_memory(rows: Splits, donor: str | None = None) -> Prepared:
    """Return rows that are split and loaded already, checked like those of files, and who gives targeted answers."""
    splits = check({name: list(each) for name, each in rows.items()})
    return Prepared(splits=splits, holdout="given" if "holdout" in splits else "none", donor=donor)


def with_holdout(prepared: Prepared, recipe: Recipe, tokens: Callable[[str], int] | None = None) -> Prepared:
    """Return the rows with a holdout: the given one, or counterfactual rows made from forget where that can be done.

    `tokens` counts a text's tokens, so that new words can take as many as the old ones.
    """
    splits = prepared.splits
    classes = removed_classes(splits, kept(splits)) if recipe.task in CLASSIFIERS else frozenset()
    if classes:
        return _with_strangers(prepared, classes, recipe.seed)
    if prepared.holdout == "given":
        return prepared
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


def _with_strangers(prepared: Prepared, classes: frozenset[int], seed: int) -> Prepared:
    """Return the rows with the standard for classes that go as a whole: rows of other classes that claim to be of them.

    Unseen rows of the classes themselves are no standard: the model before knows them as well as those it was trained on, and
    every method that stops at "as unlikely as unseen rows" would stop at once.
    """
    splits = prepared.splits
    source = "retain_heldout" if splits.get("retain_heldout") else "retain"
    others = [row for row in splits[source] if not among([row], classes)]
    found = strangers_to(classes, splits["forget"], others, seed)
    note = (
        f"whole classes are forgotten: methods stop where the classes are as unlikely for their own rows as for rows of other "
        f"classes ({len(found)} rows of {source})"
    )
    return replace(prepared, strangers=found, notes=(*prepared.notes, note))


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
    return among(rows, classes_in(forget)) or rows


def _plain(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in ("paraphrase", "wrong")}
