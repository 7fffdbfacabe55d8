"""Losses of supervised rows equal cross-entropy of the whole logits, value and gradient, for each architecture and mode."""

import copy
import logging
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import ARCHITECTURES, WORDS, byte_level_bpe, dialogue_splits, llama, texts_of
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from llm_unlearn import head
from llm_unlearn.tasks import IGNORE, CausalLM

CAPPED = {"gemma2", "cohere"}
Built = tuple[nn.Module, Mapping[str, Tensor]]


@pytest.fixture(scope="module")
def batch() -> Mapping[str, Tensor]:
    rows = dialogue_splits()["forget"]
    tokenizer = byte_level_bpe(texts_of(rows), vocabulary=WORDS)
    task = CausalLM(tokenizer=tokenizer, max_length=128)
    return task.collate(task.encode(rows))


def built(name: str, *, loud: bool = True, lora: bool = True) -> nn.Module:
    """Return a model whose logits are large, as trained ones are, with an adapter that does something."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(ARCHITECTURES[name]))
    if loud:
        final = [module for path, module in model.named_modules() if path.endswith(("norm", "ln_f"))][-1]
        with torch.no_grad():
            final.weight.mul_(60).add_(0 if name not in ("gemma", "gemma2") else 60)  # gemma's norm has weight 1 + w
    if not lora:
        return model.eval()
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for path, parameter in model.named_parameters():
        if "lora_B" in path:
            nn.init.normal_(parameter, std=0.05)
    return model.eval()


def expected(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return cross-entropy of the model's own logits, the plain way."""
    out = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    labels = batch["labels"][:, 1:]
    return F.cross_entropy(out[:, :-1].float()[labels != IGNORE], labels[labels != IGNORE], reduction="none")


def found(model: nn.Module, batch: Mapping[str, Tensor], mode: str) -> Tensor:
    """Return the same in the given mode."""
    labels = F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORE)
    keep = labels != IGNORE
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    out = head._forward(model, inputs, keep, labels[keep], mode)  # type: ignore[arg-type]
    return out if mode == "chunks" else F.cross_entropy(out, labels[keep], reduction="none")


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_each_trusted_mode_equals_cross_entropy_of_the_logits(name: str, batch: Mapping[str, Tensor]) -> None:
    """Loss to 1e-5 and LoRA gradients to 1e-4, of rows weighted unevenly so that a reordering would show."""
    model = built(name)
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    modes = head.trusted_modes(model, inputs)
    assert modes == (["rows"] if name in CAPPED else ["chunks", "rows"])
    truth = expected(model, batch)
    if name in CAPPED:  # non-vacuity: the naive way is far off
        assert (found(model, batch, "chunks") - truth).abs().max() > 0.1
    weight = torch.linspace(0.1, 1.0, len(truth))
    wanted = gradients(model, (truth * weight).mean())
    assert any(gradient.abs().max() > 1e-3 for gradient in wanted.values())
    for mode in [*modes, "full"]:
        losses = found(model, batch, mode)
        torch.testing.assert_close(losses, truth, rtol=1e-5, atol=1e-5)
        got = gradients(model, (losses * weight).mean())
        assert got.keys() == wanted.keys()
        scale = max(gradient.abs().max() for gradient in wanted.values()).item()
        for key, gradient in wanted.items():
            torch.testing.assert_close(got[key], gradient, rtol=1e-4, atol=1e-4 * max(1.0, scale), msg=f"{mode} {key}")


