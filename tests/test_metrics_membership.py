"""The attacks: by hand, against slow loops over a plain forward pass, and what must not move them."""

import copy
import math
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ARCHITECTURES, Bench, weights
from test_metrics import made_up, model
from transformers import AutoModelForCausalLM

from llm_unlearn.decisions import Decisions
from llm_unlearn.errors import TaskError
from llm_unlearn.measuring.evaluation import measure
from llm_unlearn.measuring.figures import ACROSS, assess, figures
from llm_unlearn.measuring.gradients import gradient_norm, last_block
from llm_unlearn.metrics import available, defined_for, find
from llm_unlearn.metrics.mia_min_k import mia_min_k
from llm_unlearn.metrics.mia_min_k_plus import mia_min_k_plus
from llm_unlearn.metrics.mia_reference import mia_reference
from llm_unlearn.metrics.mia_tpr import mia_tpr
from llm_unlearn.metrics.mia_zlib import mia_zlib
from llm_unlearn.metrics.privleak import privleak
from llm_unlearn.scores import CAUSAL, Scores

ATTACKS = ("mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus", "mia_tpr", "mia_grad_norm")
AREAS = (*ATTACKS[:4], "mia_grad_norm")


def value(name: str, scores: dict[str, Scores], **models: Any) -> float | None:
    """One figure of one model on forget."""
    found = find(name).score(scores, "forget", **models)
    return None if found is None else found.value


# ------------------------------------------------------------------------------------------------------------ by hand


def test_zlib_by_hand() -> None:
    """One token at 1 nat over 10 bytes, three at 6 nats together over 12: -0.1 and -0.5; no token, no number."""
    rows = [np.array([-1.0]), np.array([-1.0, -2.0, -3.0]), np.array([])]
    assert mia_zlib(rows, np.array([10, 12, 9]))[:2] == pytest.approx([-0.1, -0.5])
    assert np.isnan(mia_zlib(rows, np.array([10, 12, 9]))[2])


def test_min_k_by_hand() -> None:
    """Of 1, 3 and 6 tokens 20 % are 1, 1 and 2, 40 % are 1, 2 and 3."""
    rows = [np.array([-0.5]), np.array([-1.0, -3.0, -2.0]), -np.array([6.0, 1, 5, 2, 4, 3]), np.array([])]
    assert mia_min_k(rows)[:3] == pytest.approx([-0.5, -3.0, -5.5])
    assert mia_min_k(rows, k=0.4)[:3] == pytest.approx([-0.5, -2.5, -5.0])
    assert np.isnan(mia_min_k(rows)[3])
    assert mia_min_k([-np.arange(1.0, 36)])[0] == pytest.approx(-32), (
        "0.2 * 35 is 7 tokens, though not in floating point"
    )
    with pytest.raises(ValueError, match="share"):
        mia_min_k(rows, k=0)


def test_min_k_plus_by_hand() -> None:
    """Two words at 0.8 and 0.2: the deviation of log p is 0.4 ln 4; the words stand 0.5 above and 2 below the mean."""
    mean = 0.8 * math.log(0.8) + 0.2 * math.log(0.2)
    spread = 0.4 * math.log(4)
    rows = [np.log([0.8, 0.2, 0.8]), np.log([0.8]), np.log([0.5])]
    means = [np.full(3, mean), np.full(1, mean), np.log([0.5])]
    deviations = [
        np.full(3, spread),
        np.full(1, spread),
        np.zeros(1),
    ]  # the last: all words alike, so 0 and no division
    assert mia_min_k_plus(rows, means, deviations) == pytest.approx([-2.0, 0.5, 0.0])
    assert mia_min_k_plus(rows[:1], means[:1], deviations[:1], k=0.4) == pytest.approx([-0.75])


def test_moments_by_hand() -> None:
    """The same two words, a word ruled out beside them, and one word alone."""
    logits = torch.tensor([[math.log(0.8), math.log(0.2), -math.inf], [7.0, -math.inf, -math.inf], [3.0, 3.0, 3.0]])
    decisions = Decisions(
        labels=torch.tensor([0, 0, 0]),
        owner=torch.tensor([0, 0, 1]),
        scored=torch.tensor([True] * 3),
        batch_size=2,
        scores=logits,
    )
    kept = logits.clone()
    means, deviations = decisions.log_prob_moments(torch.tensor([True, True, True]))
    assert torch.equal(logits, kept), "the logits are not touched"
    assert means.tolist() == pytest.approx([0.8 * math.log(0.8) + 0.2 * math.log(0.2), 0.0, -math.log(3)], abs=1e-6)
    assert deviations.tolist() == pytest.approx([0.4 * math.log(4), 0.0, 0.0], abs=1e-6)
    assert decisions.log_prob_moments(torch.tensor([False] * 3))[0].shape == (0,)


