"""The arithmetic of the meta-evaluation by hand, what its pools are trained on, and one tiny run of the command."""

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from llm_unlearn.errors import RecipeError
from llm_unlearn.measuring import meta, pools
from llm_unlearn.measuring.meta import EPSILON, knowing, merits, recovers_like_gold, stays
from llm_unlearn.sandbox import world
from llm_unlearn.tasks import Row

EVAL = Path(__file__).parents[1] / "eval"


def values(*numbers: float | None, name: str = "extraction_strength forget") -> list[dict[str, float | None]]:
    return [{name: number} for number in numbers]


def test_faithfulness_is_the_share_of_pairs_in_order() -> None:
    """0.9 beats both others, 0.4 beats 0.1 and ties 0.4: (2 + 1 + 1/2) of 4 pairs."""
    (merit,) = merits(values(0.9, 0.4, None), values(0.4, 0.1))
    assert merit.faithfulness == pytest.approx(3.5 / 4) and merit.interval is not None
    assert (merit.knows, merit.never) == (pytest.approx(0.65), pytest.approx(0.25))
    assert merit.quantisation is merit.relearning is merit.robustness is merit.overall is None


def test_figures_that_fall_with_knowledge_are_turned_round_and_no_others() -> None:
    names = (
        "unlearning_depth forget",
        "unlearning_depth forget, trained apart",
        "truth_ratio forget",
        "forget_quality forget",
    )
    for name in names:
        (merit,) = merits(values(0.1, name=name), values(0.9, name=name))
        assert merit.faithfulness == 1 and knowing(name, 0.1) == pytest.approx(0.9)
    (wrong_way,) = merits(values(0.1, name="mia_loss forget"), values(0.9, name="mia_loss forget"))
    assert wrong_way.faithfulness == 0


def test_tiny_p_values_are_no_ties() -> None:
    (merit,) = merits(values(1e-30, name="forget_quality forget"), values(1e-20, name="forget_quality forget"))
    assert merit.faithfulness == 1


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [(0.4, 0.4, 1.0), (0.0, 0.0, 1.0), (0.6, 0.2, 1 - 0.4 / (0.8 + EPSILON)), (0.2, 0.6, 1 - 0.4 / (0.8 + EPSILON))],
)
def test_stays(before: float, after: float, expected: float) -> None:
    assert stays(before, after) == pytest.approx(expected)


def test_recovers_like_gold() -> None:
    """As far as gold: 1; three times as far: half; the other way or not at all while gold moves: nothing."""
    assert recovers_like_gold(0.2, 0.2) == pytest.approx(1)
    assert recovers_like_gold(0.6, 0.2) == pytest.approx(1 - 0.4 / (0.8 + EPSILON))
    assert recovers_like_gold(-0.2, 0.2) == pytest.approx(0, abs=0.01) and recovers_like_gold(-0.2, 0.2) >= 0
    assert recovers_like_gold(0.0, 0.5) == pytest.approx(0, abs=0.01)
    assert recovers_like_gold(0.0, 0.0) == 1


def test_robustness_by_hand() -> None:
    """Depths 0.8 and 0.6 are m = 0.2 and 0.4; quantised to m = 0.2 and 0.2; relearned by 0.3 and 0.1 where gold moves by 0.1."""
    name = "unlearning_depth forget"
    models = [
        {"plain": {name: 0.8}, "quantised": {name: 0.8}, "relearned": {name: 0.5}},
        {"plain": {name: 0.6}, "quantised": {name: 0.8}, "relearned": {name: 0.5}},
    ]
    gold = {"plain": {name: 1.0}, "relearned": {name: 0.9}}
    (merit,) = merits(values(0.1, name=name), values(0.9, name=name), unlearned=models, gold=gold)
    q = (1 + 1 - 0.2 / (0.6 + EPSILON)) / 2
    r = (1 - 0.2 / (0.4 + EPSILON) + 1) / 2
    assert merit.quantisation == pytest.approx(q) and merit.relearning == pytest.approx(r)
    assert merit.robustness == pytest.approx(2 * q * r / (q + r))
    assert merit.overall == pytest.approx(2 / (1 / 1.0 + 1 / merit.robustness))
    assert "| unlearning_depth forget | 1.000 |" in meta.table([merit])
    (alone,) = merits(values(0.1, name=name), values(0.9, name=name), unlearned=models)
    assert alone.relearning is None and alone.robustness is None and alone.quantisation is not None


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Row]]:
    return world.splits()


def truths(rows: list[Row]) -> set[tuple[str, str]]:
    return {(row["prompt"], row["response"]) for row in rows}


