"""What is switched off to get the model before unlearning: a fresh adapter, a copy of an old one, or a second model."""

import copy
from pathlib import Path

import pytest
import torch
from conftest import Bench, logits
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import nn

from llm_unlearn.errors import RecipeError, TaskError
from llm_unlearn.lora import Lora, attach
from llm_unlearn.reference import NAME, reference, reference_nll


@pytest.fixture
def pretrained_with_knowing_adapter(language: Bench) -> PeftModel:
    """An adapter that holds the knowledge, on a base that does not: what users of LoRA fine-tunes bring."""
    torch.manual_seed(0)
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(copy.deepcopy(language.origin), config)
    batch = language.batch("forget")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-2)
    for _ in range(40):
        optimizer.zero_grad()
        language.task.decisions(model, batch).mean_nll().mean().backward()
        optimizer.step()
    return model.eval()


def nudge(model: nn.Module) -> None:
    """Change the trainable weights, as unlearning would."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)


def test_a_fresh_adapter_changes_nothing_and_is_switched_off_exactly(language: Bench) -> None:
    batch = language.batch("forget")
    truth = logits(language.task, language.target, batch)
    model = language.wrapped()
    assert torch.equal(logits(language.task, model, batch), truth)
    nudge(model)
    assert not torch.allclose(logits(language.task, model, batch), truth, atol=0.1)
    with reference(model) as before:
        assert torch.equal(language.task.decisions(before, batch, logits=True).logits, truth)


def test_an_adapter_that_is_there_is_merged_first(language: Bench, pretrained_with_knowing_adapter: PeftModel) -> None:
    """Switched off, the new adapter leaves the model that knew, not the pretrained one."""
    batch = language.batch("forget")
    truth = logits(language.task, pretrained_with_knowing_adapter, batch)
    ignorant = logits(language.task, language.origin, batch)
    assert (truth - ignorant).abs().max() > 0.5
    model = attach(pretrained_with_knowing_adapter, Lora(r=4), "CAUSAL_LM")
    assert list(model.peft_config) == ["default"]
    torch.testing.assert_close(logits(language.task, model, batch), truth, rtol=1e-4, atol=1e-4)
    nudge(model)
    with reference(model) as before:
        got = language.task.decisions(before, batch, logits=True).logits
    torch.testing.assert_close(got, truth, rtol=1e-4, atol=1e-4)


def test_a_knowing_adapter_that_is_edited_has_a_frozen_copy_as_its_reference(
    language: Bench, pretrained_with_knowing_adapter: PeftModel
) -> None:
    model, batch = pretrained_with_knowing_adapter, language.batch("forget")
    truth = logits(language.task, model, batch)
    held = {name: tensor.clone() for name, tensor in get_peft_model_state_dict(model).items()}
    model.add_adapter(NAME, copy.deepcopy(model.peft_config["default"]))
    set_peft_model_state_dict(model, held, adapter_name=NAME)
    model.set_adapter("default")
    nudge(model)
    after = logits(language.task, model, batch)
    assert not torch.allclose(after, truth, atol=0.1)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained and not any(NAME in name for name in trained)
    with reference(model) as before:
        got = language.task.decisions(before, batch, logits=True).logits
    torch.testing.assert_close(got, truth, rtol=0, atol=1e-6)
    assert model.active_adapter == "default"
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == trained
    assert torch.equal(logits(language.task, model, batch), after)


def test_a_bare_model_needs_a_frozen_copy(language: Bench) -> None:
    model = copy.deepcopy(language.target)
    nudge(model)
    with pytest.raises(TaskError, match=r"full fine-tuning needs a frozen copy.*Run\(frozen_copy="), reference(model):
        pass
    with reference(model, language.target) as before:
        assert before is language.target


def test_looking_at_the_reference_changes_nothing(language: Bench) -> None:
    """Neither what is trained (weights frozen on purpose stay frozen), nor a module's mode, nor after an error."""
    model = language.wrapped().train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.requires_grad_(False)
    resting = next(module for name, module in model.named_modules() if name.endswith("layers.0")).eval()
    kept = [(name, p.requires_grad) for name, p in model.named_parameters()]
    modes = [module.training for module in model.modules()]

    def look(fail: bool) -> None:
        with reference(model) as before:
            assert not before.training and not torch.is_grad_enabled()
            if fail:
                raise KeyError("inside")

    look(fail=False)
    with pytest.raises(KeyError):
        look(fail=True)
    assert torch.is_grad_enabled() and not resting.training
    assert [(name, p.requires_grad) for name, p in model.named_parameters()] == kept
    assert [module.training for module in model.modules()] == modes
    assert any(flag for _, flag in kept)


def test_reference_scores_are_sums_over_every_trained_decision(language: Bench) -> None:
    examples = language.task.encode(language.splits["holdout"])
    scores = reference_nll(language.wrapped(), language.task, examples, batch_size=5)
    for example, score in zip(examples, scores, strict=True):
        decisions = language.task.decisions(language.target, language.task.collate([example]))
        assert score == pytest.approx(decisions.nll().sum().item(), rel=1e-4)
        assert len(decisions.nll()) > sum(example["scored"])  # the end of sequence counts here


def test_no_module_to_put_an_adapter_on_is_an_error(language: Bench, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no module of LlamaForCausalLM matches lora.target_modules='.*nothing.*'"):
        attach(copy.deepcopy(language.target), Lora(target_modules=r".*\.nothing"))
