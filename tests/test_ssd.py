"""SSD by hand, and what it writes down."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import Bench, shortened
from torch import nn

from llm_unlearn.errors import RecipeError
from llm_unlearn.methods.ssd import SSD, changes


def test_the_edit_by_hand() -> None:
    """Weights 8; F_full 1 throughout; F_forget 40, 10, 20, 0; alpha 10, lambda 2.

    Selected where F_forget > 10: the first and the third.  They become 8 * 2 / 40 = 0.4 and 8 * 2 / 20 = 0.8; the second is
    on the line and stays, and so does the fourth.
    """
    model = nn.Linear(4, 1, bias=False)
    nn.init.constant_(model.weight, 8.0)
    full, forget = {"weight": torch.ones(1, 4)}, {"weight": torch.tensor([[40.0, 10.0, 20.0, 0.0]])}
    counts = {"changed": 0, "weights": 0}
    ((name, change),) = changes(SimpleNamespace(model=model), full, forget, (10.0, 2.0), counts)  # type: ignore[arg-type]
    torch.testing.assert_close(model.get_parameter(name) + change, torch.tensor([[0.4, 8.0, 0.8, 8.0]]))
    assert counts == {"changed": 2, "weights": 4}


def test_nothing_grows_and_nothing_becomes_nan() -> None:
    """lambda F_full / F_forget above 1 is cut to 1; weights nobody uses (0 and 0) stay."""
    model = nn.Linear(3, 1, bias=False)
    full, forget = {"weight": torch.tensor([[1.0, 0.0, 0.0]])}, {"weight": torch.tensor([[2.0, 0.0, 1e-44]])}
    ((_, change),) = changes(
        SimpleNamespace(model=model),
        full,
        forget,
        (1.0, 5.0),
        {"changed": 0, "weights": 0},  # type: ignore[arg-type]
    )
    assert torch.isfinite(change).all() and not change[0, :2].any()


def test_what_it_learned_is_written_down(language: Bench, tmp_path: Path) -> None:
    run = language.run(tmp_path / "work")
    before = {split: language.loss(run.model, split) for split in ("forget", "retain")}
    shortened(SSD).unlearn(run)
    facts = json.loads((tmp_path / "work" / "method.json").read_text())
    assert facts["method"] == "ssd" and facts["alpha"] in SSD().alphas and facts["lambda"] in SSD().lambdas
    assert 0 < facts["energy_kept"] <= 1 and 0 < facts["share_of_weights_changed"] < 0.5
    assert facts["forget_share"] == pytest.approx(1 / 3)
    assert facts["retain_loss_before"] == pytest.approx(before["retain"], abs=1e-5)
    assert facts["retain_loss"] == pytest.approx(language.loss(run.model, "retain"), abs=1e-5)
    assert facts["forget_loss"] > facts["retain_loss"]


def test_strengths_that_cannot_be_are_refused() -> None:
    with pytest.raises(RecipeError, match="alphas above 0"):
        SSD(alphas=())
    with pytest.raises(RecipeError, match="alphas above 0"):
        SSD(alphas=(0.0,))
