"""The figures of classifiers: by hand, against slow loops, on two tiny models, and in a run from end to end."""

import copy
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from classifier_runs import Setting, image_setting, text_setting
from conftest import Bench, llama
from test_metrics import model as causal_model
from transformers import BertForSequenceClassification, LlamaForSequenceClassification

from llm_unlearn import unlearn
from llm_unlearn.errors import TaskError
from llm_unlearn.measuring.evaluation import Evaluation, measure
from llm_unlearn.measuring.figures import ACROSS, assess, figures, removed
from llm_unlearn.measuring.suites import CLASSES, CLASSES_FULL
from llm_unlearn.measuring.verdict import verdict
from llm_unlearn.metrics import available, defined_for, find
from llm_unlearn.metrics._classes import entropy
from llm_unlearn.metrics._logistic import SPLITS, TEST, attack_accuracy, logistic
from llm_unlearn.metrics._membership import pair_of
from llm_unlearn.metrics.activation_distance import activation_distance
from llm_unlearn.metrics.js_divergence import js_divergence
from llm_unlearn.metrics.u_lira import Shadow, confidence, u_lira
from llm_unlearn.metrics.zrf import zrf
from llm_unlearn.prepare import measured
from llm_unlearn.reporting import report
from llm_unlearn.scores import CLASSIFIERS, SMALL, SPLIT_NAMES, Floats, Scores, from_records
from llm_unlearn.tasks import SequenceClassifier

ONLY = [name for name in CLASSES_FULL if not defined_for(find(name), ("causal_lm",))]


def rows_of(split: str, probabilities: list[Any], classes: list[tuple[int, ...]], **changes: Any) -> Scores:
    """Return a classifier's scores with these class probabilities and true classes."""
    found = tuple(np.asarray(p, dtype=float) for p in probabilities)
    hits = [np.array([int(p.argmax()) in row]) for p, row in zip(found, classes, strict=True)]
    own = [np.array([math.log(max(p[row[0]] if row else 0.5, 1e-12))]) for p, row in zip(found, classes, strict=True)]
    values = {"ids": tuple(f"{split}-{i}" for i in range(len(found))), "kinds": ("label",) * len(found)}
    values |= {"facts": (None,) * len(found), "log_probs": tuple(own), "hits": tuple(hits)}
    return Scores(split=split, **{**values, "probabilities": found, "classes": tuple(classes), **changes})


def drawn(split: str, *, knows: float, n: int = 60, seed: int = 0, of: tuple[int, ...] = (0, 1, 2)) -> Scores:
    """Return scores of a classifier that is sure and right on the first `knows` share of n rows, unsure and wrong on the rest."""
    draw = np.random.default_rng([seed, n, SPLIT_NAMES.index(split)])
    classes = [(of[i % len(of)],) for i in range(n)]
    probabilities = []
    for i, (label,) in enumerate(classes):
        p = draw.uniform(0.05, 0.3, 3)
        p[label if i < knows * n else (label + 1) % 3] += 8 if i < knows * n else 0.5
        probabilities.append(p / p.sum())
    hidden = tuple(draw.normal(size=4) + 5 * (i < knows * n) for i in range(n))
    grad_norm = np.where(np.arange(n) < knows * n, 0.1, 3.0) + draw.uniform(0, 1, n)
    return rows_of(split, probabilities, classes, hidden=hidden, grad_norm=grad_norm)


def model(*, knows: float, seed: int = 0, n: int = 60, of: tuple[int, ...] = (0, 1, 2)) -> dict[str, Scores]:
    """Return a classifier's scores on five splits; `knows` is the share known of forget, `of` its classes."""
    out = {"forget": drawn("forget", knows=knows, n=n, seed=seed, of=of)}
    for split, share in (("forget_heldout", 0.0), ("holdout", 0.0), ("retain", 1.0), ("retain_heldout", 0.9)):
        out[split] = drawn(split, knows=share, n=n, seed=seed)
    return out


def shadows(k: int = 6) -> list[Shadow]:
    """Return shadow models that each know the half of the rows that they were trained with."""
    out = []
    for number in range(k):
        scores = model(knows=0, seed=10 + number)
        known, parts = set(), {}
        for split in ("forget", "holdout"):
            sure, unsure = drawn(split, knows=1, seed=10 + number), scores[split]
            keep = np.random.default_rng([number, len(split)]).permutation(60) < 30
            if number % 2:  # the half that the shadow before left out
                keep = ~np.random.default_rng([number - 1, len(split)]).permutation(60).__lt__(30)
            both = zip(sure.probabilities or (), unsure.probabilities or (), keep, strict=True)
            parts[split] = replace(unsure, probabilities=tuple(a if with_it else b for a, b, with_it in both))
            known |= {name for name, with_it in zip(unsure.ids, keep, strict=True) if with_it}
        out.append(Shadow(parts, frozenset(known)))
    return out


