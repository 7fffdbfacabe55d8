"""Every figure against values worked out by hand, and what each must do at its limits."""

import itertools
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from llm_unlearn import metrics
from llm_unlearn.errors import RecipeError
from llm_unlearn.measuring.figures import figures
from llm_unlearn.metrics import model_utility, probability, truth_ratio
from llm_unlearn.metrics._components import left_out
from llm_unlearn.metrics.exact_answer import exact_answer
from llm_unlearn.metrics.exact_memorisation import exact_memorisation
from llm_unlearn.metrics.extraction_strength import extraction_strength
from llm_unlearn.metrics.forget_quality import forget_quality, one_a_fact
from llm_unlearn.metrics.mia_loss import mia_loss
from llm_unlearn.metrics.rouge_l_recall import rouge_l_recall
from llm_unlearn.scores import CAUSAL, SPLIT_NAMES, Scores, from_records
from llm_unlearn.statistics import (
    area_under_curve,
    bootstrap_area_under_curve,
    bootstrap_interval,
    harmonic_mean,
    kolmogorov_smirnov,
)

FIGURES = [name for name in metrics.available() if metrics.defined_for(metrics.find(name), CAUSAL)]  # of a causal LM


def made_up(split: str, *, knows: float, n: int = 40, seed: int = 0, facts_of: int = 1, **changes: Any) -> Scores:
    """Return scores of a model that knows the first `knows` share of n rows (answers of 1 to 4 tokens) and no others."""
    draw = np.random.default_rng([seed, n, SPLIT_NAMES.index(split)])
    log_probs, hits = [], []
    for i in range(n):
        length = 1 + i % 4
        known = i < knows * n
        log_probs.append(np.log(draw.uniform(0.9, 1.0, length) if known else draw.uniform(0.01, 0.2, length)))
        hits.append(np.full(length, known))
    values: dict[str, Any] = {
        "ids": tuple(f"{split}-{i}" for i in range(n)),
        "kinds": ("qa",) * n,
        "facts": tuple(f"fact {i // facts_of}" for i in range(n)),
        "log_probs": tuple(log_probs),
        "hits": tuple(hits),
        "paraphrase_loss": np.array([-row.mean() for row in log_probs]) + draw.uniform(0, 0.1, n),
        "wrong_losses": tuple(draw.uniform(1.5, 4, 5) for _ in range(n)),
        "answers": tuple(f"town number {i}" for i in range(n)),
        "generated": tuple(f"town number {i}" if i < knows * n else "no no no idea" for i in range(n)),
        "zlib_bytes": draw.integers(9, 30, n).astype(float),
        "grad_norm": np.where(np.arange(n) < knows * n, 0.1, 3.0) + draw.uniform(0, 1, n),
        "generated_loss": np.where(np.arange(n) < knows * n, 0.1, 2.0) + np.arange(n) / (10 * n),
    }
    values |= changes
    moments = {  # a model's own mean is below what it says and above what it does not
        "log_prob_means": tuple(np.full(len(row), -1.0) for row in values["log_probs"]),
        "log_prob_deviations": tuple(draw.uniform(0.5, 1, len(row)) for row in values["log_probs"]),
    }
    return Scores(split=split, **{**moments, **values})


def model(*, knows: float, seed: int = 0, **changes: Any) -> dict[str, Scores]:
    """Return scores on every split; `knows` is the share known of forget and forget_heldout."""
    shares = {"forget": knows, "forget_heldout": knows, "holdout": 0.0}
    return {split: made_up(split, knows=shares.get(split, 1.0), seed=seed, **changes) for split in SPLIT_NAMES}


