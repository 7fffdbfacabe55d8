"""What a classifier's classes rest on in a bank's concepts, and whom a forgotten class gives way to: the report's concept-by-class chart.

With a bank (`--method.bank`) the concepts are the user's; without one the classes themselves.  Bottleneck and donor are those of
`poisoned.py`, which targeted labels are made by, so the report says what the method does.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from llm_unlearn.concepts.bank import Bank, build_bank, load_bank, of_classes
from llm_unlearn.concepts.bottleneck import Bottleneck
from llm_unlearn.data.requests import classes_in
from llm_unlearn.errors import DataError
from llm_unlearn.other_answers import class_count
from llm_unlearn.poisoned import bottleneck, giver, of_each
from llm_unlearn.relabel import donor_classes, kept_classes
from llm_unlearn.run import Splits
from llm_unlearn.runfolder import MARK, fingerprint
from llm_unlearn.tasks import Task


def sharing(
    model: nn.Module, task: Task, splits: Splits, bank: str | None, names: Mapping[int, str]
) -> dict[str, Any]:
    """Return classes (those to forget first), concepts, weights and mean scores [C][K], and each forgotten class's donor with its rule.

    `reason` alone where the model's states have no such concepts.  `vectors`: each concept's held-out balanced accuracy.
    """
    gone, there = classes_in(splits["forget"]), classes_in(splits["retain"])
    shown = [*sorted(gone), *sorted(there - gone)]
    count = class_count(model, task, splits["forget"])
    try:
        made = load_bank(bank) if bank else _classes_as_concepts(model, task, splits, shown, names)
        found = bottleneck(model, task, made, splits, count)
        allowed = kept_classes(splits, count)
    except DataError:
        return {"reason": "the model's states have no direction for one of the concepts, or a class has too few rows"}
    own = donor_classes(model, task, splits["forget"], allowed, model)
    donors = {number: donor(found if bank else None, own, number, allowed) for number in sorted(gone)}
    return {
        "entities": [names.get(number, str(number)) for number in shown],
        "concepts": list(made.names),
        "weights": [_rounded(found.weight[number]) for number in shown],
        "scores": [_rounded(found.means[number]) for number in shown],
        "donors": {names.get(a, str(a)): names.get(b, str(b)) for a, (b, _) in donors.items()},
        "donor": next(names.get(number, str(number)) for number, _ in donors.values()),
        "rule": next(rule for _, rule in donors.values()),
        "accuracy": round(found.accuracy, 4),
        "model_accuracy": None if found.model_accuracy is None else round(found.model_accuracy, 4),
        "n": found.n,
        "vectors": [round(concept.accuracy, 4) for concept in made.concepts],
    }


def marked(found: Mapping[str, Any], key: bytes) -> dict[str, Any]:
    """Return the same with keyed marks for names: a class's or a concept's name may say what is to be forgotten."""

    def mark(name: str) -> str:
        return fingerprint(key, name)[:MARK]

    if "entities" not in found:
        return dict(found)
    lists = {entry: [mark(name) for name in found[entry]] for entry in ("entities", "concepts")}
    donors = {mark(own): mark(other) for own, other in found["donors"].items()}
    return {**found, **lists, "donors": donors, "donor": mark(found["donor"])}


def donor(found: Bottleneck | None, own: Tensor, number: int, allowed: Tensor) -> tuple[int, str]:
    """Return whom the class gives way to and by which rule: the bottleneck's, else the class it is taken for next (`own` [C])."""
    told = None if found is None else giver(found, number, allowed)
    return (int(own[number]), "next") if told is None else (told[0], told[2])


def _classes_as_concepts(
    model: nn.Module, task: Task, splits: Splits, shown: Sequence[int], names: Mapping[int, str]
) -> Bank:
    rows = [*of_each(splits["forget"]), *of_each(splits["retain"])]
    return build_bank(model, task, of_classes(rows, {number: names.get(number, str(number)) for number in shown}))


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 3) for value in values.tolist()]