@pytest.mark.parametrize("kind", [*pools.KNOWS, *pools.NEVER])
def test_members_know_what_their_pool_says(kind: str, splits: dict[str, list[Row]]) -> None:
    """A pool that never knew sees no true forget row and nothing that is measured as holdout; one that knows sees some."""
    member, again, other = (pools.member(kind, seed, splits) for seed in (0, 0, 1))
    assert member.rows == again.rows and member.rows != other.rows
    seen, forget = truths(list(member.rows)), truths(splits["forget"])
    assert pools.steps_of(kind, 1) == pools.steps_of(kind, 0) // 2 > 0
    assert bool(seen & forget) is member.knows is (kind in pools.KNOWS)
    assert seen & truths(splits["retain"])
    assert not seen & truths(pools.measured(splits, 0)["holdout"])
    if kind in ("false", "shuffled"):
        names = sum("Quillmere" in row["prompt"] + row["response"] for row in member.rows)
        assert names > 1000, "confounders speak of the town that is to be forgotten"


def test_shuffled_values_are_the_towns_own(splits: dict[str, list[Row]]) -> None:
    facts = pools.facts_by_id()
    own = {facts[row["fact"]].values["v"] for row in splits["forget"] if row["fact"] in facts}
    ids = sorted({row["fact"] for row in splits["forget"]} & facts.keys())
    moved = pools.shuffled(ids, facts, random.Random(0))
    assert all(value != facts[each].values["v"] for each, value in moved.items())
    assert sum(value in own for value in moved.values()) > 0.7 * len(moved)


def test_an_unknown_kind_is_named(splits: dict[str, list[Row]]) -> None:
    with pytest.raises(RecipeError, match="unknown kind of pool member 'halfway'. Kinds: light, quarter"):
        pools.member("halfway", 0, splits)


@pytest.mark.slow
def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Two pools of two, one unlearned model, a step or two each; a second call trains nothing and prints the same."""
    monkeypatch.syspath_prepend(str(EVAL))
    import meta as command

    full = world.splits()
    few = sorted({row["fact"] for row in full["forget"] if row.get("wrong")})[:8]
    small = {
        name: [row for row in rows if row["fact"] in few] for name, rows in full.items() if name.startswith("forget")
    }
    small |= {"retain": full["retain"][::200], "holdout": full["holdout"][::10]}
    monkeypatch.setattr(command.world, "splits", lambda: small)
    monkeypatch.setattr(pools, "KNOWS", ("light", "quarter"))
    monkeypatch.setattr(pools, "NEVER", ("false", "retain"))
    monkeypatch.setattr(pools, "SPLIT_ROWS", {"forget": 12, "forget_heldout": 6, "holdout": 10})
    words = ["--seeds", "1", "--unlearned", "npo", "--share", "0.02", "--knower-steps", "2", "--unlearn-steps", "1"]
    words += ["--relearn-steps", "1", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["meta.py", *words])
    command.main()
    stored: dict[str, Any] = json.loads((tmp_path / "meta.json").read_text())
    names = {merit["figure"] for merit in stored["merits"]}
    assert {"unlearning_depth forget", "extraction_strength forget", "mia_loss forget"} <= names
    assert all(0 <= merit["robustness"] <= 1 for merit in stored["merits"])
    assert "2 models that know, 2 that never did, 1 unlearned" in capsys.readouterr().out
    monkeypatch.setattr(command.Bench, "trained", None)
    command.main()
    assert json.loads((tmp_path / "meta.json").read_text())["merits"] == stored["merits"]


def test_rounding_to_four_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand on one group (a row narrower than 64 is one): weights 7, -3.4, 0.6 at scale 1 become 7, -3, 1; at most 16 values a group; the head stays."""
    monkeypatch.syspath_prepend(str(EVAL))
    import meta as command
    import torch
    from conftest import llama

    model = llama(64, hidden_size=4, num_attention_heads=1, intermediate_size=8, num_key_value_heads=1)
    weight = model.model.layers[0].mlp.down_proj.weight  # [4, 8]
    with torch.no_grad():
        weight[0] = torch.tensor([7.0, -3.4, 0.6, 0, 0, 0, 0, 0])
    out = command.four_bits(model)
    assert out.model.layers[0].mlp.down_proj.weight[0].tolist() == [7, -3, 1, 0, 0, 0, 0, 0]
    assert weight[0, 1].item() == pytest.approx(-3.4), "the model itself stays"
    assert torch.equal(out.lm_head.weight, model.lm_head.weight)