HITS = [
    # hits, exact answer, exact memorisation, extraction strength
    ([1, 1, 1, 1], 1.0, 1.0, 1.0),
    ([1, 0, 1, 1], 0.0, 0.75, 0.5),  # k = 2 of 4: the last miss is the second token
    ([0, 1, 1, 1], 0.0, 0.75, 0.75),  # only the first token must be given
    ([0, 0, 0, 1], 0.0, 0.25, 0.25),
    ([1, 1, 1, 0], 0.0, 0.75, 0.0),  # the last token missed: k = n; a peer that loops to n - 1 says 0.25
    ([0], 0.0, 0.0, 0.0),
    ([1], 1.0, 1.0, 1.0),
]


@pytest.mark.parametrize(("hits", "answer", "memory", "strength"), HITS)
def test_hits_by_hand(hits: list[int], answer: float, memory: float, strength: float) -> None:
    row = [np.array(hits, dtype=bool)]
    assert exact_answer(row)[0] == answer
    assert exact_memorisation(row)[0] == pytest.approx(memory)
    assert extraction_strength(row)[0] == pytest.approx(strength)


def test_rows_are_averaged_first_not_tokens() -> None:
    """Rows 1 1 1 1 and 0: 0.5 a row on average; averaged over tokens it would be 0.8."""
    rows = [np.ones(4, dtype=bool), np.zeros(1, dtype=bool)]
    assert exact_memorisation(rows).mean() == 0.5


def test_a_row_without_tokens_is_left_out_and_not_counted() -> None:
    rows = {"forget": made_up("forget", knows=1, n=3, log_probs=(np.array([-1.0]), np.array([]), np.array([-2.0])))}
    score = probability.score(rows, "forget")
    assert score is not None and score.n == 2
    assert score.value == pytest.approx((math.exp(-1) + math.exp(-2)) / 2)
    hits = (np.array([True]), np.array([], dtype=bool), np.array([False]))
    for function in (exact_answer, exact_memorisation, extraction_strength):
        assert np.isnan(function(hits)).tolist() == [False, True, False]


def test_probability_by_hand() -> None:
    """Tokens of probability 1/2 and 1/8: mean log = -2 ln 2, so 1/4."""
    assert probability.probability([np.log([0.5, 0.125])])[0] == pytest.approx(0.25)


def test_truth_ratio_by_hand() -> None:
    """Wrong answers at 1/2 and 1/8, the true one at 1/4: geometric mean 1/4, R = 1; arithmetic 5/16, R = 5/4."""
    wrong = [-np.log([0.5, 0.125])]
    true = -np.log([0.25])
    assert truth_ratio.truth_ratio(wrong, true)[0] == pytest.approx(1.0)
    assert truth_ratio.truth_ratio(wrong, true, mean="arithmetic")[0] == pytest.approx(1.25)
    with pytest.raises(ValueError, match="geometric or arithmetic|'geometric'"):
        truth_ratio.truth_ratio(wrong, true, mean="harmonic")


def test_truth_ratio_figures_by_hand() -> None:
    """R = 2, 1/2, 1: min(R, 1/R) = 1/2, 1/2, 1; max(0, 1 - R) = 0, 1/2, 0."""
    ratio = np.array([2.0, 0.5, 1.0])
    assert truth_ratio.forgotten(ratio) == pytest.approx([0.5, 0.5, 1.0])
    assert truth_ratio.retained(ratio) == pytest.approx([0.0, 0.5, 0.0])
    assert truth_ratio.forgotten(np.array([0.0, 1e300])) == pytest.approx([0.0, 0.0])


def test_truth_ratio_uses_the_answer_itself_only_where_no_row_has_a_paraphrase() -> None:
    wrong = (np.array([2.0]), np.array([3.0]))
    log_probs = (np.array([-1.0]), np.array([-1.0]))
    hits = (np.array([True]), np.array([True]))
    rows = made_up("general", knows=1, n=2, log_probs=log_probs, hits=hits, wrong_losses=wrong, paraphrase_loss=None)
    assert truth_ratio.ratios(rows) == pytest.approx([math.exp(-1), math.exp(-2)])
    some = made_up("general", knows=1, n=2, wrong_losses=wrong, paraphrase_loss=np.array([0.5, np.nan]))
    score = truth_ratio.score({"general": some}, "general")
    assert score is not None and score.n == 1 and score.value == pytest.approx(1 - math.exp(-1.5))


