"""SCRUB: which steps leave the teacher and which stay with it, and by how much."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import progress
from torch import nn

from llm_unlearn.methods.scrub import Scrub
from llm_unlearn.run import Run
from llm_unlearn.tasks import Decisions

TEACHER = [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]
STUDENT = [[0.75, 0.25], [0.25, 0.75], [0.5, 0.5]]
NEAR = math.log(2) - math.log(3) / 2  # KL((1/2, 1/2) || (3/4, 1/4)) = 0.143841


def terms(method: Scrub, step: int, *, student: Any = STUDENT, steps: int = 12) -> dict[str, float]:
    """Return the terms at a step: two rows, of one decision and of two, under label 0."""
    frozen, model = nn.Linear(1, 1), nn.Linear(1, 1)

    def decisions(which: nn.Module, batch: object, *, logits: bool = False) -> Decisions:
        p = torch.tensor(TEACHER if which is frozen else student)
        every = torch.ones(3, dtype=torch.bool)
        return Decisions(torch.zeros(3, dtype=torch.long), torch.tensor([0, 1, 1]), every, 2, scores=p.log())

    task = SimpleNamespace(decisions=decisions)
    rows = {"forget": [{}] * 10, "retain": [{}]}
    run = Run(model=model, task=task, splits=rows, folder=Path("unused"), frozen_copy=frozen)  # type: ignore[arg-type]
    now = progress(steps=steps)
    now.step = step
    found = method.objective(run)(model, {"forget": {}, "retain": {}}, now)
    return {name: term.item() for name, term in found.items()}


def test_a_max_step_leaves_the_teacher() -> None:
    """Row 1: 0.143841; row 2: its mirror image and 0, mean 0.0719205.  -(0.143841 + 0.0719205)/2 = -0.107881; no retain."""
    found = terms(Scrub(temperature=1.0), 0)
    assert found == {"forget": pytest.approx(-0.75 * NEAR, rel=1e-5), "retain": 0.0}


def test_a_min_step_stays_with_it() -> None:
    """alpha 0.107881 + gamma loss: row 1 -log 3/4 = 0.287682, row 2 (log 4 + log 2)/2 = 1.039721, mean 0.663701."""
    found = terms(Scrub(temperature=1.0, alpha=0.5, gamma=2.0), 1)
    assert found["forget"] == 0.0
    assert found["retain"] == pytest.approx(0.5 * 0.75 * NEAR + 2.0 * 0.6637015, rel=1e-5)


def test_at_the_teacher_the_first_push_is_plain_ascent() -> None:
    """KL is 0 and flat there: the term is -loss = -log 2."""
    assert terms(Scrub(), 0, student=TEACHER)["forget"] == pytest.approx(-math.log(2), rel=1e-5)


def test_max_steps_are_few_and_in_the_first_rounds_only() -> None:
    """60 steps in 6 rounds of 10; 10 forget rows in batches of 8 are 2 max steps a round, in 3 rounds."""
    method = Scrub()
    found = []
    for step in range(60):
        now = progress(steps=60)
        now.step = step
        found.append(method.is_max(now, shown=2))
    assert [step for step, is_max in enumerate(found) if is_max] == [0, 1, 10, 11, 20, 21]
    assert sum(method.is_max(SimpleNamespace(steps=60, step=step), shown=99) for step in range(60)) == 15  # type: ignore[arg-type]


def test_a_language_models_max_steps_show_every_forget_row() -> None:
    """450 steps in 6 rounds of 75, 37 of them max steps: 1606 rows are 44 a step, and 4 x 8 is what a min step has of retain.

    500 rows are 14 a step, so 2 x 8 with 2 retain rows each; 10 rows, and a classifier's of any number, stay at 8.
    """

    def schedule(task: str, rows: int) -> tuple[int | None, int, int]:
        run = SimpleNamespace(task=SimpleNamespace(name=task), splits={"forget": [{}] * rows})
        found = Scrub().schedule(run)  # type: ignore[arg-type]
        return found.steps, found.forget_batch, found.retain_per_forget

    assert schedule("causal_lm", 1606) == (450, 32, 1)
    assert schedule("causal_lm", 500) == (450, 16, 2)
    assert schedule("causal_lm", 10) == (450, 8, 4)
    assert schedule("sequence_classifier", 1606) == (None, 8, 4)
