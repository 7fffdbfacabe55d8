"""Rows with several labels (binary cross-entropy): every method forgets them, whole labels included."""

import copy
from pathlib import Path

import pytest
import torch
from conftest import Bench, learn, shortened
from transformers import BertForSequenceClassification

from llm_unlearn.data.requests import removed_classes, strangers_to
from llm_unlearn.data.splits import kept
from llm_unlearn.method import LossMethod, available, find

METHODS = [
    name
    for name in available()
    if find(name).starts_from == "target"
    and "sequence_classifier" in find(name).tasks
    and find(name).removes == "rows"
    and name != "instance_wise"  # it refuses them
]


def labelled(sentences: Bench, seed: int = 0) -> Bench:
    """Return the sentences with two labels of three each, learned by a model that was drawn from the seed."""
    splits = {
        name: [{**row, "label": [int(row["label"] != i) for i in range(3)]} for row in rows]
        for name, rows in sentences.splits.items()
    }
    torch.manual_seed(seed)
    assert isinstance(sentences.origin, BertForSequenceClassification)
    origin = BertForSequenceClassification(sentences.origin.config) if seed else copy.deepcopy(sentences.origin)
    known = [*splits["forget"], *splits["retain"]]
    return Bench(
        sentences.task, splits, origin, learn(sentences.task, copy.deepcopy(origin), known, steps=200, rate=5e-3)
    )


@pytest.fixture(scope="module")
def several(sentences: Bench) -> Bench:
    return labelled(sentences)


@pytest.fixture(scope="module")
def more(sentences: Bench) -> list[Bench]:
    return [labelled(sentences, seed) for seed in (1, 2)]


def risen(name: str, here: Bench, folder: Path) -> dict[str, float]:
    """Return by how many nats the loss on forget and on retain rises."""
    run = here.run(folder)
    before = {split: here.loss(run.model, split) for split in ("forget", "retain")}
    assert before["forget"] < 0.1
    shortened(find(name)).unlearn(run)
    return {split: here.loss(run.model, split) - before[split] for split in before}


@pytest.mark.parametrize("name", METHODS)
def test_rows_with_several_labels_are_forgotten(
    name: str, several: Bench, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """A one-shot edit of one toy is as selective as chance has it (0.003 to 0.09 nats, six models): the mean of three."""
    others = [] if issubclass(find(name), LossMethod) else request.getfixturevalue("more")
    found = [risen(name, here, tmp_path / str(number)) for number, here in enumerate([several, *others])]
    forget, retain = (sum(each[split] for each in found) / len(found) for split in ("forget", "retain"))
    assert forget > retain + 0.02, found


def test_a_label_goes_as_a_whole(several: Bench, tmp_path: Path) -> None:
    """Label 0 is taken off every kept row; what claims it where it is not is the standard."""
    retain = [row for row in several.splits["retain"] if not row["label"][0]]
    forget = [row for row in several.splits["forget"] if row["label"][0]]
    splits = {"forget": forget, "retain": retain}
    gone = removed_classes(splits, kept(splits))
    assert gone == {0}
    run = several.run(tmp_path, splits={**splits, "holdout": strangers_to(gone, forget, retain, 0)})
    shortened(find("grad_diff")).unlearn(run)
    batch = several.task.collate(several.task.encode(forget))
    assert several.task.decisions(run.model, batch).probabilities()[:, 0].mean() < 0.5
