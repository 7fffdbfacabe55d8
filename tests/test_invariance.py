"""What may not change a result: padding, how a step is cut into micro-batches, company in a batch, and the order of rows."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Bench, shortened, weights
from torch import Tensor, nn

from llm_unlearn.fit import Schedule, Stop
from llm_unlearn.measuring.evaluation import measure
from llm_unlearn.measuring.figures import figures
from llm_unlearn.measuring.reading import read_by
from llm_unlearn.measuring.suites import figures_of
from llm_unlearn.method import LossMethod, available, find
from llm_unlearn.methods.npo import NPO
from llm_unlearn.scores import CLASSIFIERS
from llm_unlearn.tasks import CausalLM

# figures that a single greedy word or rank may move far on a dozen rows, in another number format
LOOSE = ("rouge_l_recall", "rouge_l_f1", "fluency", "perplexity", "forget_quality", "privleak", "mia_tpr", "overall")
LOSSES = [name for name in available() if issubclass(find(name), LossMethod)]


class Padded(CausalLM):
    """A task that pads every batch seven positions wider than it must."""

    def collate(self, examples: Sequence[Any]) -> Any:
        batch = dict(super().collate(examples))
        fill = {"input_ids": 1, "labels": -100, "scored": 0, "told": 0, "attention_mask": 0}
        return {
            name: torch.nn.functional.pad(column, (0, 7), value=fill[name]) if name in fill else column
            for name, column in batch.items()
        }


def adapters(bench: Bench, folder: Path, method: LossMethod, **changes: Any) -> dict[str, Tensor]:
    """Return the adapter after a few steps, and check that it moved."""
    run = bench.run(folder, **changes)
    before = weights(run.model)
    method.unlearn(run)
    after = weights(run.model)
    assert max((after[name] - before[name]).abs().max().item() for name in after) > 1e-3
    return after


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    assert one.keys() == other.keys()
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, rtol=0, atol=tolerance, msg=name)


def gentle(name: str, **changes: Any) -> Any:
    """Return the method with few steps and a rate at which rounding is not amplified, without random parts of its set-up."""
    return shortened(find(name), **({"steps": 5, "forget_batch": 4, "learning_rate": 1e-3} | changes))


@pytest.mark.parametrize("name", LOSSES)
def test_padding_changes_nothing(name: str, language: Bench, tmp_path: Path) -> None:
    wider = Padded(tokenizer=language.task.tokenizer, max_length=128)  # type: ignore[attr-defined]
    plain = adapters(language, tmp_path / "plain", gentle(name))
    assert_same(plain, adapters(language, tmp_path / "padded", gentle(name), task=wider))


@pytest.mark.parametrize("name", LOSSES)
def test_four_micro_batches_of_one_equal_one_of_four(name: str, language: Bench, tmp_path: Path) -> None:
    whole = adapters(language, tmp_path / "whole", gentle(name))
    cut = adapters(language, tmp_path / "cut", gentle(name), trainer={"gradient_accumulation_steps": 4})
    assert_same(whole, cut)


def test_a_token_mean_would_not_pass(language: Bench) -> None:
    """Non-vacuity: rows are ragged enough for the mean over tokens to change with the cut."""
    decisions = language.task.decisions(language.origin, language.batch("forget", 4))
    losses, rows = decisions.nll() * (1 + torch.arange(len(decisions.nll()))), range(4)
    whole, cut = losses.mean(), torch.stack([losses[decisions.owner == i].mean() for i in rows]).mean()
    assert abs((whole - cut) / whole) > 0.02
    by_row = decisions.per_example(losses, "mean").mean()
    torch.testing.assert_close(by_row, cut)


def test_the_same_seed_gives_the_same_bits_and_another_another_order(language: Bench, tmp_path: Path) -> None:
    one, two, other = (
        adapters(language, tmp_path / str(i), gentle("npo"), seed=seed) for i, seed in enumerate((0, 0, 1))
    )
    assert_same(one, two, 0.0)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_who_else_is_in_a_batch_does_not_change_a_rows_loss(language: Bench) -> None:
    examples = language.task.encode([*language.splits["forget"], *language.splits["holdout"]])
    with torch.no_grad():
        together = language.task.decisions(language.origin, language.task.collate(examples)).loss()
        alone = [
            language.task.decisions(language.origin, language.task.collate([each])).loss()[0] for each in examples
        ]
        streams = language.task.collate_streams({"forget": examples[:5], "retain": examples[5:]})
        parts = language.task.streams(language.origin, streams)
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat([part.loss() for part in parts]), together, rtol=1e-5, atol=1e-5)


def test_evaluation_does_not_depend_on_the_batch_size_or_the_order_of_rows(language: Bench) -> None:
    rows = list(language.splits["forget"])
    plain = measure(language.target, language.task, {"forget": rows}, generate_on=(), batch_size=64, progress=False)
    small = measure(language.target, language.task, {"forget": rows}, generate_on=(), batch_size=1, progress=False)
    turned = measure(
        language.target, language.task, {"forget": rows[::-1]}, generate_on=(), batch_size=5, progress=False
    )
    for other in (small, turned):
        place = {identity: i for i, identity in enumerate(other["forget"].ids)}
        for i, identity in enumerate(plain["forget"].ids):
            mine, theirs = plain["forget"].log_probs[i], other["forget"].log_probs[place[identity]]
            torch.testing.assert_close(torch.as_tensor(theirs), torch.as_tensor(mine), rtol=1e-4, atol=1e-5)


def test_grouping_by_length_only_reorders(language: Bench, tmp_path: Path) -> None:
    """One step that holds all rows: whatever the order inside it, the same update."""
    schedule = Schedule(steps=1, forget_batch=12, retain_per_forget=2, learning_rate=1e-2, warmup_steps=0)
    plain = Stop(gate=False, thermostat=False)
    one = adapters(language, tmp_path / "one", NPO(training=schedule, stop=plain))
    two = adapters(language, tmp_path / "two", NPO(training=replace(schedule, group_by_length=True), stop=plain))
    assert_same(one, two)
    splits = {name: rows[::-1] for name, rows in language.splits.items()}
    assert_same(one, adapters(language, tmp_path / "three", NPO(training=schedule, stop=plain), splits=splits))


def partly(bench: Bench) -> nn.Module:
    """Return a model between knowing and not, so that no figure stands at an end of its scale."""
    model = copy.deepcopy(bench.target)
    with torch.no_grad():
        for mine, blank in zip(model.parameters(), bench.origin.parameters(), strict=True):
            mine.lerp_(blank, 0.25)
    return model


def every_figure(bench: Bench, change: str) -> dict[tuple[str, str | None], float]:
    """Return every figure of the full suite that has a value, measured in one of several ways."""
    splits = dict(bench.splits)
    splits |= {
        "general": splits["retain"][:7],
        "neighbour": splits["retain"][7:12],
        "forget_heldout": splits["holdout"][:5],
    }
    if bench.task.name == "causal_lm":
        more = {"wrong": ["Lowfold", "a potter"]}
        splits = {
            name: [{**row, **more, "paraphrase": f"It is {row['response']}"} for row in rows]
            for name, rows in splits.items()
        }
    if change == "order":
        splits = {name: rows[::-1] for name, rows in splits.items()}
    models = {"before": bench.target, "after": partly(bench), "gold": bench.origin}
    how = {
        "batch_size": {"batch": 1, "order": 5}.get(change, 64),
        "max_new_tokens": 6,
        "grad_norm": True,
        "progress": False,
    }
    scores = {}
    for name, model in models.items():
        measured = copy.deepcopy(model).to(torch.bfloat16 if change == "bf16" else torch.float32)
        scores[name] = measure(measured, bench.task, splits, activations=bench.task.name in CLASSIFIERS, **how)
        if bench.task.name == "causal_lm":
            scores[name] = read_by(models["before"], bench.task, splits, scores[name], progress=False)
    names = figures_of("full", bench.task.name)
    found = figures(**scores, metrics=names, others={"random": scores["gold"]})
    return {(line.name, line.split): line.after for line in found if line.after is not None}


@pytest.mark.parametrize("task", ["causal_lm", "sequence_classifier"])
def test_no_figure_depends_on_batch_padding_or_the_order_of_rows(task: str, bench: Callable[[str], Bench]) -> None:
    """To 1e-4; in bf16, which has 8 bits, to 0.1 (of figures above 1 to a tenth), greedy answers and p-values aside."""
    plain = every_figure(bench(task), "plain")
    assert {name for name, _ in plain} == set(figures_of("full", task)) - {"u_lira"}
    for change in ("batch", "order"):
        other = every_figure(bench(task), change)
        assert other.keys() == plain.keys()
        for key, value in plain.items():
            assert other[key] == pytest.approx(value, rel=1e-4, abs=1e-4), (change, key)
    rough = every_figure(bench(task), "bf16")
    assert rough != plain, "it was measured in bf16"
    for key, value in plain.items():
        if key[0] not in LOOSE:
            assert rough[key] == pytest.approx(value, rel=0.1, abs=0.1), key