class Clamped(LlamaForCausalLM):
    """A model whose logits are cut at 20, which an untrained one's never reach."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = super().forward(*args, **kwargs)
        out.logits = out.logits.clamp(-20, 20)
        return out


def test_a_cap_is_seen_before_it_matters(batch: Mapping[str, Tensor]) -> None:
    """Logits grow in training; trusted while they are small, the naive loss would be wrong later, silently."""
    torch.manual_seed(0)
    model = Clamped(copy.deepcopy(ARCHITECTURES["llama"])).eval()
    torch.testing.assert_close(found(model, batch, "chunks"), expected(model, batch), rtol=1e-5, atol=1e-5)
    assert head.trusted_modes(model, {key: batch[key] for key in ("input_ids", "attention_mask")}) == ["rows"]


@pytest.mark.parametrize("trained_head", [False, True])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_losses_in_chunks(trained_head: bool, kind: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks, the last one ragged; value and gradient of hidden states, weight and bias."""
    monkeypatch.setattr(head, "CHUNK", 5 * 70)
    if hasattr(head, "CHUNK_ROWS"):
        monkeypatch.setattr(head, "CHUNK_ROWS", 5)
    torch.manual_seed(0)
    hidden = torch.randn(23, 16, dtype=kind, requires_grad=True)
    weight = torch.randn(70, 16, dtype=kind, requires_grad=trained_head)
    bias = torch.randn(70, dtype=kind, requires_grad=trained_head)
    labels = torch.randint(70, (23,))
    leaves = [leaf for leaf in (hidden, weight, bias) if leaf.requires_grad]
    uneven = torch.linspace(0.5, 2, 23)
    truth = F.cross_entropy(F.linear(hidden, weight, bias).float(), labels, reduction="none")
    wanted = torch.autograd.grad((truth * uneven).sum(), leaves)
    losses = head.chunked_nll(hidden, weight, bias, labels)
    got = torch.autograd.grad((losses * uneven).sum(), leaves)
    close: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5} if kind is torch.float32 else {"rtol": 2e-2, "atol": 6e-2}
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, truth, **(close if kind is torch.float32 else {"rtol": 1e-2, "atol": 2e-2}))
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, **close)


@pytest.mark.parametrize("pays", [False, True])
def test_the_task_takes_chunks_where_they_pay(
    pays: bool, batch: Mapping[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built("llama")
    task = CausalLM(tokenizer=None, max_length=128)
    truth = expected(model, batch)
    calls: list[int] = []
    inner = head.chunked_nll
    monkeypatch.setattr(head, "_chunks_pay", lambda model, rows: pays)
    monkeypatch.setattr(head, "chunked_nll", lambda *args: (calls.append(1), inner(*args))[1])
    head.trusted_modes(model, task.inputs(batch))
    calls.clear()
    decisions = task.decisions(model, batch)
    torch.testing.assert_close(decisions.nll(), truth, rtol=1e-5, atol=1e-5)
    assert bool(calls) is pays
    kept = task.decisions(model, batch, logits=True)
    torch.testing.assert_close(kept.nll(), truth, rtol=1e-5, atol=1e-5)
    assert kept.logits.shape == (len(truth), WORDS) and kept.logits.dtype == torch.float32


def test_only_supervised_rows_reach_the_head(batch: Mapping[str, Tensor]) -> None:
    model, seen = built("llama"), []
    task = CausalLM(tokenizer=None, max_length=128)
    head.trusted_modes(model, task.inputs(batch))
    model.get_output_embeddings().register_forward_hook(lambda module, args, out: seen.append(out.shape))
    task.decisions(model, batch, logits=True)
    assert [tuple(shape) for shape in seen] == [(int((batch["labels"] != IGNORE).sum()), WORDS)]


class Sorted(LlamaForCausalLM):
    """A model that does something to its logits that cannot be done row by row."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = super().forward(*args, **kwargs)
        out.logits = out.logits - out.logits.mean(1, keepdim=True)  # over positions
        return out


def test_unknown_post_processing_falls_back_to_full_logits_and_says_so_once(
    batch: Mapping[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    model = Sorted(copy.deepcopy(ARCHITECTURES["llama"])).eval()
    task = CausalLM(tokenizer=None, max_length=128)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            losses = task.decisions(model, batch).nll()
    assert [record.message.split()[0] for record in caplog.records if record.name == head.__name__] == ["Sorted"]
    torch.testing.assert_close(losses, expected(model, batch), rtol=1e-5, atol=1e-5)


def test_the_head_is_left_as_it_was(batch: Mapping[str, Tensor]) -> None:
    """Also where somebody else (accelerate, for a model spread over devices) put its own forward on it."""
    model = llama(WORDS)
    linear = model.lm_head
    plain = linear.forward
    linear.forward = lambda hidden: plain(hidden)
    mine = linear.forward
    task = CausalLM(tokenizer=None, max_length=128)
    task.decisions(model, batch).nll()
    found(model, batch, "chunks")
    assert linear.forward is mine
    assert not linear._forward_pre_hooks and not linear._forward_hooks


def test_bf16_models_agree_with_their_own_logits(batch: Mapping[str, Tensor]) -> None:
    model = built("llama", lora=False).to(torch.bfloat16)
    modes = head.trusted_modes(model, {key: batch[key] for key in ("input_ids", "attention_mask")})
    assert modes == ["chunks", "rows"]
    truth = expected(model, batch)
    for mode in modes:
        losses = found(model, batch, mode)
        assert losses.dtype == torch.float32
        torch.testing.assert_close(losses, truth, rtol=2e-2, atol=2e-2)
