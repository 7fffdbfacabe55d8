"""Importance by hooks, one backward a batch, against the loop over examples, for every kind of layer that has a formula."""

import copy
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ARCHITECTURES, Bench, llama, pictures
from one_by_one import one_by_one
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from llm_unlearn import lora_linear
from llm_unlearn.errors import DataError, TaskError
from llm_unlearn.fresh_classifiers import new_bert, new_resnet, new_vit
from llm_unlearn.lora import Lora, attach
from llm_unlearn.tasks import Example, ImageClassifier, Task
from llm_unlearn.weights.importance import fisher_diagonal, mas, saliency

KINDS: dict[str, Callable[..., dict[str, Tensor]]] = {
    "fisher_diagonal": fisher_diagonal,
    "mas": mas,
    "saliency": saliency,
}
Case = tuple[nn.Module, Task, list[Example]]


def awake(model: nn.Module) -> nn.Module:
    """Return the model with adapters whose B is not 0, norms that are not 1 and batch statistics that are not 0 and 1."""
    torch.manual_seed(1)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(p, std=0.2)
        elif p.dim() == 1:
            p.data += 0.3 * torch.randn_like(p)
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer += torch.rand_like(buffer)
    return model.double().eval()  # in fp32 the gradient of keys is 1e-4 off by rounding alone, with and without hooks


def cases(language: Bench, sentences: Bench) -> dict[str, Callable[[], Case]]:
    """Return model, task and examples by name; texts are of ragged lengths."""
    words = len(language.task.tokenizer)  # type: ignore[attr-defined]
    lm, text = (
        language.task.encode(language.splits["forget"][:7]),
        sentences.task.encode(sentences.splits["forget"][:7]),
    )
    assert (
        len({len(example["input_ids"]) for example in lm}) > 2 < len({len(example["input_ids"]) for example in text})
    )
    seen = ImageClassifier().encode(pictures(7, 1))
    seen = [{name: x.double() if isinstance(x, Tensor) else x for name, x in example.items()} for example in seen]
    multi = [{**example, "labels": [1.0, 0.0, float(i % 2)]} for i, example in enumerate(seen)]
    convolutions = LoraConfig(r=2, target_modules=r".*convolution", modules_to_save=["classifier"])
    heads = {"modules_to_save": ("classifier",)}

    def gpt2() -> nn.Module:
        config = copy.deepcopy(ARCHITECTURES["gpt2"])
        config.vocab_size = words
        return AutoModelForCausalLM.from_config(config)

    def resnet() -> nn.Module:
        return new_resnet(3, widths=(4, 8))

    return {
        "llama lora": lambda: (attach(llama(words), Lora(r=2), "CAUSAL_LM"), language.task, lm),
        "llama full": lambda: (llama(words), language.task, lm),
        "llama tied": lambda: (llama(words, tie_word_embeddings=True), language.task, lm),
        "gpt2 lora": lambda: (attach(gpt2(), Lora(r=2), "CAUSAL_LM"), language.task, lm),
        "gpt2 full": lambda: (gpt2(), language.task, lm),
        "bert lora": lambda: (attach(new_bert(3, words, width=32), Lora(r=2), "SEQ_CLS"), sentences.task, text),
        "bert full": lambda: (new_bert(3, words, width=32), sentences.task, text),
        "vit lora": lambda: (attach(new_vit(3, side=8, width=32), Lora(r=2), **heads), ImageClassifier(), seen),
        "vit full": lambda: (new_vit(3, side=8, width=32), ImageClassifier(), seen),
        "resnet lora": lambda: (get_peft_model(resnet(), convolutions), ImageClassifier(), seen),
        "resnet full": lambda: (resnet(), ImageClassifier(), seen),
        "resnet of several labels": lambda: (resnet(), ImageClassifier(), multi),
    }


NAMES = [f"{model} {how}" for model in ("llama", "gpt2", "bert", "vit", "resnet") for how in ("lora", "full")] + [
    "llama tied",
    "resnet of several labels",
]


