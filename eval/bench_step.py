"""Seconds a step and peak memory of NPO: as this toolkit does it, and as a plain loop does it.  One command, one table.

toolkit: LoRA on every linear layer, the reference as a column computed once, forget and retain in one forward pass,
only supervised rows through the vocabulary head.  plain: full fine-tuning, a deep-copied reference model run every step,
two forward passes, all logits, the papers' own loss on forget and the model's on retain.  Same model, rows, optimiser and clipping; the sides alternate.  The Trainer's own work
(data loading, probes, checkpoints) is in neither.

    OMP_NUM_THREADS=1 python eval/bench_step.py
    python eval/bench_step.py --preset 1b --device cuda
"""

import argparse
import copy
import json
import math
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from llm_unlearn.fit import Progress, Stop
from llm_unlearn.lora import Lora, attach
from llm_unlearn.methods.npo import NPO
from llm_unlearn.reference import reference_nll
from llm_unlearn.run import Run
from llm_unlearn.tasks import IGNORE, CausalLM, Example

SHAPE = ("hidden", "layers", "heads", "kv_heads", "inner", "vocab", "dtype")  # what makes the model
PRESETS: dict[str, tuple[Any, ...]] = {
    "small": (384, 6, 6, 6, 1024, 16000, "float32"),
    "1b": (2048, 16, 32, 8, 8192, 128256, "bfloat16"),
}
SIDES = ("toolkit", "plain")
ADAMW: dict[str, Any] = {
    "lr": 1e-5,
    "weight_decay": 0.0,
}  # fused, as the Trainer's default; frozen weights get no gradient and no state
CLIP = 1.0  # largest gradient norm, as both sides clip


