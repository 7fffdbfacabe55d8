"""Forget units by their mnemonic codes alone: no row is needed; rows, where they are given, only show what came of it."""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers.trainer_utils import set_seed

from llm_unlearn import hub
from llm_unlearn.cuts import EMBEDDED
from llm_unlearn.data.mnemonic import FILE, Codes, Mnemonic, unit_of
from llm_unlearn.data.sources import load
from llm_unlearn.errors import DataError, OutputError, RecipeError
from llm_unlearn.files import read_json, write_json
from llm_unlearn.loading import PEFT_TASKS, load_adapted, load_codes, load_model, load_task, reader_of
from llm_unlearn.lora import Lora, attach
from llm_unlearn.methods.mnemonic_noise import MnemonicNoise
from llm_unlearn.prepare import prepare
from llm_unlearn.recipe import SANDBOX, Recipe
from llm_unlearn.run import Run
from llm_unlearn.runfolder import is_main, on_main
from llm_unlearn.targets import Target, train_target
from llm_unlearn.tasks import Row, Task
from llm_unlearn.train import TRAINING
from llm_unlearn.weights.noise import accuracy

RECORD = "one_shot.json"
SCHEDULE = replace(
    TRAINING, passes=8.0, learning_rate=5e-3, warmup_steps=30, group_by_length=False
)  # of the sandbox's


