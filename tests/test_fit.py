"""The loop: what reaches an objective, what stands still while it runs, what it leaves behind, and the hazards of peers."""

import copy
import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Bench, logits, pictures, progress, weights
from peft import PeftModel
from torch import nn
from transformers import LlamaConfig, ResNetConfig, ResNetForImageClassification

from llm_unlearn import fit as fit_module
from llm_unlearn.errors import DataError, NotFinite, RecipeError
from llm_unlearn.fit import Batches, Module, Progress, Schedule, Stop, Terms, fit
from llm_unlearn.guard import check_changed, output_change, probe_logits
from llm_unlearn.head import in_eval
from llm_unlearn.lora import Lora, attach
from llm_unlearn.method import find
from llm_unlearn.methods.npo import NPO
from llm_unlearn.observe import Observer
from llm_unlearn.run import Run
from llm_unlearn.schedule import Timetable, per_device
from llm_unlearn.tasks import ImageClassifier
from llm_unlearn.train import train

SHORT = Schedule(steps=4, forget_batch=4, warmup_steps=1)


def descend(run: Run) -> fit_module.Objective:
    def terms(model: Module, batch: Batches, progress: Progress) -> Terms:
        parts = run.task.streams(model, batch)
        return {name: part.mean_nll().mean() for name, part in zip(batch, parts, strict=True)}

    return terms


# --- what an objective is given ---


def test_streams_come_together_in_one_forward_and_in_the_stated_shares(language: Bench, tmp_path: Path) -> None:
    run = language.run(tmp_path)
    seen: list[dict[str, tuple[int, int]]] = []
    forwards = []

    def terms(model: Module, batch: Batches, progress: Progress) -> Terms:
        seen.append({name: tuple(part["input_ids"].shape) for name, part in batch.items()})
        before = len(forwards)
        forget, retain = run.task.streams(model, batch)
        assert len(forwards) == before + 1
        return {"retain": retain.mean_nll().mean(), "forget": forget.mean_nll().mean()}

    run.task.decisions(run.model, language.batch("forget", 2))  # the head's own comparison, once a model
    run.model.get_base_model().model.register_forward_hook(lambda *_: forwards.append(1))
    streams = {"forget": run.rows("forget"), "retain": run.rows("retain")}
    fit(run, streams, terms, schedule=replace(SHORT, retain_per_forget=3))
    assert len(seen) == 4
    for shapes in seen:
        assert shapes["forget"][0] == 4 and shapes["retain"][0] == 12
        assert shapes["forget"][1] == shapes["retain"][1]  # padded to one length


def test_the_first_stream_is_read_in_whole_passes(language: Bench) -> None:
    examples = {"forget": language.task.encode(language.splits["forget"])}
    table = Timetable(examples, Schedule(forget_batch=4), steps=6, seed=3)
    shown = [tuple(table[i]["forget"][0]["input_ids"]) for i in range(len(table))]
    assert len(shown) == 24
    for first in (0, 12):
        assert sorted(shown[first : first + 12]) == sorted(tuple(each["input_ids"]) for each in examples["forget"])
    assert shown[:12] != shown[12:]
    assert shown == [
        tuple(Timetable(examples, Schedule(forget_batch=4), 6, 3)[i]["forget"][0]["input_ids"]) for i in range(24)
    ]
    other = Timetable(examples, Schedule(forget_batch=4), 6, 4)
    assert shown != [tuple(other[i]["forget"][0]["input_ids"]) for i in range(24)]


def test_grouping_by_length_shows_the_same_rows_as_often() -> None:
    rows = [{"input_ids": [1] * (1 + (7 * i) % 11)} for i in range(40)]
    tables = [
        Timetable({"train": rows}, Schedule(forget_batch=4, group_by_length=grouped), steps=40, seed=0)
        for grouped in (False, True)
    ]
    plain, grouped = (np.bincount(table.order["train"].reshape(-1), minlength=40) for table in tables)
    assert (plain == grouped).all() and (plain == 4).all()
    lengths = np.array([len(row["input_ids"]) for row in rows])
    spread = [np.ptp(lengths[table.order["train"].reshape(40, 4)], axis=1).mean() for table in tables]
    assert spread[1] < 0.3 * spread[0]


def test_an_empty_stream_is_an_error(language: Bench, tmp_path: Path) -> None:
    run = language.run(tmp_path)
    with pytest.raises(DataError, match="'retain' is empty"):
        fit(run, {"forget": run.rows("forget"), "retain": []}, descend(run), schedule=SHORT)


