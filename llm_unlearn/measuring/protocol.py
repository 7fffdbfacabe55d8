"""How a recipe's models are measured: on which rows, what its suite's figures need, and where scores are kept."""

from collections.abc import Callable
from typing import Any

from llm_unlearn.loading import new_model
from llm_unlearn.measuring import cache
from llm_unlearn.measuring.evaluation import Evaluation, measure
from llm_unlearn.measuring.suites import needs_activations, needs_gradients, needs_random
from llm_unlearn.prepare import Prepared, measured
from llm_unlearn.recipe import Recipe
from llm_unlearn.runfolder import is_main
from llm_unlearn.scores import ModelScores
from llm_unlearn.tasks import Task


def evaluation_of(task: Task, prepared: Prepared, recipe: Recipe) -> Evaluation:
    """Return what measures a recipe's models; which rows are measured does not depend on the run's seed."""
    rows = measured(prepared.splits, recipe.evaluation.rows, seed=0)
    return Evaluation(task, rows, **asked_for(recipe), progress=is_main())


def asked_for(recipe: Recipe) -> dict[str, Any]:
    """Return how the recipe's models are measured: what its figures need beside the one pass, and where scores are kept."""
    how = recipe.evaluation
    needs = {"grad_norm": needs_gradients(how.suite), "activations": needs_activations(how.suite, recipe.task)}
    return {**needs, "batch_size": how.batch_size, "cache": cache.folder() if how.cache else None}


def further(recipe: Recipe, evaluation: Evaluation) -> dict[str, ModelScores]:
    """Return the scores of the further models that the suite's figures take, by name."""
    if not needs_random(recipe.evaluation.suite, recipe.task):
        return {}
    rows = {"forget": evaluation.splits.get("forget", ())}
    return {"random": measure(new_model(recipe), evaluation.task, rows, batch_size=evaluation.options.batch_size)}


def token_count(task: Task) -> Callable[[str], int] | None:
    """Return what counts the tokens of a text; None where the task reads no text."""
    tokenizer = getattr(task, "tokenizer", None)
    return None if tokenizer is None else lambda text: len(tokenizer.tokenize(text))
