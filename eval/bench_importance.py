"""Per-example gradients by hooks against a loop over the examples: the time of both and the largest difference.

    python eval/bench_importance.py                              64 examples of a small Llama, ViT and ResNet, on the CPU
    python eval/bench_importance.py --examples 256 --device cuda

Each model is measured through its adapter (LoRA factors, and the head in full), on the checkpoint's own weights under it, and
with every weight trained (norms, embeddings, biases, convolutions).  Texts are of ragged lengths.  The difference is that of
the diagonal Fisher, relative to the largest number of its tensor, in fp32: the loop rounds as well.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from llm_unlearn import cli, options, settings
from llm_unlearn.fresh_classifiers import drawn, new_resnet, new_vit
from llm_unlearn.head import in_eval
from llm_unlearn.sandbox import models, world
from llm_unlearn.tasks import CausalLM, Example, ImageClassifier, Task
from llm_unlearn.weights.importance import Weights, allowed, chosen, fisher_diagonal

LINEAR = "all-linear"
CONVOLUTIONS = r".*(convolution|projection)"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    examples: int = 64
    batch_size: int = 32
    repeats: int = 3  # the fastest counts
    device: Literal["cpu", "cuda"] = "cpu"
    seed: int = 0


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every case and print the table."""
    given = settings.build(Options, options.read(sys.argv[1:] if argv is None else argv, __doc__ or "", Options))
    torch.set_flush_denormal(True)
    print(f"{'model':8} {'weights':28} {'numbers':>10} {'loop s':>8} {'hooks s':>8} {'ratio':>6} {'difference':>10}")
    for name, (make, task, examples) in cases(given).items():
        for what in ("adapter", "checkpoint under it", "all"):
            model = make(what != "all").to(given.device).eval()
            weights: Weights = "base" if what.startswith("checkpoint") else "trainable"
            loop_seconds, wanted = timed(partial(loop, model, task, examples, weights), given)
            hooks = partial(fisher_diagonal, model, task, examples, weights=weights, batch_size=given.batch_size)
            hook_seconds, found = timed(hooks, given)
            apart = max(
                float((found[key] - each).abs().max() / each.abs().max().clamp(min=1e-30))
                for key, each in wanted.items()
                if each.abs().max() > 1e-12
            )
            size = sum(each.numel() for each in wanted.values())
            print(
                f"{name:8} {what:28} {size:>10} {loop_seconds:>8.2f} {hook_seconds:>8.2f} "
                f"{loop_seconds / hook_seconds:>6.1f} {apart:>10.1e}",
                flush=True,
            )


def cases(given: Options) -> dict[str, tuple[Callable[[bool], nn.Module], Task, list[Example]]]:
    """Return by name how to make the model (with an adapter or without), its task and its examples."""
    tokenizer = models.tokenizer()
    text = CausalLM(tokenizer=tokenizer, max_length=128)
    rows = world.splits()["retain"][: given.examples]
    draw = torch.Generator().manual_seed(given.seed)
    pictures = torch.randn(given.examples, 3, 32, 32, generator=draw)
    seen = ImageClassifier().encode([{"image": each, "label": i % 10} for i, each in enumerate(pictures)])

    def llama(adapter: bool) -> nn.Module:
        shape = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=256,
            intermediate_size=768,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
        return wrapped(drawn(lambda: LlamaForCausalLM(shape), given.seed), adapter, LINEAR, None, "CAUSAL_LM")

    def vit(adapter: bool) -> nn.Module:
        return wrapped(new_vit(10, side=32, width=128, seed=given.seed), adapter, LINEAR, ["classifier"])

    def resnet(adapter: bool) -> nn.Module:
        return wrapped(new_resnet(10, seed=given.seed), adapter, CONVOLUTIONS, ["classifier"])

    return {
        "Llama": (llama, text, text.encode(rows)),
        "ViT": (vit, ImageClassifier(), seen),
        "ResNet": (resnet, ImageClassifier(), seen),
    }


def wrapped(model: Any, adapter: bool, targets: str, head: list[str] | None, kind: str | None = None) -> nn.Module:
    """Return the model with an adapter whose B is not 0, or as it is."""
    if not adapter:
        return model
    exclude = head if targets == LINEAR else None
    config = LoraConfig(r=8, target_modules=targets, modules_to_save=head, exclude_modules=exclude, task_type=kind)
    out = get_peft_model(model, config)
    for name, p in out.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(p, std=0.02)
    return out


def loop(model: nn.Module, task: Task, examples: Sequence[Example], weights: Weights) -> dict[str, Tensor]:
    """Return the diagonal Fisher from one backward pass an example."""
    parameters = chosen(model, weights)
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    device = next(model.parameters()).device
    with in_eval(model), allowed(model, list(parameters.values())):
        for example in examples:
            batch = {name: column.to(device) for name, column in task.collate([example]).items()}
            value = task.decisions(model, batch).nll().sum()
            for name, grad in zip(
                parameters, torch.autograd.grad(value, list(parameters.values()), allow_unused=True), strict=True
            ):
                if grad is not None:
                    total[name].addcmul_(grad, grad)
    return {name: each / len(examples) for name, each in total.items()}


def timed(work: Callable[[], dict[str, Tensor]], given: Options) -> tuple[float, dict[str, Tensor]]:
    """Return the fastest time in seconds (processor time on the CPU, so that others on the machine do not count) and the result."""
    clock = time.process_time if given.device == "cpu" else time.perf_counter
    out, best = work(), float("inf")
    for _ in range(given.repeats):
        start = clock()
        out = work()
        if given.device == "cuda":
            torch.cuda.synchronize()
        best = min(best, clock() - start)
    return best, out


if __name__ == "__main__":
    cli.run(main)