# ------------------------------------------------------------------------------------------------------------ by hand


def test_divergence_by_hand() -> None:
    """Nothing in common: 1 bit.  (1/2, 1/2) and (1, 0): H(3/4, 1/4) - 1/2.  Rows may have other numbers of classes."""
    one = rows_of("forget", [[1, 0, 0], [0.5, 0.5], [0.2, 0.3, 0.5]], [(0,), (1,), (2,)])
    two = rows_of("forget", [[0, 1, 0], [1.0, 0.0], [0.2, 0.3, 0.5]], [(0,), (1,), (2,)])
    middle = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)) - 0.5
    assert js_divergence(one, two) == pytest.approx([1.0, middle, 0.0])
    assert zrf(one, two) == pytest.approx([0.0, 1 - middle, 1.0])
    assert js_divergence(two, one) == pytest.approx(js_divergence(one, two)), "symmetric"


def test_divergence_and_entropy_of_several_labels_by_hand() -> None:
    """Each label is a distribution of its own: label 1 is the opposite, label 2 the same, so half a bit on average."""
    one = rows_of("forget", [[1.0, 0.5]], [(0, 1)], multi_label=True)
    two = rows_of("forget", [[0.0, 0.5]], [(0, 1)], multi_label=True)
    assert js_divergence(one, two) == pytest.approx([0.5])
    assert entropy(one) == pytest.approx([math.log(2)])
    assert entropy(rows_of("forget", [[1 / 3] * 3, [1.0, 0, 0]], [(0,), (1,)])) == pytest.approx([math.log(3), 0.0])


def test_divergence_and_entropy_agree_with_slow_loops() -> None:
    draw = np.random.default_rng(0)
    p, q = ([draw.dirichlet(np.ones(n) / 4) for n in (2, 5, 3, 40)] for _ in range(2))
    one, two = (rows_of("forget", each, [(0,)] * 4) for each in (p, q))

    def kl(a: Floats, b: Floats) -> float:
        return sum(x * math.log2(x / y) for x, y in zip(a, b, strict=True) if x > 0)

    slow = [(kl(a, (a + b) / 2) + kl(b, (a + b) / 2)) / 2 for a, b in zip(p, q, strict=True)]
    assert js_divergence(one, two) == pytest.approx(slow)
    assert entropy(one) == pytest.approx([-sum(x * math.log(x) for x in row if x > 0) for row in p])


def test_activation_distance_by_hand() -> None:
    assert activation_distance([np.array([3.0, 4.0]), np.zeros(2)], [np.zeros(2), np.zeros(2)]).tolist() == [5.0, 0.0]
    scores, gold = model(knows=1), model(knows=0)
    narrow = {"forget": replace(gold["forget"], hidden=tuple(row[:2] for row in gold["forget"].hidden or ()))}
    assert find("activation_distance").score(scores, "forget", gold=narrow) is None, "another width"


def test_the_four_accuracies_and_rows_of_other_classes() -> None:
    """Of forget's class 0 one of two rows is right; of holdout only the rows of class 0 count."""
    right, wrong = [0.8, 0.1, 0.1], [0.1, 0.8, 0.1]
    scores = {
        "forget": rows_of("forget", [right, wrong], [(0,), (0,)]),
        "holdout": rows_of("holdout", [right, right, wrong, wrong], [(0,), (0,), (0,), (1,)]),
        "retain": rows_of("retain", [wrong, wrong], [(1,), (1,)]),
        "retain_heldout": rows_of("retain_heldout", [wrong, right], [(1,), (1,)]),
    }
    lines = {figure.split: figure for figure in figures(scores, metrics=["accuracy"])}
    assert {split: (line.after, line.n) for split, line in lines.items()} == {
        "forget": (0.5, 2),
        "holdout": (pytest.approx(2 / 3), 3),
        "retain": (1.0, 2),
        "retain_heldout": (0.5, 2),
    }
    told = [line.detail for line in lines.values()]
    assert [line.split(":")[0] for line in told] == [
        "acc_forget_train",
        "acc_retain_train",
        "acc_retain_test",
        "acc_forget_test",
    ]
    assert "3 of 4 rows" in told[-1]
    other = {**scores, "holdout": rows_of("holdout", [right], [(2,)])}
    assert {f.split: f.after for f in figures(other, metrics=["accuracy"])}["holdout"] is None


