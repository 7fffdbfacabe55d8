"""Results out: the adapter (or the whole model) with its manifest, in the Hub's layout, loadable without this package."""

import copy
import json
import shutil
from pathlib import Path

from peft import PeftModel
from peft.utils import ModulesToSaveWrapper
from torch import nn

import llm_unlearn
from llm_unlearn.data.mnemonic import Codes
from llm_unlearn.files import write_json
from llm_unlearn.loading import checkpoint
from llm_unlearn.recipe import SANDBOX, Recipe
from llm_unlearn.vision import VisionBridge

ADAPTER, MODEL, MERGED, QUANTISED = "adapter", "model", "merged", "quantised"
RESULTS = (ADAPTER, MODEL, MERGED, QUANTISED)  # what a run's folder may hold, each with its certificate
MANIFEST = "unlearning.json"


def save(model: nn.Module, folder: Path, recipe: Recipe, codes: Codes | None = None) -> Path:
    """Write the adapter to folder/adapter, or a model without one to folder/model; return where.  Safetensors only.

    The codes that the model still has go with it, an adapter's frozen copy (its reference) does not.
    A local base model is named by its folder's name alone: paths of this machine are nobody else's business.
    """
    place = folder / (ADAPTER if isinstance(model, PeftModel) else MODEL)
    part = folder / f"{place.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    chosen = {"selected_adapters": model.active_adapters} if isinstance(model, PeftModel) else {}
    model.save_pretrained(part, **chosen)  # type: ignore[operator]
    if codes is not None:
        codes.save(part)
    (part / "README.md").unlink(missing_ok=True)  # peft's blank card
    config = part / "adapter_config.json"
    if config.exists():
        content = json.loads(config.read_text(encoding="utf-8"))
        content["base_model_name_or_path"] = base_name(recipe)
        write_json(config, content)
    shutil.rmtree(place, ignore_errors=True)
    part.replace(place)
    return place


def base_name(recipe: Recipe) -> str:
    """Return how the base model may be called in public: its Hub id, or its folder's name."""
    if recipe.model == SANDBOX:
        folder = Path(checkpoint(SANDBOX, recipe=recipe))
        return folder.relative_to(Path(llm_unlearn.__file__).parent.parent).as_posix()
    return Path(recipe.model).name if Path(recipe.model).exists() else recipe.model


def reload(model: nn.Module, place: Path) -> nn.Module:
    """Return the model as somebody else would load it: the same base, the adapter from disk."""
    if isinstance(model, VisionBridge):
        return copy.deepcopy(model).load(place).eval()
    if not isinstance(model, PeftModel):
        loaded: nn.Module = type(model).from_pretrained(place, dtype=next(model.parameters()).dtype)  # type: ignore[attr-defined]
        return loaded.to(next(model.parameters()).device).eval()
    whole = {  # peft would leave the trained copy of a head in the base: switched off, it would not be the model before
        name: module.original_module
        for name, module in model.get_base_model().named_modules()
        if isinstance(module, ModulesToSaveWrapper)
    }
    base = model.unload()
    for name, module in whole.items():
        base.set_submodule(name, module)
    return PeftModel.from_pretrained(base, str(place)).eval()
