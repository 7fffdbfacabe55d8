"""Every method x every task it claims x {adapter, full}: it forgets, it touches nothing else, it is saved and comes back.

A new file in `llm_unlearn/methods/` joins by itself.  What a method needs is read from its attributes, never from its name.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Bench, logits, progress, reloaded, shortened
from torch import Tensor, nn

from llm_unlearn.errors import DataError, RecipeError, TaskError
from llm_unlearn.method import LossMethod, Method, available, find, retained
from llm_unlearn.methods.grad_ascent import GradAscent
from llm_unlearn.progress import Stop

TASKS = ("causal_lm", "sequence_classifier", "image_classifier")
CASES = [
    (name, task, lora)
    for name in available()
    for task in TASKS
    if task in find(name).tasks and find(name).removes == "rows"  # what removes a feature: test_features.py
    for lora in (True, False)
]
# Rows learned by heart have hardly a gradient: what is learned on them is no direction of their own, and turning it round hurts
# the toy's retain rows as much (measured for 24 to 200 steps at 1e-3 to 1e-2, scales 1 to 50).
UNSELECTIVE = {("task_vector", "causal_lm", True)}
LOSSES = [name for name in available() if issubclass(find(name), LossMethod)]


def frozen(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of what must not change: weights that need no gradient, and every buffer."""
    kept = {name: p for name, p in model.named_parameters() if not p.requires_grad} | dict(model.named_buffers())
    return {name: tensor.detach().clone() for name, tensor in kept.items()}


def by_class(here: Bench) -> Bench:
    """Return the bench with all rows of one class to forget: its own forget rows are of every class."""
    rows = [*here.splits["forget"], *here.splits["retain"]]
    split = {name: [row for row in rows if (row["label"] == 1) == (name == "forget")] for name in ("forget", "retain")}
    return replace(here, splits={**here.splits, **split})


@pytest.mark.parametrize(("name", "task", "lora"), CASES)
def test_it_forgets_keeps_the_rest_still_and_survives_the_disk(
    name: str, task: str, lora: bool, bench: Callable[[str], Bench], tmp_path: Path
) -> None:
    here, cls = bench(task), find(name)
    if cls.whole_units and task != "causal_lm":
        here = by_class(here)
    # where every weight moves a smaller step, or all is destroyed alike: at 1e-2 some methods did or did not destroy this toy,
    # as the processor's rounding had it
    method = shortened(cls, **({} if lora or cls.starts_from == "origin" else {"learning_rate": 3e-3}))
    base = here.target if method.starts_from == "target" else here.origin
    assert here.loss(here.target, "forget") < 0.1 < here.loss(here.target, "holdout")  # there is something to forget
    run = here.run(tmp_path / "work", model=here.wrapped(lora=lora, start=method.starts_from), lora=lora)
    untouched = frozen(run.model)
    before = {split: here.loss(run.model, split) for split in ("forget", "retain")}
    method.unlearn(run)
    after = {split: here.loss(run.model, split) for split in ("forget", "retain")}

    risen = {split: after[split] - before[split] for split in before}
    if (name, task, lora) in UNSELECTIVE:
        assert risen["forget"] > 0, (before, after)
    else:
        assert risen["forget"] > risen["retain"] + 0.02, (before, after)
    for key, tensor in frozen(run.model).items():
        assert torch.equal(tensor, untouched[key]), f"{key} was to be left alone"
    assert bool(untouched) or not lora

    batch = here.batch("forget")
    expected = logits(here.task, run.model, batch)
    assert torch.isfinite(expected).all()
    assert not torch.allclose(expected, logits(here.task, base, batch), atol=1e-3)
    back = reloaded(run.model, base, tmp_path / "saved")
    torch.testing.assert_close(logits(here.task, back, batch), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_its_forget_term_is_nothing_while_the_thermostat_is_off_or_the_gate_shut(
    name: str, language: Bench, tmp_path: Path
) -> None:
    """Exactly 0, with exactly no gradient; what the lead stream is called is the method's business."""
    cls = find(name)
    run = language.run(tmp_path)
    for parameter in run.model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)
    examples = {split: run.task.encode(run.rows(split)[:6]) for split in ("forget", "retain")}
    for example in examples["forget"]:
        example["reference_nll"] = 1.0
    batch = run.task.collate_streams(
        {split: rows for split, rows in examples.items() if split in ("forget", *cls.needs)}
    )
    on = forget_terms(cls, Stop(gate=False), {"on": True}, run, batch)
    assert all(abs(value) > 1e-4 for value, _ in on) and all(pull > 1e-6 for _, pull in on)
    for stop, state in ((Stop(gate=False), {"on": False}), (Stop(), {"on": True, "level": -float("inf")})):
        if stop.gate and not _may(cls, stop, run):
            continue
        assert forget_terms(cls, stop, state, run, batch) == [(0.0, 0.0)]


