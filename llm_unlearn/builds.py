"""A plain module as a recipe's model: `--model my_package.my_module:build --weights file.safetensors`.

The dotted path is code that runs, so it is taken from the command or the recipe alone, never from a file that was loaded.
torch is imported late: a recipe is refused faster than that.
"""

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_unlearn.errors import DataError

if TYPE_CHECKING:
    from llm_unlearn.vision import VisionBridge

BUILD = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_build(name: str | None) -> bool:
    """Return whether a recipe's model is a function that makes a plain module (package.module:function)."""
    return bool(name and BUILD.fullmatch(name)) and not Path(str(name)).exists()


def built(name: str, weights: str | None = None, seed: int = 0) -> "VisionBridge":
    """Return the bridged module that the function returns, with the weights of a safetensors file or a folder in it.

    Without weights it is as the function makes it, torch's random state set to the seed for as long.  Raises DataError where
    there is no such function, where it returns no plain module, and where the weights do not fit.
    """
    import torch
    from torch import nn

    from llm_unlearn.vision import VisionBridge

    make = _function(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            made: Any = make()
        except TypeError as error:
            raise DataError(f"{name} cannot be called without arguments: {str(error)[:200]}") from error
    if not isinstance(made, nn.Module):
        raise DataError(
            f"{name} returned {type(made).__name__}: it must return a torch.nn.Module from pixels to logits."
        )
    model = made if isinstance(made, VisionBridge) else VisionBridge(made)
    return model if weights is None else model.load(weights)


def _function(name: str) -> Any:
    path, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(path)
    except ImportError as error:
        raise DataError(
            f"cannot import {path!r} of --model {name}: {error}. Is its package installed, or its folder on PYTHONPATH?"
        ) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        kind = "does not exist" if found is None else f"is a {type(found).__name__}, not a function"
        raise DataError(f"--model {name}: {attribute!r} {kind} in {path}; name one that returns the module.")
    return found