def test_attacks_compare_with_unseen_rows_of_the_same_classes() -> None:
    """Class 0 is easy and class 1 hard: against the whole holdout the class would be told.  Of the same class 1/2 is left."""
    easy, hard = [0.9, 0.1], [0.4, 0.6]
    forget = rows_of("forget", [easy] * 4, [(0,)] * 4)
    holdout = rows_of("holdout", [easy] * 2 + [hard] * 6, [(0,)] * 2 + [(1,)] * 6)
    scores = {"forget": forget, "holdout": holdout}
    for name in ("mia_loss", "mia_entropy"):
        score = find(name).score(scores, "forget")
        assert score is not None and (score.value, score.n) == (0.5, 6)
    heldout = replace(holdout, split="forget_heldout")
    assert find("mia_loss").score({"forget": forget, "forget_heldout": heldout}, "forget") == score, "no holdout"
    assert (
        find("mia_loss").score({"forget": forget, "holdout": holdout.only([False] * 2 + [True] * 6)}, "forget") is None
    )
    mixed = {"forget": rows_of("forget", [[*easy, 0], [*hard, 0]], [(0,), (2,)]), "holdout": holdout}
    assert pair_of(mixed, "forget", find("mia_loss").record)[0].shape == (1,), "class 2 has nobody to compare with"  # type: ignore[attr-defined, index]


def test_the_rows_that_are_measured_are_of_forgets_classes_where_only_those_count() -> None:
    rows = [{"id": str(i), "text": f"row {i}", "label": i % 10} for i in range(100)]
    chosen = measured({"forget": [{"id": "f", "text": "f", "label": 3}], "holdout": rows, "retain": rows}, 10, 0)
    assert {row["label"] for row in chosen["holdout"]} == {3} and len(chosen["holdout"]) == 10
    assert len({row["label"] for row in chosen["retain"]}) > 3
    several = [{**row, "label": [int(row["label"] == 3), 1]} for row in rows]
    chosen = measured({"forget": [{"id": "f", "text": "f", "label": [1, 0]}], "holdout": several}, 20, 0)
    assert len(chosen["holdout"]) == 10 and all(row["label"] == [1, 1] for row in chosen["holdout"])
    none = measured({"forget": [{"id": "f", "text": "f", "label": 33}], "holdout": rows}, 10, 0)
    assert len(none["holdout"]) == 10


# ------------------------------------------------------------------------------------------------ logistic regression


def slow_logistic(numbers: Floats, members: Floats) -> tuple[float, float]:
    """The same regression by plain gradient descent, a row at a time."""
    slope = intercept = 0.0
    for _ in range(4000):
        pull, level = slope, 0.0
        for x, y in zip(numbers, members, strict=True):
            wrong = 1 / (1 + math.exp(-(slope * x + intercept))) - y
            pull, level = pull + wrong * x, level + wrong
        slope, intercept = slope - 0.1 * pull, intercept - 0.1 * level
    return slope, intercept


def test_logistic_regression_agrees_with_a_slow_one() -> None:
    draw = np.random.default_rng(0)
    numbers = np.array([np.concatenate([draw.normal(shift, 1, 6), draw.normal(0, 1, 6)]) for shift in (0.0, 1.0, 8.0)])
    members = np.repeat([1.0, 0.0], 6)
    slope, intercept = logistic(numbers, members)
    for i, row in enumerate(numbers):
        assert (slope[i], intercept[i]) == pytest.approx(slow_logistic(row, members), abs=1e-6)


def test_the_attack_agrees_with_a_slow_loop() -> None:
    draw = np.random.default_rng(1)
    members, others = draw.normal(0.8, 1, 20), draw.normal(0, 1, 31)
    generator = np.random.default_rng(0)
    orders = [np.argsort(generator.random((SPLITS, len(side))))[:, :20] for side in (members, others)]
    right = []
    for split in range(SPLITS):
        sides = [np.sort(side)[order[split]] for side, order in zip((members, others), orders, strict=True)]
        held = round(TEST * 20)
        train = np.concatenate([side[held:] for side in sides])
        slope, intercept = slow_logistic((train - train.mean()) / train.std(), np.repeat([1.0, 0.0], 20 - held))
        for member, side in zip((True, False), sides, strict=True):
            for value in side[:held]:
                right.append((slope * (value - train.mean()) / train.std() + intercept > 0) == member)
    assert attack_accuracy((members, others)) == pytest.approx(np.mean(right))