def _may(cls: type[Method], stop: Stop, run: Any) -> bool:
    try:
        cls(stop=stop).check(run)  # type: ignore[call-arg]
    except RecipeError:
        return False
    return True


def forget_terms(
    cls: type[Method], stop: Stop, state: dict[str, Any], run: Any, batch: Any
) -> list[tuple[float, float]]:
    """Return (value, largest gradient) of each term but retain's."""
    method = cls(stop=stop)  # type: ignore[call-arg]
    assert isinstance(method, LossMethod)
    terms = method.objective(run)(run.model, batch, progress(stop=stop, unseen=9.0, state=state))
    out = []
    for name, term in terms.items():
        if name == "retain":
            continue
        run.model.zero_grad()
        term.backward(retain_graph=True)
        pulls = [p.grad.abs().max().item() for p in run.model.parameters() if p.grad is not None]
        out.append((term.item(), max(pulls)))
    return out


# --- what holds for methods as such ---


def test_the_folder_is_the_registry() -> None:
    assert available() == sorted(available()) and len(available()) >= 8
    for name in available():
        cls = find(name)
        assert issubclass(cls, Method) and cls.__doc__ and cls.__module__.endswith(name)
        assert cls.tasks <= set(TASKS) and cls.tasks
        assert cls.paper or cls.starts_from == "origin"


def test_a_method_may_live_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "__init__.py").write_text("")
    source = (
        "from llm_unlearn.method import Method\n\nclass Mine(Method):\n    def unlearn(self, run):\n        pass\n"
    )
    (tmp_path / "elsewhere" / "mine.py").write_text(source)
    (tmp_path / "elsewhere" / "none.py").write_text("from llm_unlearn.method import Method\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert find("elsewhere.mine").__name__ == "Mine"
    with pytest.raises(RecipeError, match="must hold exactly one Method; it holds 0"):
        find("elsewhere.none")
    with pytest.raises(RecipeError, match=r"cannot import the method 'nowhere.mine'.*installed\?"):
        find("nowhere.mine")


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"unknown method 'npoo'; did you mean 'npo'\?.* Methods: .*grad_ascent"):
        find("npoo")


@pytest.mark.parametrize("name", available())
def test_a_missing_split_is_named(name: str, language: Bench, tmp_path: Path) -> None:
    method, whole = find(name)(), {**language.splits, "annotated": language.splits["retain"]}
    for missing in sorted(method.needs):
        splits = {split: rows for split, rows in whole.items() if split != missing}
        with pytest.raises(DataError, match=f"needs the split '{missing}'"):
            method.check(language.run(tmp_path, splits=splits))
    method.check(language.run(tmp_path, splits=whole))


def test_a_task_that_a_method_does_not_know_is_named(images: Bench, tmp_path: Path) -> None:
    class OnlyText(GradAscent):
        tasks = frozenset({"causal_lm"})

    with pytest.raises(TaskError, match="OnlyText works on causal_lm; this run is a image_classifier"):
        OnlyText().check(images.run(tmp_path))


def test_everything_that_is_kept_is_trained_on(language: Bench, tmp_path: Path) -> None:
    rows = {
        name: [{"id": name, "prompt": name, "response": "Yes"}] for name in ("forget", "holdout", "retain_heldout")
    }
    kept = {name: [{"id": name, "prompt": name, "response": "Yes"}] for name in ("retain", "neighbour", "general")}
    run = language.run(tmp_path, splits=rows | kept)
    assert [row["id"] for row in retained(run)] == ["retain", "neighbour", "general", "neighbour"]  # half are near


def test_the_target_is_not_changed_by_unlearning_a_copy(language: Bench, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in language.target.state_dict().items()}
    shortened(find("npo"), steps=3).unlearn(language.run(tmp_path))
    assert all(torch.equal(tensor, before[name]) for name, tensor in copy.copy(language.target.state_dict()).items())
