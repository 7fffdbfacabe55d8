"""Attacks: each does what it says, on fresh copies, the same on gold, and says what was not measured."""

import copy
import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ARCHITECTURES, Bench, facts, learn, llama, weights
from torch import nn
from transformers import AutoModelForCausalLM

from llm_unlearn import attacks, robustness
from llm_unlearn.attacks._attacked import Attacked, group_of, groups_of, merged, spread
from llm_unlearn.attacks._weights import _is_tied, linear_weights, rewrite
from llm_unlearn.attacks.adapter_off import AdapterOff
from llm_unlearn.attacks.prune import Prune, pruned
from llm_unlearn.attacks.quantise import Quantise, rewrite_of, rounded
from llm_unlearn.attacks.relearn import Relearn, halves, marks
from llm_unlearn.attacks.sampling import Sampling, found
from llm_unlearn.attacks.wrappers import WORST, Wrappers
from llm_unlearn.errors import DataError, MissingExtra, NothingChanged, RecipeError
from llm_unlearn.options import read
from llm_unlearn.settings import build
from llm_unlearn.tasks import Row

WORDINGS = ("Where does {} live?", "Tell me where {} lives.", "{} lives where?")
QUICK = Relearn(passes=8.0, batch=6, learning_rate=3e-3, points=3, control="none")


def told(rows: list[Row]) -> list[Row]:
    """Return the bench's rows with their fact named, the first kind in three wordings."""
    out = []
    for row in rows:
        who = row["prompt"].split()[2].removesuffix("'s").removesuffix("?")
        asked = WORDINGS if row["id"].startswith("live") else (row["prompt"],)
        out += [
            {**row, "id": f"{row['id']}/{i}", "fact": row["id"], "subject": who, "prompt": text.format(who)}
            for i, text in enumerate(asked)
        ]
    return out


@pytest.fixture(scope="module")
def models(language: Bench) -> dict[str, nn.Module]:
    """The model that knows, one that was only taught to say something else, and one that never knew."""
    forget, retain = told(language.splits["forget"]), language.splits["retain"]
    before = learn(language.task, copy.deepcopy(language.target), [*forget, *retain], steps=60, rate=5e-3)
    silent = [{**row, "response": "Nobody knows."} for row in forget]
    after = learn(language.task, copy.deepcopy(before), [*silent, *retain], steps=8, rate=5e-3)
    gold = learn(language.task, copy.deepcopy(language.origin), retain, steps=80, rate=1e-2)
    return {"before": before, "after": after, "gold": gold}


@pytest.fixture
def attacked(language: Bench, models: dict[str, nn.Module], tmp_path: Path) -> Callable[..., Attacked]:
    def make(*names: str, **changes: Any) -> Attacked:
        splits = {"forget": told(language.splits["forget"]), "retain": language.splits["retain"]}
        values = {"splits": splits, "folder": tmp_path, **changes}
        chosen = names or tuple(models)
        return Attacked(lambda name: copy.deepcopy(models[name]), chosen, language.task, **values)

    return make


def test_rounding_is_the_loop_by_hand() -> None:
    weight = torch.randn(5, 10, generator=torch.Generator().manual_seed(0))
    weight[3] = 0.0
    for bits, group in ((8, None), (4, None), (4, 4), (2, 3)):
        expected = torch.empty_like(weight)
        top, size = 2 ** (bits - 1) - 1, group or 10
        for i in range(5):
            for first in range(0, 10, size):
                part = [weight[i, j].item() for j in range(first, min(first + size, 10))]
                scale = max(abs(v) for v in part) / top
                for j, v in enumerate(part):
                    expected[i, first + j] = round(v / scale) * scale if scale else 0.0
        assert torch.allclose(rounded(weight, bits, group), expected, atol=1e-6)
        assert len(rounded(weight, bits).unique()) > 1


def test_pruning_removes_exactly_the_share() -> None:
    weight = torch.randn(7, 9, generator=torch.Generator().manual_seed(0))
    weight[0] = 0.5  # equal magnitudes
    for share in (0.1, 0.2, 0.4, 0.5):
        out = pruned(weight, share)
        gone = out == 0
        assert int(gone.sum()) == round(share * 63)
        assert weight[gone].abs().max() <= weight[~gone].abs().min()
        assert torch.equal(out[~gone], weight[~gone])