def test_without_wrong_answers_there_is_no_truth_ratio_and_no_zero() -> None:
    rows = {"forget": made_up("forget", knows=1, wrong_losses=None)}
    assert truth_ratio.score(rows, "forget") is None
    assert one_a_fact(rows["forget"]) is None
    line = next(figure for figure in figures(rows, before=rows, gold=rows) if figure.name == "truth_ratio")
    assert (line.before, line.after, line.gold, line.gap, line.interval, line.n) == (None, None, None, None, None, 0)
    assert "wrong answers" in line.detail


# ---------------------------------------------------------------------------------------------------------------- KS


def share_of_paths(n: int, m: int, reach: int) -> float:
    """Return, by walking every path, the share of ways to mix n and m values that part by `reach` / (n m) somewhere."""
    outside = 0
    for first in itertools.combinations(range(n + m), n):
        i = j = 0
        for step in range(n + m):
            i, j = (i + 1, j) if step in first else (i, j + 1)
            if abs(i * m - j * n) >= reach:
                outside += 1
                break
    return outside / math.comb(n + m, n)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 3), (5, 5), (2, 5), (6, 4), (4, 6)])
def test_kolmogorov_smirnov_against_every_path(n: int, m: int) -> None:
    for seed in range(8):
        draw = np.random.default_rng([n, m, seed])
        first, second = draw.normal(size=n), draw.normal(0.7, 1, size=m)
        distance, p_value = kolmogorov_smirnov(first, second)
        brute = max(abs((first <= x).mean() - (second <= x).mean()) for x in [*first, *second])
        assert distance == pytest.approx(brute)
        assert p_value == pytest.approx(share_of_paths(n, m, round(distance * n * m)))


