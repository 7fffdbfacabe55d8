"""SalUn: which weights are salient, that the others stay, and whose answers are learned."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Bench, shortened, weights

from llm_unlearn.errors import RecipeError
from llm_unlearn.fit import Schedule, fit
from llm_unlearn.methods.salun import SalUn, salient
from llm_unlearn.progress import Stop


@pytest.mark.parametrize("task", ["causal_lm", "sequence_classifier", "image_classifier"])
@pytest.mark.parametrize("lora", [True, False])
def test_what_is_not_salient_stays(task: str, lora: bool, bench: Callable[[str], Bench], tmp_path: Path) -> None:
    run = bench(task).run(tmp_path, lora=lora)
    start, mask = weights(run.model), salient(run, 0.5)
    assert mask.keys() == start.keys()
    shortened(SalUn, steps=4).unlearn(run)
    for name, weight in weights(run.model).items():
        assert torch.equal(weight[~mask[name]], start[name][~mask[name]]), name
    moved = sum(int((weight != start[name]).sum()) for name, weight in weights(run.model).items())
    allowed, every = sum(int(m.sum()) for m in mask.values()), sum(m.numel() for m in mask.values())
    assert 0.5 * allowed < moved <= allowed <= 0.52 * every
    facts = json.loads((tmp_path / "method.json").read_text())
    assert facts["share_of_weights_trained"] == pytest.approx(allowed / every)


def test_a_fresh_adapter_lets_half_of_both_factors_move(language: Bench, tmp_path: Path) -> None:
    """A's gradient is 0 there; the columns of the weight's own gradient stand in: whole columns of A move or stay."""
    mask = salient(language.run(tmp_path), 0.5)
    for kind in ("lora_A", "lora_B"):
        each = torch.cat([m.flatten() for name, m in mask.items() if kind in name])
        assert 0.45 < each.float().mean() < 0.55
    assert all((m == m[:1]).all() for name, m in mask.items() if "lora_A" in name)


def test_a_mask_of_nothing_changes_nothing(language: Bench, tmp_path: Path) -> None:
    run = language.run(tmp_path)
    start = weights(run.model)
    method = SalUn()
    rows = {"relabelled": run.rows("forget"), "retain": run.rows("retain")}
    none = {name: torch.zeros_like(w, dtype=torch.bool) for name, w in start.items()}
    schedule = Schedule(steps=2, forget_batch=4)
    fit(run, rows, method.objective(run), schedule=schedule, mask=none)
    assert all(torch.equal(weight, start[name]) for name, weight in weights(run.model).items())
    assert not any(p._backward_hooks for p in run.model.parameters())
    fit(run, rows, method.objective(run), schedule=schedule, phase="again")
    assert not all(torch.equal(weight, start[name]) for name, weight in weights(run.model).items())


def test_settings_that_cannot_be_are_refused(language: Bench, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="share=0"):
        SalUn(share=0)
    with pytest.raises(RecipeError, match=r"set stop\.gate=false"):
        SalUn(stop=Stop()).check(language.run(tmp_path))
