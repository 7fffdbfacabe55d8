"""What carries a concept in a corpus and in a model: which rows, which words, which other entities share it.

`carried` is what a run with --examples forgets; `Explanation.look` then shows the words before and after.  `api.explain` stops there.

Rows, words and entities are keyed marks wherever a page or a file for publishing names them; --show-records puts their text there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from torch import nn

from llm_unlearn.concepts.attribution import TOLERANCE, attribute, word_scores
from llm_unlearn.concepts.bank import LEAST, build_bank, saying
from llm_unlearn.concepts.bottleneck import fit_bottleneck
from llm_unlearn.concepts.carriers import Carriers, infer
from llm_unlearn.concepts.states import blocks
from llm_unlearn.data.names import whole_word
from llm_unlearn.data.poison import STOP_WORDS, words_of
from llm_unlearn.data.sources import load
from llm_unlearn.data.splits import ConceptSplit, cut_by
from llm_unlearn.errors import DataError
from llm_unlearn.loading import load_model, load_task
from llm_unlearn.recipe import Recipe
from llm_unlearn.runfolder import MARK, fingerprint
from llm_unlearn.tasks import CausalLM, Row, Task

GIVEN = 10  # rows that say the concept stand for examples where none are given (--explain)
LOOKED_AT, STEPS, BINS = 24, 32, 10  # rows whose words are attributed, steps of the path, parts of a row's text
ENTITIES, EACH = 8, 60  # classes of the bottleneck, and rows of each


@dataclass(eq=False)
class Explanation:
    """What was found, and what each model's answers rest on."""

    entry: ClassVar[str] = "concept"  # of the report
    carriers: Carriers
    forget: Sequence[Row]
    sharing: dict[str, Any]  # entities, weights and scores [C][K], donor, rule, accuracy, n; or `reason`
    seed: int = 0
    looks: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # by model, a row each

    @property
    def donor(self) -> str | None:
        """Return the entity that targeted labels take their answers from; None where no bottleneck found one."""
        found: str | None = self.sharing.get("donor")
        return found

    def look(self, name: str, model: nn.Module, task: Task) -> None:
        """Attribute the model's answers to a few of the rows that say a word of the concept."""
        words = {word for term in self.carriers.terms for word in words_of(term)} - STOP_WORDS
        draw = np.random.default_rng(self.seed)
        rows = [self.forget[int(i)] for i in draw.permutation(len(self.forget))]
        self.looks[name] = looked_at(model, task, saying(rows, sorted(words))[:LOOKED_AT], words)

    def content(self, key: bytes, *, show: bool = False) -> dict[str, Any]:
        """Return the report's entry `concept`; with `show` the words, entities and tokens as they are."""

        def mark(text: str) -> str:
            return text if show else fingerprint(key, text)[:MARK]

        found = self.carriers
        terms = [
            {"term": mark(term), "how": how, "value": round(value, 3)} for term, (how, value) in found.terms.items()
        ]
        sharing = dict(self.sharing)
        if "entities" in sharing:
            sharing |= {"entities": [mark(name) for name in sharing["entities"]], "donor": mark(sharing["donor"])}
        kept = ("mass", "bins", "error", "tokens") if show else ("mass", "bins", "error")
        looks = {
            model: [
                {"row": fingerprint(key, each["id"])[:MARK], **{name: each[name] for name in kept}} for each in rows
            ]
            for model, rows in self.looks.items()
        }
        return {
            "rows": len(found.scores),
            "by": found.counts(),
            "accuracy": round(found.accuracy, 4),
            "n": found.n,
            "terms": terms,
            "sharing": sharing,
            "attribution": looks,
        }