@pytest.mark.parametrize(("n", "steps"), [(10, 6), (10, 7), (100, 20), (400, 40), (400, 300)])
def test_kolmogorov_smirnov_against_the_reflection_formula(n: int, steps: int) -> None:
    """For equal n, p = 2 sum_k (-1)^(k+1) C(2n, n - kh) / C(2n, n); n = 10, D = 0.6 is the tables' 0.0524."""
    first = np.arange(n, dtype=float)
    p_value = kolmogorov_smirnov(first, first + steps - 0.5)[1]  # the two distributions part by exactly steps / n
    expected = sum((-1) ** (k + 1) * math.comb(2 * n, n - k * steps) for k in range(1, n // steps + 1))
    assert p_value == pytest.approx(2 * expected / math.comb(2 * n, n), rel=1e-9)
    if (n, steps) == (10, 6):
        assert p_value == pytest.approx(0.0524, abs=5e-5)


def test_kolmogorov_smirnov_of_large_samples_takes_the_limit() -> None:
    """x = 1.3581 is the textbook's 5 % point of Kolmogorov's distribution."""
    n = 20_000
    shift = round(1.3581 * n / math.sqrt(n / 2))
    first = np.arange(n, dtype=float)
    assert kolmogorov_smirnov(first, first + shift - 0.5)[1] == pytest.approx(0.05, abs=1e-3)  # 136 steps: x = 1.36
    assert kolmogorov_smirnov(first, first) == (0.0, 1.0)
    with pytest.raises(ValueError, match="finite"):
        kolmogorov_smirnov(np.array([1.0, np.nan]), first)


def test_forget_quality_counts_a_fact_once() -> None:
    rows = made_up("forget", knows=0.5, n=40, facts_of=4)
    ratio = truth_ratio.ratios(rows)
    found = one_a_fact(rows)
    assert ratio is not None and found is not None
    assert found.tolist() == ratio[::4].tolist()
    without = made_up("forget", knows=0.5, n=40, facts=(None,) * 40)
    assert len(one_a_fact(without)) == 40  # type: ignore[arg-type]


def test_forget_quality_tells_the_target_from_gold() -> None:
    before, gold = model(knows=1, n=120), model(knows=0, n=120, seed=1)
    after = model(knows=0, n=120, seed=2)
    line = next(figure for figure in figures(after, before=before, gold=gold) if figure.name == "forget_quality")
    assert line.before is not None and line.before < 1e-3
    assert line.after is not None and line.after > 0.05
    assert line.gold == 1.0 and line.n == 120 and "D = 0." in line.detail and "few" not in line.detail
    assert forget_quality(np.arange(5.0), np.arange(5.0) + 9)[1] == 1.0
    few = next(f for f in figures(model(knows=0), gold=model(knows=0)) if f.name == "forget_quality")
    assert "almost everything passes" in few.detail


# --------------------------------------------------------------------------------------------------- attack, utility


def test_loss_attack_by_hand() -> None:
    """Members at loss 1 and 2, others at 2 and 3: of four pairs three are won and one is tied: 3.5 / 4."""
    assert mia_loss(np.array([1.0, 2.0]), np.array([2.0, 3.0])) == pytest.approx(0.875)
    assert mia_loss(np.array([5.0]), np.array([1.0, 2.0])) == 0.0  # over-forgotten: signed, not folded to 1
    assert mia_loss(np.array([1.0, 1.0]), np.array([1.0])) == 0.5  # ties count one half
    assert mia_loss(np.array([np.inf, 1.0]), np.array([2.0])) == 0.5  # an infinite loss ranks last


def test_area_under_curve_against_every_pair() -> None:
    draw = np.random.default_rng(3)
    members, others = draw.integers(0, 9, 37).astype(float), draw.integers(0, 9, 23).astype(float)
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in members for b in others]
    assert area_under_curve(members, others) == pytest.approx(np.mean(pairs))


def test_without_a_holdout_there_is_no_attack() -> None:
    rows = {"forget": made_up("forget", knows=1)}
    line = next(figure for figure in figures(rows) if figure.name == "mia_loss")
    assert line.after is None and "holdout" in line.detail


def test_harmonic_mean_by_hand() -> None:
    """1 and 1/3: 2 / (1 + 3) = 1/2; a component of 0 or less makes it 0."""
    assert harmonic_mean([1.0, 1 / 3]) == pytest.approx(0.5)
    assert harmonic_mean([1.0, 0.0]) == harmonic_mean([1.0, -0.1]) == 0.0


def test_model_utility_by_hand() -> None:
    """Probability 1/2 on retain, ROUGE-L recall 1, no wrong answers: 2 / (2 + 1) = 2/3, seven components not measured."""
    rows = made_up("retain", knows=1, n=2, log_probs=(np.log([0.5]), np.log([0.5])), wrong_losses=None)
    score = model_utility.score({"retain": rows}, None)
    assert score is not None and score.value == pytest.approx(2 / 3)
    assert score.detail.startswith("2 of 9 components") and "7 not measured" in score.detail
    assert model_utility.score({"forget": rows}, None) is None
    zero = made_up("retain", knows=0, generated=("nothing like it",) * 40)
    score = model_utility.score({"retain": zero}, None)
    assert score is not None and score.value == 0.0


def test_model_utility_leaves_out_what_before_has_by_chance() -> None:
    before = model(knows=1)
    draw = np.random.default_rng(0)
    clueless = made_up(
        "general",
        knows=0,
        generated=("somewhere else",) * 40,
        log_probs=tuple(-draw.uniform(1.5, 4, 1) for _ in range(40)),
        paraphrase_loss=draw.uniform(1.5, 4, 40),
    )
    before["general"] = clueless
    assert set(left_out(before)) == {f"{name} on general" for name in ("probability", "rouge_l_recall", "truth_ratio")}
    score = model_utility.score(before, None, before=before)
    assert score is not None and score.value > 0.5
    assert "6 of 9 components" in score.detail and "probability on general" in score.detail
    assert left_out(model(knows=1)) == []


def test_rouge_recall_by_hand() -> None:
    """True answer of 4 words; "the blue towns" shares "the ... town" (stemmed) in order: 2 / 4."""
    assert rouge_l_recall(["the blue towns"], ["the old red town"])[0] == pytest.approx(0.5)
    assert rouge_l_recall([""], ["the old red town"])[0] == 0.0


# ------------------------------------------------------------------------------------------------------- every figure


def test_the_folder_is_the_list() -> None:
    expected = {"exact_answer", "exact_memorisation", "extraction_strength", "forget_quality", "mia_loss"}
    assert set(metrics.available()) >= expected | {"model_utility", "probability", "rouge_l_recall", "truth_ratio"}
    with pytest.raises(RecipeError, match="did you mean 'probability'"):
        metrics.find("probabilty")
    with pytest.raises(RecipeError, match="cannot import"):
        metrics.find("no_such_package.figure")
    with pytest.raises(RecipeError, match="lacks TARGET"):
        metrics.find("llm_unlearn.statistics")
    assert metrics.find("llm_unlearn.metrics.probability") is probability


@pytest.mark.parametrize("name", FIGURES)
def test_after_equal_to_gold_has_gap_0_and_after_equal_to_before_the_full_gap(name: str) -> None:
    before, gold = model(knows=1, n=60), model(knows=0, n=60, seed=1)
    gold["general"] = made_up("general", knows=0.5, n=60)  # so that model utility differs too
    same = figures(gold, before=before, gold=gold, metrics=[name])
    full = figures(before, before=before, gold=gold, metrics=[name])
    if name == "mia_reference":  # gold is the reference: for itself there is nothing to measure, and so no gap
        assert [figure.after for figure in same] == [None] and full[0].before is not None and full[0].before > 0.9
        return
    assert same and all(figure.gap == pytest.approx(0.0, abs=1e-12) for figure in same)
    where = metrics.find(name).SPLITS if len(metrics.find(name).SPLITS) == 1 else ("forget", None)
    full = [f for f in full if f.split in where]
    assert len(full) == 1 and full[0].before is not None and full[0].gold is not None
    assert full[0].gap == pytest.approx(full[0].before - full[0].gold) and abs(full[0].gap or 0) > 0.1


@pytest.mark.parametrize("name", metrics.available())
def test_a_figure_is_absent_where_its_split_is(name: str) -> None:
    module = metrics.find(name)
    for split in module.SPLITS or (None,):
        assert module.score({}, split, gold={}, before={}) is None


@pytest.mark.parametrize("name", metrics.available())
def test_every_file_is_a_card_and_a_metric(name: str) -> None:
    module: Any = metrics.find(name)
    for heading in ("Definition", "Range", "Ideal", "Limits", "Citation"):
        assert heading in (module.__doc__ or "")
    found = getattr(module, "".join(part.capitalize() for part in name.split("_")))
    assert found.__doc__ == module.__doc__
    with pytest.raises(AttributeError):
        module.Nothing  # noqa: B018


def test_interval_by_hand() -> None:
    """0/1 rows: the mean of a resample is binomial, so the 95 % interval is near p +- 1.96 sqrt(p (1 - p) / n)."""
    values = np.array([1.0] * 60 + [0.0] * 40)
    low, high = bootstrap_interval(values) or (0.0, 0.0)
    assert low == pytest.approx(0.6 - 0.096, abs=0.012) and high == pytest.approx(0.6 + 0.096, abs=0.012)
    assert bootstrap_interval(values) == bootstrap_interval(values), "seeded"
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values)
    assert bootstrap_interval(np.array([1.0])) is None
    draw = np.random.default_rng(0)
    members, others = draw.normal(0.5, 1, 100), draw.normal(0, 1, 100)
    low, high = bootstrap_area_under_curve(members, others)
    assert low < area_under_curve(members, others) < high and 0.1 < high - low < 0.25