def test_a_step_holds_the_same_rows_on_any_hardware() -> None:
    assert per_device(Schedule(forget_batch=8), processes=2, accumulation=2) == 2
    with pytest.raises(RecipeError, match=r"forget_batch=6 is not divisible by 2 processes x 2"):
        per_device(Schedule(forget_batch=6), processes=2, accumulation=2)
    with pytest.raises(RecipeError, match="forget_batch=2"):
        per_device(Schedule(forget_batch=2), processes=4, accumulation=1)


def test_the_rate_warms_up_and_decays_to_the_stated_share() -> None:
    for decay in ("linear", "cosine"):
        schedule = Schedule(warmup_steps=10, decay=decay, last_rate=0.02)
        rates = [schedule.rate(step, 100) for step in range(101)]
        assert rates[0] == pytest.approx(0.1, rel=0.01) and max(rates) <= 1.0 and rates[-1] == pytest.approx(0.02)
        assert all(later < earlier for earlier, later in pairwise(rates[10:]))
    assert Schedule(decay="constant", warmup_steps=4).rate(50, 100) == 1.0


# --- what stands still ---


def test_npo_begins_at_the_reference_although_the_model_has_dropout(language: Bench, tmp_path: Path) -> None:
    """Policy and reference are the same model at step 0, so the term is (2/beta) log 2 = 13.8629 a row at beta 0.1.

    Dropout on in one of the two would show here: the peers' hazard.
    """
    model = copy.deepcopy(language.target)
    model.config.attention_dropout = 0.5
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    run = language.run(tmp_path, model=attach(model, Lora(r=4, dropout=0.3), "CAUSAL_LM"))
    seen = _first_terms(NPO(beta=0.1, training=SHORT, stop=Stop(gate=False, thermostat=False), forget_weight=1.0), run)
    assert seen["forget"] == pytest.approx(2 / 0.1 * math.log(2), abs=1e-4)
    assert seen["forget"] == pytest.approx(13.8629, abs=1e-3)
    with in_eval(run.model), pytest.raises(AssertionError):  # non-vacuity: the dropout is there
        run.model.train()
        torch.testing.assert_close(_raw(run, language), _raw(run, language))


def _raw(run: Run, bench: Bench) -> torch.Tensor:
    return run.task.decisions(run.model, bench.batch("forget")).nll()


def _first_terms(method: NPO, run: Run) -> dict[str, float]:
    first: dict[str, float] = {}
    inner = method.objective(run)

    def watched(model: Module, batch: Batches, progress: Progress) -> Terms:
        terms = inner(model, batch, progress)
        if progress.step == 0:
            first.update({name: term.item() for name, term in terms.items()})
        return terms

    streams = {"forget": run.rows("forget"), "retain": run.rows("retain")}
    fit(run, streams, watched, schedule=method.training, stop=method.stop, reference=method.reference)
    return first


@pytest.mark.parametrize("dropout", [False, True])
def test_dropout_acts_only_where_it_is_asked_for_and_an_adapters_own_always(
    language: Bench, tmp_path: Path, dropout: bool
) -> None:
    run = language.run(tmp_path, model=attach(copy.deepcopy(language.target), Lora(r=4, dropout=0.3), "CAUSAL_LM"))
    awake: dict[str, bool] = {}

    def terms(model: Module, batch: Batches, progress: Progress) -> Terms:
        awake.update({name: module.training for name, module in model.named_modules()})
        return descend(run)(model, batch, progress)

    fit(run, {"train": run.rows("retain")}, terms, schedule=SHORT, dropout=dropout)
    own = {name for name in awake if "lora_dropout.default" in name}
    assert own and all(awake[name] for name in own)
    attention = [flag for name, flag in awake.items() if name.endswith("self_attn")]
    assert attention and all(flag is dropout for flag in attention)


def test_batch_statistics_survive_unlearning_and_the_reference(tmp_path: Path) -> None:
    """Running statistics are neither switched off with an adapter nor saved with it: a moved one is a wrong reference."""
    config = ResNetConfig(
        num_channels=3, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3
    )
    torch.manual_seed(0)
    base = ResNetForImageClassification(config)
    task, splits = ImageClassifier(), {"forget": pictures(8, 1), "retain": pictures(16, 2)}
    with torch.no_grad():  # statistics of something else than a standard normal
        for _ in range(3):
            base(torch.randn(8, 3, 8, 8) * 3 + 1)
    base.eval()
    batch = task.collate(task.encode(splits["forget"]))
    expected = logits(task, base, batch)
    kept = {name: buffer.clone() for name, buffer in base.named_buffers() if "running" in name}
    assert kept
    model = attach(copy.deepcopy(base), Lora(r=4, target_modules=r".*\.convolution"))
    run = Run(model=model, task=task, splits=splits, folder=tmp_path)
    find("kl")(training=SHORT, stop=Stop(gate=False, thermostat=False)).unlearn(run)
    moved = dict(model.named_buffers())
    for name, buffer in kept.items():
        (found,) = [each for other, each in moved.items() if other.endswith(name.replace(".convolution.", "."))]
        torch.testing.assert_close(found, buffer, rtol=0, atol=0)
    assert not torch.allclose(logits(task, model, batch), expected, atol=1e-4)
    with model.disable_adapter():
        torch.testing.assert_close(logits(task, model, batch), expected, rtol=0, atol=1e-6)


