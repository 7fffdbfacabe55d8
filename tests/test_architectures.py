"""NPO runs unchanged on other architectures, and activation checkpointing changes the memory and nothing else."""

import copy
from pathlib import Path

import pytest
import torch
from conftest import ARCHITECTURES, Bench, logits, weights
from torch import Tensor
from transformers import AutoModelForCausalLM

from llm_unlearn.fit import Schedule
from llm_unlearn.lora import Lora, attach
from llm_unlearn.methods.npo import NPO
from llm_unlearn.run import Run

METHOD = NPO(training=Schedule(steps=5, forget_batch=4, retain_per_forget=2, warmup_steps=1, learning_rate=3e-3))


def unlearned(name: str, bench: Bench, folder: Path, **trainer: object) -> tuple[dict[str, Tensor], float, int]:
    """Return the adapter after five steps, how far the logits moved, and how often the first block ran."""
    config = copy.deepcopy(ARCHITECTURES[name])
    if name == "gpt_neox":
        config.hidden_dropout = config.attention_dropout = 0.2
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    batch = bench.batch("forget")
    before = logits(bench.task, base, batch)
    model = attach(base, Lora(r=4, alpha=8), "CAUSAL_LM")
    runs: list[int] = []
    first = next(module for path, module in model.named_modules() if path.endswith("lora_A.default"))
    first.register_forward_hook(lambda *_: runs.append(1))
    METHOD.unlearn(Run(model=model, task=bench.task, splits=bench.splits, folder=folder, trainer=trainer))
    assert model.config.use_cache is True
    assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    return weights(model), (logits(bench.task, model, batch) - before).abs().max().item(), len(runs)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "qwen2", "qwen3", "gemma", "gemma2"])
def test_npo_with_and_without_checkpointing(name: str, language: Bench, tmp_path: Path) -> None:
    """The checkpointed blocks run twice (non-vacuity), dropout stays at rest both times, the adapters are the same."""
    plain, moved, runs = unlearned(name, language, tmp_path / "plain")
    assert moved > 1e-3
    checkpointed, also, twice = unlearned(name, language, tmp_path / "checkpointed", gradient_checkpointing=True)
    assert also > 1e-3 and twice == runs + 5
    for key, weight in plain.items():
        torch.testing.assert_close(checkpointed[key], weight, rtol=0, atol=1e-5, msg=key)


def test_reentrant_checkpointing_trains_the_adapters_too(language: Bench, tmp_path: Path) -> None:
    """Where the inputs of a block need no gradient the reentrant kind cuts it off the loss: a peer's issue 178."""
    plain, _, runs = unlearned("llama", language, tmp_path / "plain")
    options = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    checkpointed, moved, twice = unlearned("llama", language, tmp_path / "reentrant", **options)
    assert moved > 1e-3 and twice == runs + 5
    for key, weight in plain.items():
        torch.testing.assert_close(checkpointed[key], weight, rtol=0, atol=1e-5, msg=key)


def test_full_fine_tuning_under_checkpointing(language: Bench, tmp_path: Path) -> None:
    results = []
    for flag in (False, True):
        run = language.run(tmp_path / str(flag), lora=False, trainer={"gradient_checkpointing": flag})
        METHOD.unlearn(run)
        results.append(weights(run.model))
    for key, weight in results[0].items():
        torch.testing.assert_close(results[1][key], weight, rtol=0, atol=1e-4, msg=key)