def carried(recipe: Recipe, rows: Sequence[Row]) -> tuple[ConceptSplit, Explanation]:
    """Return the corpus cut into what carries the recipe's concept, its neighbours and the rest, with the explanation."""
    model, task = load_model(recipe, recipe.model), load_task(recipe, recipe.model)
    given = [recipe.concept, *recipe.terms] if recipe.concept else list(recipe.terms)
    if recipe.examples:
        examples: list[Row] = list(load(recipe.examples))
    else:
        said = saying(rows, given)
        if len(said) < LEAST:
            raise DataError(
                f"{len(said)} rows say the concept; give --examples with at least {LEAST} rows that carry it."
            )
        examples = [said[int(i)] for i in np.random.default_rng(recipe.seed).permutation(len(said))[:GIVEN]]
    found = infer(model, task, rows, examples, name=recipe.concept, terms=recipe.terms, seed=recipe.seed)
    if len(found.why) == len(rows):
        raise DataError(f"all {len(rows)} rows carry the concept: nothing is left to keep; add rows without it.")
    hit = [i in found.why for i in range(len(rows))]
    cut, near = cut_by(rows, hit, {term: whole_word(term) for term in found.terms})
    by = ", ".join(f"{count} {WORDS[how]}" for how, count in found.counts().items())
    named = ", ".join(f"{term!r} ({how})" for term, (how, _) in found.terms.items())
    why = f"forget {len(cut['forget'])} rows: {by}; words: {named}; "
    why += f"neighbour {len(cut['neighbour'])} rows share {near} names with them; retain {len(cut['retain'])} rows"
    sharing = shared(model, task, rows, found, recipe.seed)
    return ConceptSplit(**cut, why=why), Explanation(found, cut["forget"], sharing, recipe.seed)


WORDS = {
    "name": "by name",
    "alias": "by another name",
    "inferred": "inferred from the hidden states",
    "example": "given as examples alone",
}


def shared(model: nn.Module, task: Task, rows: Sequence[Row], found: Carriers, seed: int) -> dict[str, Any]:
    """Return the bottleneck's weights of the concept and its rivals for each other, and who could take its place."""
    draw = np.random.default_rng(seed)
    concept = next(iter(found.terms))
    groups = {concept: [rows[i] for i in found.places]}
    for word in found.kinds:
        free = [row for i, row in enumerate(rows) if i not in found.why]
        if len(groups) < ENTITIES and len(said := saying(free, [word])) >= EACH // 2:
            groups[word] = said
    groups = {name: [rows[int(i)] for i in draw.permutation(len(rows))[:EACH]] for name, rows in groups.items()}
    if len(groups) < 2:
        return {"reason": "nothing else of its kind is in the rows"}
    try:
        bank = build_bank(model, task, groups, layers=blocks(model)[-1:], seed=seed)
    except DataError:
        return {"reason": "the last block has no direction for one of the entities"}
    every = [row for rows in groups.values() for row in rows]
    labels = [number for number, rows in enumerate(groups.values()) for _ in rows]
    made = fit_bottleneck(model, task, bank, every, labels, list(groups), seed=seed)
    donor = made.donor(concept)
    weights, scores = (
        [[round(float(value), 3) for value in line] for line in each] for each in (made.weight, made.means)
    )
    told = {"donor": donor.name, "rule": donor.rule, "accuracy": round(made.accuracy, 4), "n": made.n}
    told["vectors"] = [round(each.accuracy, 4) for each in bank.concepts]
    return {"entities": list(groups), "weights": weights, "scores": scores, **told}


def looked_at(model: nn.Module, task: Task, rows: Sequence[Row], words: set[str]) -> list[dict[str, Any]]:
    """Return of each row whose attribution is complete: its mass on the words, by place, and token by token."""
    if not isinstance(task, CausalLM) or not rows:
        return []
    examples = task.encode([dict(row) for row in rows])
    out = []
    for row, example, one in zip(
        rows, examples, attribute(model, task, examples, steps=STEPS, spared=1.0), strict=True
    ):
        shares = word_scores(task, example, one.tokens)
        if one.error > TOLERANCE or not shares:
            continue
        text, spans = task.spelled(example)
        positive = [max(value, 0.0) for value in one.tokens]
        bins = np.zeros(BINS)
        for (start, stop), value in zip(spans, positive, strict=True):
            if stop > start:
                bins[min(BINS - 1, int(BINS * start / len(text)))] += value / sum(positive)
        tokens = [[text[a:b], round(v / max(positive), 3)] for (a, b), v in zip(spans, positive, strict=True) if b > a]
        mass = sum(share for word, share in shares.items() if word in words)
        out.append(
            {
                "id": str(row.get("id", "")),
                "mass": round(mass, 4),
                "nats": round(mass * sum(positive), 4),
                "difference": round(one.difference, 3),
                "bins": [round(float(each), 4) for each in bins],
                "error": round(one.error, 4),
                "tokens": tokens,
            }
        )
    return out