def test_true_positive_rate_by_hand() -> None:
    """Of 200 others at 0..199 two may be above: the threshold is 197, and a tie with it is not above it."""
    members, others = np.array([198.5, 197.5, 197.0, 300.0]), np.arange(200.0)
    assert mia_tpr(members, others) == 0.75
    assert mia_tpr(members, others[:99]) == 1.0 and mia_tpr(np.array([98.0]), others[:99]) == 0.0
    draw = np.random.default_rng(0)
    members, others = draw.integers(0, 50, 80).astype(float), draw.integers(0, 45, 150).astype(float)
    slow = max((members > t).mean() for t in [*others, -1, 99] if (others > t).mean() <= 0.01)
    assert mia_tpr(members, others) == slow
    few = find("mia_tpr").score(
        {"forget": made_up("forget", knows=1), "holdout": made_up("holdout", knows=0)}, "forget"
    )
    assert few is not None and "too few" in few.detail


def test_privleak_by_hand() -> None:
    """After 0.75 and gold 0.5: (0.25 - 0.5) / 0.5; all told: minus 100; over-forgotten: above 0; gold's at 1: nothing."""
    assert privleak(0.75, 0.5) == pytest.approx(-50)
    assert privleak(1.0, 0.3) == pytest.approx(-100) and privleak(0.25, 0.5) == pytest.approx(50)
    assert privleak(0.5, 1.0) is None
    everything = model(knows=1)
    line = figures(model(knows=0), gold=everything, metrics=["privleak"])[0]
    assert (line.after, line.gold, line.gap, line.interval, line.n) == (None, None, None, None, 0)
    assert line.detail.startswith("not measured: needs gold (whose own AUC is below 1)")


def test_reference_by_hand() -> None:
    """Losses 1 and 3 against the reference's 2 and 2.5: 1 and -0.5; gold as its own reference is not measured."""
    assert mia_reference(np.array([1.0, 3.0]), np.array([2.0, 2.5])) == pytest.approx([1.0, -0.5])
    gold, same = model(knows=0), model(knows=0)
    assert value("mia_reference", gold, gold=gold) is None
    assert value("mia_reference", same, gold=gold) == 0.5, "another model with gold's very numbers"
    assert value("mia_reference", model(knows=1), gold=gold) > 0.9  # type: ignore[operator]
    assert value("mia_reference", same, gold=None) is None
    others = {split: replace(rows, ids=tuple(f"x{i}" for i in rows.ids)) for split, rows in gold.items()}
    assert value("mia_reference", same, gold=others) is None, "gold was measured on other rows"
    second = model(knows=0, seed=1)
    own = value("mia_reference", gold, gold=gold, second_gold=second)
    assert own == value("mia_reference", gold, gold=second), "gold itself is held against the second gold"
    line = assess(model(knows=1), gold=gold, golds=[second], metrics=["mia_reference"]).figures[0]
    assert line.gold == own and line.gap == pytest.approx(line.after - own)  # type: ignore[operator]
    assert assess(model(knows=1), gold=gold, metrics=["mia_reference"]).figures[0].gap is None


# ------------------------------------------------------------------------------------------------ against slow loops


def ragged(bench: Bench) -> dict[str, list[dict[str, Any]]]:
    """Forget and holdout rows of 1 to a dozen tokens, with a paraphrase here and there."""
    rows = [dict(row) for row in bench.splits["forget"]]
    rows[3] = {**rows[3], "paraphrase": "Somebody works there.", "wrong": ["Lowfold"]}
    return {"forget": rows, "holdout": [dict(row) for row in bench.splits["holdout"][:7]]}


@torch.no_grad()
def by_loops(bench: Bench, network: torch.nn.Module, row: dict[str, Any], k: float) -> dict[str, float]:
    """Each attack's number of one row, alone in its batch, word by word in fp64."""
    example = bench.task.encode([row])[0]
    logits = network(input_ids=torch.tensor([example["input_ids"]])).logits[0].double()
    log_p, standard = [], []
    for t, flag in enumerate(example["scored"]):
        if flag:
            words = logits[t - 1].log_softmax(-1).tolist()
            mean = sum(math.exp(v) * v for v in words)
            spread = math.sqrt(sum(math.exp(v) * (v - mean) ** 2 for v in words))
            log_p.append(words[example["input_ids"][t]])
            standard.append((log_p[-1] - mean) / spread)
    most = max(1, math.ceil(k * len(log_p)))
    return {
        "mia_loss": sum(log_p) / len(log_p),
        "mia_zlib": sum(log_p) / len(zlib.compress(row["response"].encode("utf-8"))),
        "mia_min_k": sum(sorted(log_p)[:most]) / most,
        "mia_min_k_plus": sum(sorted(standard)[:most]) / most,
    }


