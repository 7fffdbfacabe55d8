"""What an evaluation looks at: a finished run's folder (--run), or a model and an adapter named one by one.

The eval scripts share these options; each adds its own by inheriting from `Subject`.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model_state_dict
from peft.utils import load_peft_weights
from torch import nn

from llm_unlearn import hub
from llm_unlearn.data.sources import load
from llm_unlearn.errors import DataError, RecipeError
from llm_unlearn.files import read_json
from llm_unlearn.latest import last_recipe
from llm_unlearn.loading import load_model, load_task
from llm_unlearn.measuring import alike
from llm_unlearn.measuring.protocol import token_count
from llm_unlearn.prepare import prepare, with_holdout
from llm_unlearn.recipe import SPLITS, Recipe, from_values
from llm_unlearn.runfolder import read_request
from llm_unlearn.tasks import Row, Task


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The models to compare and the rows to compare them on.  Raises RecipeError where options contradict each other."""

    run: str | None = None  # the folder of a finished run: model, adapter, rows and gold are found there
    model: str | None = None  # instead of --run: a model, a folder or a Hub id
    weights: str | None = None  # safetensors of a model that is package.module:function
    adapter: str | None = None  # a PEFT adapter on top of it; the model without it is `before`
    before: str | None = None  # a checkpoint to compare with, where there is no adapter to leave out
    gold: str | None = None  # a model that never saw the forget rows
    task: str = "causal_lm"  # what the model does
    precision: str = "auto"  # fp32, bf16; auto: bf16 on a GPU that has it
    batch_size: int = 64  # rows in one forward pass
    forget: str | None = None  # rows by split, for scripts that need them without --run
    retain: str | None = None
    holdout: str | None = None
    forget_heldout: str | None = None
    retain_heldout: str | None = None
    neighbour: str | None = None
    general: str | None = None
    output: str = "outputs/evaluation"  # the folder for what is written
    seed: int = 0  # of everything random

    def __post_init__(self) -> None:
        """Raise RecipeError unless exactly one of --run and --model is given."""
        if bool(self.run) == bool(self.model):
            raise RecipeError("give --run DIR (a finished run), or --model with --adapter: exactly one of the two.")
        extra = [name for name in ("adapter", "before", "weights", *SPLITS) if self.run and getattr(self, name)]
        if extra:
            raise RecipeError(f"--run brings its own model, adapter and rows: leave --{extra[0]} out.")

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe of the run's last request, or one that only loads models; raise DataError where --run holds no finished run."""
        if self.run is None:
            given = {name: getattr(self, name) for name in SPLITS if getattr(self, name)}
            named = {
                "forget": "-",
                "retain": "--",
                **given,
            }  # a recipe asks for both; rows that are not given are not read
            names = ("model", "weights", "gold", "task", "precision")
            settings = {name: getattr(self, name) for name in names}
            return from_values({**named, **settings, "seed": self.seed, "output": self.output})
        request = read_request(self.run)
        if request is None or not request["finished"]:
            state = "holds no run" if request is None else "holds a run that has not finished: give its command again"
            raise DataError(f"{self.run} {state}.")
        found = last_recipe(Path(self.run), from_values(request["request"]))
        if found is None:
            raise DataError(f"{self.run}: the rows of its last request (--continue) are no longer where they were.")
        return replace(found, gold=self.gold) if self.gold else found

    @property
    def report(self) -> dict[str, Any] | None:
        """The run's report.json; None without --run."""
        return read_json(Path(self.run) / "report.json") if self.run else None

    @cached_property
    def reader(self) -> Task:
        """The task that reads rows for the model."""
        return load_task(self.recipe, self.recipe.model)

    @cached_property
    def splits(self) -> dict[str, list[Row]]:
        """The rows by split: the run's with its holdout (made again where it was made), or those that were given."""
        if self.run is None:
            given = {name: getattr(self, name) for name in SPLITS if getattr(self, name)}
            return {name: list(load(path)) for name, path in given.items()}
        return with_holdout(prepare(self.recipe), self.recipe, token_count(self.reader)).splits

    @property
    def names(self) -> tuple[str, ...]:
        """The models there are, of "before", "after" and "gold"."""
        old = self.run is not None or self.adapter is not None or self.before is not None
        return (*(("before",) if old else ()), "after", *(("gold",) if self.recipe.gold else ()))

    def load(self, name: str) -> nn.Module:
        """Return one of `names` in eval mode on this process's device; a fresh copy with every call."""
        recipe = self.recipe
        if name == "gold" and recipe.gold:
            return load_model(recipe, recipe.gold, role="gold")
        if name == "before":
            return load_model(recipe, self.before or recipe.model)
        if name != "after":
            raise DataError(f"there is no model {name!r} here; there are {', '.join(self.names)}.")
        if self.run and (Path(self.run) / hub.MODEL).is_dir():  # full fine-tuning: no adapter
            return load_model(recipe, str(Path(self.run) / hub.MODEL))
        model = load_model(recipe, recipe.model)
        adapter = str(Path(self.run) / hub.ADAPTER) if self.run else self.adapter
        return model if adapter is None else with_adapter(model, adapter)


def with_adapter(model: nn.Module, adapter: str) -> nn.Module:
    """Return the model under a PEFT adapter, ours or not; raise DataError for one that is missing or made for another base."""
    try:
        wrapped = PeftModel.from_pretrained(model, adapter).eval()
        stored = set(load_peft_weights(adapter, device="cpu"))
    except (OSError, ValueError, RuntimeError) as error:
        text = " ".join(str(error).split())[:200]
        if "size mismatch" in str(error):
            text = "its weights are of other sizes; give the base it was trained on."
        raise DataError(f"the adapter {adapter!r} does not fit this model, or is none: {text}") from error
    _check_whole(wrapped, adapter, stored)
    return wrapped


def _check_whole(wrapped: PeftModel, adapter: str, stored: set[str]) -> None:
    """Raise DataError unless every weight of the adapter found its place: peft only warns, and leaves the rest untrained."""
    prefix = getattr(wrapped.base_model, "prefix", None)  # "lora_" and the like; prompt tuning has none
    if prefix is None:
        return
    # without save_embedding_layers peft would ask the Hub for a model of the base folder's name
    wanted = {name for name in get_peft_model_state_dict(wrapped, save_embedding_layers=False) if prefix in name}
    stored = {name for name in stored if prefix in name}
    if wanted != stored:
        raise DataError(
            f"the adapter {adapter!r} was made for another base: {len(stored - wanted)} of its {len(stored)} weights have no place "
            f"in this model, and {len(wanted - stored)} of the model's {len(wanted)} places stay empty; give the base it was trained on."
        )


def check_alike(subject: Subject, name: str) -> None:
    """Raise DataError where `before` or `gold` is of another architecture than the model, or reads with another tokenizer."""
    other = subject.before if name == "before" else subject.recipe.gold
    alike.check_alike(subject.recipe, other, name, subject.reader)
