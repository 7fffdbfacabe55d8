"""The fused LoRA forward equals peft's own, values and gradients, and steps aside where something else is going on."""

import copy

import pytest
import torch
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from llm_unlearn.lora import Lora, attach
from llm_unlearn.lora_linear import LoraLinear

WORDS = torch.randint(0, 60, (3, 7), generator=torch.Generator().manual_seed(0))


def adapted(dtype: torch.dtype = torch.float32, dropout: float = 0.0) -> nn.Module:
    """Return a tiny Llama with an adapter that does something."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=60, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    model = attach(LlamaForCausalLM(config).to(dtype), Lora(r=4, alpha=12, dropout=dropout)).train()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.2)
    return model


def by_peft(model: nn.Module) -> nn.Module:
    """Return a copy of the model with peft's own forward."""
    other = copy.deepcopy(model)
    for module in other.modules():
        if type(module) is LoraLinear:
            module.__class__ = PeftLinear
    return other


def outcome(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the logits, and all gradients of a loss on them as one vector."""
    logits = model(input_ids=WORDS).logits.float()
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), WORDS.flatten()).backward()
    return logits.detach(), torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_equals_peft(dtype: torch.dtype, tolerance: float, checkpointing: bool) -> None:
    model = adapted(dtype)
    assert sum(type(module) is LoraLinear for module in model.modules()) == 14
    other = by_peft(model)
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    (logits, gradient), (wanted, wanted_gradient) = outcome(model), outcome(other)
    assert (logits - wanted).norm() < tolerance * wanted.norm()
    assert gradient.shape == wanted_gradient.shape
    assert (gradient - wanted_gradient).norm() < tolerance * wanted_gradient.norm()


def test_only_the_fused_way_keeps_no_copy_of_a_bf16_input() -> None:
    """What autograd keeps: peft's fp32 copies of bf16 inputs are gone."""
    kept: dict[str, int] = {}
    for name, model in (("fused", adapted(torch.bfloat16)), ("peft", by_peft(adapted(torch.bfloat16)))):
        seen: dict[int, int] = {}

        def keep(tensor: Tensor, seen: dict[int, int] = seen) -> Tensor:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(input_ids=WORDS)
        kept[name] = sum(seen.values())
    assert kept["fused"] < kept["peft"]


def test_adapter_off_is_the_base() -> None:
    model = adapted().eval()
    with torch.no_grad(), model.disable_adapter():
        off = model(input_ids=WORDS).logits
        assert torch.equal(off, model.get_base_model()(input_ids=WORDS).logits)
    assert not torch.allclose(off, model(input_ids=WORDS).logits, atol=1e-3)


def test_hooks_on_the_factors_fire_and_dropout_drops() -> None:
    """Per-example gradients listen to the factors; ZeRO-3 brings weights by hooks: both need peft's forward."""
    model, heard = adapted(), []
    factor = next(module for name, module in model.named_modules() if name.endswith("lora_A.default"))
    factor.register_forward_hook(lambda module, inputs, output: heard.append(output.shape))
    model(input_ids=WORDS)
    assert heard == [(3, 7, 4)]
    dropping = adapted(dropout=0.5)
    assert not torch.equal(dropping(input_ids=WORDS).logits, dropping(input_ids=WORDS).logits)


def test_merged_adapter_gives_the_same_logits() -> None:
    model = adapted().eval()
    with torch.no_grad():
        before = model(input_ids=WORDS).logits
        assert torch.allclose(model.merge_and_unload()(input_ids=WORDS).logits, before, atol=1e-5)