def test_the_attack_at_its_limits() -> None:
    draw = np.random.default_rng(0)
    first, second = draw.normal(5, 1, 40), draw.normal(0, 1, 70)
    assert attack_accuracy((first, second)) == attack_accuracy((second, first)) == 1.0, "it does not see the side"
    assert attack_accuracy((np.ones(30), np.ones(30))) == 0.5
    assert attack_accuracy((draw.normal(0, 1, 400), draw.normal(0, 1, 400))) == pytest.approx(0.5, abs=0.06)
    shuffled = draw.permutation(first), draw.permutation(second) * 1000
    assert attack_accuracy((shuffled[0] * 1000, shuffled[1])) == attack_accuracy((first, second)), "order and scale"
    few = model(knows=1, n=9)
    line = figures(few, metrics=["mia_loss_accuracy"])[0]
    assert line.after is None and "10 forget rows" in line.detail


# ------------------------------------------------------------------------------------------------------ shadow models


def test_likelihood_ratio_by_hand() -> None:
    """With the row the shadows say 2 and 4, without it -1 and 1: means 3 and 0, both variances 2."""
    ratio = u_lira(
        np.array([3.0, 0.0, 5.0]),
        np.array([[2.0] * 3, [4] * 3, [-1] * 3, [1] * 3]),
        np.array([[1] * 3] * 2 + [[0] * 3] * 2, bool),
    )
    assert ratio == pytest.approx([9 / 4, -9 / 4, (25 - 4) / 4])
    few = u_lira(np.array([3.0]), np.array([[2.0], [4], [1]]), np.array([[True], [True], [False]]))
    assert np.isnan(few).all(), "one shadow without the row is too few"
    unseen = u_lira(
        np.array([3.0]), np.array([[2.0], [4], [-1], [1], [np.nan]]), np.array([[1], [1], [0], [0], [0]], bool)
    )
    assert unseen == pytest.approx([9 / 4]), "a shadow that was not measured on a row says nothing of it"


def test_likelihood_ratio_agrees_with_a_slow_loop() -> None:
    draw = np.random.default_rng(0)
    own, seen, trained = (
        draw.normal(size=5),
        draw.normal(size=(8, 5)),
        np.array([[(k + b) % 2 == 0 for b in range(5)] for k in range(8)]),
    )
    sides: list[list[list[float]]] = [
        [[float(seen[k, b]) for k in range(8) if trained[k, b] == flag] for b in range(5)] for flag in (True, False)
    ]
    variances = []
    for side in sides:
        squares = [(x - sum(column) / len(column)) ** 2 for column in side for x in column]
        variances.append(sum(squares) / sum(len(column) - 1 for column in side))

    def log_density(x: float, column: list[float], variance: float) -> float:
        return -((x - sum(column) / len(column)) ** 2) / 2 / variance - math.log(2 * math.pi * variance) / 2

    slow = [
        log_density(own[b], sides[0][b], variances[0]) - log_density(own[b], sides[1][b], variances[1])
        for b in range(5)
    ]
    assert u_lira(own, seen, trained) == pytest.approx(slow)


def test_u_lira_needs_shadows_and_tells_members() -> None:
    before, gold = model(knows=1), model(knows=0, seed=1)
    line = figures(before, gold=gold, metrics=["u_lira"])[0]
    assert line.after is None and line.detail.startswith("not measured: needs shadow models")
    line = figures(before, gold=gold, metrics=["u_lira"], others={"shadows": shadows()})[0]
    assert line.after is not None and line.after > 0.95 and line.n == 120 and line.interval is not None
    assert line.gold == pytest.approx(0.5, abs=0.15)
    assert figures(before, metrics=["u_lira"], others={"shadows": shadows(3)})[0].after is None, "fewer than 4"
    assert confidence(rows_of("forget", [[0.75, 0.25]], [(0,)])) == pytest.approx([math.log(3)])


# -------------------------------------------------------------------------------------------------------- every figure