def compare(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Each tensor to 1e-5 of its largest number."""
    assert found.keys() == wanted.keys() and found
    for name, tensor in wanted.items():
        assert found[name].dtype == torch.float32
        top = tensor.abs().max().item()
        torch.testing.assert_close(
            found[name].double(), tensor, rtol=1e-5, atol=1e-5 * top + 1e-10, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_hooks_equal_the_loop(name: str, kind: str, language: Bench, sentences: Bench) -> None:
    model, task, examples = cases(language, sentences)[name]()
    awake(model)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    flags = {key: p.requires_grad for key, p in model.named_parameters()}
    for weights in ("trainable", "base") if "lora" in name else ("trainable",):
        wanted = one_by_one(kind, model, task, examples, weights)
        assert sum(tensor.any().item() for tensor in wanted.values()) > 0.8 * len(wanted)
        hooks = [len(module._forward_hooks) for module in model.modules()]  # transformers has some of its own
        compare(KINDS[kind](model, task, examples, weights=weights, batch_size=5), wanted)
        assert hooks == [len(module._forward_hooks) for module in model.modules()]
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert flags == {key: p.requires_grad for key, p in model.named_parameters()}
    assert all(p.grad is None for p in model.parameters())


class Wide(nn.Module):
    """One linear layer from 2 numbers to 2 classes: its logits are W x + b."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, **inputs: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.layer(inputs["pixel_values"]))


BY_HAND = [
    {"pixel_values": torch.tensor([2.0, 0.0]), "labels": 0},
    {"pixel_values": torch.tensor([0.0, 4.0]), "labels": 1},
]


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_the_trace_by_hand(batch_size: int) -> None:
    """At 0 both probabilities are 1/2, so d nll / d logits = (-1/2, 1/2) for label 0 and (1/2, -1/2) for label 1.

    Squares: W: 1/4 x^2 a row: (1, 0) of the first, (0, 4) of the second example, so the mean is (1/2, 2) in both rows;
    b: 1/4.  The trace is 2 (1/2 + 2) + 2 / 4 = 5.5.  The square of the batch's mean gradient has half of W's (each entry is
    one example's alone: 1/4 of its square, not 1/2) and 0 of b's: 2.5.
    """
    found = fisher_diagonal(Wide(), ImageClassifier(), BY_HAND, batch_size=batch_size)
    torch.testing.assert_close(found["layer.weight"], torch.tensor([[0.5, 2.0], [0.5, 2.0]]))
    torch.testing.assert_close(found["layer.bias"], torch.tensor([0.25, 0.25]))
    assert sum(tensor.sum().item() for tensor in found.values()) == pytest.approx(5.5)
    of_the_mean = saliency(Wide(), ImageClassifier(), BY_HAND, batch_size=batch_size)
    assert sum(tensor.square().sum().item() for tensor in of_the_mean.values()) == pytest.approx(2.5)


def test_the_batch_size_changes_nothing(language: Bench) -> None:
    model = awake(language.wrapped())
    examples = language.task.encode(language.splits["retain"][:9])
    one = fisher_diagonal(model, language.task, examples, batch_size=1)
    for size in (2, 4, 32):
        compare(
            fisher_diagonal(model, language.task, examples, batch_size=size), {n: t.double() for n, t in one.items()}
        )
    batch = language.task.collate(examples)
    weights = [p for p in model.parameters() if p.requires_grad]
    decisions = language.task.decisions(model, batch)
    mean = torch.autograd.grad(decisions.per_example(decisions.nll()).mean(), weights)
    wrong = sum(part.square().sum().item() for part in mean)
    assert wrong < 0.5 * sum(
        tensor.sum().item() for tensor in one.values()
    )  # the square of the mean is another number


def test_a_fresh_adapter_has_no_importance_in_a(language: Bench) -> None:
    """B = 0: no output depends on A.  The base weights under it have theirs."""
    model, examples = language.wrapped(), language.task.encode(language.splits["forget"])
    found = fisher_diagonal(model, language.task, examples)
    assert not any(tensor.any() for name, tensor in found.items() if "lora_A" in name)
    assert all(tensor.any() for name, tensor in found.items() if "lora_B" in name)
    assert all(tensor.any() for tensor in fisher_diagonal(model, language.task, examples, weights="base").values())


def test_the_fused_layer_steps_aside_for_the_factors_only(language: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    inner = lora_linear._Fused.forward
    monkeypatch.setattr(lora_linear._Fused, "forward", lambda ctx, *given: (calls.append(1), inner(ctx, *given))[1])
    model, examples = language.wrapped(), language.task.encode(language.splits["forget"][:2])
    fisher_diagonal(model, language.task, examples, weights="base")
    assert len(calls) >= 14
    calls.clear()
    fisher_diagonal(model, language.task, examples)
    assert len(calls) <= 14  # the head's probe alone, which is cached by now


class Mixed(nn.Module):
    """Layers that no formula fits, on the way to 2 classes from rows of 4 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Linear(2, 3)  # sees [2 B, 2]: whose row is whose is not its business
        self.odd = nn.PReLU(3)  # has no formula
        self.alone = nn.Parameter(torch.randn(6, 5))  # belongs to the whole model
        self.again = nn.Linear(5, 5)  # called twice
        self.silent = nn.Linear(5, 2)  # used without being called
        self.unused = nn.Linear(5, 2)

    def forward(self, **inputs: Tensor) -> SimpleNamespace:
        x = inputs["pixel_values"]
        x = self.odd(self.flat(x.view(-1, 2))).reshape(len(x), -1) @ self.alone
        x = self.again(torch.tanh(self.again(x).mul_(2.0)))
        return SimpleNamespace(logits=nn.functional.linear(x, self.silent.weight, self.silent.bias))


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_no_formula_is_right_too(kind: str) -> None:
    torch.manual_seed(0)
    model = Mixed().double()
    rows = [{"pixel_values": torch.randn(4).double(), "labels": i % 2} for i in range(5)]
    wanted = one_by_one(kind, model, ImageClassifier(), rows, "trainable")
    assert not wanted["unused.weight"].any() and wanted["silent.weight"].any() and wanted["alone"].any()
    compare(KINDS[kind](model, ImageClassifier(), rows), wanted)


def test_a_layer_whose_input_is_overwritten_is_refused() -> None:
    class Overwriting(Wide):
        def forward(self, **inputs: Tensor) -> SimpleNamespace:
            x = inputs["pixel_values"].clone()
            out = self.layer(x)
            x.zero_()
            return SimpleNamespace(logits=out)

    with pytest.raises(TaskError, match="changed in place after the layer had read it"):
        fisher_diagonal(Overwriting(), ImageClassifier(), BY_HAND)


def test_statistics_of_the_batch_are_refused() -> None:
    class Whitened(Wide):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(2, track_running_stats=False)

        def forward(self, **inputs: Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=self.norm(self.layer(inputs["pixel_values"])))

    with pytest.raises(TaskError, match="statistics from the batch"):
        fisher_diagonal(Whitened(), ImageClassifier(), BY_HAND)


def test_some_weights_at_a_time_and_none(language: Bench) -> None:
    model, examples = language.wrapped(), language.task.encode(language.splits["forget"])
    whole = fisher_diagonal(model, language.task, examples, weights="base")
    name = next(iter(whole))
    some = fisher_diagonal(model, language.task, examples, weights="base", only={name})
    assert some.keys() == {name}
    compare(some, {name: whole[name].double()})
    with pytest.raises(TaskError, match="no weights to judge"):
        fisher_diagonal(model, language.task, examples, only={"nowhere"})
    with pytest.raises(DataError, match="there are none"):
        fisher_diagonal(model, language.task, [])


TWO = """
    import os, pickle, sys
    from pathlib import Path

    import torch
    from accelerate import PartialState
    from safetensors.torch import save_file

    from llm_unlearn.weights.importance import fisher_diagonal, saliency

    PartialState(cpu=True)
    assert torch.distributed.get_world_size() == 2
    folder = Path(sys.argv[1])
    bench = pickle.loads((folder / "bench.pickle").read_bytes())
    model = bench.wrapped()
    for parameter in model.parameters():
        parameter.data += 0.01
    examples = bench.task.encode(bench.splits["forget"][:7])
    for measure in (fisher_diagonal, saliency):
        found = measure(model, bench.task, examples, batch_size=2)
        save_file(found, folder / f"{measure.__name__}.{os.environ['RANK']}.safetensors")
"""


@pytest.mark.dist
def test_two_processes_equal_one(language: Bench, tmp_path: Path) -> None:
    """Seven examples: four for one process and three for the other, reduced once."""
    (tmp_path / "bench.pickle").write_bytes(pickle.dumps(language))
    (tmp_path / "two.py").write_text(textwrap.dedent(TWO))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, str(tmp_path / "two.py"), str(tmp_path)],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    model = language.wrapped()
    for parameter in model.parameters():
        parameter.data += 0.01
    examples = language.task.encode(language.splits["forget"][:7])
    for measure in (fisher_diagonal, saliency):
        alone = measure(model, language.task, examples, batch_size=2)
        first, second = (load_file(tmp_path / f"{measure.__name__}.{rank}.safetensors") for rank in (0, 1))
        for name, tensor in alone.items():
            assert torch.equal(first[name], second[name])
            top = tensor.abs().max().item()
            torch.testing.assert_close(first[name], tensor, rtol=1e-4, atol=1e-4 * top + 1e-12)