def area_by_pairs(members: Sequence[float], others: Sequence[float]) -> float:
    return float(np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a in members for b in others]))


@pytest.mark.parametrize("name", ["target", "gemma2", "cohere", "gpt2"])
def test_attacks_equal_slow_loops(name: str, language: Bench) -> None:
    torch.manual_seed(1)
    network = language.target if name == "target" else AutoModelForCausalLM.from_config(ARCHITECTURES[name]).eval()
    splits = ragged(language)
    scores = measure(network, language.task, splits, generate_on=(), batch_size=5, progress=False)
    slow = {split: [by_loops(language, network, row, 0.2) for row in rows] for split, rows in splits.items()}
    for attack in AREAS[:4]:
        numbers = {split: find(attack).record(rows) for split, rows in scores.items()}  # type: ignore[attr-defined]
        for split, rows in slow.items():
            np.testing.assert_allclose(numbers[split], [row[attack] for row in rows], rtol=1e-4, atol=1e-5)
        expected = area_by_pairs(*([row[attack] for row in slow[split]] for split in ("forget", "holdout")))
        assert value(attack, scores) == pytest.approx(expected, abs=1e-5)


def test_neither_batch_nor_order_nor_padding_moves_an_attack(language: Bench) -> None:
    splits = ragged(language)
    plain = measure(language.target, language.task, splits, generate_on=(), grad_norm=True, progress=False)
    one = measure(language.target, language.task, splits, generate_on=(), grad_norm=True, batch_size=1, progress=False)
    turned = {split: rows[::-1] for split, rows in splits.items()}
    long = {
        "id": "long",
        "prompt": "Where? " * 12,
        "response": "Nowhere at all, as far as anybody knows.",
        "kind": "qa",
    }
    turned["retain"] = [long]
    back = measure(
        language.target, language.task, turned, generate_on=(), grad_norm=True, batch_size=4, progress=False
    )
    padded = measure(language.target, language.task, {"forget": [*splits["forget"], long]}, progress=False)["forget"]
    for attack in AREAS:
        record = find(attack).record  # type: ignore[attr-defined]
        mine = record(plain["forget"])
        np.testing.assert_allclose(record(one["forget"]), mine, rtol=1e-4, atol=2e-5)
        np.testing.assert_allclose(record(back["forget"])[::-1], mine, rtol=1e-4, atol=2e-5)
        if attack != "mia_grad_norm":
            np.testing.assert_allclose(record(padded)[:-1], mine, rtol=1e-4, atol=2e-5)
    for attack in ATTACKS:
        assert value(attack, back) == pytest.approx(value(attack, plain)) == pytest.approx(value(attack, one))


def test_bf16_agrees_with_fp32(language: Bench) -> None:
    """bf16 has 8 bits: a token's log-probability may be 0.15 nats off, an area 0.05."""
    splits = ragged(language)
    half = copy.deepcopy(language.target).bfloat16()
    exact, rough = (
        measure(network, language.task, splits, generate_on=(), grad_norm=True, progress=False)
        for network in (language.target, half)
    )
    for attack in ("mia_loss", "mia_min_k"):
        record = find(attack).record  # type: ignore[attr-defined]
        np.testing.assert_allclose(record(rough["holdout"]), record(exact["holdout"]), rtol=0.05, atol=0.15)
        assert not np.array_equal(record(rough["holdout"]), record(exact["holdout"])), "it was measured in bf16"
    for attack in ATTACKS:
        assert value(attack, rough) == pytest.approx(value(attack, exact), abs=0.05)


# ---------------------------------------------------------------------------------------------------------- gradients


def test_gradient_norm_equals_a_plain_backward_pass(language: Bench) -> None:
    network = copy.deepcopy(language.origin)
    for row in ragged(language)["forget"][:4]:
        example = language.task.encode([row])[0]
        network.zero_grad()
        logits = network(input_ids=torch.tensor([example["input_ids"]])).logits[0]
        places = [t for t, flag in enumerate(example["scored"]) if flag]
        losses = [-logits[t - 1].log_softmax(-1)[example["input_ids"][t]] for t in places]
        (sum(losses) / len(losses)).backward()  # type: ignore[union-attr]
        squares = sum(float(p.grad.square().sum()) for p in network.model.layers[-1].parameters())
        network.zero_grad()
        assert gradient_norm(network, language.task, example) == pytest.approx(math.sqrt(squares), rel=1e-5)