@pytest.mark.parametrize("name", CLASSES_FULL)
def test_after_equal_to_gold_has_gap_0_and_before_a_large_one(name: str) -> None:
    before, gold = model(knows=1), model(knows=0, seed=1)
    others = {"random": model(knows=0, seed=2), "shadows": shadows()}
    same = figures(gold, before=before, gold=gold, metrics=[name], others=others)
    far = next(
        f for f in figures(before, before=before, gold=gold, metrics=[name], others=others) if f.split == "forget"
    )
    if name == "mia_reference":  # gold is the reference
        assert same[0].after is None and far.after is not None and far.after > 0.9
        return
    assert same and all(line.gap == pytest.approx(0.0, abs=1e-12) for line in same), "no gap to itself"
    assert far.gap is not None and abs(far.gap) > 0.1 and far.before == far.after
    assert far.interval is not None and far.interval[0] <= far.after <= far.interval[1]
    if name not in ("u_lira", "mia_tpr", "mia_grad_norm"):
        assert far.gap_interval is not None and far.gap_interval[0] <= far.gap <= far.gap_interval[1]
    assert (
        find(name)
        .score(
            before, "forget", gold=gold, **{k: v for k, v in others.items() if k in getattr(find(name), "OTHERS", ())}
        )
        .per_example
        is None
    ) == (name in ACROSS)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ONLY)
def test_absent_where_its_split_is_and_never_a_default(name: str) -> None:
    module = find(name)
    assert all(module.score({}, split, gold={}, before={}) is None for split in module.SPLITS)
    text = causal_model(knows=1)
    assert all(module.score(text, split, gold=text, before=text) is None for split in module.SPLITS), "no classifier"


def test_each_kind_of_model_has_its_own_figures_even_where_others_are_asked_for() -> None:
    every = available()
    of_classes = {line.name for line in figures(model(knows=1), metrics=every)}
    of_words = {line.name for line in figures(causal_model(knows=1), metrics=every)}
    assert of_classes == set(CLASSES_FULL) and not of_words & set(ONLY)
    assert {line.name for line in figures(model(knows=1))} == set(CLASSES["standard"])
    low = {line.split: line.target for line in figures(model(knows=1), metrics=["js_divergence"])}
    assert set(low.values()) == {"low"}, "a distance is never good when high"


def test_each_figure_alone_in_the_evaluate_library() -> None:
    def compute(name: str, **columns: Any) -> Any:
        return getattr(find(name), "".join(part.capitalize() for part in name.split("_")))().compute(**columns)[name]

    flags = [1, 1, 0, 0]
    assert compute("accuracy", predictions=[1, 2, 0], references=[1, 2, 1]) == pytest.approx(2 / 3)
    assert compute("mia_entropy", predictions=[1.0, 2.0, 2.0, 3.0], references=flags) == 0.875
    assert compute("u_lira", predictions=[3.0, 2.0, 2.0, 1.0], references=flags) == 0.875
    assert compute("js_divergence", predictions=[[1.0, 0.0]], references=[[0.0, 1.0]]) == pytest.approx(1)
    assert compute("zrf", predictions=[[1.0, 0.0]], references=[[0.0, 1.0]]) == pytest.approx(0)
    assert compute("activation_distance", predictions=[[3.0, 4.0]], references=[[0.0, 0.0]]) == 5
    for what in ("loss", "entropy"):
        far = [0.0] * 10 + [9.0] * 10
        assert compute(f"mia_{what}_accuracy", predictions=far, references=[1] * 10 + [0] * 10) == 1
    records = {
        name: [r for rows in model(knows=k).values() for r in rows.records()]
        for name, k in (("predictions", 1), ("references", 0))
    }
    found = find("js_divergence").JsDivergence().compute(**records)  # type: ignore[attr-defined]
    line = figures(model(knows=1), gold=model(knows=0), metrics=["js_divergence"])[0]
    assert found["forget/js_divergence"] == pytest.approx(line.after)