def main(argv: Sequence[str] | None = None) -> None:
    """Measure both sides at every ratio and print the table."""
    given = parse(argv)
    warnings.filterwarnings("ignore", category=FutureWarning)  # peft asks transformers by a name that is leaving
    torch.set_num_threads(given.threads)
    torch.set_flush_denormal(True)
    if given.memory in SIDES:
        print(json.dumps(memory(given, given.memory, given.retain[0])))
        return
    report = {
        "model": {**{name: getattr(given, name) for name in SHAPE}, "parameters": build_model(given).num_parameters()},
        "rows": {"tokens": given.tokens, "supervised": given.supervised, "forget": given.forget},
        "device": "CPU" if given.device == "cpu" else torch.cuda.get_device_name(given.device),
        "threads": given.threads,
        "operations_a_second": matmul_rate(given),
        "results": [measure(given, retain) for retain in given.retain],
    }
    print(table(report))
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, those of the preset filled in where none were given."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", choices=PRESETS, default="small", help="22.9 M or 1.2 B parameters, Llama type")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the model; adapters are float32")
    for name in ("hidden", "layers", "heads", "kv-heads", "inner", "vocab"):
        parser.add_argument(f"--{name}", type=int, help="of the model; default: the preset's")
    parser.add_argument("--tokens", type=int, default=234, help="a row; the last third is supervised")
    parser.add_argument("--forget", type=int, default=4, help="forget rows a step")
    parser.add_argument("--retain", type=int, nargs="+", default=[1, 4], help="retain rows for each forget row")
    for name, default in (("rank", 16), ("threads", 1), ("steps", 1), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{default}; repeats: turns of so many steps")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument(
        "--memory", choices=("no", *SIDES), help="no: time only; a side: what its own process measures"
    )
    given = parser.parse_args(argv)
    for name, value in zip(SHAPE, PRESETS[given.preset], strict=True):
        if getattr(given, name) is None:
            setattr(given, name, value)
    given.supervised, given.arguments = max(1, given.tokens // 3), list(sys.argv[1:] if argv is None else argv)
    return given


def build_model(given: argparse.Namespace) -> Any:
    """Return a Llama with seeded random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=given.vocab,
        hidden_size=given.hidden,
        intermediate_size=given.inner,
        num_hidden_layers=given.layers,
        num_attention_heads=given.heads,
        num_key_value_heads=given.kv_heads,
        max_position_embeddings=max(512, given.tokens),
        tie_word_embeddings=given.preset == "1b",
        use_cache=False,
        dtype=getattr(torch, given.dtype),
    )
    with torch.device(given.device):
        return LlamaForCausalLM(config).to(getattr(torch, given.dtype)).train()


def build_rows(given: argparse.Namespace, count: int, seed: int) -> list[Example]:
    """Return encoded rows of random words, prompt first, response last."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(5, given.vocab, (count, given.tokens), generator=generator).tolist()
    prompt = given.tokens - given.supervised
    scored = [0] * prompt + [1] * given.supervised
    return [{"input_ids": ids, "labels": [IGNORE] * prompt + ids[prompt:], "scored": scored} for ids in words]


def toolkit(given: argparse.Namespace, retain: int) -> Callable[[], None]:
    """Return one step as this package takes it: its adapter, streams and NPO's objective."""
    model = attach(build_model(given), Lora(r=given.rank, alpha=2 * given.rank)).train()
    task = CausalLM(SimpleNamespace(pad_token_id=0), given.tokens)
    rows = {"forget": build_rows(given, given.forget, 1), "retain": build_rows(given, given.forget * retain, 2)}
    for row, value in zip(rows["forget"], reference_nll(model, task, rows["forget"]), strict=True):
        row["reference_nll"] = value
    streams = task.collate_streams(rows)
    batch = {name: {key: value.to(given.device) for key, value in part.items()} for name, part in streams.items()}
    objective = NPO().objective(Run(model=model, task=task, splits={}, folder=Path()))
    state = {"on": True, "level": 1e9}  # gate and thermostat are passed: every row counts
    progress = Progress(1, 1.0, Stop(), lambda split: 0.0, lambda value: value, state)
    steps = torch.optim.AdamW(model.parameters(), fused=True, **ADAMW)

    def step() -> None:
        torch.stack(list(objective(model, batch, progress).values())).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        steps.step()
        steps.zero_grad()

    return step


def plain(given: argparse.Namespace, retain: int) -> Callable[[], None]:
    """Return one step of a plain loop: every weight, a second model, two forward passes, all logits."""
    model = build_model(given)
    target = copy.deepcopy(model).eval().requires_grad_(False)
    names, method = ("input_ids", "labels"), NPO()
    forget, keep = (
        {name: torch.tensor([row[name] for row in rows], device=given.device) for name in names}
        for rows in (build_rows(given, given.forget, 1), build_rows(given, given.forget * retain, 2))
    )
    steps = torch.optim.AdamW(model.parameters(), fused=True, **ADAMW)

    def nll(module: nn.Module) -> Tensor:  # [B] nats, 0 where the label is -100
        logits, labels = module(forget["input_ids"]).logits[:, :-1].float(), forget["labels"][:, 1:]
        losses = F.cross_entropy(logits.reshape(-1, given.vocab), labels.reshape(-1), reduction="none")
        return losses.view(labels.shape).sum(-1)

    def step() -> None:
        with torch.no_grad():
            before = nll(target)
        push = -2 / method.beta * F.logsigmoid(-method.beta * (before - nll(model)))
        (method.weight("causal_lm") * push.mean() + model(**keep).loss).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        steps.step()
        steps.zero_grad()

    return step


BUILD = {"toolkit": toolkit, "plain": plain}


def clock(given: argparse.Namespace) -> float:
    """Return seconds: of this process's CPU time, or of wall time once the GPU is done."""
    if given.device == "cpu":
        return time.process_time()
    torch.cuda.synchronize(given.device)
    return time.perf_counter()


def measure(given: argparse.Namespace, retain: int) -> dict[str, Any]:
    """Return seconds a step (a figure a turn), bytes and operations of both sides at one ratio."""
    steps = {side: BUILD[side](given, retain) for side in SIDES}
    for step in steps.values():  # the first step also probes the head and makes the optimiser's state
        step()
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for turn in range(given.repeats):
        for side in SIDES if turn % 2 == 0 else SIDES[::-1]:
            start = clock(given)
            for _ in range(given.steps):
                steps[side]()
            seconds[side].append((clock(given) - start) / given.steps)
    del steps, step
    return {
        "retain_per_forget": retain,
        "seconds_a_step": seconds,
        "time_ratios": [b / a for a, b in zip(seconds["toolkit"], seconds["plain"], strict=True)],
        "bytes": {side: in_subprocess(given, side, retain) for side in SIDES},
        "operations": operations(given, retain),
    }


def in_subprocess(given: argparse.Namespace, side: str, retain: int) -> dict[str, int | None]:
    """Return what `memory` measures in a fresh process, unless it was switched off."""
    if given.memory == "no":
        return {"held": None, "above": None}
    command = [sys.executable, __file__, *given.arguments, "--memory", side, "--retain", str(retain)]
    # glibc: every tensor gets pages of its own, given back when it is freed, so that what is resident is what is held
    exact = os.environ | {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=exact)
    return json.loads(done.stdout.splitlines()[-1])


def memory(given: argparse.Namespace, side: str, retain: int) -> dict[str, int | None]:
    """Return bytes held just before the first step, and the peak of three steps above that; None where unknown."""
    step = BUILD[side](given, retain)
    if given.device != "cpu":
        torch.cuda.reset_peak_memory_stats(given.device)
    held = _resident("VmRSS", reset=True) if given.device == "cpu" else torch.cuda.memory_allocated(given.device)
    for _ in range(3):
        step()
    peak = _resident("VmHWM") if given.device == "cpu" else torch.cuda.max_memory_allocated(given.device)
    return {"held": held, "above": None if held is None or peak is None else peak - held}


def _resident(name: str, reset: bool = False) -> int | None:
    if not Path("/proc/self/clear_refs").exists():  # not Linux
        return None
    if reset:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what is resident now
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) * 1024