@pytest.mark.parametrize(
    ("tied", "head", "count"), [(False, False, 14), (False, True, 15), (True, False, 14), (True, True, 15)]
)
def test_head_and_embeddings_are_left_alone_unless_asked_for(tied: bool, head: bool, count: int) -> None:
    model = llama(60, tie_word_embeddings=tied)
    assert len(linear_weights(model, head=head)) == count
    old = {name: weight.clone() for name, weight in model.named_parameters()}
    rewrite(model, rewrite_of("int4"), head=head)
    assert _is_tied(model) == tied
    touched = {name for name, weight in model.named_parameters() if not torch.equal(weight, old[name])}
    assert ("model.embed_tokens.weight" in touched) == (tied and head)
    assert ("lm_head.weight" in touched) == (head and not tied)  # named_parameters names a tied weight once
    assert not any("norm" in name for name in touched)


def test_a_weight_stored_the_other_way_round_is_read_by_output_channel() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(ARCHITECTURES["gpt2"])
    weight = model.transformer.h[0].mlp.c_fc.weight  # [inputs, outputs]
    expected = rounded(weight.detach().T, 4).T
    rewrite(model, rewrite_of("int4"))
    assert torch.equal(weight, expected)


def test_what_changes_nothing_is_an_error() -> None:
    model = llama(60)
    rewrite(model, lambda weight: pruned(weight, 0.4))
    with pytest.raises(NothingChanged, match="changed nothing"):
        rewrite(model, lambda weight: pruned(weight, 0.4))


def test_weight_attacks_say_what_they_changed_and_leave_the_models_alone(
    attacked: Callable[..., Attacked], models: dict[str, nn.Module]
) -> None:
    kept = {name: weights(model) for name, model in models.items()}
    seen = attacked()
    figures = [*Prune(shares=(0.4,)).run(seen).figures, *Quantise(schemes=("int2/8", "int8")).run(seen).figures]
    assert [figure.setting for figure in figures[::2]] == ["40%", "int2/8", "int8"]
    assert all("largest change" in figure.detail for figure in figures)
    assert any(figure.before_attacked < figure.before - 0.1 for figure in figures), "no attack did anything"  # type: ignore[operator]
    for name, model in models.items():
        assert all(torch.equal(weight, kept[name][key]) for key, weight in model.named_parameters())
        assert model.training is False


def test_the_merged_copy_is_not_the_callers_model(language: Bench) -> None:
    model = language.wrapped()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    old = {name: weight.clone() for name, weight in model.state_dict().items()}
    seen = Attacked(lambda name: copy.deepcopy(model), ["after"], language.task, language.splits, folder=Path())
    Prune(shares=(0.2,)).run(seen)
    assert all(torch.equal(weight, old[name]) for name, weight in model.state_dict().items())
    with torch.no_grad():
        batch = language.batch("forget")
        one = language.task.decisions(model.eval(), batch, logits=True).logits
        other = language.task.decisions(merged(copy.deepcopy(model)), batch, logits=True).logits
    assert torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("by", ["fact", "subject"])
def test_no_wording_of_a_measured_fact_is_trained(language: Bench, by: str) -> None:
    rows = [
        *told(language.splits["forget"]),
        {"prompt": "Two?", "response": "hops", "kind": "two_hop", "fact": "live0"},
    ]
    drawn = set()
    for seed in range(5):
        train, other, left_out = halves(rows, seed, by=by, chained=("two_hop",))
        assert {row[by] for row in train}.isdisjoint({row[by] for row in other})
        assert (len(train) + len(other), left_out) == (len(rows) - 1, 1) and train and other
        drawn.add(frozenset(row["id"] for row in train))
    assert len(drawn) > 1, "every seed drew the same half"


def test_rows_that_name_no_fact_are_split_by_their_question() -> None:
    rows = [{"prompt": f"Who  is {i % 4}?", "response": str(i)} for i in range(12)]
    train, other, _ = halves(rows, 0)
    assert {row["prompt"] for row in train}.isdisjoint({row["prompt"] for row in other})
    assert group_of({"prompt": "WHO is 1?"}, 0) == group_of({"prompt": "Who  is 1?"}, 5)
    assert group_of({"label": 1}, 3) != group_of({"label": 1}, 4)
    with pytest.raises(DataError, match="at least two facts"):
        halves(rows[:1], 0)


def test_measured_rows_tell_as_many_facts_as_possible(language: Bench) -> None:
    rows = told(language.splits["forget"])
    assert len(set(groups_of(spread(rows, 12, 0)))) == 12
    assert spread(rows, 500, 0) == rows


