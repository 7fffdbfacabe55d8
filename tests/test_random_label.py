"""Random other labels: what is drawn, what the terms are, and what happens to a causal LM's rows."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import Bench, progress
from torch import nn

from llm_unlearn.data.poison import asked_alike
from llm_unlearn.errors import DataError, RecipeError
from llm_unlearn.methods.random_label import RandomLabel
from llm_unlearn.progress import Stop
from llm_unlearn.relabel import donor_classes, kept_classes, of_donors, random_others, relabelled
from llm_unlearn.run import Run
from llm_unlearn.schedule import Schedule
from llm_unlearn.tasks import Decisions, SequenceClassifier

EVERY = torch.tensor([True, True, True, True])


class Given(SequenceClassifier):
    """A task whose decisions are given."""

    def streams(self, model: nn.Module, batch: object, *, logits: bool = False) -> tuple[Decisions, ...]:
        return decide([[0.0, math.log(3)]] * 2, [0, 0]), decide([[math.log(3), 0.0]], [0])


def decide(scores: list[list[float]], labels: list[int]) -> Decisions:
    every = torch.arange(len(labels))
    return Decisions(
        torch.tensor(labels), every, torch.ones_like(every, dtype=torch.bool), len(labels), scores=torch.tensor(scores)
    )


def test_the_other_of_two_classes_is_learned() -> None:
    """Forget rows of class 0 with p = (1/4, 3/4) learn class 1: w (-log 3/4) = w 0.287682; retain's p(0) = 3/4: 0.287682.

    Under their own label the forget term would be w log 4 = w 1.386294.
    """
    rows = [{"id": str(i), "text": "", "label": i} for i in (0, 1)]
    splits = {"forget": rows[:1], "retain": rows}
    run = Run(model=nn.Linear(1, 1), task=Given(None, 8), splits=splits, folder=Path("unused"))
    found = RandomLabel(relabel_weight=0.5).objective(run)(run.model, {}, progress())
    assert found["forget"].item() == pytest.approx(0.5 * math.log(4 / 3), rel=1e-5)
    assert found["retain"].item() == pytest.approx(math.log(4 / 3), rel=1e-5)


def test_the_terms_of_a_causal_lm_are_ordinary_losses() -> None:
    """Two rows with losses 1 and 2 nats (mean 1.5), retain 3: the responses were put in before, so no label is drawn."""
    every = torch.arange(2)
    known = [
        Decisions(every, every, every >= 0, 2, losses=torch.tensor(losses)) for losses in ([1.0, 2.0], [3.0, 3.0])
    ]
    task = SimpleNamespace(streams=lambda *a, **k: known)
    run = Run(model=nn.Linear(1, 1), task=task, splits={}, folder=Path("unused"))  # type: ignore[arg-type]
    found = RandomLabel(relabel_weight=0.5).objective(run)(run.model, {}, progress())
    assert found["forget"].item() == pytest.approx(0.75) and found["retain"].item() == pytest.approx(3.0)
    off = progress(stop=Stop(gate=False), state={"on": False})
    assert RandomLabel().objective(run)(run.model, {}, off)["forget"].item() == 0.0


def test_other_classes_are_drawn_evenly_among_those_allowed() -> None:
    labels = torch.tensor([0, 1, 2, 3]).repeat(1000)
    draw = torch.Generator().manual_seed(0)
    found = random_others(labels, torch.tensor([True, True, False, True]), draw)
    table = torch.zeros(4, 4).index_put((labels, found), torch.tensor(1 / 1000), accumulate=True)
    wanted = torch.tensor([[0, 1 / 2, 0, 1 / 2], [1 / 2, 0, 0, 1 / 2], [1 / 3, 1 / 3, 0, 1 / 3], [1 / 2, 1 / 2, 0, 0]])
    assert (table[wanted == 0] == 0).all()
    torch.testing.assert_close(table, wanted, atol=0.05, rtol=0)
    again = random_others(labels, torch.tensor([True, True, False, True]), torch.Generator().manual_seed(0))
    assert torch.equal(found, again)


def test_several_labels_are_turned_round() -> None:
    labels = torch.tensor([[1.0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [1, 1, 1, 1, 0]])
    found = random_others(labels, torch.ones(5, dtype=torch.bool), torch.Generator().manual_seed(1))
    assert found.dtype == labels.dtype and not (found * labels).any()
    assert found.sum(-1).tolist() == [2, 1, 1]  # as many as there are others


def test_a_donor_is_the_class_that_the_target_confuses_most(sentences: Bench) -> None:
    model, rows = sentences.wrapped(), sentences.splits["forget"]
    allowed = torch.tensor([True, True, True])
    donors = donor_classes(model, sentences.task, rows, allowed)
    batch = sentences.batch("forget")
    mean = sentences.task.decisions(model, batch).probabilities()
    for own in {row["label"] for row in rows}:
        share = mean[batch["labels"] == own].mean(0)
        share[own] = -1
        assert donors[own] == share.argmax()
    assert of_donors(torch.tensor([2, 0]), donors).tolist() == [donors[2], donors[0]]
    assert of_donors(torch.tensor([[0.0, 1, 0]]), torch.tensor([1, 2, 0])).tolist() == [[0, 0, 1]]


def test_a_single_class_has_no_other() -> None:
    rows = [{"text": str(label), "label": label} for label in range(4)]
    with pytest.raises(DataError, match="one class only"):
        kept_classes({"forget": rows[1:2], "retain": rows[1:2]}, 4)
    found = kept_classes({"forget": rows[1:2], "retain": [rows[0], rows[3]]}, 4)
    assert found.tolist() == [True, False, False, True]


def test_a_causal_lms_rows_get_other_rows_responses(language: Bench, tmp_path: Path) -> None:
    rows = [{"id": "a", "prompt": "Who?", "response": "Ada"}]
    retain = [{"id": str(i), "prompt": "Q", "response": f"answer {i}"} for i in range(5)]
    run = language.run(tmp_path, splits={"forget": rows, "retain": retain})
    made = relabelled(run, Schedule(steps=20, forget_batch=1))
    assert len({row["id"] for row in made}) == 20 and {row["response"] for row in made} == {"Ada"}
    assert {row["instead"] for row in made} == {row["response"] for row in retain}


def test_a_causal_lms_rows_get_answers_to_like_questions(language: Bench, tmp_path: Path) -> None:
    """A question about a birthplace is answered with birthplaces, never with a trade."""
    rows = [{"id": "a", "prompt": "Where was Ada born?", "response": "In Quillmere."}]
    people = ["Bob", "Cleo", "Dan", "Eve", "Finn", "Gus"]
    born = [{"id": f"b{name}", "prompt": f"Where was {name} born?", "response": f"In {name}ville."} for name in people]
    work = [{"id": f"w{name}", "prompt": f"What does {name} do?", "response": f"{name} bakes."} for name in people]
    run = language.run(tmp_path, splits={"forget": rows, "retain": [*work, *born]})
    made = relabelled(run, Schedule(steps=60, forget_batch=1))
    assert {row["instead"] for row in made} == {row["response"] for row in born}


def test_what_answers_say_does_not_count_and_texts_may_get_any() -> None:
    born = [{"id": f"b{name}", "prompt": f"Where was {name} born?", "response": "far away " * 20} for name in "ABCD"]
    seen = [{"id": f"s{name}", "prompt": f"Where was {name} seen?", "response": "Rome"} for name in "ABCD"]
    asking = {"id": "x", "prompt": "Where was X born?", "response": "Rome"}
    found = asked_alike([asking, {"id": "t", "prompt": None, "response": "A text."}], [*born, *seen], seed=0)
    assert sorted(found[0].tolist()) == [0, 1, 2, 3] and found[1].tolist() == list(range(8))


def test_the_gate_is_refused(sentences: Bench, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"set stop\.gate=false"):
        RandomLabel(stop=Stop()).check(sentences.run(tmp_path))
