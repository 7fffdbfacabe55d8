"""Two teachers: the incompetent one's values, and who it is for which model."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import Bench, progress
from torch import nn

from llm_unlearn.errors import RecipeError
from llm_unlearn.methods.bad_teacher import BadTeacher, Ignorance, untrained
from llm_unlearn.run import Run
from llm_unlearn.tasks import Decisions

NEAR = math.log(2) - math.log(3) / 2  # KL((1/2, 1/2) || (3/4, 1/4)) = 0.143841


def decide(p: list[list[float]]) -> Decisions:
    every = torch.arange(len(p))
    return Decisions(torch.zeros_like(every), every, every >= 0, len(p), scores=torch.tensor(p).log())


def test_the_terms_of_a_causal_lm() -> None:
    """Two words, said once and three times among the kept rows, one more of each: the teacher says (1/3, 2/3).

    Forget p = (1/2, 1/2): KL = 1/3 log 2/3 + 2/3 log 4/3 = 0.056633.  Retain: (1/2, 1/2) before, (3/4, 1/4) now: 0.143841.
    """
    task = SimpleNamespace(
        streams=lambda *a, **k: (decide([[0.5, 0.5]] * 2), decide([[0.75, 0.25]])),
        decisions=lambda *a, **k: decide([[0.5, 0.5]]),
        encode=lambda rows: [{"labels": [-100, 0, 1]}, {"labels": [1, 1]}],
    )
    splits = {"forget": [{"prompt": "", "response": "a"}], "retain": [{"prompt": "", "response": "b"}]}
    run = Run(model=nn.Linear(1, 1), task=task, splits=splits, folder=Path("unused"), frozen_copy=nn.Linear(1, 1))  # type: ignore[arg-type]
    found = BadTeacher(forget_weight=2.0).objective(run)(run.model, {"forget": {}, "retain": {}}, progress())
    teacher = torch.tensor([2 / 6, 4 / 6])
    wanted = (teacher * (teacher / 0.5).log()).sum().item()
    assert found["forget"].item() == pytest.approx(2 * wanted, rel=1e-5) and wanted == pytest.approx(
        0.056633, abs=1e-6
    )
    assert found["retain"].item() == pytest.approx(NEAR, rel=1e-5)


def test_a_word_of_a_causal_lm_that_unseen_rows_have_too_is_left_alone() -> None:
    """Words at 1.39, 0.69 and 0.69 nats, ceilings 1, 1 and, of what the question says, 0: the second alone is still known."""
    p = [[0.25, 0.75], [0.5, 0.5], [0.5, 0.5]]
    told = torch.tensor([False, False, True])
    found = replace(decide(p), told=told)
    now = progress()
    assert now.still_known(found).all()
    now.state["ceilings"] = {"": 1.0}
    assert now.still_known(found).tolist() == [False, True, False]
    task = SimpleNamespace(
        streams=lambda *a, **k: (found, decide([[0.5, 0.5]])),
        decisions=lambda *a, **k: decide([[0.5, 0.5]]),
        encode=lambda rows: [{"labels": [0, 1, 1, 1]}],
    )
    splits = {"forget": [{"prompt": "", "response": "a"}], "retain": [{"prompt": "", "response": "b"}]}
    run = Run(model=nn.Linear(1, 1), task=task, splits=splits, folder=Path("unused"), frozen_copy=nn.Linear(1, 1))  # type: ignore[arg-type]
    terms = BadTeacher(forget_weight=1.0).objective(run)(run.model, {"forget": {}, "retain": {}}, now)
    assert terms["forget"].item() == pytest.approx(0.056633 / 3, abs=1e-6)  # one of three rows


def test_several_labels_are_as_many_coins() -> None:
    """p = 1/2 before and 3/4 now on one of two labels, alike on the other: (0.143841 + 0)/2."""
    z = torch.tensor([[math.log(3), 0.0]])
    found = Decisions(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), torch.tensor([True]), 1, scores=z)
    assert found.divergence_from(torch.zeros(1, 2)).item() == pytest.approx(NEAR / 2, rel=1e-5)
    assert found.divergence_from(z).item() == pytest.approx(0.0, abs=1e-7)


def test_a_classifiers_teacher_is_itself_untrained(sentences: Bench, tmp_path: Path) -> None:
    run = sentences.run(tmp_path)
    batch = sentences.batch("forget")
    forget = sentences.task.decisions(run.model, batch)
    teacher = Ignorance(run)
    said = teacher.logits(batch, forget).softmax(-1)
    assert forget.probabilities().amax(-1).mean() > 0.9 and said.amax(-1).mean() < 0.6
    assert torch.equal(said, Ignorance(run).logits(batch, forget).softmax(-1))  # the seed's, whatever was drawn since
    assert teacher.model is not None and not any(p.requires_grad for p in teacher.model.parameters())


def test_a_class_that_goes_as_a_whole_is_never_named(sentences: Bench, tmp_path: Path) -> None:
    splits = {
        "forget": [row for row in sentences.splits["forget"] if row["label"] == 1],
        "retain": [row for row in sentences.splits["retain"] if row["label"] != 1],
    }
    run = sentences.run(tmp_path, splits=splits)
    batch = sentences.task.collate(sentences.task.encode(splits["forget"]))
    said = Ignorance(run).logits(batch, sentences.task.decisions(run.model, batch)).softmax(-1)
    assert said[:, 1].max() == 0 and said.sum(-1).allclose(torch.ones(len(said)))


def test_a_model_without_a_configuration_is_refused() -> None:
    with pytest.raises(RecipeError, match="no configuration to make one from; choose another method"):
        untrained(nn.Linear(1, 1), 0)