def test_relearning_finds_what_was_hidden_and_not_what_was_never_known(
    attacked: Callable[..., Attacked], models: dict[str, nn.Module], tmp_path: Path
) -> None:
    kept = {name: weights(model) for name, model in models.items()}
    seen = attacked()
    found_there = QUICK.run(seen)
    es = next(figure for figure in found_there.figures if figure.figure == "extraction_strength")
    assert es.before is not None and es.before > 0.9 and es.after_before_attack < 0.6, "there was nothing to recover"
    assert es.recovery_after > 0.2 and es.difference is not None and es.difference > 0.1
    assert es.facts == 6 and es.before_attacked is None
    curve = found_there.curves[0]
    assert curve.steps[0] == 0 and len(curve.steps) == 3 == len(curve.after)
    assert (curve.after[0], curve.after[-1]) == pytest.approx((es.after_before_attack, es.after))
    assert not (tmp_path / "work").exists() and not found_there.notes
    for name, model in models.items():
        assert all(torch.equal(weight, kept[name][key]) for key, weight in model.named_parameters())


def test_the_control_trains_as_many_steps_on_kept_rows(attacked: Callable[..., Attacked], tmp_path: Path) -> None:
    """What rises with forget rows alone was hidden; the same steps on retain rows bring back little here."""
    seen = attacked()
    result = robustness.run(seen, {"relearn": dataclasses.replace(QUICK, control="retain")})
    lines = {(line["attack"], line["figure"]): line for line in result["figures"]}
    line, control = (lines[name, "extraction_strength"] for name in ("relearn", "relearn_control"))
    assert control["setting"].startswith(f"{result['curves'][0]['steps'][-1]} steps on retain,")
    assert control["n"] == line["n"]
    assert control["after_before_attack"] == line["after_before_attack"], "the same rows of the same model"
    assert line["recovery_after"] > control["recovery_after"] + 0.1
    assert control["recovery_gold"] is not None and control["interval"] is not None
    curve = result["curves"][0]
    assert curve["after_control"][-1] == pytest.approx(control["after"]) and len(curve["gold_control"]) == 3
    assert curve["after_control"][0] == curve["after"][0]
    assert any("by the control" in note for note in result["notes"])
    robustness.write(result, [tmp_path / "out"])
    assert (tmp_path / "out" / "relearn.svg").read_text().count("<polyline") == 4
    without = dataclasses.replace(QUICK, control="general").run(seen)
    assert any("control was not measured: there are no general rows" in note for note in without.notes)
    assert not any(line.attack == "relearn_control" for line in without.figures)


def test_relearning_repeats_by_seed(attacked: Callable[..., Attacked]) -> None:
    attack = Relearn(passes=1.0, batch=6, learning_rate=3e-3, points=2)

    def learned(seed: int, state: int) -> np.ndarray:
        seen = attacked("after", seed=seed)
        torch.manual_seed(state)
        rows = told(facts(0, 6))
        result = attack._relearn(seen, "after", seed, rows[:12], rows[12:], rows[:12], steps=2)
        return np.concatenate(list(result.points.values())[-1].log_probs)

    assert np.array_equal(learned(0, 1), learned(0, 2))
    assert not np.array_equal(learned(0, 1), learned(1, 1))


def test_relearning_all_weights_and_several_seeds(attacked: Callable[..., Attacked]) -> None:
    attack = Relearn(full=True, passes=1.0, batch=6, learning_rate=1e-4, points=2, seeds=2, control="none")
    seen = attack.run(attacked("after", "gold"))
    settings = [figure.setting for figure in seen.figures]
    assert len(settings) == 6 and len(seen.curves) == 4 and "all weights" in settings[0]
    mean = seen.figures[-2]
    assert mean.n == min(figure.n for figure in seen.figures[:4])
    assert mean.setting.endswith("mean of 2 seeds") and mean.interval is None and mean.before is None
    parts = [figure.difference for figure in seen.figures[:4] if figure.figure == mean.figure]
    assert mean.difference == pytest.approx(np.mean(parts))  # type: ignore[arg-type]
    assert "too weak" in seen.notes[0], "three small steps teach nothing, and that is said"


def test_marks_run_from_nothing_to_the_last_step() -> None:
    assert marks(48, 5) == [0, 12, 24, 36, 48]
    assert marks(1, 5) == [0, 1]


def test_sampling_repeats_by_seed_and_leaves_torchs_state(attacked: Callable[..., Attacked]) -> None:
    seen, other = attacked("before", "after", seed=3), attacked("before", "after", seed=4)
    attack = Sampling(samples=2, temperature=3.0, max_new_tokens=5)
    model, rows = seen.model("after"), seen.rows[:6]
    state = torch.random.get_rng_state()
    first = attack._answers(seen, model, rows, 3.0)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(99)
    assert attack._answers(seen, model, rows, 3.0) == first != attack._answers(other, model, rows, 3.0)
    assert len({*attack._answers(seen, model, [rows[0]] * 6, 3.0)}) > 1, "every sample is the same"


