"""The verdict by its rules: what makes it true, false and null, and that it names the figure that decided."""

from dataclasses import replace

import numpy as np
import pytest
from test_metrics import made_up, model

from llm_unlearn.measuring.figures import Figure, assess
from llm_unlearn.measuring.verdict import verdict
from llm_unlearn.reporting.report import between_golds
from llm_unlearn.scores import ModelScores


def judge(
    after: ModelScores, before: ModelScores, gold: ModelScores | None = None, *, changed: bool = True
) -> tuple[bool | None, bool | None, str]:
    """Return (forgot, utility_kept, the reasons as one text)."""
    seen = assess(after, before=before, gold=gold)
    out = verdict(seen.judged, changed=changed, unknown=seen.unknown)
    assert set(out) == {"forgot", "utility_kept", "changed", "reasons"} and out["reasons"]
    return out["forgot"], out["utility_kept"], "\n".join(out["reasons"])


def test_a_model_like_gold_forgot_and_kept_the_rest() -> None:
    forgot, kept, why = judge(model(knows=0, n=80, seed=2), model(knows=1, n=80), model(knows=0, n=80, seed=1))
    assert (forgot, kept) == (True, True)
    for figure in ("exact_memorisation", "extraction_strength", "mia_loss"):
        assert f"forgot: {figure} on forget " in why
    assert "forgot: extraction_strength on forget_heldout" in why
    for split in ("retain", "retain_heldout", "neighbour", "general"):
        assert f"utility_kept: exact_answer on {split} 1.000 against 1.000 before holds" in why


def test_an_unchanged_model_did_not_forget() -> None:
    before = model(knows=1)
    forgot, kept, why = judge(before, before, model(knows=0, seed=1), changed=False)
    assert (forgot, kept) == (False, True)
    assert "still known, above gold's" in why and "outputs are what they were" in why


def test_knowing_the_facts_in_other_wordings_is_not_forgetting() -> None:
    after = model(knows=0, n=80, seed=2)
    after["forget_heldout"] = made_up("forget_heldout", knows=0.3, n=80)
    forgot, _, why = judge(after, model(knows=1, n=80), model(knows=0, n=80, seed=1))
    assert forgot is False and "extraction_strength on forget_heldout 0.300 is still known" in why


def test_wordings_that_before_did_not_know_enter_no_verdict() -> None:
    before, after = model(knows=1, n=80), model(knows=0, n=80, seed=2)
    before["forget_heldout"] = made_up("forget_heldout", knows=0.4, n=80)
    after["forget_heldout"] = made_up("forget_heldout", knows=0.3, n=80)
    forgot, _, why = judge(after, before, model(knows=0, n=80, seed=1))
    assert forgot is True and "forget_heldout is left out, before did not know it" in why


def test_over_forgetting_is_no_forgetting() -> None:
    gold = model(knows=0.3, n=80, seed=1)
    after = model(knows=0, n=80, seed=2)
    forgot, _, why = judge(after, model(knows=1, n=80), gold)
    assert forgot is False and "over-forgotten, below gold's 0.300" in why
    strange = model(knows=0, n=80, seed=2)
    losses = tuple(row - 9.0 for row in strange["forget"].log_probs)
    strange["forget"] = replace(strange["forget"], log_probs=losses)
    forgot, _, why = judge(strange, model(knows=1, n=80), model(knows=0, n=80, seed=1))
    assert forgot is False and "mia_loss on forget 0.000 is over-forgotten" in why


def test_without_gold_the_holdout_decides() -> None:
    forgot, _, why = judge(model(knows=0, n=80, seed=2), model(knows=1, n=80))
    assert forgot is True and "within the holdout's" in why and "chance, 0.500" in why
    forgot, _, why = judge(model(knows=0.5, n=80), model(knows=1, n=80))
    assert forgot is False and "above the holdout's" in why


def test_null_without_gold_and_holdout() -> None:
    before, after = model(knows=1), model(knows=0)
    for scores in (before, after):
        del scores["holdout"]
    forgot, kept, why = judge(after, before)
    assert forgot is None and kept is True and "neither a gold model nor a holdout" in why
    forgot, _, why = judge(after, before, {k: v for k, v in model(knows=0, seed=1).items() if k != "holdout"})
    assert forgot is True and "mia_loss on forget not measured: needs a holdout" in why


def test_null_where_before_did_not_know_or_rows_are_few() -> None:
    forgot, _, why = judge(model(knows=0), model(knows=0.4), model(knows=0, seed=1))
    assert forgot is None and "before did not know the forget rows (exact_answer 0.40, extraction_strength 0.40" in why
    forgot, _, why = judge(model(knows=0, n=19), model(knows=1, n=19), model(knows=0, n=19, seed=1))
    assert forgot is None and "19 forget rows" in why


