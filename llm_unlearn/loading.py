"""Checkpoints in: a model, its tokenizer or processor, and the task that reads rows for it."""

from dataclasses import replace
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
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
from transformers.utils.hub import cached_file

from llm_unlearn.builds import built, is_build
from llm_unlearn.data.mnemonic import FILE, Codes
from llm_unlearn.data.requests import Classes
from llm_unlearn.errors import DataError, TaskError
from llm_unlearn.lora_linear import quicken
from llm_unlearn.pixels import Pixels
from llm_unlearn.recipe import SANDBOX, Pictures, Recipe
from llm_unlearn.reference import NAME as REFERENCE
from llm_unlearn.scores import CLASSIFIERS
from llm_unlearn.tasks import CausalLM, ImageClassifier, SequenceClassifier, Task

HEADS = {  # what a checkpoint's class is called, and who loads it
    "causal_lm": (("CausalLM", "LMHeadModel"), AutoModelForCausalLM),
    "sequence_classifier": (("ForSequenceClassification",), AutoModelForSequenceClassification),
    "image_classifier": (("ForImageClassification",), AutoModelForImageClassification),
}
PEFT_TASKS = {"causal_lm": "CAUSAL_LM", "sequence_classifier": "SEQ_CLS"}  # what peft calls them
UNLIMITED = 10**9  # tokenizers that state no length state a number far above this


def place() -> torch.device:
    """Return this process's device."""
    # Without cpu=True each of two CPU processes would take itself for the only one.
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    device: torch.device = PartialState(cpu=cpu).device
    return device


def checkpoint(name: str, role: str = "target", recipe: Recipe | None = None) -> str:
    """Return the folder or Hub id behind a recipe's `model`, `gold` or `origin`: `sandbox` is a folder of this package.

    Which one depends on the recipe's task, and of golds on whether it asks for classes or for single rows.
    """
    if name != SANDBOX:
        return name
    from llm_unlearn.sandbox import models, pictures, texts

    task = "causal_lm" if recipe is None else recipe.task
    if task == "sequence_classifier":
        return str(texts.path("target" if role != "gold" else "gold_records" if recipe and recipe.ids else "gold"))
    shipped = pictures.path if task == "image_classifier" else models.path
    return str(shipped("gold" if role == "gold" else "target"))


def classes_of_model(recipe: Recipe) -> Classes | None:
    """Return what the recipe's classifier says about its classes; None where it has no configuration to say it."""
    if recipe.task not in CLASSIFIERS:
        return None
    try:
        config = AutoConfig.from_pretrained(checkpoint(recipe.model, recipe=recipe), revision=recipe.revision)
    except (OSError, ValueError):  # loading the model will say it
        return None
    kind = getattr(config, "problem_type", None)
    multi = None if kind is None else kind == "multi_label_classification"
    return Classes(names={int(number): name for number, name in config.id2label.items()}, multi_label=multi)


def load_model(recipe: Recipe, name: str, *, role: str = "target") -> nn.Module:
    """Return the checkpoint `name` in eval mode on this process's device; an adapter of the recipe is merged into it.

    Raises DataError where it cannot be loaded, TaskError where its head is not the recipe's task's.
    """
    if is_build(recipe.model):
        return _finished(recipe, _bridged(recipe, name, role), role)
    path = checkpoint(name, role, recipe)
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
        raise DataError(f"cannot load the model {name!r}: {first_sentence(error)}") from error
    return _finished(recipe, model, role)


def _bridged(recipe: Recipe, name: str, role: str) -> nn.Module:
    """Return the recipe's plain module with the weights that `name` means: a file or a folder; of the function itself, --weights."""
    if not is_build(name):
        return built(recipe.model, name).to(_dtype(recipe))
    return built(name, recipe.weights if role == "target" and name == recipe.model else None).to(_dtype(recipe))


def _finished(recipe: Recipe, model: nn.Module, role: str) -> nn.Module:
    if recipe.adapter and role == "target":
        model = PeftModel.from_pretrained(model, recipe.adapter).merge_and_unload(safe_merge=True)
    return model.to(place()).eval()


def embedded_origin(recipe: Recipe) -> nn.Module:
    """Return what the sandbox's models of the recipe's task started from, drawn from the recipe's seed."""
    from llm_unlearn.sandbox import models, pictures, texts

    made: dict[str, Any] = {"causal_lm": models, "sequence_classifier": texts, "image_classifier": pictures}
    model: nn.Module = made[recipe.task].new_model(recipe.seed)
    return model


def load_adapted(recipe: Recipe, adapter: str) -> PeftModel:
    """Return the recipe's model with an adapter on it, to be edited, and a frozen copy of it as the reference."""
    base = load_model(replace(recipe, adapter=None), recipe.model)
    model = PeftModel.from_pretrained(base, adapter, is_trainable=True)
    model.load_adapter(adapter, adapter_name=REFERENCE)
    quicken(model)
    return model.eval()


