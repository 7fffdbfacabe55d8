"""Whether two checkpoints can be compared at all: one architecture, one tokenizer."""

from typing import Any

from transformers import AutoConfig

from llm_unlearn.builds import is_build
from llm_unlearn.errors import DataError
from llm_unlearn.loading import checkpoint, first_sentence, load_task
from llm_unlearn.recipe import Recipe
from llm_unlearn.tasks import Task


def check_alike(recipe: Recipe, other: str | None, name: str, task: Task) -> None:
    """Raise DataError where the checkpoint `other` is of another architecture than the recipe's model, or has another tokenizer.

    `name` is what it is called: before or gold.  None, and the model itself, are alike.
    """
    if (
        other is None or other == recipe.model or is_build(recipe.model)
    ):  # weights of one function: loading compares them
        return
    here, there = checkpoint(recipe.model, recipe=recipe), checkpoint(other, name, recipe)
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
        raise DataError(f"cannot load the model {path!r}: {first_sentence(error)}") from error


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
