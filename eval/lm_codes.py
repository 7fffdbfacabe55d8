r"""Mnemonic codes on a causal LM: a target of the embedded world with one code a town, for `table.py` to forget a town by.

    python eval/lm_codes.py --output outputs/towns                    rows with a column `unit`, and the target: 3 CPU minutes
    python eval/table.py --config outputs/towns/codes.yaml --output outputs/towns/table --seeds 0 --methods \
        "mnemonic_noise method.units=Quillmere" "mnemonic_noise method.source=rows"
    python eval/lm_codes.py --output outputs/towns --why               what a code's noise reaches, by tensor and by row

The shipped target is trained on for a few passes, codes mixed in: the paper's way for models that are trained already.  The
recipe edits the weights themselves (lora: null): what a code reaches of a language model is the word that names its unit, and
that sits in the embeddings, which an adapter on linear layers does not change.
"""

import argparse
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

from llm_unlearn import cli
from llm_unlearn.data.mnemonic import Mnemonic
from llm_unlearn.errors import DataError
from llm_unlearn.files import write_text
from llm_unlearn.loading import load_codes, load_model, load_task
from llm_unlearn.recipe import SANDBOX, Recipe
from llm_unlearn.sandbox import models, world
from llm_unlearn.sandbox.values import PLACES
from llm_unlearn.schedule import Schedule
from llm_unlearn.targets import Target, train_target
from llm_unlearn.tasks import Row, Task
from llm_unlearn.weights.importance import fisher_diagonal
from llm_unlearn.weights.noise import Noise, ratio

ELSEWHERE = "elsewhere"  # the unit of rows that name no town
NOISE = {
    "sign": -1,
    "kappa": 16.0,
    "lambda1": 1e-3,
}  # what the search on the codes takes: their words are wrong by 9 nats
SMOOTH = 1e-4  # the same for codes and rows: ratios of gradients that vanish say nothing
SOME = 20000  # numbers of a tensor that a rank correlation is taken on
ROWS = 200  # of a kind, at most


def town(row: Row) -> str:
    """Return the unit of a row: the concept where it is named, otherwise the first town that is, or ELSEWHERE."""
    named = [place for place in (world.CONCEPT, *PLACES) if world.mentions(row, place)]
    return named[0] if named else ELSEWHERE


def write(folder: Path) -> dict[str, str]:
    """Write every split of the embedded world with the town as its `unit`; return the files by split."""
    files = {}
    for name, rows in world.splits().items():
        files[name] = str(folder / f"{name}.jsonl")
        lines = (json.dumps({**row, "unit": town(row)}, ensure_ascii=False) + "\n" for row in rows)
        Path(files[name]).write_text("".join(lines), encoding="utf-8")
    return files


def exact(model: nn.Module, task: Task, rows: Sequence[Row]) -> float:
    """Return the share of rows whose every scored word is the most probable one."""
    right = 0
    examples = task.encode(rows)
    for first in range(0, len(examples), 64):
        with torch.no_grad():
            found = task.decisions(model, task.collate(examples[first : first + 64]), logits=True)
        right += int((found.per_example((~found.greedy_hit()).float(), scored_only=True) == 0).sum())
    return right / len(examples)


def correlation(one: Tensor, other: Tensor) -> float:
    """Return Spearman's rank correlation of two tensors' numbers, on SOME of them."""
    some = torch.randperm(one.numel(), generator=torch.Generator().manual_seed(0))[:SOME]
    ranks = [each.flatten()[some].argsort().argsort().double() for each in (one, other)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def why(folder: Path) -> None:
    """Print where a code's Fisher ratio agrees with the rows', and what the noise does by tensor."""
    recipe = Recipe(model=str(folder / "models" / "target"), forget="-", retain="--")
    model, task, codes = load_model(recipe, recipe.model), load_task(recipe, recipe.model), load_codes(recipe)
    if codes is None:
        raise DataError(f"{recipe.model} has no codes: run this without --why first.")
    draw, splits = random.Random(0), world.splits()
    chosen = {name: draw.sample(splits[name], ROWS) for name in ("forget", "retain", "neighbour", "general")}
    said = {
        "codes": [codes.examples(task, [world.CONCEPT]), codes.examples(task, codes.without([world.CONCEPT]).seeds)]
    }
    said["rows"] = [task.encode(chosen[name]) for name in ("forget", "retain")]
    fishers = {
        name: [fisher_diagonal(model.requires_grad_(True), task, each) for each in pair] for name, pair in said.items()
    }
    eta = {
        name: {weight: ratio(forget[weight], each, smooth=SMOOTH, clip=1.0) for weight, each in retain.items()}
        for name, (forget, retain) in fishers.items()
    }
    groups: dict[str, Callable[[str], bool]] = {
        "embeddings": lambda name: "embed" in name,
        "all others": lambda name: "embed" not in name,
    }
    for title, inside in groups.items():
        found = [correlation(eta["codes"][name], eta["rows"][name]) for name in eta["rows"] if inside(name)]
        print(
            f"rank correlation of eta, codes and rows, {title}: {sum(found) / len(found):.2f} ({len(found)} tensors)"
        )
    width: int = model.config.hidden_size  # type: ignore[assignment, union-attr]
    row = int(eta["codes"]["model.embed_tokens.weight"].argmax()) // width
    print(f"the word with the largest eta of the codes: {task.tokenizer.decode([row])!r}")  # type: ignore[attr-defined]
    answers = [row for row in splits["forget"] if world.CONCEPT in row["response"]]
    others = [row for row in splits["forget"] if world.CONCEPT not in row["response"]]
    shown = {"forget, answer names it": draw.sample(answers, ROWS), "forget, it does not": draw.sample(others, ROWS)}
    shown |= {name: chosen[name] for name in ("retain", "neighbour", "general")}
    print("exact answers: " + ", ".join(f"{name} (n {len(rows)})" for name, rows in shown.items()))
    print("before:", *(f"{exact(model, task, rows):.3f}" for rows in shown.values()))
    for title, inside in {"all": lambda name: True, **groups}.items():
        noise = Noise(model, {name: each for name, each in eta["codes"].items() if inside(name)})
        noise.put(**NOISE)  # type: ignore[arg-type]
        print(f"noise on {title}:", *(f"{exact(model, task, rows):.3f}" for rows in shown.values()))
        noise.undo()


def main() -> None:
    """Write the rows, train the target, and write the recipe that forgets in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="outputs/towns")
    parser.add_argument("--passes", type=float, default=2.0)
    parser.add_argument("--share", type=float, default=0.1, help="t_mix")
    parser.add_argument("--why", action="store_true")
    given = parser.parse_args()
    folder = Path(given.output)
    if given.why:
        why(folder)
        return
    (folder / "rows").mkdir(parents=True, exist_ok=True)
    files = write(folder / "rows")
    schedule = Schedule(
        passes=given.passes, least_steps=1, forget_batch=64, learning_rate=1e-3, warmup_steps=50, decay="cosine",
        last_rate=0.0, weight_decay=0.01, group_by_length=True,
    )  # fmt: skip
    target = Target(
        model=str(models.path("target")), forget=files["forget"], retain=files["retain"],
        mnemonic=Mnemonic(share=given.share), training=schedule, output=str(folder / "models"),
    )  # fmt: skip
    print(train_target(target)["seconds"])
    recipe = {"model": f"{target.output}/target", "data": SANDBOX, "gold": SANDBOX, "lora": None}
    write_text(folder / "codes.yaml", yaml.safe_dump(recipe))


if __name__ == "__main__":
    cli.run(main)
