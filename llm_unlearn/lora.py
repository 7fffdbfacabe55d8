"""Adapters: where they are put, and what a run with an adapter starts from."""

from dataclasses import dataclass

from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import ModulesToSaveWrapper
from torch import nn

from llm_unlearn.errors import RecipeError
from llm_unlearn.lora_linear import quicken
from llm_unlearn.lora_targets import head_names, pattern, wrappable
from llm_unlearn.vision import reads_pixels

__all__ = ["ALL", "Lora", "attach", "head_names"]

ALL = "all-linear"


@dataclass(frozen=True, kw_only=True)
class Lora:
    """LoRA on every linear and convolution layer but the head (Hu et al., 2021, arXiv:2106.09685)."""

    r: int = 16  # rank; the thermostat trial's
    alpha: int = 32  # scale = alpha / r
    target_modules: str = ALL  # convolutions too, of image classifiers; or a regular expression over module names
    dropout: float = 0.0  # a log-ratio against the reference needs both without dropout


def attach(
    model: nn.Module, lora: Lora, task_type: str | None = None, modules_to_save: tuple[str, ...] | None = None
) -> PeftModel:
    """Return the model with a fresh adapter: B = 0, so its outputs are the model's own.

    An adapter that is already there is merged into the base first (the knowledge sits in it), so that switching the new
    one off gives the model before unlearning.  `modules_to_save` are trained in full: a classifier's head where not given
    (of a text classifier peft finds it by `task_type`).  Raises RecipeError where there is nothing to put LoRA on.
    """
    if isinstance(model, PeftModel):
        model = model.merge_and_unload(safe_merge=True)
    targets, heads = lora.target_modules, modules_to_save
    if reads_pixels(model):
        heads = head_names(model) if heads is None else heads
        targets = pattern(model, wrappable(model, heads)) if targets == ALL else targets
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        target_modules=targets,
        lora_dropout=lora.dropout,
        task_type=task_type,
        modules_to_save=list(heads or ()) or None,
    )
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:  # peft's own list of every module name is long; its first sentence says it
        raise RecipeError(
            f"no module of {type(model).__name__} matches lora.target_modules={lora.target_modules!r}: {error}"
        ) from error
    _check_heads(adapted, heads if modules_to_save is None else None)
    quicken(adapted)
    return adapted


def _check_heads(adapted: PeftModel, heads: tuple[str, ...] | None) -> None:
    """Raise RecipeError where peft, which goes by how names end, would train more than the heads in full."""
    if not heads:
        return
    every = adapted.get_base_model().named_modules()
    caught = [name for name, module in every if isinstance(module, ModulesToSaveWrapper) and name not in heads]
    if caught:
        raise RecipeError(
            f"the head {heads[0]!r} cannot be told from {caught[0]!r}, whose name ends alike: rename one of the two modules."
        )
