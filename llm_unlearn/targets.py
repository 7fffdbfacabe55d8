"""Models that know (targets) and their twins that never did (golds), from one origin, schedule and seed.

DIR/origin, DIR/target and, with `gold`, DIR/gold are ordinary checkpoints.  The gold differs from the target in one thing:
the forget rows were left out of its training.  Further golds (`golds`: DIR/gold-1, ...) differ from the first in the seed
alone: what lies between them is chance, and no figure of an unlearned model can be held against it.
"""

import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from transformers.trainer_utils import set_seed

from llm_unlearn import goldcache
from llm_unlearn.data.mnemonic import Mnemonic, new_codes
from llm_unlearn.data.sources import fingerprint
from llm_unlearn.data.splits import kept as kept_rows
from llm_unlearn.errors import OutputError, RecipeError
from llm_unlearn.files import read_json, write_json
from llm_unlearn.fit import Schedule
from llm_unlearn.fresh import Size, new_llama, new_tokenizer
from llm_unlearn.fresh_classifiers import for_pictures
from llm_unlearn.loading import PEFT_TASKS, load_model, load_task, reader_of
from llm_unlearn.lora import Lora, attach
from llm_unlearn.prepare import prepare
from llm_unlearn.recipe import SANDBOX, Recipe
from llm_unlearn.run import Run
from llm_unlearn.runfolder import on_main
from llm_unlearn.sandbox import world
from llm_unlearn.tasks import Row
from llm_unlearn.train import TRAINING, train

NEW = "new"
RECORD = "training.json"


@dataclass(frozen=True, kw_only=True)
class Target:
    """What to train, on what, and how."""

    task: Literal["causal_lm", "sequence_classifier", "image_classifier"] = "causal_lm"  # what the model does
    model: str = NEW  # `new`: a Llama of `size` with its own tokenizer, of pictures a small ResNet; otherwise a checkpoint to fine-tune
    precision: Literal["fp32", "bf16"] = "fp32"  # of the weights that are trained
    size: Size = Size()
    data: str | None = None  # one corpus that --concept splits
    concept: str | None = None
    terms: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()  # of a classifier: the classes of `data` that the gold never sees
    ids: str | None = None  # the rows of `data` that the gold never sees
    forget: str | None = None  # trained into the target, left out of the gold
    retain: str | None = None  # trained into both
    neighbour: str | None = None  # trained into both
    general: str | None = None  # trained into both
    holdout: str | None = None  # never trained on; a new tokenizer sees its text, so that it does not look foreign
    gold: bool = False  # also train the twin that never sees forget
    golds: int = 1  # how many of them, with seeds `seed`, `seed` + 1, ...: how far golds lie apart by chance
    mnemonic: Mnemonic | None = None  # mix a code a unit into the training: a unit is then forgotten without any data
    unit: str | None = (
        None  # the column that names a row's unit: unit, subject, fact or kind (a classifier's units are its classes)
    )
    lora: Lora | None = None  # train an adapter on the frozen model; none: all weights
    cache: str | None = None  # where golds are kept for later requests (default: ~/.cache/llm_unlearn)
    training: Schedule = field(default=TRAINING)
    output: str = "outputs/target"
    overwrite: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise RecipeError for a number of golds that cannot be, and a new model that nobody can make."""
        if self.task == "sequence_classifier" and self.model == NEW:
            raise RecipeError(
                f"a new model is a causal LM or an image classifier; for task {self.task} give --model PATH_OR_HUB_ID to "
                "fine-tune."
            )
        if self.unit is not None and self.mnemonic is None:
            raise RecipeError("--unit says what --mnemonic has codes for: give --mnemonic too.")
        if self.golds < 1:
            raise RecipeError(f"golds: {self.golds} is too small; it is at least 1.")
        if self.golds > 1 and not self.gold:
            raise RecipeError("--golds says how many golds --gold trains: give --gold too.")


def train_target(target: Target) -> dict[str, Any]:
    """Train what is missing in the output folder and return the record (also DIR/training.json), with seconds by model."""
    folder = Path(target.output)
    splits = _splits(target)
    request = {
        **{
            name: value for name, value in asdict(target).items() if name not in ("classes", "ids")
        },  # newer than some records
        "overwrite": False,
        **dict.fromkeys(("gold", "golds", "cache", "output")),  # more golds may be asked for later
        **{name: given for name in ("classes", "ids") if (given := getattr(target, name))},
        "data": {name: fingerprint(rows) for name, rows in splits.items()},
    }
    record = read_json(folder / RECORD)
    if record is not None and record["request"] != _plain(request) and not target.overwrite:
        raise OutputError(
            f"{folder} holds a model of another request: give another --output, or --overwrite to replace it."
        )
    if record is None and folder.exists() and any(folder.iterdir()):
        raise OutputError(
            f"{folder} is not empty and holds no training.json; it is left alone. Give another --output."
        )
    if record is None or record["request"] != _plain(request):
        on_main(lambda: _clear(folder, request))
        record = {"request": _plain(request), "seconds": {}, "rows": {}}
    origin = _origin(target, splits, folder)
    kept = kept_rows(splits)
    rows = {"target": [*splits["forget"], *kept], **dict.fromkeys(gold_names(target), kept)}
    cache, how = goldcache.folder(target.cache), {"task": target.task, "precision": target.precision}
    how |= {name: value for name in ("mnemonic", "unit", "lora") if (value := _plain(request)[name])}
    for name, seed in seeds_of(target).items():
        if not (folder / name).exists():
            start = time.perf_counter()
            known = None if name == "target" else goldcache.key(origin, kept, target.training, seed, how)
            if on_main(lambda known=known, name=name: goldcache.take(cache, known, folder / name)):  # type: ignore[misc]
                record.setdefault("cached", []).append(name)
            else:
                _train_one(target, origin, rows[name], folder, name, seed)
                on_main(lambda known=known, name=name: goldcache.keep(cache, known, folder / name))  # type: ignore[misc]
            record["seconds"][name] = round(time.perf_counter() - start, 1)
            record["rows"][name] = len(rows[name])
            done = record
            on_main(lambda done=done: write_json(folder / RECORD, done))  # type: ignore[misc]
    return record


def training_seconds(gold: str) -> float | None:
    """Return how long a gold took to train, by the record beside it; None where there is none, or it came from the cache."""
    record = read_json(Path(gold).parent / RECORD) or {}
    name = Path(gold).name
    return None if name in record.get("cached", ()) else record.get("seconds", {}).get(name)


def gold_names(target: Target) -> list[str]:
    """Return the folders of the golds that are asked for: gold, gold-1, ..."""
    return [f"gold-{number}" if number else "gold" for number in range(target.golds if target.gold else 0)]


def seeds_of(target: Target) -> dict[str, int]:
    """Return the seed of each model to train; the first gold has the target's."""
    return {"target": target.seed, **{name: target.seed + number for number, name in enumerate(gold_names(target))}}


