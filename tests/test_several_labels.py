"""Rows with several labels (binary cross-entropy): every method forgets them, whole labels included."""

import copy
from pathlib import Path

import pytest
import torch
from conftest import Bench, learn, shortened
from transformers import BertForSequenceClassification

from llm_unlearn.data.requests import removed_classes, strangers_to
from llm_unlearn.data.splits import kept
from llm_unlearn.method import available, find

METHODS = [
    name
    for name in available()
    if find(name).starts_from == "target"
    and "sequence_classifier" in find(name).tasks
    and name != "instance_wise"  # it refuses them
]


@pytest.fixture(scope="module")
def several(sentences: Bench) -> Bench:
    """The sentences with two labels of three each, learned."""
    splits = {
        name: [{**row, "label": [int(row["label"] != i) for i in range(3)]} for row in rows]
        for name, rows in sentences.splits.items()
    }
    torch.manual_seed(0)
    assert isinstance(sentences.origin, BertForSequenceClassification)
    origin = copy.deepcopy(sentences.origin)
    known = [*splits["forget"], *splits["retain"]]
    return Bench(
        sentences.task, splits, origin, learn(sentences.task, copy.deepcopy(origin), known, steps=200, rate=5e-3)
    )


@pytest.mark.parametrize("name", METHODS)
def test_rows_with_several_labels_are_forgotten(name: str, several: Bench, tmp_path: Path) -> None:
    run = several.run(tmp_path)
    before = {split: several.loss(run.model, split) for split in ("forget", "retain")}
    assert before["forget"] < 0.1
    shortened(find(name)).unlearn(run)
    risen = {split: several.loss(run.model, split) - before[split] for split in before}
    assert risen["forget"] > risen["retain"] + 0.02, risen


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
