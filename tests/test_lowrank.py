"""Dense edits as low-rank adapters, and factors that only their product decides."""

import copy
from collections.abc import Iterator

import pytest
import torch
from conftest import Bench, llama, logits
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from llm_unlearn.errors import TaskError
from llm_unlearn.fresh_classifiers import new_resnet
from llm_unlearn.lora import Lora, attach
from llm_unlearn.weights.lowrank import canonical, columns, effective, write_edit

CONVOLUTIONS = r".*convolution"


def layers(model: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer))


def products(model: nn.Module) -> dict[str, Tensor]:
    return {name: layer.get_delta_weight("default").detach().clone() for name, layer in layers(model)}


def conv_model(r: int = 4) -> nn.Module:
    config = LoraConfig(r=r, lora_alpha=3 * r, target_modules=CONVOLUTIONS, modules_to_save=["classifier"])
    return get_peft_model(new_resnet(3, widths=(4, 8)), config).eval()


def linear_model(r: int = 4) -> nn.Module:
    return attach(llama(60), Lora(r=r, alpha=3 * r), "CAUSAL_LM").eval()


def wake(model: nn.Module, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    for name, p in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(p, std=0.3)
    return model


@pytest.mark.parametrize("make", [conv_model, linear_model])
def test_an_edit_of_low_rank_is_kept_whole(make: object) -> None:
    model = make()  # type: ignore[operator]
    wanted = products(wake(copy.deepcopy(model)))
    edit = {f"{name}.base_layer.weight": change for name, change in wanted.items()}
    shares = write_edit(model, edit)
    assert shares.keys() == {*edit, ""} and all(share == pytest.approx(1, abs=1e-5) for share in shares.values())
    for name, product in products(model).items():
        torch.testing.assert_close(product, wanted[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [conv_model, linear_model])
def test_any_edit_is_approximated_as_well_as_the_rank_allows(make: object) -> None:
    """Eckart and Young: what is lost is the sum of the squares of the singular values beyond the rank."""
    model = make(2)  # type: ignore[operator]
    base = {name: p.detach().clone() for name, p in model.named_parameters() if "base_layer" in name}
    torch.manual_seed(0)
    edit = {name: torch.randn_like(p) for name, p in base.items() if name.endswith("weight")}
    shares = write_edit(model, edit)
    whole = kept = 0.0
    for name, product in products(model).items():
        change = edit[f"{name}.base_layer.weight"]
        energy = torch.linalg.svdvals(change.flatten(1).double()).square()
        assert shares[f"{name}.base_layer.weight"] == pytest.approx((energy[:2].sum() / energy.sum()).item(), abs=1e-4)
        assert (change - product).square().sum().item() == pytest.approx(energy[2:].sum().item(), rel=1e-4, abs=1e-4)
        whole, kept = whole + energy.sum().item(), kept + energy[:2].sum().item()
    assert shares[""] == pytest.approx(kept / whole, abs=1e-4) and shares[""] < 0.9
    assert all(torch.equal(p, base[name]) for name, p in model.named_parameters() if name in base)


def test_an_edit_adds_to_what_the_adapter_holds() -> None:
    model = wake(linear_model(8))
    before = products(model)
    name = next(iter(before))
    full = effective(model, f"{name}.base_layer.weight")
    torch.testing.assert_close(full, model.get_parameter(f"{name}.base_layer.weight") + before[name])
    u, s, vt = torch.linalg.svd(before[name], full_matrices=False)
    change = -s[0] * u[:, :1] @ vt[:1]  # takes the first direction away: the rank stays enough
    write_edit(model, {f"{name}.base_layer.weight": change})
    torch.testing.assert_close(products(model)[name], before[name] + change, rtol=1e-4, atol=1e-5)


def test_weights_that_are_trained_in_full_take_the_edit_itself() -> None:
    model = conv_model()
    name = next(name for name, p in model.named_parameters() if "modules_to_save" in name and p.requires_grad)
    before = model.get_parameter(name).detach().clone()
    assert write_edit(model, {name: torch.ones_like(before)}) == {name: 1.0, "": 1.0}
    torch.testing.assert_close(model.get_parameter(name).detach(), before + 1)
    bare = llama(60)
    weight = bare.model.layers[0].mlp.up_proj.weight
    before = weight.detach().clone()
    write_edit(bare, [("model.layers.0.mlp.up_proj.weight", torch.ones_like(weight))])
    torch.testing.assert_close(weight.detach(), before + 1)


def test_what_an_adapter_cannot_change_is_refused() -> None:
    model = linear_model()
    norm = next(name for name, _ in model.named_parameters() if "norm" in name)
    with pytest.raises(TaskError, match="neither under a LoRA layer nor trained in full"):
        write_edit(model, {norm: torch.ones(32)})
    with pytest.raises(TaskError, match="does not have"):
        write_edit(model, {"nowhere": torch.ones(1)})


def test_importance_says_where_the_approximation_may_err() -> None:
    """The first row matters most: it is hit better than without, at the cost of the others."""
    torch.manual_seed(0)
    change, errors = torch.randn(32, 32), []
    matters = torch.full((32, 32), 0.01)
    matters[0] = 1.0
    for importance in (None, matters):
        model = linear_model(2)
        name = "base_model.model.model.layers.0.self_attn.q_proj"
        weights = None if importance is None else {f"{name}.base_layer.weight": importance}
        write_edit(model, {f"{name}.base_layer.weight": change}, weights)
        errors.append((change - products(model)[name])[0].norm().item())
    assert errors[1] < 0.2 * errors[0]


@pytest.mark.parametrize("make", [conv_model, linear_model])
def test_the_product_alone_decides_the_factors(make: object) -> None:
    """(A, B) -> (R A, B R^-1) and flipped signs are the same model; so is what an edit by importance then gives."""
    one = wake(make())  # type: ignore[operator]
    two = copy.deepcopy(one)
    torch.manual_seed(5)
    with torch.no_grad():
        for number, (_, layer) in enumerate(layers(two)):
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            turn = torch.randn(len(a), len(a)) + 3 * torch.eye(len(a)) if number % 2 else -torch.eye(len(a))
            a.copy_((turn @ a.flatten(1)).view_as(a))
            b.copy_((b.flatten(1) @ turn.inverse()).view_as(b))
    before = products(one)
    for model in (one, two):
        canonical(model)
    for name, product in products(one).items():
        torch.testing.assert_close(product, before[name], rtol=1e-4, atol=1e-5)
    edited = []
    for model in (one, two):
        for _, layer in layers(model):
            for factor in (layer.lora_A["default"].weight, layer.lora_B["default"].weight):
                factor.data += 0.1 * factor.abs()  # an edit that sees signs and sizes
        edited.append(products(model))
    for name, product in edited[0].items():
        torch.testing.assert_close(product, edited[1][name], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(product, before[name], atol=1e-3)


def test_a_fresh_adapter_is_left_alone(language: Bench) -> None:
    model = language.wrapped()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    canonical(model)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    wake(model)
    expected = logits(language.task, model, language.batch("forget", 3))
    canonical(model)
    torch.testing.assert_close(
        logits(language.task, model, language.batch("forget", 3)), expected, rtol=1e-4, atol=1e-4
    )


def test_columns_have_the_shape_of_a() -> None:
    model = conv_model()
    name = next(name for name, _ in layers(model))
    weight = model.get_parameter(f"{name}.base_layer.weight")
    found = columns(model, {f"{name}.base_layer.weight": weight})
    (key,) = found
    assert found[key].shape == model.get_parameter(key).shape
    torch.testing.assert_close(found[key][0], weight.square().sum(0).sqrt())
