"""What is wrong with a recipe before anything is loaded: settings that contradict each other or are out of range."""

from pathlib import Path

from llm_unlearn import cuts
from llm_unlearn.builds import is_build
from llm_unlearn.errors import RecipeError
from llm_unlearn.recipe import PATHS, SANDBOX, SPLITS, Recipe, method_name


def check(recipe: Recipe) -> None:
    """Raise RecipeError where settings contradict each other or are out of range."""
    _check_data(recipe)
    _check_numbers(recipe)
    _check_build(recipe)
    _check_method(recipe)
    inside = [key for key in (*PATHS[:8], *SPLITS) if _is_inside(getattr(recipe, key), recipe.output)]
    if inside:
        raise RecipeError(f"--{inside[0]} lies in the output folder {recipe.output}: give another --output.")


def _check_method(recipe: Recipe) -> None:
    """Raise RecipeError for a method that does not work on the task, or has nothing to start from."""
    name = method_name(recipe.method)
    if recipe.task not in recipe.method.tasks:
        tasks = ", ".join(sorted(recipe.method.tasks))
        raise RecipeError(f"--method {name} works on {tasks}, not on task {recipe.task}; choose another method.")
    if recipe.method.starts_from == "origin" and not recipe.origin and recipe.model != SANDBOX:
        raise RecipeError(f"--method {name} starts from the model before its training: give --origin PATH_OR_HUB_ID.")


def _check_data(recipe: Recipe) -> None:
    """Raise RecipeError unless the rows are given in exactly one way."""
    if recipe.data and recipe.forget:
        raise RecipeError(
            "--data and --forget are both given: either one corpus with --concept, --classes or --ids, or --forget with "
            "--retain."
        )
    if recipe.forget and not recipe.retain:
        raise RecipeError("--forget without --retain: say which rows must be kept, or knowledge is lost with them.")
    if recipe.retain and not recipe.forget:
        what = f"is split by {cuts.named(recipe)} already" if recipe.data else "needs --forget beside it"
        raise RecipeError(f"--retain {what}: give --forget with --retain, or --data with --concept.")
    if recipe.golds and not recipe.gold:
        raise RecipeError(
            "--golds without --gold: name the gold to compare with; --golds are further ones, for chance."
        )
    if recipe.forget and recipe.forget == recipe.retain:
        raise RecipeError(f"--forget and --retain are the same: {recipe.forget}.")
    _check_concept(recipe)
    if (
        recipe.task != "causal_lm"
        and SANDBOX in (recipe.model, recipe.data, recipe.gold)
        and not cuts.embedded(recipe)
    ):
        raise RecipeError(
            f"the sandbox has nothing for task {recipe.task} that is asked for so: give --classes or --ids with it, or "
            "--model, --forget and --retain."
        )
    cuts.check(recipe)


def _check_concept(recipe: Recipe) -> None:
    """Raise RecipeError for a concept that is empty, or has no rows to be looked for in."""
    if recipe.forget and (recipe.concept or recipe.terms):
        raise RecipeError("--concept and --terms split --data; with --forget and --retain the rows are split already.")
    inferring = [name for name in ("examples", "explain") if getattr(recipe, name)]
    if inferring and recipe.task != "causal_lm" and not recipe.classes:
        raise RecipeError(
            f"--{inferring[0]} infers carriers for causal language models; for task {recipe.task} give --classes"
            f"{' with --examples, to forget the rows of these classes that are like them' if recipe.examples else ', to show what they rest on'}."
        )
    if inferring and (recipe.forget or recipe.ids):
        raise RecipeError(
            f"--{inferring[0]} looks for rows in --data; --forget and --ids say them already: leave one out."
        )
    if recipe.explain and not (recipe.examples or recipe.concept or recipe.classes or recipe.data == SANDBOX):
        raise RecipeError("--explain needs a concept to look for: give --concept, --examples or both.")
    if recipe.concept is not None and not recipe.concept.strip():
        raise RecipeError("--concept is empty: name what is to be forgotten.")
    if any(not term.strip() for term in recipe.terms):
        raise RecipeError("--terms holds an empty word, which is in every row; leave it out.")
    if recipe.concept and not recipe.data:
        raise RecipeError("--concept without --data: say which rows it is to be looked for in.")
    if recipe.terms and not recipe.concept:
        raise RecipeError("--terms without --concept: terms are other names of the concept.")
    if recipe.task == "image_classifier" and recipe.concept:
        raise RecipeError(
            "--concept looks for words, and images have none: give --classes, --ids, or --forget and --retain."
        )


def _check_build(recipe: Recipe) -> None:
    """Raise RecipeError for weights without the function they belong to, and for a function that makes no image classifier."""
    if recipe.weights and not is_build(recipe.model):
        raise RecipeError("--weights belong to a plain module: give --model package.module:function that makes it.")
    if is_build(recipe.model) and recipe.task != "image_classifier":
        raise RecipeError(f"--model {recipe.model} makes a plain module: say --task image_classifier.")


def _check_numbers(recipe: Recipe) -> None:
    """Raise RecipeError for a number out of its range."""
    least = {"accumulation": recipe.accumulation, "evaluation.batch_size": recipe.evaluation.batch_size}
    least["evaluation.rows"] = recipe.evaluation.rows
    if recipe.lora:
        least["lora.r"] = recipe.lora.r
        if not 0 <= recipe.lora.dropout < 1:
            raise RecipeError(f"lora.dropout: {recipe.lora.dropout} is not in [0, 1).")
    for key, value in least.items():
        if value < 1:
            raise RecipeError(f"{key}: {value} is too small; it is at least 1.")
    if recipe.seed < 0:
        raise RecipeError(f"seed: {recipe.seed} is negative; it is at least 0.")
    if recipe.push_to_hub is not None and (
        recipe.push_to_hub.count("/") != 1 or not all(recipe.push_to_hub.split("/"))
    ):
        raise RecipeError(f"--push-to-hub {recipe.push_to_hub}: expected user/name.")
    if recipe.push_to_hub and recipe.show_records:
        raise RecipeError("--show-records puts forget rows into the report: it goes with no --push-to-hub.")
    if not recipe.output.strip():
        raise RecipeError("--output is empty: name a folder.")


def _is_inside(path: str | None, folder: str) -> bool:
    """Is `path` an existing file or folder in `folder`, or that folder itself?"""
    if not path or not Path(path).exists():
        return False
    there = Path(path).resolve()
    return Path(folder).resolve() in (there, *there.parents)