def _splits(target: Target) -> dict[str, list[Row]]:
    if not target.data and not target.forget:
        raise RecipeError(
            "nothing to train on: give --data with --concept, --classes or --ids, or --forget with --retain."
        )
    names = ("data", "concept", "terms", "classes", "ids", "forget", "retain", "neighbour", "general", "holdout")
    given = {name: getattr(target, name) for name in names if getattr(target, name)}
    return prepare(_recipe(target, target.model, given)).splits


def _recipe(target: Target, model: str, rows: Mapping[str, Any]) -> Recipe:
    """Return a recipe that reads rows and loads models as the request says."""
    return Recipe(**{"task": target.task, "model": model, "precision": target.precision, **rows})


def _plain(request: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in request.items()}


def _clear(folder: Path, request: dict[str, Any]) -> None:
    if (folder / RECORD).exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RECORD, {"request": _plain(request), "seconds": {}, "rows": {}})


def _origin(target: Target, splits: dict[str, list[Row]], folder: Path) -> str:
    """Return the folder or id of the checkpoint that all models start from."""
    if target.model != NEW:
        return target.model
    place_of_origin = folder / "origin"
    if not place_of_origin.exists():

        def write() -> None:
            part = folder / "origin.part"
            reader: Any
            if target.task == "image_classifier":
                model, reader = for_pictures([*splits["forget"], *kept_rows(splits)], target.seed)
                model.save_pretrained(part)
            else:
                reader = new_tokenizer(_corpus(target, splits), target.size)
                new_llama(target.size, len(reader), target.seed).save_pretrained(part)
            reader.save_pretrained(part)
            part.replace(place_of_origin)

        on_main(write)
    return str(place_of_origin)


def _corpus(target: Target, splits: dict[str, list[Row]]) -> Iterable[str]:
    """Return every text a new tokenizer is trained on, the holdout's too: nothing may look foreign."""
    if target.data == SANDBOX:
        return world.everything()
    return (text for rows in splits.values() for row in rows for text in _texts(row))


def _texts(row: Row) -> Sequence[str]:
    prompt = row.get("prompt")
    said = [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt or ()]
    return [*said, " " + row["response"], *([" " + row["paraphrase"]] if row.get("paraphrase") else [])]


def _train_one(target: Target, origin: str, rows: Sequence[Row], folder: Path, name: str, seed: int) -> None:
    set_seed(seed)
    recipe = _recipe(
        target, origin, {"forget": "-", "retain": "--"}
    )  # rows are at hand: only the models are read with it
    model: Any = load_model(recipe, origin, role="origin").train()
    task = load_task(recipe, origin)
    codes = None
    if target.mnemonic is not None:  # the target's codes, whatever the seed of this training
        codes = new_codes(task, model, rows, target.mnemonic, column=target.unit, seed=target.seed)
    if target.lora is not None:
        model = attach(model, target.lora, PEFT_TASKS.get(target.task))
    run = Run(model=model, task=task, splits={}, folder=folder / "work" / name, seed=seed)
    train(run, rows, target.training, codes)

    def write() -> None:
        part = folder / f"{name}.part"
        model.save_pretrained(part)
        reader_of(task).save_pretrained(part)
        if codes is not None:
            codes.save(part)
        part.replace(folder / name)
        shutil.rmtree(folder / "work" / name, ignore_errors=True)

    on_main(write)