# ------------------------------------------------------------------------------------------------- the evaluate library


def test_importing_the_metrics_does_not_import_evaluate() -> None:
    code = "import sys, llm_unlearn.metrics as m; [m.find(n) for n in m.available()]; print('evaluate' in sys.modules, 'torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]


def test_each_metric_alone_in_the_evaluate_library() -> None:
    from llm_unlearn.metrics.exact_memorisation import ExactMemorisation
    from llm_unlearn.metrics.forget_quality import ForgetQuality
    from llm_unlearn.metrics.mia_loss import MiaLoss
    from llm_unlearn.metrics.model_utility import ModelUtility
    from llm_unlearn.metrics.rouge_l_recall import RougeLRecall
    from llm_unlearn.metrics.truth_ratio import TruthRatio

    draw = np.random.default_rng(0)
    after, gold = draw.random(50), draw.random(50)
    out = ForgetQuality().compute(predictions=after, references=gold)
    assert (out["forget_quality"], out["forget_quality_D"]) == forget_quality(after, gold)
    assert ExactMemorisation().compute(predictions=[[1, 2], [3]], references=[[1, 9], [3]]) == {
        "exact_memorisation": 0.75
    }
    assert MiaLoss().compute(predictions=[1.0, 2.0, 2.0, 3.0], references=[1, 1, 0, 0]) == {"mia_loss": 0.875}
    assert ModelUtility().compute(predictions=[1.0, 1 / 3], references=[1.0, 1.0])["model_utility"] == pytest.approx(
        0.5
    )
    assert RougeLRecall().compute(predictions=["a town"], references=["a town"]) == {"rouge_l_recall": 1.0}
    wrong = [list(-np.log([0.5, 0.125]))]
    assert TruthRatio().compute(predictions=wrong, references=[-np.log(0.25)])["truth_ratio"] == pytest.approx(1.0)


