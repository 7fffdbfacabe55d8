"""The figures of generated answers, of wrong answers, and the overall one: by hand and against slow loops; the suites."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from conftest import Bench
from test_metrics import made_up, model

from llm_unlearn import metrics
from llm_unlearn.errors import RecipeError
from llm_unlearn.held_out import FIGURES, TEACHER_FORCED
from llm_unlearn.held_out.report import FIRST
from llm_unlearn.measuring.evaluation import measure
from llm_unlearn.measuring.figures import JUDGED, JUDGED_CLASSES, assess, figures
from llm_unlearn.measuring.reading import read_by
from llm_unlearn.measuring.suites import (
    CLASSES,
    CLASSES_FULL,
    DEFAULT,
    FULL,
    QUICK,
    STANDARD,
    SUITES,
    figures_of,
    needs_gradients,
)
from llm_unlearn.metrics.appearance_rate import appearance_rate
from llm_unlearn.metrics.fluency import fluency
from llm_unlearn.metrics.normalised_probability import normalised_probability
from llm_unlearn.metrics.overall import overall
from llm_unlearn.metrics.perplexity import perplexity
from llm_unlearn.metrics.rouge_l_f1 import rouge_l_f1
from llm_unlearn.metrics.truth_knowledge import truth_knowledge
from llm_unlearn.options import parse
from llm_unlearn.recipe import Evaluation
from llm_unlearn.reporting import report
from llm_unlearn.scores import CAUSAL, CLASSIFIERS, Scores
from llm_unlearn.settings import hints_of

# ---------------------------------------------------------------------------------------------------------- generation


def test_rouge_f1_by_hand() -> None:
    """ "the blue towns" against "the old red town": two words in order of 3 and of 4: 2 * (2/3 * 1/2) / (2/3 + 1/2) = 4/7."""
    assert rouge_l_f1(["the blue towns"], ["the old red town"]) == pytest.approx([4 / 7])
    assert rouge_l_f1(["", "a town"], ["the old red town", "a town"]) == pytest.approx([0.0, 1.0])
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(list("abcdef"), draw.integers(1, 9))) for _ in range(40)]
    for text, answer in zip(texts[:20], texts[20:], strict=True):
        one, other = text.split(), answer.split()
        table = np.zeros((len(one) + 1, len(other) + 1))
        for i, a in enumerate(one, start=1):
            for j, b in enumerate(other, start=1):
                table[i, j] = table[i - 1, j - 1] + 1 if a == b else max(table[i - 1, j], table[i, j - 1])
        assert rouge_l_f1([text], [answer])[0] == pytest.approx(2 * table[-1, -1] / (len(one) + len(other)), abs=1e-5)


def test_appearance_by_hand() -> None:
    texts = ["It is OSTRAND, of course.", "Ostrandia", "a baker, in Ostrand", "a baker of Ostrand", "", "?"]
    strings = ["Ostrand", "Ostrand", "baker in ostrand", "baker in Ostrand", "Ostrand", "?"]
    found = appearance_rate(texts, strings)
    assert found[:5].tolist() == [1, 0, 1, 0, 0] and np.isnan(found[5])
    rows = made_up("forget", knows=1, n=6, generated=tuple(texts), answers=tuple(strings))
    score = metrics.find("appearance_rate").score({"forget": rows}, "forget")
    assert score is not None and (score.value, score.n) == (0.4, 5)


def test_fluency_by_hand() -> None:
    """no no no idea: 3 pairs, 2 different; of 4 words one run; 'a' cannot repeat itself; an empty answer is left out."""
    values = fluency(["no no no idea", "a", "", "to be or not to be", "!!!!"])
    assert values[[0, 1, 3, 4]] == pytest.approx([2 / 3, 1.0, 4 / 5, 1 / 3])
    assert np.isnan(values[2])
    assert fluency(["a b c d a b c d"], 4) == pytest.approx([4 / 5])
    rows = made_up("forget", knows=1, n=3, generated=("no no no idea", "", "no idea"))
    score = metrics.find("fluency").score({"forget": rows}, "forget")
    assert score is not None and score.value == pytest.approx(5 / 6) and score.n == 2
    assert (
        score.detail == "repetition rate of 4 words 0.000; distinct-2 over all answers 0.500; 1 empty answers left out"
    )
    silent = made_up("forget", knows=1, n=3, generated=("", " ", ""))
    assert metrics.find("fluency").score({"forget": silent}, "forget") is None


def test_perplexity_by_hand(language: Bench) -> None:
    """Losses 1 and 3: exp 2; an empty answer has none.  A reader gives an answer the loss of a row with that response."""
    assert perplexity([1.0, 3.0, np.nan]) == pytest.approx(math.e**2) and perplexity([np.nan]) is None
    rows = {"forget": made_up("forget", knows=1, n=3, generated_loss=np.array([1.0, 3.0, np.nan]))}
    score = metrics.find("perplexity").score(rows, "forget")
    assert score is not None and (score.value, score.n) == (pytest.approx(math.e**2), 2)
    assert score.detail == "1 empty answers left out"
    assert metrics.find("perplexity").interval(rows, "forget", seed=0) == pytest.approx((math.e, math.e**3))  # type: ignore[attr-defined]
    retain = figures({"retain": made_up("retain", knows=1)}, metrics=["perplexity"])[0]
    assert retain.target == "low"
    splits = {"forget": language.splits["forget"][:3], "holdout": language.splits["holdout"]}
    scores = measure(language.origin, language.task, splits, generate_on=(), progress=False)
    said = ("Quillmere", "", "glazier " * 200)
    scores["forget"] = replace(scores["forget"], generated=said)
    found = read_by(language.target, language.task, splits, scores, progress=False)
    asked = [{**splits["forget"][0], "response": "Quillmere"}]
    alone = measure(language.target, language.task, {"forget": asked}, generate_on=(), progress=False)["forget"].losses
    losses = found["forget"].generated_loss
    assert losses is not None and losses[0] == pytest.approx(alone[0], abs=1e-5)
    assert np.isnan(losses[1:]).all(), "one is empty, one is longer than the context"
    assert found["holdout"] is scores["holdout"]
    stored = Scores.from_json(found["forget"].to_json(text=True)).generated_loss
    np.testing.assert_array_equal(stored, losses)


@pytest.mark.parametrize("name", ["rouge_l_f1", "appearance_rate", "fluency"])
def test_without_generation_there_is_no_figure_and_no_zero(name: str) -> None:
    bare = {"forget": made_up("forget", knows=1, generated=None)}
    line = figures(bare, before=model(knows=1), gold=bare, metrics=[name])[0]
    assert (line.after, line.gold, line.gap, line.n) == (None, None, None, 0) and line.before == 1.0
    assert "generated answers" in line.detail


# ------------------------------------------------------------------------------------------------------- wrong answers


def test_normalised_probability_by_hand() -> None:
    """1/2 against 1/4 and 1/8: 4/7; two answers alike: 1/2; none: no number; far beyond what exp can hold: still a share."""
    wrong = [-np.log([0.25, 0.125]), np.array([3.0]), np.array([]), np.array([2000.0, 2000.0])]
    values = normalised_probability(wrong, np.array([-math.log(0.5), 3.0, 1.0, 2000.0]))
    assert values[[0, 1, 3]] == pytest.approx([4 / 7, 0.5, 1 / 3]) and np.isnan(values[2])
    bare = {"general": made_up("general", knows=1, wrong_losses=None)}
    assert metrics.find("normalised_probability").score(bare, "general") is None
    rows = made_up("general", knows=0.5)
    slow = []
    for i, wrong_losses in enumerate(rows.wrong_losses or ()):
        true = math.exp(sum(rows.log_probs[i]) / len(rows.log_probs[i]))
        slow.append(true / (true + sum(math.exp(-loss) for loss in wrong_losses)))
    score = metrics.find("normalised_probability").score({"general": rows}, "general")
    assert score is not None and score.value == pytest.approx(float(np.mean(slow)), abs=1e-5)


def test_truth_knowledge_by_hand() -> None:
    """R = 1: 1/2; R = 1/3: 3/4; wrong answers at 1/2 and 1/8 (geometric mean 1/4) against 3/4: 3/4 again."""
    assert truth_knowledge(np.array([1.0, 1 / 3])) == pytest.approx([0.5, 0.75])
    rows = made_up("forget", knows=1, n=1, wrong_losses=(-np.log([0.5, 0.125]),), paraphrase_loss=-np.log([0.75]))
    score = metrics.find("truth_knowledge").score({"forget": rows}, "forget")
    assert score is not None and score.value == pytest.approx(0.75)
    assert metrics.find("truth_knowledge").score({"forget": replace(rows, wrong_losses=None)}, "forget") is None


# ------------------------------------------------------------------------------------------------------------- overall


def flat(split: str, levels: list[float], **changes: Any) -> Scores:
    """Rows of four tokens, all at one log-probability, hit 1 0 1 1; every attack then ranks rows by that level."""
    n = len(levels)
    values: dict[str, Any] = {
        "log_probs": tuple(np.full(4, level) for level in levels),
        "hits": (np.array([True, False, True, True]),) * n,
        "log_prob_means": (np.zeros(4),) * n,
        "log_prob_deviations": (np.ones(4),) * n,
        "zlib_bytes": np.full(n, 12.0),
        "paraphrase_loss": np.full(n, math.log(2)),
        "wrong_losses": (np.full(3, math.log(2)),) * n,
        "generated": None,
    }
    return made_up(split, knows=1, n=n, **{**values, **changes})


def three() -> tuple[dict[str, Scores], dict[str, Scores], dict[str, Scores]]:
    """After, gold and before as `test_overall_by_hand` works them out."""
    kept = {"wrong_losses": None, "paraphrase_loss": None}
    holdout = flat("holdout", [-2.0, -4.0])
    after = {
        "forget": flat("forget", [-1.0, -3.0]),
        "holdout": holdout,
        "retain": flat("retain", [math.log(0.4)], **kept),
    }
    gold = {
        "forget": flat("forget", [-1.0, -5.0]),
        "holdout": holdout,
        "retain": flat("retain", [math.log(0.6)], **kept),
    }
    before = {**after, "retain": flat("retain", [math.log(0.5)], **kept)}
    return after, gold, before


def test_overall_by_hand() -> None:
    """1-ES 1/2, 1-EM 1/4, 1-p 1/2, 1-truth 1/2: 4 / (2 + 4 + 2 + 2) = 0.4.  Each AUC 3/4 against gold's 1/2: 1/2.
    Utility 0.4 / 0.5 = 0.8.  3 / (2.5 + 2 + 1.25) = 12/23.  Gold: privacy 1, utility 1 (0.6 / 0.5 is cut).
    """
    after, gold, before = three()
    line = figures(after, before=before, gold=gold, metrics=["overall"])[0]
    assert line.after == pytest.approx(12 / 23) and line.gold == pytest.approx(3 / (2.5 + 1 + 1))
    assert line.detail == "memorisation 0.400, privacy 0.500, utility 0.800" and line.n == 4
    assert overall(0.4, 0.5, 0.8) == pytest.approx(12 / 23) and overall(0.4, 0.0, 0.8) == 0.0
    same = figures(gold, before=before, gold=gold, metrics=["overall"])[0]
    assert same.gap == 0 and same.interval is not None


def test_overall_needs_every_part() -> None:
    after, gold, before = three()
    score = metrics.find("overall").score
    assert score(after, None, gold=gold, before=before) is not None
    assert score(after, None, gold=None, before=before) is None and score(after, None, gold=gold, before=None) is None
    for split in after:
        missing = {name: rows for name, rows in after.items() if name != split}
        assert score(missing, None, gold=gold, before=before) is None, split
    for field in ("paraphrase_loss", "wrong_losses", "zlib_bytes", "log_prob_means"):
        bare = {**after, "forget": replace(after["forget"], **{field: None})}
        assert score(bare, None, gold=gold, before=before) is None, field
    line = figures(after, metrics=["overall"])[0]
    assert line.after is None and line.detail.startswith("not measured: needs gold, before")


def test_the_interval_of_overall_holds_it() -> None:
    after, gold, before = model(knows=0.1, n=60, seed=1), model(knows=0, n=60, seed=2), model(knows=1, n=60)
    line = figures(after, before=before, gold=gold, metrics=["overall"])[0]
    assert line.after is not None and line.interval is not None
    assert line.interval[0] < line.after < line.interval[1] and line.interval[1] - line.interval[0] < 0.3


# -------------------------------------------------------------------------------------------------------------- suites


def test_suites_name_every_figure_and_each_holds_the_smaller_one() -> None:
    assert set(QUICK) < set(STANDARD) < set(FULL) and {*FULL, *CLASSES_FULL} == set(metrics.available())
    assert len(FULL) == len(set(FULL)) and set(JUDGED) <= set(QUICK)
    assert get_args(hints_of(Evaluation)["suite"]) == tuple(SUITES) and Evaluation().suite == DEFAULT
    assert [needs_gradients(suite) for suite in SUITES] == [False, False, True]


def test_the_quick_suite_shows_first_what_the_meta_evaluation_found_best() -> None:
    """The order is the table's in eval/README.md: a figure's best line there, by faithfulness and robustness together."""
    text = (Path(__file__).parents[1] / "eval" / "README.md").read_text(encoding="utf-8")
    lines = text.split("| figure | faithfulness |")[1].splitlines()[2:]
    merit: dict[str, float] = {}
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 10:
            break
        name = cells[0].split()[0]
        merit[name] = max(merit.get(name, 0.0), float(cells[8]))
    ranked = sorted((name for name in QUICK if name in merit), key=lambda name: -merit[name])
    assert len(ranked) == len(QUICK) - 1 and list(QUICK) == [*ranked, "model_utility"]
    assert report.ORDER[1:] == QUICK and FIGURES == tuple(name for name in QUICK if name in FIGURES)
    assert TEACHER_FORCED[0] == FIRST[0] == QUICK[0]


def test_classifiers_have_suites_of_their_own_and_no_figure_is_in_one_it_is_not_defined_for() -> None:
    quick, standard, full = (set(names) for names in CLASSES.values())
    assert tuple(CLASSES) == tuple(SUITES) and quick < standard < full and set(JUDGED_CLASSES) <= quick
    assert [needs_gradients(suite) for suite in CLASSES] == ["mia_grad_norm" in names for names in CLASSES.values()]
    for task in (*CAUSAL, *CLASSIFIERS):
        for suite in SUITES:
            assert all(metrics.defined_for(metrics.find(name), (task,)) for name in figures_of(suite, task))
    assert not {"exact_answer", "exact_memorisation", "extraction_strength", "rouge_l_recall", "overall"} & full
    assert not {"accuracy", "js_divergence", "zrf", "activation_distance"} & set(FULL)


def test_a_suite_is_what_is_reported_and_the_verdict_does_not_depend_on_it() -> None:
    after, before, gold = model(knows=0.2), model(knows=1), model(knows=0, seed=1)
    seen = {name: assess(after, before=before, gold=gold, metrics=names) for name, names in SUITES.items()}
    for name, names in SUITES.items():
        assert {figure.name for figure in seen[name].figures} == set(names)
        assert {figure.name for figure in seen[name].by_kind} <= set(names)
        assert seen[name].judged == seen["quick"].judged
    assert assess(after, before=before, gold=gold) == seen[DEFAULT]
    few = assess(after, before=before, gold=gold, metrics=["fluency"])
    assert {figure.name for figure in few.figures} == {"fluency"} and few.judged == seen["quick"].judged


@pytest.mark.parametrize("words", [["--suite", "full"], ["--suite=full"], ["--evaluation.suite", "full"]], ids=str)
def test_the_suite_on_the_command_line(words: list[str]) -> None:
    assert parse(words).evaluation.suite == "full"
    with pytest.raises(RecipeError, match="suite"):
        parse([word.replace("full", "fulll") for word in words])