def test_looking_at_a_model_in_eval_mode_leaves_each_module_as_it_was(language: Bench) -> None:
    model = copy.deepcopy(language.target).train()
    layer = model.model.layers[0].eval()
    with in_eval(model):
        assert not any(module.training for module in model.modules())
    assert model.training and model.model.layers[1].training
    assert not any(module.training for module in layer.modules())


def test_the_trainer_leaves_the_models_settings_alone(language: Bench, tmp_path: Path) -> None:
    run = language.run(tmp_path)
    assert run.model.config.use_cache is True
    fit(run, {"train": run.rows("retain")}, descend(run), schedule=SHORT)
    assert run.model.config.use_cache is True  # a saved model would generate without its cache


# --- accumulation and scale ---


def test_the_gradient_has_the_scale_of_the_mean_loss_under_accumulation(language: Bench, tmp_path: Path) -> None:
    """transformers 5 multiplies by the accumulation steps where it believes the loss was normalised already."""
    moved = []
    for pieces in (1, 4):
        run = language.run(tmp_path / str(pieces), trainer={"gradient_accumulation_steps": pieces, "optim": "sgd"})
        before = weights(run.model)
        one = Schedule(steps=1, forget_batch=8, learning_rate=1.0, warmup_steps=0, max_grad_norm=1e9)
        fit(run, {"train": run.rows("holdout")}, descend(run), schedule=one)
        moved.append({name: weight - before[name] for name, weight in weights(run.model).items()})
    assert max(change.abs().max() for change in moved[0].values()) > 1e-4
    for name, change in moved[0].items():
        torch.testing.assert_close(moved[1][name], change, rtol=1e-4, atol=1e-6)


def test_nobody_pays_for_the_mean_of_a_step_who_does_not_ask(language: Bench, tmp_path: Path) -> None:
    counts = {}
    for name in ("npo", "nabla_tau"):
        run = language.run(tmp_path / name, trainer={"gradient_accumulation_steps": 2})
        run.task.decisions(run.model, language.batch("forget", 2))
        count: list[int] = []
        run.model.get_base_model().model.register_forward_hook(lambda *_, count=count: count.append(1))
        method = find(name)
        schedule = replace(SHORT, retain_per_forget=1)
        method(training=schedule, stop=Stop(gate=False, thermostat=False, every=100)).unlearn(run)
        counts[name] = len(count)
    assert counts["npo"] <= 2 * 4 + 10  # two micro-batches a step, the column of references, the first and last probe
    assert counts["nabla_tau"] >= 2 * counts["npo"] - 12


# --- errors and the guard ---


def test_a_loss_that_is_not_finite_names_its_term_and_step(language: Bench, tmp_path: Path) -> None:
    run = language.run(tmp_path)

    def terms(model: Module, batch: Batches, progress: Progress) -> Terms:
        out = descend(run)(model, batch, progress)
        return {**out, "odd": out["train"] * (float("nan") if progress.step == 2 else 0.0)}

    with pytest.raises(NotFinite, match=r"not finite at step 2 \(term odd\).*learning_rate"):
        fit(run, {"train": run.rows("retain")}, terms, schedule=SHORT)
    assert not (tmp_path / "fit" / "done.json").exists()


@pytest.mark.parametrize("fault", ["no rate", "B frozen"])
def test_the_guard_sees_runs_that_change_nothing(language: Bench, tmp_path: Path, fault: str) -> None:
    """Weight decay alone moves lora_A while B is 0: weights change, outputs do not."""
    run = language.run(tmp_path)
    if fault == "B frozen":
        for name, parameter in run.model.named_parameters():
            if "lora_B" in name:
                parameter.requires_grad_(False)
    examples = run.task.encode(run.rows("forget"))
    before, start = probe_logits(run.model, run.task, examples), weights(run.model)
    rate = 0.0 if fault == "no rate" else 0.1
    NPO(training=replace(SHORT, learning_rate=rate, weight_decay=0.1)).unlearn(run)
    if fault == "B frozen":
        assert all("lora_B" not in name for name in weights(run.model))  # also after the reference was consulted
        assert any(not torch.equal(weight, start[name]) for name, weight in weights(run.model).items())
    change = output_change(before, probe_logits(run.model, run.task, examples))
    with pytest.raises(ValueError, match="changed nothing"):
        check_changed(change, knew=True)
    assert check_changed(change, knew=False) is False


