"""How a recipe says which rows of its corpus are to be forgotten: by concept, by classes or by ids."""

from typing import Any

from llm_unlearn.errors import RecipeError
from llm_unlearn.recipe import SANDBOX, Recipe
from llm_unlearn.sandbox.world import CONCEPT

# tasks of classifiers that the sandbox has models for, and their default class
EMBEDDED = {"sequence_classifier": "Quillmere", "image_classifier": "star"}
CUTS = ("concept", "classes", "ids")  # what a corpus can be cut by


def check(recipe: Recipe) -> None:
    """Raise RecipeError unless a corpus is cut in exactly one way, and for classes of a model that has none."""
    given = [name for name in CUTS if getattr(recipe, name)]
    if recipe.examples and not recipe.data:
        raise RecipeError(
            "--examples without --data: say in which rows others that carry the concept are to be found."
        )
    if not recipe.data and not recipe.forget:
        raise RecipeError(
            "nothing to forget: give --data with --concept, --classes or --ids, or --forget with --retain."
        )
    if len(given) > 1:
        raise RecipeError(
            f"--{given[0]} and --{given[1]} are both given: --data is cut by one of them; leave the other out."
        )
    if given and not recipe.data:
        raise RecipeError(f"--{given[0]} without --data: say which rows it is to be looked for in.")
    if (
        recipe.data
        and not given
        and not recipe.examples
        and not (recipe.data == SANDBOX and recipe.task == "causal_lm")
    ):
        raise RecipeError(
            "--data without --concept: name what is to be forgotten (--classes or --ids do it too), or give --forget and --retain."
        )
    if recipe.classes and recipe.task == "causal_lm":
        raise RecipeError(
            "--classes needs a classifier: give --task sequence_classifier or image_classifier, or --concept."
        )
    if recipe.test and not (recipe.classes or recipe.ids):
        raise RecipeError(
            "--test goes with --classes or --ids; give other rows as --holdout, --retain_heldout and so on."
        )
    if recipe.test and recipe.test == recipe.data:
        raise RecipeError(
            f"--data and --test are the same: {recipe.test}; --test must be rows the model was never trained on."
        )
    if recipe.ids == SANDBOX != recipe.data:
        raise RecipeError("--ids sandbox is a request to the sandbox: give --data sandbox, or a file of ids.")


def named(recipe: Recipe) -> str:
    """Return the option that the recipe's corpus is cut by."""
    return next((f"--{name}" for name in CUTS if getattr(recipe, name)), "--concept")


def embedded(recipe: Recipe) -> bool:
    """Is there something in the sandbox for this classifier's request?"""
    return recipe.task in EMBEDDED and bool(recipe.classes or recipe.ids or recipe.forget)


def is_default_request(values: dict[str, Any]) -> bool:
    """Is this the sandbox's own request, the one its gold was made for?  A classifier's default class is put in."""
    default = EMBEDDED.get(values.get("task", "causal_lm"))
    if default is None:
        return values.get("concept") in (None, CONCEPT) and not any(values.get(key) for key in ("terms", "ids"))
    if not any(values.get(key) for key in CUTS):
        values["classes"] = (default,)
    return tuple(values.get("classes") or ()) == (default,) or values.get("ids") == SANDBOX
