"""The negated task vector by hand: an adapter's product turned round, a bare model's change subtracted."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Bench, shortened, weights
from peft.tuners.lora import LoraLayer

from llm_unlearn.errors import RecipeError
from llm_unlearn.fit import fit
from llm_unlearn.methods.task_vector import TaskVector
from llm_unlearn.run import Run


@pytest.mark.parametrize("lora", [True, False])
def test_the_change_is_subtracted_times_the_scale(lora: bool, language: Bench, tmp_path: Path) -> None:
    """What a plain fit on forget changes, with the sign turned and halved: -0.5 B A of the adapter, theta - 0.5 (end - theta)."""
    method: TaskVector = shortened(TaskVector)  # type: ignore[assignment]
    there: Run = language.run(tmp_path / "there", lora=lora)
    fit(there, {"forget": there.rows("forget")}, method.objective(there), schedule=method.training)
    here = language.run(tmp_path / "here", lora=lora)
    start = weights(here.model)
    TaskVector(training=method.training, scales=(0.5,)).unlearn(here)
    if lora:
        pairs = zip(here.model.modules(), there.model.modules(), strict=True)
        products = [
            (mine.get_delta_weight("default"), other.get_delta_weight("default"))
            for mine, other in pairs
            if isinstance(mine, LoraLayer)
        ]
        assert len(products) == 14 and any(other.abs().max() > 1e-4 for _, other in products)
        for mine, other in products:
            torch.testing.assert_close(mine, -0.5 * other, rtol=1e-5, atol=1e-7)
        return
    end, found = weights(there.model), weights(here.model)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, start[name] - 0.5 * (end[name] - start[name]), rtol=1e-5, atol=1e-7)


def test_the_scale_is_written_down(bench: Callable[[str], Bench], tmp_path: Path) -> None:
    shortened(TaskVector).unlearn(bench("image_classifier").run(tmp_path))
    facts = json.loads((tmp_path / "method.json").read_text())
    assert facts["scale"] in TaskVector().scales and facts["forget_loss"] > facts["forget_loss_before"]


def test_no_scale_is_refused() -> None:
    with pytest.raises(RecipeError, match="scales above 0"):
        TaskVector(scales=(-1.0,))