def line(after: float, before: float, low: float, name: str = "exact_answer", split: str = "retain") -> Figure:
    return Figure(name, split, before, after, None, None, (low, after), 50, "high")


@pytest.mark.parametrize(
    ("after", "low", "kept", "says"),
    [
        (0.95, 0.90, True, "holds"),  # exactly on both limits
        (0.94, 0.93, False, "under 0.95 of it"),
        (0.97, 0.89, False, "reaches down to 0.890"),
    ],
)
def test_utility_at_its_limits(after: float, low: float, kept: bool, says: str) -> None:
    out = verdict([line(after, 1.0, low)], changed=True)
    assert out["utility_kept"] is kept and any(says in reason for reason in out["reasons"])


def test_one_damaged_split_is_damage_and_unknown_ones_do_not_count() -> None:
    before, after = model(knows=1), model(knows=0, seed=2)
    after["neighbour"] = made_up("neighbour", knows=0.8)
    _, kept, why = judge(after, before)
    assert kept is False and "exact_answer on neighbour 0.800 against 1.000 before is under 0.95" in why
    before["neighbour"] = made_up("neighbour", knows=0.4)
    after["neighbour"] = made_up("neighbour", knows=0.0)
    _, kept, why = judge(after, before)
    assert kept is True and "neighbour is left out" in why


def test_long_texts_are_judged_token_by_token_where_no_split_is_known_exactly() -> None:
    def tokens(split: str, right: int) -> ModelScores:
        hits, log_probs = (np.arange(10) < right,) * 40, (np.full(10, -1.0),) * 40
        return {split: made_up(split, knows=1, hits=hits, log_probs=log_probs)}

    _, kept, why = judge(tokens("retain", 6), tokens("retain", 6))
    assert kept is True and "judged by exact_memorisation" in why
    _, kept, why = judge(tokens("retain", 5), tokens("retain", 6))
    assert kept is False and "exact_memorisation on retain 0.500 against 0.600" in why


def test_nothing_to_keep_is_null() -> None:
    forgot, kept, why = judge({"forget": made_up("forget", knows=0)}, {"forget": made_up("forget", knows=1)})
    assert forgot is None and kept is None and "no retain-type split" in why


@pytest.mark.parametrize(
    ("after", "half_width", "forgot", "says"),
    [
        (0.12, 0.04, True, "is within gold's 0.100"),
        (
            0.12,
            0.08,
            None,
            "not enough rows to tell by extraction_strength on forget: 60 rows tell gaps from 0.080 on",
        ),
        (0.17, 0.04, False, "still known"),  # the rows can tell it, and it is outside
        (0.17, 0.08, None, "not enough rows"),  # outside, but the interval reaches into the tolerance
        (0.30, 0.08, False, "still known"),  # wholly outside: even these rows tell
    ],
)
def test_a_gap_that_the_rows_cannot_tell_is_no_verdict(
    after: float, half_width: float, forgot: bool | None, says: str
) -> None:
    gap = after - 0.10
    strength = Figure("extraction_strength", "forget", 1.0, after, 0.10, gap, None, 60, "gold")
    seen = replace(strength, gap_interval=(gap - half_width, gap + half_width))
    known = Figure("exact_answer", "forget", 1.0, 0.0, 0.0, 0.0, None, 60, "gold")
    out = verdict([known, seen], changed=True)
    assert out["forgot"] is forgot and any(says in reason for reason in out["reasons"])


def test_the_gap_interval_takes_both_models_on_the_same_rows() -> None:
    before, gold = model(knows=1, n=80), model(knows=0.5, n=80, seed=1)
    same = {
        figure.name: figure for figure in assess(gold, before=before, gold=gold).figures if figure.split == "forget"
    }
    assert same["extraction_strength"].gap_interval == (0.0, 0.0)  # the model itself differs by nothing on any rows
    assert same["mia_loss"].gap_interval == (0.0, 0.0)
    low, high = same["extraction_strength"].interval or (0, 0)
    assert high - low > 0.1


def test_what_lies_between_golds_is_chance() -> None:
    before, gold, other = (model(knows=share, n=80, seed=seed) for share, seed in ((1, 0), (0, 1), (0.1, 2)))
    seen = {f.name: f for f in assess(gold, before=before, gold=gold, golds=[other]).figures if f.split == "forget"}
    strength = seen["extraction_strength"]
    assert strength.spread == pytest.approx(0.1) and strength.gap == 0
    assert "indistinguishable from retraining by this figure" in between_golds(strength.to_json())
    assert "more than chance" in between_golds({**strength.to_json(), "gap": 0.2})
    alone = assess(gold, before=before, gold=gold).figures
    assert all(figure.spread is None and not between_golds(figure.to_json()) for figure in alone)