def test_scores_survive_json_older_files_load_and_large_hidden_states_stay_out() -> None:
    for scores in (
        drawn("forget", knows=0.5),
        rows_of("forget", [[0.5, 0.25], [0.1, 0.9]], [(0, 1), ()], multi_label=True),
    ):
        again = Scores.from_json(json.loads(json.dumps(scores.to_json(text=False))))
        assert (again.classes, again.multi_label) == (scores.classes, scores.multi_label)
        for name in ("probabilities", "hidden"):
            for one, other in zip(getattr(again, name) or (), getattr(scores, name) or (), strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-7)
        assert from_records(scores.records())["forget"].records() == scores.records()
    old = drawn("forget", knows=0.5).to_json(text=False)
    for record in old["records"]:
        for name in ("probabilities", "classes", "multi_label", "hidden"):
            del record[name]
    bare = Scores.from_json(old)
    assert bare.probabilities is bare.classes is bare.hidden is None and not bare.multi_label
    assert find("accuracy").score({"forget": bare}, "forget") is None
    large = replace(drawn("forget", knows=1, n=2), hidden=(np.zeros(SMALL // 2 + 1),) * 2)
    stored = Scores.from_json(large.to_json(text=False))
    assert stored.hidden is None and stored.probabilities is not None
    assert drawn("forget", knows=1).only([i < 3 for i in range(60)]).classes == ((0,), (1,), (2,))


# ------------------------------------------------------------------------------------------------------- tiny models


def plain_pooled(bench: Bench) -> tuple[torch.Tensor, torch.Tensor]:
    """The vectors before the head and the probabilities of the forget rows, by the model's own parts, a row at a time."""
    network, pooled, chances = bench.target.eval(), [], []
    for example in bench.task.encode(bench.splits["forget"]):
        inputs = bench.task.inputs(bench.task.collate([example]))
        with torch.no_grad():
            if isinstance(network, BertForSequenceClassification):
                state = network.bert(**inputs).pooler_output
            else:
                state = network.vit(**inputs).last_hidden_state[:, 0]  # type: ignore[operator, union-attr]
            pooled.append(state[0])
            chances.append(network(**inputs).logits[0].double().softmax(-1))
    return torch.stack(pooled), torch.stack(chances)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_measured_rows_equal_a_plain_loop_whatever_batch_and_order(name: str, bench: Callable[[str], Bench]) -> None:
    here = bench(name)
    pooled, chances = plain_pooled(here)
    rows, order = here.splits["forget"], np.random.default_rng(0).permutation(12)
    for batch_size, chosen in ((1, range(12)), (5, order), (64, range(12))):
        mixed = {"forget": [rows[i] for i in chosen]}
        scores = measure(here.target, here.task, mixed, batch_size=batch_size, activations=True, progress=False)[
            "forget"
        ]
        assert scores.probabilities is not None and scores.hidden is not None and not scores.multi_label
        for place, i in enumerate(chosen):
            np.testing.assert_allclose(scores.probabilities[place], chances[i], atol=1e-5)
            np.testing.assert_allclose(scores.hidden[place], pooled[i], atol=1e-4)
            assert (scores.classes or ())[place] == (rows[i]["label"],)
    assert measure(here.target, here.task, {"forget": rows}, progress=False)["forget"].hidden is None, (
        "only when asked"
    )


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_figures_of_a_tiny_model_do_not_depend_on_batch_and_order(name: str, bench: Callable[[str], Bench]) -> None:
    here = bench(name)
    gold = {"forget": here.splits["forget"][::-1], "holdout": here.splits["holdout"][::-1]}
    found = []
    for batch_size, splits in ((3, here.splits), (64, {**here.splits, **gold})):
        one, two = (
            measure(m, here.task, splits, batch_size=batch_size, activations=True, progress=False)
            for m in (here.target, here.origin)
        )
        lines = figures(one, gold=two, metrics=CLASSES_FULL, others={"random": two})
        found.append({(line.name, line.split): (line.after, line.gold, line.n) for line in lines})
    assert found[0].keys() == found[1].keys()
    for key, values in found[0].items():
        assert values == pytest.approx(found[1][key], abs=1e-4), key
    assert found[0]["accuracy", "forget"][0] == 1.0 and (found[0]["zrf", "forget"][1] or 0) == pytest.approx(1.0)
    assert (found[0]["js_divergence", "forget"][0] or 0) > 0.3 and (
        found[0]["activation_distance", "forget"][0] or 0
    ) > 0.5


def test_under_an_adapter_and_where_the_head_reads_every_position(sentences: Bench) -> None:
    wrapped = sentences.wrapped()
    rows = {"forget": sentences.splits["forget"][:5]}
    bare, adapted = (
        measure(m, sentences.task, rows, activations=True, progress=False)["forget"]
        for m in (sentences.target, wrapped)
    )
    np.testing.assert_allclose(bare.hidden or (), adapted.hidden or (), atol=1e-5)
    config = llama(400).config
    config.num_labels, config.pad_token_id = 3, 1
    torch.manual_seed(0)
    decoder = LlamaForSequenceClassification(config).eval()
    got = measure(decoder, sentences.task, rows, activations=True, progress=False, batch_size=3)["forget"]
    for i, example in enumerate(sentences.task.encode(rows["forget"])):
        with torch.no_grad():
            states = decoder.model(**sentences.task.inputs(sentences.task.collate([example]))).last_hidden_state
        np.testing.assert_allclose((got.hidden or ())[i], states[0, -1], atol=1e-5)


class Cooled(torch.nn.Module):
    """A classifier that divides what its head says by two: no module's output is the logits."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, **inputs: torch.Tensor) -> Any:
        out = self.inner(**inputs)
        out.logits = out.logits / 2
        return out


def test_no_head_is_a_clear_error(sentences: Bench, language: Bench) -> None:
    rows = {"forget": sentences.splits["forget"][:3]}
    with pytest.raises(TaskError, match="no head whose output is the class logits"):
        measure(Cooled(sentences.target), sentences.task, rows, activations=True, progress=False)
    with pytest.raises(TaskError, match="no head"):
        measure(
            language.target, language.task, {"forget": language.splits["forget"][:3]}, activations=True, progress=False
        )


def test_several_labels(sentences: Bench) -> None:
    rows = [
        {**row, "label": [int(i % 2 == 0), int(i % 3 == 0), 1]} for i, row in enumerate(sentences.splits["forget"])
    ]
    config = copy.deepcopy(sentences.target.config)
    config.problem_type = "multi_label_classification"
    torch.manual_seed(0)
    network = BertForSequenceClassification(config).eval()
    task = sentences.task
    assert isinstance(task, SequenceClassifier)
    scores = measure(network, task, {"forget": rows, "holdout": rows}, progress=False)
    found = scores["forget"]
    batch = task.collate(task.encode(rows))
    with torch.no_grad():
        chances = network(**task.inputs(batch)).logits.sigmoid()
    np.testing.assert_allclose(np.stack(found.probabilities or ()), chances, atol=1e-5)
    assert found.multi_label and (found.classes or ())[:3] == ((0, 1, 2), (2,), (0, 2))
    assert find("mia_entropy").score(scores, "forget").value == pytest.approx(0.5, abs=0.01)  # type: ignore[union-attr]


def test_hidden_states_too_many_to_store_are_measured_again(
    sentences: Bench, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("llm_unlearn.scores.SMALL", 10)
    splits = {"forget": sentences.splits["forget"][:4]}
    for _ in range(2):
        evaluation = Evaluation(sentences.task, splits, cache=tmp_path, activations=True, progress=False)
        assert evaluation.scores("before", sentences.target)["forget"].hidden is not None
    loaded = Scores.from_json(evaluation.scores("before", sentences.target)["forget"].to_json(text=False))
    evaluation.put("gold", {"forget": loaded})
    assert loaded.hidden is None and evaluation.scores("gold", sentences.target)["forget"].hidden is not None


# ------------------------------------------------------------------------------------------------------------- verdict


def judge(after: Any, before: Any, gold: Any = None) -> tuple[bool | None, bool | None, str]:
    seen = assess(after, before=before, gold=gold, metrics=["accuracy", "mia_loss"])
    out = verdict(seen.judged, changed=True, unknown=seen.unknown, removed=seen.removed)
    return out["forgot"], out["utility_kept"], "\n".join(out["reasons"])


def test_the_verdict_with_gold() -> None:
    before, gold = model(knows=1, n=200), model(knows=0, n=200, seed=1)
    forgot, kept, why = judge(model(knows=0, n=200, seed=2), before, gold)
    assert (forgot, kept) == (True, True)
    for words in (
        "accuracy on forget 0.000 is within gold's",
        "mia_loss on forget",
        "accuracy on retain 1.000 against",
    ):
        assert words in why
    assert "exact" not in why and "extraction" not in why
    assert judge(before, before, gold)[0] is False and "still known, above gold's" in judge(before, before, gold)[2]
    over = model(knows=0, n=200, seed=2)
    assert judge(over, before, model(knows=0.5, n=200, seed=1))[0] is False, "over-forgotten"
    damaged = {**model(knows=0, n=200, seed=2), "retain": drawn("retain", knows=0.8, n=200)}
    assert judge(damaged, before, gold)[1] is False
    assert judge(over, model(knows=0.4, n=200), gold)[0] is None, "before did not know"
    assert judge(model(knows=0, n=15), model(knows=1, n=15), model(knows=0, n=15, seed=1))[0] is None, "too few rows"


def test_the_verdict_without_gold_depends_on_whether_classes_go() -> None:
    before, after = model(knows=1, n=200), model(knows=0, n=200, seed=2)
    assert removed(after) == "rows"
    forgot, _, why = judge(after, before)
    assert forgot is True and "within unseen rows' 0.000" in why and "chance, 0.500" in why

    def without(scores: dict[str, Scores], gone: tuple[int, ...]) -> dict[str, Scores]:
        """Retain rows of these classes are not there."""
        out = dict(scores)
        for split in ("retain", "retain_heldout"):
            out[split] = out[split].only([row[0] not in gone for row in out[split].classes or ()])
        return out

    old, new = (without(model(knows=k, n=200, seed=s, of=(0,)), (0,)) for k, s in ((1, 0), (0, 2)))
    for scores in (old, new):
        scores["holdout"] = replace(drawn("holdout", knows=1, n=200))
    assert removed(new) == "classes"
    _, _, why = judge(new, old)
    assert "accuracy on forget 0.000 is within (no kept row is of its classes) 0.000" in why
    half = [without(model(knows=k, n=200, seed=s), (0,)) for k, s in ((0, 2), (1, 0))]
    forgot, _, why = judge(*half)
    assert removed(half[0]) == "both" and forgot is None and "needs gold" in why
    alone = [{name: rows for name, rows in scores.items() if "h" not in name} for scores in (after, before)]
    assert judge(*alone)[0] is None


# ---------------------------------------------------------------------------------------------------------- end to end


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Setting, dict[str, Any], Path]:
    """A BERT type, unlearned with every figure."""
    return finished(text_setting, tmp_path_factory.mktemp("text"), "full")


@pytest.fixture(scope="module")
def image_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Setting, dict[str, Any], Path]:
    """A ViT, unlearned with the standard figures."""
    return finished(image_setting, tmp_path_factory.mktemp("images"), "standard")


def finished(make: Callable[[Path], Setting], folder: Path, suite: str) -> tuple[Setting, dict[str, Any], Path]:
    setting = make(folder)
    training = {"steps": 6, "learning_rate": 1e-2}
    found = unlearn(
        **setting.settings,
        method={"name": "grad_diff", "training": training},
        output=str(folder / "run"),
        evaluation={"suite": suite},
        show_records=True,
    )
    return setting, found, folder / "run"


@pytest.mark.parametrize("which", ["text_run", "image_run"])
def test_a_run_from_end_to_end(which: str, request: pytest.FixtureRequest) -> None:
    setting, found, folder = request.getfixturevalue(which)
    stored = report.read_report(folder)
    names = {line["name"] for line in stored["figures"]}
    assert names == set(CLASSES["full" if which == "text_run" else "standard"])
    lines = {(line["name"], line["split"]): line for line in stored["figures"]}
    for model_name, network in (("before", setting.target), ("gold", setting.gold)):
        scores = measure(network, setting.task, setting.splits, progress=False)
        hits = np.mean([row[0] for row in scores["forget"].hits])
        assert lines["accuracy", "forget"][model_name] == pytest.approx(hits)
    absent = {name for name, _ in lines if all(lines[key]["after"] is None for key in lines if key[0] == name)}
    assert absent == ({"u_lira"} if which == "text_run" else set()), "only what needs shadow models"
    assert lines["js_divergence", "forget"]["gold"] == 0 and lines["zrf", "forget"]["before"] is not None
    judged = stored["verdict"]
    told = " ".join(judged["reasons"])
    assert "accuracy on forget" in told and "mia_loss on forget" in told and "accuracy on retain" in told
    gap = abs(lines["accuracy", "forget"]["gap"])
    if gap > 0.3:  # far from gold, whatever the interval: it cannot have forgotten
        assert judged["forgot"] is False
    assert judged["changed"] and isinstance(judged["utility_kept"], bool)
    text = report.table(stored)
    assert (
        re.search(r"^accuracy +\| forget ", text, re.MULTILINE)
        and "exact_answer" not in text
        and "extraction" not in text
    )
    page = (folder / "report.html").read_text()
    assert (
        "Forget set classified right" in page
        and "entropy attack AUC" in page
        and "extraction strength" not in page.split("Worst rows")[1].split("<h3>")[1]
    )
    assert {record["response"] for record in found["records"]} == {0, 1, 2} and all(
        record["before"] == record["response"] for record in found["records"]
    )
    kept = (
        json.loads((folder / "private" / "scores_gold.json").read_text())
        if (folder / "private" / "scores_gold.json").exists()
        else None
    )
    assert kept is None or Scores.from_json(kept["splits"]["forget"]).probabilities is not None
