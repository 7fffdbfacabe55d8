"""Checkpoints in: a model, its tokenizer or processor, and the task that reads rows for it."""

from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from peft import PeftModel
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from llm_unlearn.errors import DataError, TaskError
from llm_unlearn.recipe import SANDBOX, Recipe
from llm_unlearn.tasks import CausalLM, ImageClassifier, SequenceClassifier, Task

HEADS = {  # what a checkpoint's class is called, and who loads it
    "causal_lm": (("CausalLM", "LMHeadModel"), AutoModelForCausalLM),
    "sequence_classifier": (("ForSequenceClassification",), AutoModelForSequenceClassification),
    "image_classifier": (("ForImageClassification",), AutoModelForImageClassification),
}
UNLIMITED = 10**9  # tokenizers that state no length state a number far above this


def place() -> torch.device:
    """Return this process's device."""
    # Without cpu=True each of two CPU processes would take itself for the only one.
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    device: torch.device = PartialState(cpu=cpu).device
    return device


def checkpoint(name: str, role: str = "target") -> str:
    """Return the folder or Hub id behind a recipe's `model`, `gold` or `origin`: `sandbox` is a folder of this package."""
    if name != SANDBOX:
        return name
    from llm_unlearn.sandbox import models

    return str(models.path("gold" if role == "gold" else "target"))


def load_model(recipe: Recipe, name: str, *, role: str = "target") -> nn.Module:
    """Return the checkpoint `name` in eval mode on this process's device; an adapter of the recipe is merged into it.

    Raises DataError where it cannot be loaded, TaskError where its head is not the recipe's task's.
    """
    path = checkpoint(name, role)
    endings, loader = HEADS[recipe.task]
    dtype = _dtype(recipe)
    try:
        config = AutoConfig.from_pretrained(path, revision=recipe.revision)
        heads = list(getattr(config, "architectures", None) or [])
        if heads and not any(head.endswith(endings) for head in heads):
            raise TaskError(
                f"{name} holds a {heads[0]}, which is not a {recipe.task} (…{' or …'.join(endings)}): "
                "give another --model, or another --task."
            )
        model: nn.Module = loader.from_pretrained(path, revision=recipe.revision, dtype=dtype)
    except (OSError, ImportError, KeyError, RuntimeError) as error:
        raise DataError(f"cannot load the model {name!r}: {_first_sentence(error)}") from error
    if recipe.adapter and role == "target":
        model = PeftModel.from_pretrained(model, recipe.adapter).merge_and_unload(safe_merge=True)
    return model.to(place()).eval()


def new_model(recipe: Recipe) -> nn.Module:
    """Return a randomly initialised model of the recipe's architecture, in eval mode on this process's device.

    It is the same whatever the run's seed, so that runs can be compared.  torch's own random state stays as it is.  Raises DataError where there is no config.
    """
    path = checkpoint(recipe.model)
    try:
        config = AutoConfig.from_pretrained(path, revision=recipe.revision)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot load the configuration of {recipe.model!r}: {_first_sentence(error)}") from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = HEADS[recipe.task][1].from_config(config, dtype=_dtype(recipe))
    return model.to(place()).eval()


def _dtype(recipe: Recipe) -> torch.dtype:
    if recipe.precision == "auto":
        return torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if recipe.precision == "bf16" else torch.float32


def _first_sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:200] + ("…" if len(text) > 200 else "")


def load_task(recipe: Recipe, name: str) -> Task:
    """Return the task that reads rows for the checkpoint `name`."""
    path = checkpoint(name)
    try:
        if recipe.task == "image_classifier":
            return ImageClassifier(processor=AutoImageProcessor.from_pretrained(path, revision=recipe.revision))
        tokenizer = AutoTokenizer.from_pretrained(path, revision=recipe.revision)
        config = AutoConfig.from_pretrained(path, revision=recipe.revision)
    except (OSError, ImportError, KeyError, ValueError) as error:
        raise DataError(f"cannot load the tokenizer of {name!r}: {_first_sentence(error)}") from error
    kind = CausalLM if recipe.task == "causal_lm" else SequenceClassifier
    return kind(tokenizer=tokenizer, max_length=_context(config, tokenizer))


def reader_of(task: Task) -> Any:
    """Return what is saved beside a model so that others can read rows for it: the tokenizer or the image processor."""
    return getattr(task, "tokenizer", None) or getattr(task, "processor", None)


def _context(config: Any, tokenizer: Any) -> int:
    """Return the tokens a row may have."""
    limits = [getattr(config.get_text_config(), "max_position_embeddings", None), tokenizer.model_max_length]
    known = [limit for limit in limits if isinstance(limit, int) and 0 < limit < UNLIMITED]
    return min(known) if known else 2048


def check_alike(recipe: Recipe, other: str | None, name: str, task: Task) -> None:
    """Raise DataError where the checkpoint `other` is of another architecture than the recipe's model, or has another tokenizer.

    `name` is what it is called: before or gold.  None, and the model itself, are alike.
    """
    if other is None or other == recipe.model:
        return
    here, there = checkpoint(recipe.model), checkpoint(other, name)
    mine, theirs = _config(recipe, here), _config(recipe, there)
    if _shape(mine) != _shape(theirs):
        raise DataError(
            f"{name} {other!r} is a {_shape(theirs)}, and the model {recipe.model!r} a {_shape(mine)}: their figures cannot be "
            f"compared; give a {name} of the model's own architecture."
        )
    if task.name == "image_classifier":
        return
    words = task.tokenizer.get_vocab(), _words(recipe, there)  # type: ignore[attr-defined]
    if words[1] is None:  # saved without a tokenizer: as many words is all that can be asked of it
        words = mine.get_text_config().vocab_size, theirs.get_text_config().vocab_size
    if words[0] != words[1]:
        raise DataError(
            f"{name} {other!r} has another tokenizer than the model {recipe.model!r}: figures a token cannot be compared; "
            f"give a {name} with the model's own."
        )


def _words(recipe: Recipe, path: str) -> Any:
    try:
        return load_task(recipe, path).tokenizer.get_vocab()  # type: ignore[attr-defined]
    except DataError:
        return None


def _config(recipe: Recipe, path: str) -> Any:
    try:
        return AutoConfig.from_pretrained(path, revision=recipe.revision)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot load the model {path!r}: {_first_sentence(error)}") from error


def _shape(config: Any) -> str:
    """Return the architecture in words; convolutions name their blocks and widths by stage."""
    text = config.get_text_config()
    sizes = {"layers": ("num_hidden_layers", "depths"), "width": ("hidden_size", "hidden_sizes")}
    found = {
        what: next((getattr(text, name) for name in names if hasattr(text, name)), None)
        for what, names in sizes.items()
    }
    told = [f"{found['layers']} layers"] if found["layers"] is not None else []
    told += [f"width {found['width']}"] if found["width"] is not None else []
    return f"{config.model_type} of {' and '.join(told)}" if told else str(config.model_type)