# --- gate, thermostat, roll-back, history ---


def test_the_gate_counts_known_rows_only(language: Bench) -> None:
    rows = language.task.decisions(language.target, language.batch("forget"))
    losses = rows.loss().detach()
    level = losses.sort().values[5:7].mean().item()
    values = torch.arange(12.0) + 1
    switch = progress(stop=Stop(thermostat=False, fade=0.0), state={"level": level})
    assert switch.gated(values, rows).item() == pytest.approx((values * (losses < level)).mean().item())
    fading = progress(stop=Stop(thermostat=False, fade=0.5), state={"level": level})
    share = ((level - losses) / (0.5 * level)).clamp(0, 1)
    assert fading.gated(values, rows).item() == pytest.approx((values * share).mean().item())
    assert progress(stop=Stop(gate=False), state={"level": level}).gated(values, rows).item() == pytest.approx(6.5)
    assert progress(stop=Stop(gate=False), state={"on": False}).gated(values, rows).item() == 0.0
    assert progress(stop=Stop(gate=False), state={"on": 0.25}).gated(values, rows).item() == pytest.approx(6.5 / 4)
    assert progress(stop=None).gated(values, rows).item() == pytest.approx(6.5)


def test_ceilings_are_what_labels_cost_in_rows_never_seen(language: Bench, tmp_path: Path) -> None:
    run = language.run(tmp_path)
    NPO(training=replace(SHORT, steps=1), forget_weight=1.0).unlearn(run)
    ceilings = json.loads((tmp_path / "fit" / "done.json").read_text())["ceilings"]
    unseen, kept = (language.task.encode(language.splits[name]) for name in ("holdout", "retain"))
    language.task.settle(unseen, kept)
    found = language.task.decisions(language.target, language.task.collate(unseen))
    assert found.told is not None and found.told.any() and not found.told.all()
    losses: dict[str, list[float]] = {}
    for label, loss, told in zip(found.labels.tolist(), found.nll().tolist(), found.told.tolist(), strict=True):
        if not told:
            losses.setdefault(str(label), []).append(loss)
    assert set(ceilings) == {"", *losses}
    label = max(losses, key=lambda name: len(losses[name]))
    assert ceilings[label] == pytest.approx(min(float(torch.tensor(losses[label]).median()), ceilings[""]), rel=1e-3)
    assert max(ceilings.values()) == ceilings[""] > math.log(2)


def test_what_a_label_costs_in_rows_never_seen_is_not_pushed_further(language: Bench) -> None:
    rows = language.task.decisions(language.target, language.batch("forget"))
    state = {"ceilings": {"": 5.0, str(int(rows.labels[0])): 0.001}, "level": 9.0}
    known = rows.nll().detach() + 2.0
    higher = replace(rows, losses=known, told=None)
    limit = torch.where(rows.labels == rows.labels[0], 0.001, 5.0)
    torch.testing.assert_close(progress(stop=Stop(), state=state).pushed(higher).nll(), torch.minimum(known, limit))
    assert progress(stop=Stop(gate=False), state=state).pushed(higher) is higher  # the paper's own form
    assert progress(stop=Stop(), state={}).pushed(higher) is higher  # no holdout, no ceiling


def test_the_thermostat_switches_the_forget_terms_off_and_on(language: Bench, tmp_path: Path) -> None:
    run = language.run(tmp_path)
    schedule = Schedule(steps=60, forget_batch=4, warmup_steps=2, learning_rate=1e-2)
    NPO(training=schedule, stop=Stop(gate=False, every=2), forget_weight=1.0).unlearn(run)
    history = json.loads((tmp_path / "fit" / "history.json").read_text())
    watched = [entry for entry in history if "forget_loss" in entry]
    off = [i for i, entry in enumerate(watched) if not entry["on"]]
    assert off, "the thermostat never had to act: the test is vacuous"
    for i in off[:-1]:
        assert watched[i + 1]["forget"] == 0.0  # the term's mean over the steps up to the next probe
    assert watched[0]["step"] == 0 and watched[0]["forget_loss"] < 0.1 and watched[0]["on"]
    assert watched[off[0]]["forget_loss"] > 1.0  # by then it was forgotten
    assert {"step", "forget_loss", "holdout_loss", "on", "forget", "retain"} <= set(history[-1])
    assert "retain_loss" in history[-1]