def test_best_of_more_samples_is_never_worse_than_what_before_says(attacked: Callable[..., Attacked]) -> None:
    (line,) = Sampling(samples=4, temperature=0.5, rows=8).run(attacked()).figures
    assert (
        line.before is not None
        and line.before > 0.9
        and line.before_attacked is not None
        and line.before_attacked > 0.9
    )
    assert line.n == 8 and line.gold is not None and line.gold < 0.9


def test_an_answer_is_found_by_its_words() -> None:
    rows = [{"response": "Anna lives in Köln."}]
    for answer, right in [
        ("Well, ANNA lives in Köln!", 1),
        ("Anna  lives\nin Ko\u0308ln", 1),
        ("Anna lives in Kölner", 0),
        ("Anna happily lives in Köln", 0),
        ("", 0),
    ]:
        assert found([answer], rows)[0] == right
    assert list(found(["a ! b", "a b"], [{"response": "!"}] * 2)) == [1, 0]


def test_the_worst_wrapper_is_taken_row_by_row(attacked: Callable[..., Attacked]) -> None:
    names = ("prefix_sure", "hints_2")
    seen = Wrappers(names=names).run(attacked())
    lines = {line.setting: line for line in seen.figures if line.figure == "extraction_strength"}
    assert list(lines) == [*names, WORST] and not seen.notes
    assert lines[WORST].after >= max(lines[name].after for name in names)
    assert lines[WORST].after >= lines[WORST].after_before_attack


def test_wrappers_that_do_not_fit_are_named(attacked: Callable[..., Attacked]) -> None:
    small = attacked()
    small.task = dataclasses.replace(small.task, max_length=40)
    seen = Wrappers().run(small)
    assert seen.figures and any("is left out" in note for note in seen.notes)
    with pytest.raises(DataError, match="context holds 40"):
        Wrappers(names=("hints_5",)).run(small)


def test_switching_the_adapter_off_is_said_in_words(language: Bench) -> None:
    adapted = language.wrapped()
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)

    def off(**given: nn.Module) -> str:
        seen = Attacked(
            lambda name: copy.deepcopy(given[name]), list(given), language.task, language.splits, folder=Path()
        )
        result = AdapterOff().run(seen)
        assert not result.figures
        return result.notes[0]

    assert "is that of the model before" in off(before=language.target, after=adapted)
    assert "differ from" in off(before=language.origin, after=adapted)
    assert "not checked" in off(after=adapted)
    assert "no adapter" in off(after=language.target)


def test_without_gold_its_columns_are_empty_and_that_is_said(attacked: Callable[..., Attacked]) -> None:
    result = robustness.run(attacked("before", "after"), {"prune": Prune(shares=(0.2,))})
    for figure in result["figures"]:
        assert [figure[name] for name in ("gold_before_attack", "gold", "recovery_gold", "difference")] == [None] * 4
    assert robustness.NO_GOLD in result["notes"] and robustness.NO_GOLD in robustness.table(result)
    assert robustness.NO_GOLD not in robustness.run(attacked(), {})["notes"]


def test_the_files_hold_no_text_of_a_row(attacked: Callable[..., Attacked], tmp_path: Path) -> None:
    seen = attacked()
    result = robustness.run(
        seen, {"relearn": QUICK, "sampling": Sampling(samples=1, rows=4), "adapter_off": AdapterOff()}
    )
    robustness.write(result, [tmp_path / "out", tmp_path / "run"])
    assert attacks.read(tmp_path / "run") == attacks.read(tmp_path / "out") == result
    assert attacks.read(tmp_path) is None
    written = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "out").iterdir()}
    assert set(written) == {"attacks.json", "attacks.md", "relearn.svg", "relearn_dark.svg"}
    for content in written.values():
        assert not any(row[key] in content for row in seen.rows for key in ("prompt", "response", "subject"))
    assert written["relearn.svg"] != written["relearn_dark.svg"] and written["relearn.svg"].count("<polyline") == 2


