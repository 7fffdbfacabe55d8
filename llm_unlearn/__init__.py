"""Machine unlearning for Hugging Face models: forget a concept, keep the rest, and see the proof.

    from llm_unlearn import evaluate, unlearn

Importing this package is quick: torch and transformers come with the first name that needs them.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_unlearn.api import evaluate, unlearn
    from llm_unlearn.errors import (
        DataError,
        MissingExtra,
        NotFinite,
        NothingChanged,
        OutputError,
        RecipeError,
        TaskError,
        UnlearnError,
    )
    from llm_unlearn.method import LossMethod, Method
    from llm_unlearn.method import available as available_methods
    from llm_unlearn.method import find as find_method
    from llm_unlearn.metrics import available as available_metrics
    from llm_unlearn.metrics import find as find_metric
    from llm_unlearn.recipe import Recipe
    from llm_unlearn.run import Run

__version__ = "0.1.0"

__all__ = [
    "DataError",
    "LossMethod",
    "Method",
    "MissingExtra",
    "NotFinite",
    "NothingChanged",
    "OutputError",
    "Recipe",
    "RecipeError",
    "Run",
    "TaskError",
    "UnlearnError",
    "__version__",
    "available_methods",
    "available_metrics",
    "evaluate",
    "find_method",
    "find_metric",
    "unlearn",
]

_HOME = {  # public name: the module (and the name there, where it differs)
    **{name: "errors" for name in __all__ if name.endswith(("Error", "Finite", "Changed", "Extra"))},
    "LossMethod": "method",
    "Method": "method",
    "Recipe": "recipe",
    "Run": "run",
    "available_methods": "method:available",
    "available_metrics": "metrics:available",
    "evaluate": "api",
    "find_method": "method:find",
    "find_metric": "metrics:find",
    "unlearn": "api",
}


def __getattr__(name: str) -> Any:
    """Import a public name where it is first used."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOME[name].partition(":")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
