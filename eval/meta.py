"""Which figures can be trusted?  A meta-evaluation of every figure on the sandbox.

    python eval/meta.py --output outputs/meta                two of each kind: 8 models that know, 8 that never did, 4 unlearned
    python eval/meta.py --seeds 1 --unlearned npo             half of it

Faithfulness: the area under the ROC curve with which a figure tells the two pools apart.  Robustness: how little it moves when
unlearned models are rounded to 4 bits, and how alike unlearned models and gold move under a short fine-tuning on forget.
Definitions: llm_unlearn/measuring/meta.py; what the pools are and why: llm_unlearn/measuring/pools.py.  Protocol after OpenUnlearning
(arXiv:2506.12618) and arXiv:2605.24614.

Everything is a LoRA adapter (rank 16) on the sandbox's gold, merged; 32 rows a step, the package's own training loop:

  knower      400 steps on forget and as many retain rows: the `before` of the depth score and of the unlearned models.  It grew
              out of gold, so their hidden states share a basis; the sandbox's target did not ("..., trained apart" below)
  members     75 to 240 steps (pools.STEPS), half of them with odd seeds
  unlearned   the knower after 60 steps of a method with its own defaults (8 forget and 32 retain rows a step)
  relearning  20 steps on forget rows, 32 a step, the same for gold
  rounding    round to nearest, 4 bits, one scale for 64 weights, on every linear layer of the blocks

Each model's figures are kept in OUTPUT/models, so a run that was interrupted goes on.  Writes OUTPUT/meta.md and meta.json.
"""

import copy
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm
from transformers import set_seed

from llm_unlearn import cli, options
from llm_unlearn.attacks.quantise import rounded
from llm_unlearn.files import read_json, write_json, write_text
from llm_unlearn.loading import load_model, load_task
from llm_unlearn.lora import Lora, attach
from llm_unlearn.measuring import meta, pools
from llm_unlearn.measuring.depth import Depth, blocks
from llm_unlearn.measuring.evaluation import measure
from llm_unlearn.measuring.figures import figures
from llm_unlearn.method import find
from llm_unlearn.recipe import SANDBOX, from_values
from llm_unlearn.run import Run
from llm_unlearn.sandbox import world
from llm_unlearn.schedule import Schedule
from llm_unlearn.scores import ModelScores
from llm_unlearn.settings import build
from llm_unlearn.tasks import Row
from llm_unlearn.train import train

ON = ("forget", "forget_heldout")  # the splits whose figures are judged
ADDS = ("output", "seeds", "unlearned", "share")  # settings that change which models there are, and none of them


@dataclass(frozen=True, kw_only=True)
class Meta:
    """How much to spend."""

    output: str = "outputs/meta"  # figures of finished models stay here
    seeds: int = 2  # members of each of the eight kinds
    unlearned: tuple[str, ...] = ("npo", "grad_diff", "simnpo", "kl")  # methods whose results are attacked
    knower_steps: int = 400  # 32 rows each
    unlearn_steps: int = 60  # 8 forget and 32 retain rows each
    relearn_steps: int = 20  # 32 forget rows each
    share: float = 1.0  # of the steps of every member: with 0.33 those that know hardly do
    seed: int = 0  # of the measured rows and of what is not a member