def test_the_thermostat_compares_words_by_loss_and_classes_by_surprise() -> None:
    """Unseen rows: loss 4, surprise 2.  Words at 3.9 of 4 are 2.5 % short; a class's at surprise 1.5 of 2, 25 %."""

    def left(by_loss: bool, loss: float, surprise: float, **state: Any) -> tuple[float, float]:
        now = SimpleNamespace(
            progress=SimpleNamespace(state={"by_loss": by_loss, "level": 8.0, "unseen_first": 4.0, **state})
        )
        return Observer._left(now, loss, surprise, Stop(fade=0.3, near=0.05))  # type: ignore[arg-type]

    assert left(True, 3.9, 2.0, unseen=[4.0, 2.0]) == pytest.approx((0.025, 0.05))
    assert left(True, 7.0, 1.0, unseen=[4.0, 2.0])[0] < 0  # overshot rows hide behind no cap
    assert left(True, 6.0, 2.0, unseen=[9.0, 2.0]) == pytest.approx(
        (0.0, 0.05)
    )  # unseen rows were ruined too: 1.5 x 4
    assert left(False, 7.0, 1.5, unseen=[4.0, 2.0]) == pytest.approx((0.25, 0.3))
    assert left(False, 7.0, 6.0)[0] == pytest.approx(0.25)  # no holdout: the level


def test_without_a_holdout_the_level_is_retain_and_a_margin(language: Bench, tmp_path: Path) -> None:
    splits = {name: rows for name, rows in language.splits.items() if name != "holdout"}
    run = language.run(tmp_path, splits=splits)
    NPO(training=SHORT, stop=Stop(margin=0.75)).unlearn(run)
    done = json.loads((tmp_path / "fit" / "done.json").read_text())
    assert done["level"] == pytest.approx(done["retain"] + 0.75, abs=0.02)  # surprise there, loss here


def test_a_fit_that_ruins_retain_returns_to_its_best_step(language: Bench, tmp_path: Path) -> None:
    run = language.run(tmp_path)

    def terms(model: Module, batch: Batches, progress: Progress) -> Terms:
        forget, retain = run.task.streams(model, batch)
        late = progress.step >= 8
        return {"forget": 0.0 * forget.mean_nll().mean(), "retain": (-1.0 if late else 1.0) * retain.mean_nll().mean()}

    streams = {"forget": run.rows("forget"), "retain": run.rows("retain")}
    schedule = Schedule(steps=24, forget_batch=4, warmup_steps=0, learning_rate=2e-2)
    fit(run, streams, terms, schedule=schedule, stop=Stop(every=1, gate=False, thermostat=False, tolerance=0.2))
    done = json.loads((tmp_path / "fit" / "done.json").read_text())
    history = json.loads((tmp_path / "fit" / "history.json").read_text())
    assert history[-1]["retain_loss"] > done["retain"] + 1.0  # it was ruined
    assert done["rolled_back"] == done["best"]["step"] <= 12
    assert language.loss(run.model, "retain") <= done["retain"] + 0.2


def test_training_learns_and_its_folder_is_its_own(language: Bench, tmp_path: Path) -> None:
    run = language.run(tmp_path, model=language.wrapped(lora=False, start="origin"))
    start = language.loss(run.model, "retain")
    train(run, run.rows("retain"), Schedule(steps=30, forget_batch=8, warmup_steps=2, learning_rate=1e-2))
    assert language.loss(run.model, "retain") < 0.6 * start
    assert {path.name for path in (tmp_path / "train").iterdir()} == {"done.json", "final.safetensors", "history.json"}


def test_the_learning_rate_follows_the_width() -> None:
    wide = nn.Linear(1, 1)
    wide.config = LlamaConfig(hidden_size=2048)  # type: ignore[assignment]
    for width, model in ((2048, wide), (200, nn.Linear(1, 1))):
        run = Run(model=model, task=ImageClassifier(), splits={}, folder=Path("unused"), trainer={"use_cpu": True})
        rate = fit_module._arguments(run, Schedule(), 10, Path("unused")).learning_rate
        assert rate == pytest.approx(0.4 / width)


def test_a_peft_model_is_what_a_fresh_adapter_makes(language: Bench) -> None:
    model = language.wrapped()
    assert isinstance(model, PeftModel)
    batch = language.batch("forget")
    torch.testing.assert_close(
        logits(language.task, model, batch), logits(language.task, language.target, batch), rtol=0, atol=0
    )