def operations(given: argparse.Namespace, retain: int) -> dict[str, int]:
    """Return the floating-point operations that a step needs at least: matrix products, causal attention, no recomputing."""
    width, inner, rows = given.hidden, given.inner, given.forget * (1 + retain)
    share = given.kv_heads / given.heads
    block = width * (width * (2 + 2 * share) + 3 * inner)  # weights of a layer
    factors = given.rank * (4 * width + 2 * width * (1 + share) + 3 * (width + inner))
    head = width * given.vocab
    attention = width * (given.tokens + 1)  # multiplications a token and layer: half of the square, twice
    tokens = rows * given.tokens
    ours = tokens * given.layers * (4 * block + 6 * factors + 6 * attention) + rows * given.supervised * 4 * head
    model = given.layers * (block + attention) + head
    theirs = tokens * 6 * model + given.forget * given.tokens * 2 * model
    return {"toolkit": round(ours), "plain": round(theirs)}


def matmul_rate(given: argparse.Namespace) -> float:
    """Return the operations a second of a matrix product of this model's size: what the floor in seconds is taken at."""
    rows = 2 * given.forget * given.tokens
    options: dict[str, Any] = {"device": given.device, "dtype": getattr(torch, given.dtype)}
    left, right = torch.randn(rows, given.hidden, **options), torch.randn(given.hidden, given.inner, **options)
    best = math.inf
    for _ in range(5):
        start = clock(given)
        for _ in range(20):
            left @ right
        best = min(best, (clock(given) - start) / 20)
    return 2 * rows * given.hidden * given.inner / best


def table(report: dict[str, Any]) -> str:
    """Return the report as text: a line for each side and ratio, a line for the ratios."""
    model, rows = report["model"], report["rows"]
    lines = [
        f"NPO, Llama, {model['parameters'] / 1e6:.1f} M parameters, {model['vocab']} words, {model['dtype']}; rows of "
        + f"{rows['tokens']} tokens, {rows['supervised']} supervised; {report['device']}, {report['threads']} thread(s)",
        "",
        f"| forget : retain | side | {'CPU' if report['device'] == 'CPU' else 'wall'} s a step, mean (least - most) | floor s | MB held before | MB above at peak |",
        "|---|---|---|---|---|---|",
    ]
    for result in report["results"]:
        name = f"{rows['forget']} : {rows['forget'] * result['retain_per_forget']}"
        for side in SIDES:
            sizes = [result["bytes"][side][key] for key in ("held", "above")]
            held, above = ("not measured" if size is None else f"{size / 1e6:.0f}" for size in sizes)
            seconds, floor = result["seconds_a_step"][side], result["operations"][side] / report["operations_a_second"]
            lines.append(f"| {name} | {side} | {_spread(seconds)} | {floor:.3f} | {held} | {above} |")
        peaks = [result["bytes"][side]["above"] for side in SIDES]
        less = "not measured" if None in peaks else f"{peaks[1] / peaks[0]:.2f}x"
        floors = result["operations"]["plain"] / result["operations"]["toolkit"]
        lines.append(f"| {name} | plain / toolkit | {_spread(result['time_ratios'])} x | {floors:.2f}x | | {less} |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.3f} ({min(values):.3f} - {max(values):.3f})"


if __name__ == "__main__":
    main()