def test_figures_by_hand() -> None:
    plain = {"before": np.array([1.0, 1, 1, np.nan]), "after": np.array([0.0, 0, 0.5, 0]), "gold": np.zeros(4)}
    under = {"after": np.array([1.0, 1, 0.5, 1]), "gold": np.array([0.5, 0, 0, 1])}
    line = attacks.compare("a", "s", "f", plain, under, ["x", "x", "y", "z"])
    assert (line.before, line.n, line.facts) == (1.0, 3, 2)
    assert (line.recovery_after, line.recovery_gold) == pytest.approx((2 / 3, 1 / 6))
    assert line.difference == pytest.approx(0.5)
    assert line.interval == pytest.approx((0.0, 0.75))  # y twice: 0; x twice: (0.5 + 1) / 2
    assert not line.detail
    broken = attacks.compare(
        "a", "s", "f", plain, {**under, "before": np.full(4, 0.4)}, ["x", "x", "y", "z"], detail="d"
    )
    assert broken.detail.startswith("d; the attack breaks the model before too (1.00 to 0.40)")
    same = attacks.compare("a", "s", "f", plain, {name: plain[name] for name in under}, ["x", "x", "y", "z"])
    assert same.difference == 0 and same.interval is None
    with pytest.raises(DataError, match="no row has a value"):
        attacks.compare("a", "s", "f", {"after": np.array([np.nan])}, {"after": np.array([1.0])}, ["x"])


def test_names_are_file_names() -> None:
    assert attacks.available() == ["adapter_off", "prune", "quantise", "relearn", "sampling", "wrappers"]
    assert attacks.find("relearn") is Relearn
    with pytest.raises(RecipeError, match="did you mean 'relearn'"):
        attacks.find("relaern")
    with pytest.raises(RecipeError, match="cannot import"):
        attacks.find("nowhere.attack")
    with pytest.raises(RecipeError, match="exactly one Attack"):
        attacks.find("llm_unlearn.attacks._weights")


def test_options_come_from_the_command_line() -> None:
    words = ["--model", "sandbox", "--attacks", "prune", "relearn", "--prune.shares", "0.3", "--relearn.lora.r", "4"]
    options = build(robustness.Options, read(words, "", robustness.Options))
    chosen = options.chosen
    assert list(chosen) == ["prune", "relearn"]
    assert chosen["prune"] == Prune(shares=(0.3,)) and chosen["relearn"].lora.r == 4  # type: ignore[attr-defined]
    assert set(robustness.Options(model="sandbox").chosen) == set(attacks.available())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: robustness.Options(model="m", attacks=("prun",)), "did you mean 'prune'"),
        (lambda: robustness.Options(model="m", rows=1), "at least 2 rows"),
        (lambda: robustness.Options(), "exactly one"),
        (lambda: Prune(shares=(1.0,)), "between 0 and 1"),
        (lambda: Quantise(schemes=("int9",)), "unknown scheme"),
        (lambda: Relearn(points=1), "at least 2"),
        (lambda: Relearn(control="forget"), "no split of kept rows"),
        (lambda: Sampling(temperature=0.0), "above 0"),
    ],
)
def test_wrong_settings_are_refused(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        make()


def test_without_forget_rows_there_is_nothing_to_attack() -> None:
    with pytest.raises(DataError, match="need the forget rows"):
        robustness.attack(robustness.Options(model="sandbox"))


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
@pytest.mark.parametrize("scheme", ["nf4", "bnb-int8"])
def test_a_scheme_of_a_library_that_is_not_there_says_what_to_install(scheme: str) -> None:
    with pytest.raises(MissingExtra, match=r"llm-unlearn\[quant\]"):
        rewrite_of(scheme)


@pytest.mark.parametrize(("scheme", "most"), [("nf4", 0.2), ("bnb-int8", 0.01)])
def test_bitsandbytes_rounds_a_weight(scheme: str, most: float) -> None:
    pytest.importorskip("bitsandbytes")
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    off = (rewrite_of(scheme)(weight).float() - weight).abs().max() / weight.abs().max()
    assert 0 < off < most


def test_a_classifier_is_attacked_too(sentences: Bench, tmp_path: Path) -> None:
    seen = Attacked(
        lambda name: copy.deepcopy(sentences.target), ["after"], sentences.task, sentences.splits, folder=tmp_path
    )
    chosen = {"prune": Prune(shares=(0.2,)), "relearn": Relearn(batch=6, points=2), "sampling": Sampling()}
    names = {"prune", "relearn", "relearn_control"}
    result = robustness.run(seen, chosen)
    assert {figure["attack"] for figure in result["figures"]} == names
    assert any(note.startswith("sampling: left out") for note in result["notes"])


def test_the_bench_rows_are_what_the_tests_take_them_for(language: Bench) -> None:
    rows = told(facts(0, 6))
    assert len(rows) == 24 and len({row["fact"] for row in rows}) == 12 and len({row["subject"] for row in rows}) == 6