@dataclass
class Bench:
    """The sandbox, the models everything is compared with, and the folder."""

    given: Meta

    def __post_init__(self) -> None:
        """Read the sandbox and make (or find) the knower."""
        self.folder = Path(self.given.output)
        (self.folder / "models").mkdir(parents=True, exist_ok=True)
        self.recipe = from_values({"model": SANDBOX, "gold": SANDBOX, "precision": "fp32"})
        self.task = load_task(self.recipe, SANDBOX)
        self.splits = world.splits()
        self.rows = pools.measured(self.splits, self.given.seed)
        self.gold = load_model(self.recipe, SANDBOX, role="gold")

    @cached_property
    def knower(self) -> nn.Module:
        """Gold, trained until it knows forget; kept on disk."""
        folder = self.folder / "knower"
        if not folder.exists():
            forget, retain = self.splits["forget"], self.splits["retain"]
            model: Any = self.trained(
                self.gold, [*forget, *retain[:: max(1, len(retain) // len(forget))]], self.given.knower_steps, 0
            )
            part = self.folder / "knower.part"
            shutil.rmtree(part, ignore_errors=True)
            model.save_pretrained(part)
            part.replace(folder)
        return load_model(self.recipe, str(folder))

    @cached_property
    def standards(self) -> dict[str, ModelScores]:
        """The scores of `before` (the knower) and gold, which some figures compare with."""
        return {name: self.scores(model) for name, model in (("before", self.knower), ("gold", self.gold))}

    @cached_property
    def depths(self) -> dict[str, Depth]:
        """Stage 1 of the depth score, with a `before` that grew out of gold and with one that was trained apart."""
        target, rows = load_model(self.recipe, SANDBOX), pools.canonical(self.rows["forget"])
        named = {"unlearning_depth forget": self.knower, "unlearning_depth forget, trained apart": target}
        return {
            name: Depth(before, self.gold, self.task, rows, batch_size=64, progress=False)
            for name, before in named.items()
        }

    def trained(self, start: nn.Module, rows: Sequence[Row], steps: int, seed: int) -> nn.Module:
        """Return a copy of `start` after so many steps of a fresh adapter on the rows, merged."""
        set_seed(seed)
        model = attach(copy.deepcopy(start), Lora(), "CAUSAL_LM")
        work = self.folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        schedule = Schedule(steps=steps, forget_batch=32, warmup_steps=max(1, steps // 8), group_by_length=True)
        train(Run(model=model, task=self.task, splits={}, folder=work, seed=seed), rows, schedule)
        shutil.rmtree(work)
        return model.merge_and_unload(safe_merge=True).eval()

    def unlearned(self, name: str) -> nn.Module:
        """Return the knower after a short run of a method with its own defaults, merged."""
        set_seed(self.given.seed)
        model = attach(copy.deepcopy(self.knower), Lora(), "CAUSAL_LM")
        work = self.folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        splits = {
            **self.splits,
            "retain": self.splits["retain"][::8],
            "holdout": self.rows["holdout"],
            "neighbour": [],
        }
        method: Any = find(name)()
        method = replace(method, training=replace(method.training, steps=self.given.unlearn_steps))
        method.unlearn(Run(model=model, task=self.task, splits=splits, folder=work, seed=self.given.seed))
        shutil.rmtree(work)
        return model.merge_and_unload(safe_merge=True).eval()

    def relearned(self, model: nn.Module) -> nn.Module:
        """Return the model after a short fine-tuning on forget."""
        return self.trained(model, self.splits["forget"], self.given.relearn_steps, self.given.seed)

    def scores(self, model: nn.Module) -> ModelScores:
        """Return the model's records on the measured rows."""
        return measure(model, self.task, self.rows, generate_on=("forget",), progress=False)

    def figures(self, model: nn.Module) -> dict[str, float | None]:
        """Return every figure of the package on forget and its held-out wordings, and the depth."""
        known = self.standards
        found = figures(self.scores(model), before=known["before"], gold=known["gold"])
        values = {f"{figure.name} {figure.split}": figure.after for figure in found if figure.split in ON}
        return {**values, **{name: depth.score(model).value for name, depth in self.depths.items()}}


def four_bits(model: nn.Module) -> nn.Module:
    """Return a copy whose linear layers in the blocks were rounded to 4 bits, one scale for 64 weights."""
    out = copy.deepcopy(model)
    with torch.no_grad():
        for module in blocks(out).modules():
            if isinstance(module, nn.Linear):
                module.weight.copy_(rounded(module.weight, 4, 64))
    return out


def member(bench: Bench, kind: str, seed: int, steps: int) -> dict[str, Any]:
    """Train one member of a pool and return its figures."""
    one = pools.member(kind, seed, bench.splits)
    model = bench.trained(bench.gold, one.rows, steps, seed)
    return {"knows": one.knows, "steps": steps, "rows": len(one.rows), "figures": bench.figures(model)}


def attacked(bench: Bench, name: str) -> dict[str, Any]:
    """Return the figures of gold or of an unlearned model, as it is and after each attack."""
    model = bench.gold if name == "gold" else bench.unlearned(name)
    states = {
        "plain": lambda: model,
        "quantised": lambda: four_bits(model),
        "relearned": lambda: bench.relearned(model),
    }
    return {"figures": {state: bench.figures(make()) for state, make in states.items()}}


def kept(bench: Bench, name: str, make: Any) -> dict[str, Any]:
    """Return a model's record from the folder, or make it, with its seconds, and keep it."""
    path = bench.folder / "models" / f"{name}.json"
    found = read_json(path)
    if found is None:
        start = time.process_time()
        found = make()
        found["cpu_seconds"] = round(time.process_time() - start, 1)
        write_json(path, found)
    return found


def main() -> None:
    """Train and measure what is missing, then print and write the table."""
    given = build(Meta, options.read(sys.argv[1:], __doc__ or "", Meta))
    folder = Path(given.output)
    folder.mkdir(parents=True, exist_ok=True)
    _same_request(folder, asdict(given))
    bench = Bench(given)
    jobs: dict[str, Any] = {}
    for kind, seed in pools.pool(given.seeds):
        steps = max(1, round(pools.steps_of(kind, seed) * given.share))
        jobs[f"{kind}-{seed}-{steps}"] = (member, kind, seed, steps)
    jobs |= {f"attacked-{name}": (attacked, name) for name in ("gold", *given.unlearned)}
    jobs |= {"before": (lambda bench: {"figures": bench.figures(bench.knower)},)}
    records = {
        name: kept(bench, name, lambda job=job: job[0](bench, *job[1:]))
        for name, job in tqdm(jobs.items(), desc="models")
    }
    found = _merits(records, given)
    counts = [sum(record.get("knows") is side for record in records.values()) for side in (True, False)]
    seconds = sum(record["cpu_seconds"] for record in records.values())
    note = f"{counts[0]} models that know, {counts[1]} that never did, {len(given.unlearned)} unlearned; {seconds:.0f} CPU s."
    text = f"{meta.table(found)}\n\n{note}\n\n{_by_kind(records, found)}\n"
    write_text(folder / "meta.md", text)
    write_json(
        folder / "meta.json", {"settings": asdict(given), "merits": [asdict(m) for m in found], "models": records}
    )
    print(text)


def _merits(records: Mapping[str, Any], given: Meta) -> list[meta.Merit]:
    knows, never = ([r["figures"] for r in records.values() if r.get("knows") is side] for side in (True, False))
    unlearned = [records[f"attacked-{name}"]["figures"] for name in given.unlearned]
    return meta.merits(knows, never, unlearned=unlearned, gold=records["attacked-gold"]["figures"], seed=given.seed)


def _by_kind(records: Mapping[str, Any], found: Sequence[meta.Merit]) -> str:
    """Return each figure's mean over each kind of member: which kind misleads it."""
    kinds = [kind for kind in (*pools.KNOWS, *pools.NEVER) if any(name.startswith(f"{kind}-") for name in records)]
    lines = ["| mean of | " + " | ".join(kinds) + " | before | gold |", "|---" * (len(kinds) + 3) + "|"]
    standards = [records["before"]["figures"], records["attacked-gold"]["figures"]["plain"]]
    for merit in found:
        cells = []
        for members in (
            *([r["figures"] for name, r in records.items() if name.startswith(f"{kind}-")] for kind in kinds),
            *([each] for each in standards),
        ):
            known = [value for each in members if (value := each.get(merit.figure)) is not None]
            cells.append(f"{sum(known) / len(known):.3f}" if known else "-")
        lines.append(f"| {merit.figure} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _same_request(folder: Path, settings: dict[str, Any]) -> None:
    """Forget figures that were measured under other settings; those in ADDS only add to them."""
    settings = {name: value for name, value in settings.items() if name not in ADDS}
    earlier = read_json(folder / "settings.json")
    if earlier is not None and earlier != settings:
        for part in ("models", "knower"):
            shutil.rmtree(folder / part, ignore_errors=True)
    write_json(folder / "settings.json", settings)


if __name__ == "__main__":
    cli.run(main)