def test_all_metrics_combined_on_records_of_two_models() -> None:
    import evaluate

    after, gold = model(knows=0.25), model(knows=0, seed=1)
    records = {"predictions": [], "references": []}
    for name, scores in (("predictions", after), ("references", gold)):
        records[name] = [record for split in scores.values() for record in split.records()]
    every = [getattr(metrics.find(n), "".join(p.capitalize() for p in n.split("_")))() for n in metrics.available()]
    out = evaluate.combine(every).compute(**records)
    for figure in figures(after, gold=gold):
        one_split = len(metrics.find(figure.name).SPLITS) < 2
        key = figure.name if one_split else f"{figure.split}/{figure.name}"
        assert out[key] == pytest.approx(figure.after), key
        assert out[f"{key}_gap"] == pytest.approx(figure.gap), key


def test_scores_survive_json_and_leave_text_out_unless_asked() -> None:
    scores = made_up("forget", knows=0.5, paraphrase_loss=np.array([np.nan, *np.ones(39)]))
    again = Scores.from_json(scores.to_json(text=True))
    assert (again.ids, again.kinds, again.facts, again.answers) == (
        scores.ids,
        scores.kinds,
        scores.facts,
        scores.answers,
    )
    assert again.generated == scores.generated
    np.testing.assert_allclose(again.losses, scores.losses, atol=1e-6)
    np.testing.assert_array_equal(again.paraphrase_loss, scores.paraphrase_loss)  # type: ignore[arg-type]
    bare = scores.to_json(text=False)
    assert "town" not in repr(bare) and Scores.from_json(bare).generated is None
    assert from_records(scores.records())["forget"].ids == scores.ids
    assert scores.only([i < 3 for i in range(40)]).ids == scores.ids[:3]