def load_codes(recipe: Recipe) -> Codes | None:
    """Return the mnemonic codes beside the recipe's adapter, or beside its model; None where neither has any."""
    for name in (recipe.adapter, checkpoint(recipe.model, recipe=recipe)):
        if name is None or is_build(name):
            continue
        path = cached_file(
            name,
            FILE,
            revision=recipe.revision if name == recipe.model else None,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if path is not None and (codes := Codes.load(path)) is not None:
            return codes
    return None


def new_model(recipe: Recipe) -> nn.Module:
    """Return a randomly initialised model of the recipe's architecture, in eval mode on this process's device.

    It is the same whatever the run's seed, so that runs can be compared.  torch's own random state stays as it is.  Raises DataError where there is no config.
    """
    if is_build(recipe.model):
        return built(recipe.model).to(_dtype(recipe)).to(place()).eval()
    path = checkpoint(recipe.model, recipe=recipe)
    try:
        config = AutoConfig.from_pretrained(path, revision=recipe.revision)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot load the configuration of {recipe.model!r}: {first_sentence(error)}") from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = HEADS[recipe.task][1].from_config(config, dtype=_dtype(recipe))
    return model.to(place()).eval()


def _dtype(recipe: Recipe) -> torch.dtype:
    if recipe.precision == "auto":
        return torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if recipe.precision == "bf16" else torch.float32


FAULTS: tuple[tuple[type[BaseException], str], ...] = (  # of the Hub, the more special first
    (GatedRepoError, "it is gated; ask for access on its page on the Hub, then log in with hf auth login"),
    (RevisionNotFoundError, "the Hub has no such revision of it"),
    (RepositoryNotFoundError, "there is no such folder, and no such model on the Hub that your token may see"),
    (OfflineModeIsEnabled, "it is not in the Hub's cache here, and HF_HUB_OFFLINE is set: unset it, or give a folder"),
    (
        LocalEntryNotFoundError,
        "there is no such folder, it is not in the Hub's cache here, and the Hub cannot be reached",
    ),
)


def first_sentence(error: BaseException) -> str:
    """Return what an error says, on one line and not too long; in our own words where the Hub is at fault."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    for kind, words in FAULTS:
        if any(isinstance(each, kind) for each in chain):
            return f"{words}."
    text = " ".join(str(error).split())
    return text[:200] + ("…" if len(text) > 200 else "")


def load_task(recipe: Recipe, name: str) -> Task:
    """Return the task that reads rows for the checkpoint `name`."""
    if recipe.task == "image_classifier":
        return _image_task(recipe, name)
    path = checkpoint(name, recipe=recipe)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=recipe.revision)
        config = AutoConfig.from_pretrained(path, revision=recipe.revision)
    except (OSError, ImportError, KeyError, ValueError) as error:
        raise DataError(f"cannot load the tokenizer of {name!r}: {first_sentence(error)}") from error
    if recipe.task == "causal_lm":
        return CausalLM(tokenizer=tokenizer, max_length=_context(config, tokenizer))
    return SequenceClassifier(
        tokenizer=tokenizer, max_length=_context(config, tokenizer), classes=int(config.num_labels)
    )


def _image_task(recipe: Recipe, name: str) -> Task:
    """Return what reads pictures for the checkpoint: its own processor, or one made of the recipe's `image` settings."""
    if is_build(recipe.model):
        config: Any = built(recipe.model).config
        return ImageClassifier(
            processor=_pixels(recipe, config.num_channels), classes=config.num_labels, channels=config.num_channels
        )
    path = checkpoint(name, recipe=recipe)
    try:
        config = AutoConfig.from_pretrained(path, revision=recipe.revision)
    except (OSError, ImportError, KeyError, ValueError) as error:
        raise DataError(f"cannot load the configuration of {name!r}: {first_sentence(error)}") from error
    channels = getattr(config, "num_channels", None) or 3
    processor: Any = _pixels(recipe, channels, getattr(config, "image_size", None))
    if recipe.image == Pictures():
        try:
            found = AutoImageProcessor.from_pretrained(path, revision=recipe.revision)
            processor = Pixels.like(found, channels) or found
        except OSError:  # none was saved beside the model
            pass
        except (ImportError, KeyError, ValueError) as error:
            raise DataError(f"cannot load the image processor of {name!r}: {first_sentence(error)}") from error
    return ImageClassifier(processor=processor, classes=int(config.num_labels), channels=channels)


def _pixels(recipe: Recipe, channels: int | None, size: Any = None) -> Pixels:
    given = recipe.image
    side = given.size or size
    shape = (side, side) if isinstance(side, int) else (int(side[0]), int(side[1])) if side else None
    return Pixels(channels=channels, size=shape, mean=given.mean, std=given.std)


def reader_of(task: Task) -> Any:
    """Return what is saved beside a model so that others can read rows for it: the tokenizer or the image processor."""
    return getattr(task, "tokenizer", None) or getattr(task, "processor", None)


def _context(config: Any, tokenizer: Any) -> int:
    """Return the tokens a row may have."""
    limits = [getattr(config.get_text_config(), "max_position_embeddings", None), tokenizer.model_max_length]
    known = [limit for limit in limits if isinstance(limit, int) and 0 < limit < UNLIMITED]
    return min(known) if known else 2048
