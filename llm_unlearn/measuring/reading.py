"""The greedy answers of one model as another reads them: one more teacher-forced pass, only where it is asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from llm_unlearn.errors import DataError
from llm_unlearn.loading import load_model
from llm_unlearn.measuring.evaluation import Evaluation, measure
from llm_unlearn.measuring.suites import needs_reading
from llm_unlearn.recipe import Recipe
from llm_unlearn.runfolder import is_main
from llm_unlearn.scores import ModelScores, Scores
from llm_unlearn.tasks import Row, Task


def read_before(recipe: Recipe, evaluation: Evaluation, path: str, *models: ModelScores | None) -> list[Any]:
    """Return the models' scores with their greedy answers read by the checkpoint at `path`, where a figure needs it."""
    if not needs_reading(recipe.evaluation.suite, recipe.task):
        return list(models)
    reader, options = load_model(recipe, path), {"batch_size": evaluation.options.batch_size, "progress": is_main()}
    return [
        None if scores is None else read_by(reader, evaluation.task, evaluation.splits, scores, **options)
        for scores in models
    ]


def read_by(
    reader: nn.Module, task: Task, splits: Mapping[str, Sequence[Row]], scores: ModelScores, **options: Any
) -> dict[str, Scores]:
    """Return the scores with `generated_loss` [B]: what `reader` makes of each greedy answer behind its own question.

    NaN for an answer that is empty or does not fit into the reader's context.  A split without answers stays as it is.
    Every process of a job calls this; `options` are `measure`'s.
    """
    out = dict(scores)
    for split, found in scores.items():
        if found.generated is None:
            continue
        asked = zip(splits[split], found.generated, strict=True)
        said = [{"prompt": row["prompt"], "response": answer} for row, answer in asked]
        rows = {number: row for number, row in enumerate(said) if _fits(task, row)}
        losses = np.full(len(found), np.nan)
        if rows:
            read = measure(reader, task, {split: list(rows.values())}, **{**options, "generate_on": ()})
            losses[list(rows)] = read[split].losses
        out[split] = replace(found, generated_loss=losses)
    return out


def _fits(task: Task, row: Row) -> bool:
    """Return whether the row can be read: its answer has a token, and it is no longer than the context."""
    try:
        task.encode([row])
    except DataError:
        return False
    return True
