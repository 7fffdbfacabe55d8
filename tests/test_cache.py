"""Scores kept by fingerprint: measured once, found again by whoever asks, and by nobody who asks for something else."""

import copy
import json
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Bench, byte_level_bpe, learn, llama
from peft import PeftModel
from test_evaluation import Calls, rich_rows

from llm_unlearn import evaluate, job, unlearn
from llm_unlearn.errors import DataError, NotFinite
from llm_unlearn.measuring import cache
from llm_unlearn.measuring.evaluation import Evaluation
from llm_unlearn.measuring.figures import figures
from llm_unlearn.measuring.suites import FULL


def evaluation(bench: Bench, folder: Path, **options: Any) -> Evaluation:
    splits = {"forget": rich_rows(bench), "holdout": bench.splits["holdout"], "retain": []}
    return Evaluation(bench.task, splits, cache=folder, **{"generate_on": ("forget",), "progress": False, **options})


def test_a_second_evaluation_runs_no_forward_pass(language: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "private"
    first = evaluation(language, folder, grad_norm=True).scores("before", language.target)
    assert set(first) == {"forget", "holdout"}
    copied = copy.deepcopy(language.target)
    calls = Calls(copied)
    again = evaluation(language, folder, grad_norm=True, batch_size=3).scores("whatever its name", copied)
    assert calls.count == 0
    assert [rows.records() for rows in again.values()] == [rows.records() for rows in first.values()]
    lines = [figures(scores, metrics=FULL) for scores in (first, again)]
    assert lines[0] == lines[1]
    evaluation(language, tmp_path / "elsewhere").scores("before", copied)
    assert calls.count > 0, "the count can rise"
    files = list(folder.iterdir())
    assert len(files) == 2 and {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not any(name in path.name for path in files for name in ("forget", "holdout", "Abel"))


@pytest.mark.parametrize("options", [{"generate_on": ()}, {"max_new_tokens": 2}, {"grad_norm": True}], ids=str)
def test_other_options_are_measured_anew(options: dict[str, Any], language: Bench, tmp_path: Path) -> None:
    evaluation(language, tmp_path).scores("before", language.target)
    calls = Calls(language.target)
    evaluation(language, tmp_path, **options).scores("before", language.target)
    calls.hook.remove()
    assert calls.count > 0


def test_fingerprints_tell_models_apart(language: Bench, tmp_path: Path) -> None:
    """A single weight, a configuration, the adapter, whether it is on, and its scale; not the name of the folder."""
    same = copy.deepcopy(language.target)
    same.config._name_or_path = "somewhere else"
    assert cache.of_model(same) == cache.of_model(language.target)
    moved = copy.deepcopy(language.target)
    with torch.no_grad():
        next(moved.parameters()).view(-1)[0] += 1e-6
    configured = copy.deepcopy(language.target)
    configured.config.rms_norm_eps *= 2
    adapted = language.wrapped()
    assert isinstance(adapted, PeftModel)
    seen = [cache.of_model(model) for model in (language.target, language.origin, moved, configured, adapted)]
    with adapted.disable_adapter():
        seen.append(cache.of_model(adapted))
    for module in adapted.modules():
        if isinstance(getattr(module, "scaling", None), dict):
            module.scaling["default"] *= 2
    seen.append(cache.of_model(adapted))
    seen.append(cache.of_model(copy.deepcopy(language.target).bfloat16()))
    assert len(set(seen)) == len(seen)


def test_fingerprints_tell_rows_apart(language: Bench) -> None:
    rows = rich_rows(language)
    seen = [cache.of_rows(language.task, rows), cache.of_rows(language.task, rows[::-1])]
    for change in (
        {"paraphrase": "x"},
        {"wrong": ["x"]},
        {"response": "x"},
        {"prompt": "x"},
        {"id": "x"},
        {"fact": "x"},
    ):
        seen.append(cache.of_rows(language.task, [{**rows[0], **change}, *rows[1:]]))
    assert len(set(seen)) == len(seen)
    assert cache.of_rows(language.task, rich_rows(language)) == seen[0]


def test_another_generation_config_device_or_code_is_another_file(
    language: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy answers stop where the generation config says, and other code may measure otherwise."""
    model = copy.deepcopy(language.target)
    seen = {cache.of_model(model)}
    model.generation_config.eos_token_id = 5
    seen.add(cache.of_model(model))
    model.generation_config.repetition_penalty = 1.3
    assert len({*seen, cache.of_model(model)}) == 3
    one = cache.place(tmp_path, "forget", "m", "r", {})
    monkeypatch.setattr(cache, "of_code", lambda: "another version")
    assert cache.place(tmp_path, "forget", "m", "r", {}) != one


def test_a_folder_that_cannot_be_written_costs_the_cache_and_not_the_run(
    language: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    measured = evaluation(language, tmp_path / "file" / "scores").scores("before", language.target)
    assert set(measured) == {"forget", "holdout"} and "not kept for later runs" in caplog.text


# ------------------------------------------------------------------------------------------------------ whole requests


@pytest.fixture
def saved(language: Bench, tmp_path: Path) -> dict[str, Any]:
    """The bench as files: a target, a gold that never saw forget, and rows by split."""
    models = {"model": language.target, "gold": learn_gold(language)}
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        language.task.tokenizer.save_pretrained(tmp_path / name)  # type: ignore[attr-defined]
    for split, rows in language.splits.items():
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = {split: str(tmp_path / f"{split}.jsonl") for split in language.splits}
    return {"model": str(tmp_path / "model"), "gold": str(tmp_path / "gold"), **rows}


def learn_gold(language: Bench) -> torch.nn.Module:
    return learn(language.task, copy.deepcopy(language.origin), language.splits["retain"], steps=20, rate=1e-2)


class Watched:
    """Counts the forward passes of each checkpoint that a request loads, by folder; a model's own training counts too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *places: Any) -> None:
        self.calls: dict[str, list[Calls]] = {}
        for place in places:
            monkeypatch.setattr(place, "load_model", self._loading(place.load_model))

    def _loading(self, inner: Any) -> Any:
        def load(recipe: Any, name: str, **options: Any) -> Any:
            model = inner(recipe, name, **options)
            self.calls.setdefault(Path(name).name, []).append(Calls(model))
            return model

        return load

    def count(self, name: str) -> int:
        return sum(calls.count for calls in self.calls.get(name, []))


def request(saved: dict[str, Any], output: Path, **changes: Any) -> dict[str, Any]:
    training = {"steps": 3, "forget_batch": 4, "learning_rate": 1e-2}
    return unlearn(
        **{
            **saved,
            "method": {"name": "grad_diff", "training": training},
            "output": str(output),
            "evaluation": {"cache": True},
            **changes,
        }
    )


def test_a_second_request_measures_neither_before_nor_gold(
    saved: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch, job)
    passes: list[tuple[str, int]] = []
    inner = job.Job._scores

    def scores(self: Any, name: str, model: torch.nn.Module) -> Any:
        calls = Calls(model)
        found = inner(self, name, model)
        passes.append((name, calls.count))
        return found

    monkeypatch.setattr(job.Job, "_scores", scores)
    first = request(saved, tmp_path / "one")
    assert [name for name, count in passes if count] == ["before", "after", "gold"]
    gold = watched.count("gold")
    second = request(saved, tmp_path / "two", seed=1)
    assert [name for name, count in passes[3:] if count] == ["after"] and len(passes) == 6
    assert watched.count("gold") == gold, "gold ran no forward pass at all"
    columns = [
        {(line["name"], line["split"]): (line["before"], line["gold"]) for line in report["figures"]}
        for report in (first, second)
    ]
    assert columns[0] == columns[1] and any(before for before, _ in columns[0].values())
    request(saved, tmp_path / "three", evaluation={"cache": False})
    assert watched.count("gold") == 2 * gold, "switched off, everything is measured"
    places = [path for path in cache.folder().rglob("*") if path.is_file()]
    assert len(places) == 2 * 3 and {stat.S_IMODE(path.stat().st_mode) for path in places} == {0o600}
    assert "private" in cache.folder().parts, "before and gold on three splits, and never after"


def test_a_gold_that_cannot_be_compared_is_one_line_before_anything_is_trained(
    language: Bench, saved: dict[str, Any], tmp_path: Path
) -> None:
    """Another tokenizer, another depth, and weights that are no numbers."""
    place = tmp_path / "other"
    language.origin.save_pretrained(place)  # type: ignore[operator]
    byte_level_bpe(["quite other words are in here"], vocabulary=270).save_pretrained(place)
    with pytest.raises(DataError, match="gold .*other' has another tokenizer than the model"):
        request({**saved, "gold": str(place)}, tmp_path / "run")
    assert not (tmp_path / "run" / "adapter").exists()
    with pytest.raises(DataError, match="another tokenizer"):
        evaluate(saved["model"], language.splits, gold=str(place))
    llama(len(language.task.tokenizer), num_hidden_layers=3).save_pretrained(place)  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="llama of 3 layers .*a llama of 2 layers"):
        evaluate(saved["model"], language.splits, gold=str(place))
    broken = copy.deepcopy(language.target)
    broken.lm_head.weight.data[:] = float("nan")  # type: ignore[union-attr, index]
    broken.save_pretrained(saved["gold"])  # type: ignore[operator]
    with pytest.raises(NotFinite, match="the model gold gives a loss that is not a number on 48 of 48 rows"):
        evaluate(saved["model"], language.splits, gold=saved["gold"], evaluation={"cache": False})


@pytest.mark.parametrize("change", ["adapter", "model", "precision", "rows", "suite"])
def test_nothing_stale_is_served(
    change: str, language: Bench, saved: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same paths with other content, and the same content read otherwise, are measured anew; the same is not."""
    from llm_unlearn import api

    def adapter(seed: int) -> None:
        model = language.wrapped(seed=seed)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.1)
        model.save_pretrained(tmp_path / "adapter")  # type: ignore[operator]

    def figures_now(**changes: Any) -> list[dict[str, Any]]:
        rows = {**language.splits, **changes.pop("splits", {})}
        how = {"cache": True, **changes.pop("evaluation", {})}
        return evaluate(
            saved["model"], rows, adapter=str(tmp_path / "adapter"), gold=saved["gold"], evaluation=how, **changes
        )

    adapter(1)
    watched = Watched(monkeypatch, api)
    first = figures_now()
    counted = watched.count("model"), watched.count("gold")
    assert figures_now() == first and (watched.count("model"), watched.count("gold")) == counted and min(counted) > 0
    changes: dict[str, Any] = {}
    if change == "adapter":
        adapter(2)
    elif change == "model":  # another revision in the same folder
        learn_gold(language).save_pretrained(saved["model"])  # type: ignore[operator]
    elif change == "precision":
        changes = {"precision": "bf16"}
    elif change == "rows":
        changes = {"splits": {"forget": [{**row, "response": "Ostrand"} for row in language.splits["forget"]]}}
    else:
        changes = {"evaluation": {"suite": "full"}}
    assert figures_now(**changes) != first
    assert watched.count("model") > counted[0]
    assert (watched.count("gold") > counted[1]) == (change not in ("adapter", "model")), "gold is what it was"
