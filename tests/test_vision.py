"""Image classifiers of any make: bridged, wrapped, saved, reloaded, and exactly what they were with the adapter off."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import Bench, learn, logits, pictures, shortened
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import ConvNextConfig, ConvNextForImageClassification, LlamaConfig, LlamaForCausalLM

from llm_unlearn import hub
from llm_unlearn.errors import DataError, RecipeError, TaskError
from llm_unlearn.fit import fit
from llm_unlearn.fresh_classifiers import new_bert, new_resnet, new_vit
from llm_unlearn.guard import probe_logits
from llm_unlearn.lora import Lora, attach, head_names
from llm_unlearn.measuring.activations import HeadInput
from llm_unlearn.measuring.evaluation import Evaluation
from llm_unlearn.measuring.gradients import gradient_norm, last_block
from llm_unlearn.method import find
from llm_unlearn.recipe import from_values
from llm_unlearn.reference import reference
from llm_unlearn.schedule import Schedule
from llm_unlearn.tasks import ImageClassifier
from llm_unlearn.vision import VisionBridge, bridge


class Block(nn.Module):
    """He et al.'s basic block with option-A shortcuts (every second pixel, zero channels), as the published weights have it."""

    def __init__(self, narrow: int, wide: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(narrow, wide, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(wide)
        self.conv2 = nn.Conv2d(wide, wide, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.stride, self.more = stride, wide - narrow

    def forward(self, x: Tensor) -> Tensor:
        short = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more // 2, self.more // 2))
        return F.relu(short + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class ResNet20(nn.Module):
    """Somebody else's module: it knows nothing of transformers."""

    def __init__(self, depth: int = 3, widths: tuple[int, ...] = (16, 32, 64), classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        before = widths[0]
        for number, width in enumerate(widths, 1):
            steps = [
                Block(before if i == 0 else width, width, 2 if i == 0 and number > 1 else 1) for i in range(depth)
            ]
            setattr(self, f"layer{number}", nn.Sequential(*steps))
            before = width
        self.linear = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


def small() -> ResNet20:
    """Return a narrow one for tests of a second; it is also what recipes name as `test_vision:small`."""
    return ResNet20(depth=1, widths=(4, 8, 16), classes=3)


def failing(size: int) -> nn.Module:
    """Need an argument, which nobody gives."""
    return nn.Identity()


def nothing() -> int:
    """Return what is no module."""
    return 3


NUMBER = 3


def convnext() -> nn.Module:
    torch.manual_seed(0)
    return ConvNextForImageClassification(
        ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, patch_size=2, num_labels=3)
    )


def timm_resnet() -> nn.Module:
    timm = pytest.importorskip("timm", reason="the extra 'timm' is not installed")
    torch.manual_seed(0)
    return bridge(timm.create_model("resnet10t", pretrained=False, num_classes=3))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: bridge(small()),
    "resnet": lambda: new_resnet(3, widths=(8, 16)),
    "vit": lambda: new_vit(3, side=8, width=16, layers=1, heads=2),
    "convnext": convnext,
    "timm": timm_resnet,
}
SPLITS = {"forget": pictures(12, 1), "retain": pictures(24, 2), "holdout": pictures(12, 3)}
TASK = ImageClassifier()


@pytest.fixture(scope="module", params=MODELS)
def known(request: pytest.FixtureRequest) -> tuple[Bench, str]:
    """A model of each make that knows its rows."""
    torch.manual_seed(0)
    origin = MODELS[request.param]()
    rows = [*SPLITS["forget"], *SPLITS["retain"]]
    target = learn(TASK, copy.deepcopy(origin), rows, steps=40, rate=1e-2)
    return Bench(TASK, SPLITS, origin, target), request.param


def shaken(model: nn.Module) -> nn.Module:
    """Return the model with every trained weight moved, so that an adapter does something."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()


def test_it_is_wrapped_saved_reloaded_merged_and_switched_off(known: tuple[Bench, str], tmp_path: Path) -> None:
    here, _ = known
    batch = here.batch("forget")
    before = logits(TASK, here.target, batch)
    model = attach(copy.deepcopy(here.target), Lora(r=4, alpha=8))
    assert torch.equal(logits(TASK, model, batch), before)
    shaken(model)
    after = logits(TASK, model, batch)
    assert (after - before).abs().max() > 0.05
    with reference(model) as old:
        assert torch.equal(TASK.decisions(old, batch, logits=True).logits, before)

    model.save_pretrained(tmp_path / "adapter")
    fresh = PeftModel.from_pretrained(copy.deepcopy(here.target), str(tmp_path / "adapter")).eval()
    assert torch.equal(logits(TASK, fresh, batch), after)
    recipe = from_values({"model": "m", "forget": "f", "retain": "r", "task": "image_classifier"})
    place = hub.save(model, tmp_path, recipe)
    back = hub.reload(copy.deepcopy(model), place)
    assert torch.equal(logits(TASK, back, batch), after)
    with back.disable_adapter():  # the head too is the one before
        assert torch.equal(logits(TASK, back, batch), before)
    merged = model.merge_and_unload(safe_merge=True)
    torch.testing.assert_close(logits(TASK, merged, batch), after, rtol=0, atol=1e-5)
    place = hub.save(merged, tmp_path / "full", recipe) if (tmp_path / "full").mkdir() is None else place
    assert torch.equal(logits(TASK, hub.reload(merged, place), batch), logits(TASK, merged, batch))


def test_lora_is_on_linear_and_convolution_layers_and_the_head_is_trained_in_full(known: tuple[Bench, str]) -> None:
    here, name = known
    heads = {"plain": ("net.linear",), "timm": ("net.fc",)}.get(name, ("classifier",))
    assert head_names(here.target) == heads
    model = attach(copy.deepcopy(here.target), Lora(r=4, alpha=8))
    wrapped = {
        n.removesuffix(".base_layer") for n, _ in model.get_base_model().named_modules() if n.endswith(".base_layer")
    }
    wanted = {
        n
        for n, module in here.target.named_modules()
        if (isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1))
        and not any(n == head or n.startswith(f"{head}.") for head in heads)
    }
    assert wrapped == wanted and any(isinstance(here.target.get_submodule(n), nn.Conv2d) for n in wrapped)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in n or f"{heads[0]}.modules_to_save" in n for n in trained)
    assert any("modules_to_save" in n for n in trained)
    depthwise = [m for m in here.target.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert bool(depthwise) == (name == "convnext")


@pytest.mark.parametrize("method", ["npo", "nabla_tau"])
def test_after_unlearning_the_adapter_off_is_the_reference_to_the_bit(
    known: tuple[Bench, str], method: str, tmp_path: Path
) -> None:
    here, name = known
    batch = here.batch("holdout")
    before = logits(TASK, here.target, batch)
    run = here.run(tmp_path, model=attach(copy.deepcopy(here.target), Lora(r=4, alpha=8)))
    buffers = {n: b.clone() for n, b in run.model.named_buffers()}
    probe_logits(run.model.train(), TASK, TASK.encode(SPLITS["forget"]))
    shortened(find(method), steps=4).unlearn(run)
    assert not torch.allclose(logits(TASK, run.model, batch), before, atol=1e-3)
    assert all(torch.equal(b, buffers[n]) for n, b in run.model.named_buffers())
    assert bool(buffers) == (name in ("plain", "resnet", "timm")) or name == "vit"
    with run.model.disable_adapter():
        assert torch.equal(logits(TASK, run.model, batch), before)


def test_training_with_dropout_leaves_the_batch_statistics_of_an_adapted_model_alone(tmp_path: Path) -> None:
    def objective(model: Any, batch: Any, progress: Any) -> Any:
        return {"loss": TASK.decisions(model, batch["rows"]).mean_nll().mean()}

    for adapted in (True, False):
        torch.manual_seed(0)
        target = bridge(small())
        model = attach(target, Lora(r=4)) if adapted else target
        here = Bench(TASK, SPLITS, target, target)
        before = {n: b.clone() for n, b in model.named_buffers()}
        run = here.run(tmp_path / str(adapted), model=model)
        fit(run, {"rows": SPLITS["retain"]}, objective, schedule=Schedule(steps=3, forget_batch=4), dropout=True)
        same = all(torch.equal(b, before[n]) for n, b in model.named_buffers())
        assert same == adapted  # ordinary training of all weights does move them


def test_hidden_states_activations_and_gradient_norms_of_every_make(known: tuple[Bench, str]) -> None:
    here, name = known
    model = attach(copy.deepcopy(here.target), Lora(r=4, alpha=8)).eval()
    batch = here.batch("forget", 5)
    states = model(**TASK.inputs(batch), output_hidden_states=True).hidden_states
    assert len(states) >= 2 and all(len(state) == 5 for state in states)
    assert torch.equal(TASK.hidden(model, batch, -1), states[-1])
    with torch.no_grad(), HeadInput(model, TASK, batch) as seen:
        out = TASK.decisions(model, batch, logits=True).logits
        pooled = seen.pooled(out)
    head = here.target.get_submodule(head_names(here.target)[0])
    torch.testing.assert_close(head(pooled), out)
    norms = [gradient_norm(each, TASK, TASK.encode(SPLITS["forget"][:1])[0]) for each in (model, here.target)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4) and norms[0] > 0
    if name == "plain":
        assert {n.split(".net.")[-1].split(".")[0] for n in last_block(model)} == {"layer3"}
    splits = {"forget": SPLITS["forget"][:3]}
    scores = Evaluation(TASK, splits, batch_size=8, activations=True, grad_norm=True).scores("x", model)
    assert scores["forget"].hidden is not None and len(scores["forget"].hidden[0]) == pooled.shape[1]


def test_a_plain_module_may_return_an_object_and_takes_labels() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small()

        def forward(self, x: Tensor) -> Any:
            return type("Out", (), {"logits": self.inner(x)})()

    batch = TASK.collate(TASK.encode(SPLITS["forget"][:4]))
    net = Wrapped().eval()
    model = bridge(net)
    out = model(batch["pixel_values"], labels=batch["labels"])
    assert torch.equal(out.logits, net.inner(batch["pixel_values"])) and out.hidden_states is None
    assert out.loss.item() == pytest.approx(F.cross_entropy(out.logits, batch["labels"]).item())
    assert model.stages == ("inner.layer1", "inner.layer2", "inner.layer3") and model.config.num_labels == 3
    targets = F.one_hot(batch["labels"], 3).float()
    assert model(batch["pixel_values"], labels=targets).loss.item() == pytest.approx(
        F.binary_cross_entropy_with_logits(out.logits, targets).item()
    )
    assert VisionBridge(net, stages=("inner.layer2",)).stages == ("inner.layer2",)
    vit = MODELS["vit"]()
    assert bridge(vit) is vit and bridge(model) is model


def test_what_cannot_be_bridged_or_wrapped_is_said_in_one_line() -> None:
    class Seen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

    pixels = torch.zeros(2, 3, 4, 4)
    with pytest.raises(TaskError, match=r"Seen gives \[2, 3, 4, 4\] for 2 pictures, where logits \[2, 3\]"):
        bridge(Seen())(pixels)
    with pytest.raises(TaskError, match="say its classes"):
        bridge(nn.Sequential(nn.Flatten()))
    with pytest.raises(TaskError, match="no module 'layer9'"):
        VisionBridge(small(), stages=("layer9",))
    only_head = bridge(nn.Sequential(nn.Flatten(), nn.Linear(48, 3)))
    with pytest.raises(RecipeError, match=r"Sequential has no layer that LoRA can wrap.*--lora none"):
        attach(only_head, Lora())
    alike = small()
    alike.extra = nn.Module()  # its child's name ends as the head's does
    alike.extra.net = nn.Module()
    alike.extra.net.linear = nn.Linear(2, 2)
    with pytest.raises(RecipeError, match=r"the head 'net.linear' cannot be told from 'net.extra.net.linear'"):
        attach(bridge(alike, classes=3), Lora(r=4))
    with pytest.raises(RecipeError, match="no module of VisionBridge matches"):
        attach(bridge(small()), Lora(target_modules=r".*\.nowhere"))


def test_it_runs_and_trains_in_bf16(known: tuple[Bench, str]) -> None:
    here, _ = known
    model = attach(copy.deepcopy(here.target).to(torch.bfloat16), Lora(r=4, alpha=8))
    decisions = TASK.decisions(model, here.batch("forget"))
    decisions.mean_nll().mean().backward()
    assert decisions.logits.dtype == torch.float32
    assert any(
        p.grad is not None and bool(p.grad.abs().sum() > 0) for n, p in model.named_parameters() if "lora_B" in n
    )
    plain = logits(TASK, here.target, here.batch("forget"))
    torch.testing.assert_close(logits(TASK, model, here.batch("forget")), plain, rtol=0.1, atol=0.3)


def test_other_models_keep_peft_s_own_choice() -> None:
    bert = attach(new_bert(3, 50, width=16, layers=1, heads=2), Lora(r=4), "SEQ_CLS")
    assert any("classifier.modules_to_save" in n for n, p in bert.named_parameters() if p.requires_grad)
    assert not any("classifier" in n and "lora_" in n for n, _ in bert.named_parameters())
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    llama = attach(LlamaForCausalLM(LlamaConfig(vocab_size=40, **sizes)), Lora(r=4), "CAUSAL_LM")
    assert not any("lm_head" in n for n, p in llama.named_parameters() if p.requires_grad)


# --- a plain module as a recipe's model ---


def write_rows(folder: Path, model: nn.Module) -> dict[str, str]:
    """Write the model's weights and rows of bytes as Parquet; return settings for a recipe."""
    import io

    import datasets
    from PIL import Image

    out = {"weights": str(folder / "target.safetensors")}
    save_file(model.state_dict(), out["weights"])
    for split, rows in SPLITS.items():
        cells = []
        for row in rows:
            array = (row["image"].permute(1, 2, 0) * 60 + 128).clamp(0, 255).byte().numpy()
            Image.fromarray(array).save(kept := io.BytesIO(), format="PNG")
            cells.append({"image": {"bytes": kept.getvalue(), "path": None}, "label": row["label"]})
        out[split] = str(folder / f"{split}.parquet")
        datasets.Dataset.from_list(cells).to_parquet(out[split])
    return out


@pytest.mark.parametrize("lora", [True, False])
def test_a_plain_module_goes_through_the_whole_job(
    lora: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llm_unlearn.api import unlearn
    from llm_unlearn.subject import Subject, check_alike

    monkeypatch.syspath_prepend(Path(__file__).parent)
    torch.manual_seed(0)
    net = learn(TASK, bridge(small()), [*SPLITS["forget"], *SPLITS["retain"]], steps=60, rate=1e-2).net
    settings: dict[str, Any] = write_rows(tmp_path, net)
    save_file(small().state_dict(), tmp_path / "gold.safetensors")
    settings |= {"task": "image_classifier", "model": "test_vision:small", "gold": str(tmp_path / "gold.safetensors")}
    settings |= {"image": {"mean": [128 / 255], "std": [60 / 255]}, "output": str(tmp_path / "out")}
    settings |= {"evaluation": {"suite": "full" if lora else "quick", "rows": 8}} | ({} if lora else {"lora": None})
    method = {"name": "grad_diff", "training": {"steps": 6, "learning_rate": 1e-2}}
    report = unlearn(**settings, method=method)
    assert report["request"]["model"] == "test_vision:small"
    assert report["request"]["weights"].startswith("target.safetensors#hmac")
    place = tmp_path / "out" / (hub.ADAPTER if lora else hub.MODEL)
    subject = Subject(run=str(tmp_path / "out"))
    check_alike(subject, "gold")
    batch = subject.reader.collate(subject.reader.encode(subject.splits["forget"]))
    before, after = (logits(subject.reader, subject.load(name), batch) for name in ("before", "after"))
    assert not torch.allclose(before, after, atol=1e-3)
    model = bridge(small()).load(tmp_path / "target.safetensors") if lora else bridge(small()).load(place)
    if lora:  # as somebody would without this package's recipes
        model = PeftModel.from_pretrained(model, str(place))
    assert torch.equal(logits(subject.reader, model, batch), after)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "no_such_package.thing:build"}, "cannot import 'no_such_package.thing'.*PYTHONPATH"),
        ({"model": "test_vision:absent"}, "'absent' does not exist in test_vision"),
        ({"model": "test_vision:NUMBER"}, "'NUMBER' is a int, not a function"),
        ({"model": "test_vision:failing"}, "cannot be called without arguments"),
        ({"model": "test_vision:nothing"}, "returned int: it must return a torch.nn.Module"),
        (
            {"model": "test_vision:ResNet20"},
            r"target.safetensors does not fit ResNet20: conv1.weight has shape \[4, 3, 3, 3\]",
        ),
        ({"weights": "no.safetensors"}, "there is no weights file"),
        ({"weights": "conftest.py"}, "is not a safetensors file.*Pickled weights"),
    ],
)
def test_a_build_that_cannot_be_used_is_named(
    change: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llm_unlearn.loading import load_model

    monkeypatch.chdir(Path(__file__).parent)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    save_file(small().state_dict(), tmp_path / "target.safetensors")
    values = {"task": "image_classifier", "model": "test_vision:small", "forget": "f", "retain": "r"}
    recipe = from_values({**values, "weights": str(tmp_path / "target.safetensors"), **change})
    with pytest.raises(DataError, match=message):
        load_model(recipe, recipe.model)


def test_a_build_and_its_weights_load_alike_for_target_gold_and_origin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llm_unlearn.loading import load_model, load_task, new_model

    monkeypatch.syspath_prepend(Path(__file__).parent)
    torch.manual_seed(5)
    save_file(small().state_dict(), tmp_path / "target.safetensors")
    bridge(small()).save_pretrained(tmp_path / "gold")
    values = {"task": "image_classifier", "model": "test_vision:small", "forget": "f", "retain": "r"}
    recipe = from_values({**values, "weights": str(tmp_path / "target.safetensors"), "gold": str(tmp_path / "gold")})

    def first(model: nn.Module) -> Tensor:
        return model.net.conv1.weight.detach()

    target, gold = load_model(recipe, recipe.model), load_model(recipe, recipe.gold or "", role="gold")
    assert torch.equal(first(target), load_file(tmp_path / "target.safetensors")["conv1.weight"])
    assert torch.equal(first(gold), load_file(tmp_path / "gold" / "model.safetensors")["conv1.weight"])
    fresh = [first(each) for each in (new_model(recipe), load_model(recipe, recipe.model, role="origin"))]
    assert torch.equal(*fresh) and not torch.equal(fresh[0], first(target))
    task = load_task(recipe, recipe.model)
    assert (task.classes, task.channels) == (3, 3) and hub.base_name(recipe) == "test_vision:small"
    for wrong, message in (
        ({"model": "somebody/model"}, "--weights belong to a plain module"),
        ({"task": "causal_lm"}, "makes a plain module: say --task image_classifier"),
    ):
        with pytest.raises(RecipeError, match=message):
            from_values({**values, "weights": "w.safetensors", **wrong})


# --- the published ResNet-20 ---


def test_the_published_resnet20_is_what_it_was(data_folder: Path) -> None:
    from llm_unlearn.data.sources import load
    from llm_unlearn.pixels import Pixels

    rows = load(str(data_folder / "cifar10_jpg" / "test.parquet"))[::100]
    model = bridge(ResNet20()).load(data_folder / "resnet20_cifar10" / "resnet20.safetensors").eval()
    task = ImageClassifier(processor=Pixels(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)), classes=10)
    batch = task.collate(task.encode(rows))
    plain = logits(task, model, batch)
    accuracy = (plain.argmax(-1) == batch["labels"]).float().mean().item()
    assert 0.70 < accuracy < 0.92  # 0.8103 on all 10,000 (JPEG); 0.917 published on the originals
    adapted = shaken(attach(model, Lora(r=4, alpha=8)))
    moved = logits(task, adapted, batch)
    with adapted.disable_adapter():
        assert torch.equal(logits(task, adapted, batch), plain)
    torch.testing.assert_close(logits(task, adapted.merge_and_unload(), batch), moved, rtol=0, atol=1e-4)