@dataclass(frozen=True, kw_only=True)
class OneShot:
    """What to forget, in which model."""

    model: str = (
        SANDBOX  # the model that is to forget: a folder or a Hub id; sandbox: trained first, on drawn pictures
    )
    task: Literal["causal_lm", "sequence_classifier", "image_classifier"] = "image_classifier"  # what the model does
    revision: str | None = None  # branch, tag or commit of a Hub model
    adapter: str | None = None  # the adapter that holds the knowledge; it is edited itself
    units: tuple[str, ...] = ()  # what to forget: classes, or units of the column that the codes were made for
    gold: str | None = None  # a model that never saw these units, to compare with
    test: str | None = None  # rows the model was not trained on, for the proof: JSONL, CSV, Parquet, a folder
    lora: Lora | None = None  # write the change into a fresh adapter of this rank; none: into the weights
    method: MnemonicNoise = field(default_factory=MnemonicNoise)
    output: str = "outputs/one_shot_noise"
    overwrite: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise RecipeError where nothing is to be forgotten."""
        if not self.units and self.model != SANDBOX:
            raise RecipeError("--units is empty: name what is to be forgotten.")

    @property
    def recipe(self) -> Recipe:
        """Return what loads the model and names it in public."""
        return Recipe(
            task=self.task,
            model=self.model,
            revision=self.revision,
            adapter=self.adapter,
            gold=self.gold,
            lora=self.lora,
            output=self.output,
            seed=self.seed,
            forget="-",  # a recipe wants rows; here it only says which model is meant
            retain="--",
        )


def one_shot(request: OneShot, rows: Sequence[Row] | None = None) -> dict[str, Any]:
    """Forget the units, save the result and return the record (also DIR/one_shot.json).

    `rows` (otherwise those of `request.test`) are unseen rows: with them the record holds accuracies of the model before and
    after and of the gold, beside what the codes say.  The record names no unit.
    """
    folder = _emptied(request)
    set_seed(request.seed)
    recipe = request.recipe
    task, codes = load_task(recipe, request.model), load_codes(recipe)
    method = replace(request.method, units=request.units, source="codes")
    model = _model(request)
    run = Run(model=model, task=task, splits={}, folder=folder / "work", seed=request.seed, codes=codes)
    method.check(run)
    measured = rows if rows is not None else load(request.test) if request.test else []
    groups = _groups(measured, codes, request.units)
    record: dict[str, Any] = {"before": measure(model, task, groups)}
    start = time.perf_counter()
    method.unlearn(run)
    record["seconds"] = round(time.perf_counter() - start, 2)
    record["method"] = read_json(run.folder / "method.json")
    left = Codes.load(run.folder / FILE)
    place = Path(on_main(lambda: str(hub.save(model, folder, recipe, left))))
    after = hub.reload(model, place)
    record["after"] = measure(after, task, groups)
    if request.gold:
        record["gold"] = measure(load_model(recipe, request.gold, role="gold"), task, groups)

    def write() -> None:
        if (reader := reader_of(task)) is not None:
            reader.save_pretrained(place)
        write_json(folder / RECORD, record)
        shutil.rmtree(run.folder, ignore_errors=True)

    on_main(write)
    return record


def in_sandbox(request: OneShot) -> dict[str, Any]:
    """Train a small target with codes on drawn pictures, and its gold; then forget a class and show it on unseen pictures.

    The models stay in `request.output`-models, so that a second call only forgets.
    """
    classes = request.units or (EMBEDDED["image_classifier"],)
    target = Target(
        task="image_classifier", data=SANDBOX, classes=classes, gold=True, mnemonic=Mnemonic(), training=SCHEDULE,
        output=f"{request.output}-models", overwrite=request.overwrite, seed=request.seed,
    )  # fmt: skip
    train_target(target)
    splits = prepare(Recipe(task=target.task, data=SANDBOX, classes=classes)).splits
    unseen = [*splits["forget_heldout"], *splits["retain_heldout"]]
    gone = tuple(sorted({str(row["label"]) for row in splits["forget"]}))
    trained, gold = f"{target.output}/target", f"{target.output}/gold"
    return one_shot(replace(request, task=target.task, units=gone, model=trained, gold=gold), unseen)


def _emptied(request: OneShot) -> Path:
    folder = Path(request.output)
    if folder.exists() and any(folder.iterdir()):
        if not (folder / RECORD).exists():
            raise OutputError(f"{folder} is not empty and holds no {RECORD}; it is left alone. Give another --output.")
        if not request.overwrite:
            raise OutputError(f"{folder} holds a result: give another --output, or --overwrite to replace it.")
        on_main(lambda: shutil.rmtree(folder))
    on_main(lambda: folder.mkdir(parents=True, exist_ok=True))
    return folder


def _model(request: OneShot) -> nn.Module:
    """Return what is edited: the adapter that holds the knowledge, a fresh one, or the weights."""
    if request.adapter:
        return load_adapted(request.recipe, request.adapter)
    model = load_model(request.recipe, request.model)
    return attach(model, request.lora, PEFT_TASKS.get(request.task)) if request.lora else model


def _groups(rows: Sequence[Row], codes: Codes | None, units: Sequence[str]) -> dict[str, list[Row]]:
    """Return the rows of the units to forget and the others; raise DataError where one of the two is missing."""
    if codes is None or not rows:
        return {}
    gone = {name: [row for row in rows if (unit_of(row, codes.column) in units) == (name == "forget")] for name in
            ("forget", "retain")}  # fmt: skip
    for name, found in gone.items():
        if not found:
            raise DataError(
                f"the test rows hold none to {name} (column {codes.column!r}): nothing can be shown with them."
            )
    return gone


@torch.no_grad()
def measure(model: nn.Module, task: Task, groups: Mapping[str, Sequence[Row]]) -> dict[str, float]:
    """Return each group's accuracy in percent; of a causal LM the share of response tokens that are most probable."""
    return {name: round(100 * accuracy(model, task, task.encode(rows))[0], 2) for name, rows in groups.items()}


def table(record: Mapping[str, Any]) -> str:
    """Return what the record says, for the terminal."""
    told = record["method"]
    shares = [round(100 * told[name]) for name in ("error", "retained", "energy_kept")]
    said = "forgotten in {:.1f} s by codes alone; codes to forget wrong: {} %, codes to keep right: {} %, energy kept: {} %"
    lines = [said.format(record["seconds"], *shares)]
    if not record["before"]:
        return "\n".join([*lines, "accuracy on rows: not measured: needs --test"])
    lines.append(f"{'accuracy on unseen rows':<26}{'forget':>8}{'retain':>8}")
    names = [name for name in ("before", "after", "gold") if name in record]
    return "\n".join(
        [*lines, *(f"{name:<26}{record[name]['forget']:>8.2f}{record[name]['retain']:>8.2f}" for name in names)]
    )


def report(record: Mapping[str, Any]) -> None:
    """Print the table, on one process."""
    if is_main():
        print(table(record))