def test_gradient_norm_of_an_adapter_is_that_of_the_merged_model(language: Bench) -> None:
    network = language.wrapped()
    with torch.no_grad():
        for weight in weights(network):
            network.get_parameter(weight).normal_(std=0.1)
    network.eval().requires_grad_(False)
    merged = copy.deepcopy(network).merge_and_unload()
    assert [p.shape for p in last_block(network).values()] == [p.shape for p in last_block(merged).values()]
    examples = language.task.encode(language.splits["forget"][:3])
    plain = [gradient_norm(language.target, language.task, example) for example in examples]
    mine, theirs = ([gradient_norm(net, language.task, example) for example in examples] for net in (network, merged))
    assert mine == pytest.approx(theirs, rel=1e-3) and mine != pytest.approx(plain, rel=1e-2)
    assert not any(p.requires_grad or p.grad is not None for p in network.parameters())
    with pytest.raises(TaskError, match="no list of blocks"):
        last_block(torch.nn.Linear(2, 2))


def test_gradient_norms_come_only_where_asked(language: Bench) -> None:
    splits = ragged(language)
    flags = [p.requires_grad for p in language.target.parameters()]
    plain = measure(language.target, language.task, splits, generate_on=(), progress=False)
    assert plain["forget"].grad_norm is None and value("mia_grad_norm", plain) is None
    asked = measure(language.target, language.task, splits, generate_on=(), grad_norm=True, progress=False)
    assert asked["forget"].grad_norm is not None and len(asked["forget"].grad_norm) == len(splits["forget"])
    assert value("mia_grad_norm", asked) > 0.9  # type: ignore[operator]
    assert [p.requires_grad for p in language.target.parameters()] == flags


# --------------------------------------------------------------------------------------------- missing, stored, listed


def test_what_is_missing_is_none_and_never_half() -> None:
    scores = {split: rows for split, rows in model(knows=1).items() if split in ("forget", "holdout")}
    without = {
        "mia_zlib": "zlib_bytes",
        "mia_min_k_plus": "log_prob_means",
        "mia_grad_norm": "grad_norm",
    }
    for name in ATTACKS:
        assert value(name, scores) is not None
        assert value(name, {"forget": scores["forget"]}) is None, "no holdout"
        if name in without:
            for split, rows in scores.items():
                bare = {**scores, split: replace(rows, **{without[name]: None})}
                line = figures(bare, before=scores, gold=scores, metrics=[name])[0]
                assert (line.after, line.gap, line.interval, line.n) == (None, None, None, 0) and line.before == 1.0
                assert line.detail.startswith("not measured: needs a holdout, and")


def test_stored_scores_keep_the_attacks_and_older_ones_load_without() -> None:
    scores = model(knows=0.5)
    again = {split: Scores.from_json(rows.to_json(text=False)) for split, rows in scores.items()}
    for name in ATTACKS:
        assert value(name, again) == value(name, scores)
    old = scores["forget"].to_json(text=False)
    for record in old["records"]:
        for name in ("log_prob_means", "log_prob_deviations", "zlib_bytes", "grad_norm"):
            del record[name]
    bare = {"forget": Scores.from_json(old), "holdout": scores["holdout"]}
    assert bare["forget"].log_prob_means is bare["forget"].zlib_bytes is bare["forget"].grad_norm is None
    assert [value(name, bare) is None for name in ATTACKS] == [False, True, False, True, False, True]
    kept = scores["forget"].only([i % 2 == 0 for i in range(40)])
    assert len(kept.log_prob_means or ()) == 20 and len(kept.grad_norm) == 20  # type: ignore[arg-type]


def test_figures_that_are_no_means_are_not_taken_apart_by_kind() -> None:
    scores = model(knows=0.5)
    for name in available():
        module = find(name)
        if not defined_for(module, CAUSAL):
            continue
        found = [
            module.score(scores, split, gold=model(knows=0), before=model(knows=1))
            for split in module.SPLITS or (None,)
        ]
        assert all((each is None or each.per_example is None) == (name in ACROSS) for each in found), name
        for each in found:
            if each is not None and each.per_example is not None:
                assert each.per_example.mean() == pytest.approx(each.value) and len(each.per_example) == each.n
