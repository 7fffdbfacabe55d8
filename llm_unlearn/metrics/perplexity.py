"""Perplexity of the greedy answers as the model before unlearning reads them: word salad is improbable to a model that speaks.

Definition  exp of the mean over rows of L, where L is the mean loss (nats a token, no end of sequence) that the model before gives
            to an answer behind its own question.  The answers are those of the model in the column, the reader is always the
            model before.  An empty answer is left out and counted.
Range       1 and above.
Ideal       on what was to be forgotten: gold's value; on everything else: as low as before's.
Limits      a greedy answer of the model before is near 1 by construction: compare with gold, not with it.  A short refusal that
            the reader never says is as improbable as salad; an answer that repeats itself reads easily (`fluency` sees that).
Citation    Jelinek et al., 1977, doi:10.1121/1.2016299.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_unlearn.metrics._in_process import class_on_demand
from llm_unlearn.scores import CAUSAL, SPLIT_NAMES, Floats, ModelScores, Score, rows_of
from llm_unlearn.statistics import bootstrap_interval

TARGET = "gold"
KEPT = "low"  # what is good where knowledge is kept
TASKS = CAUSAL
SPLITS = SPLIT_NAMES
NEEDS = "greedy answers, read by the model before (suite full)"
CITATION = "doi:10.1121/1.2016299"
PLAIN = {"predictions": float, "references": float}
PLAIN_INPUTS = "predictions: the mean loss of each answer by `after` under the model before; references: by `gold`."


def perplexity(losses: Sequence[float] | Floats) -> float | None:
    """Return exp of the mean of the rows' losses [B]; None where no row has one."""
    known = _known(losses)
    return float(np.exp(known.mean())) if len(known) else None


def _known(losses: Sequence[float] | Floats) -> Floats:
    values = np.asarray(losses, dtype=float)
    out: Floats = values[np.isfinite(values)]
    return out


def score(
    scores: ModelScores, split: str | None, *, gold: ModelScores | None = None, before: ModelScores | None = None
) -> Score | None:
    """Return the split's value; None where nothing was generated, or the model before has not read it."""
    rows = rows_of(scores, split)
    if rows is None or rows.generated_loss is None or (value := perplexity(rows.generated_loss)) is None:
        return None
    empty = len(rows) - len(_known(rows.generated_loss))
    return Score(value, None, len(rows) - empty, f"{empty} empty answers left out" if empty else "")


def interval(scores: ModelScores, split: str | None, *, seed: int, **_: Any) -> tuple[float, float] | None:
    """Return exp of the 95 % bootstrap interval of the mean loss."""
    rows = rows_of(scores, split)
    found = (
        None
        if rows is None or rows.generated_loss is None
        else bootstrap_interval(_known(rows.generated_loss), seed=seed)
    )
    return None if found is None else (float(np.exp(found[0])), float(np.exp(found[1])))


def plain(predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float | None]:
    """Return both models' perplexity from the losses of their answers."""
    return {"perplexity": perplexity(predictions), "perplexity_gold": perplexity(references)}


def __getattr__(name: str) -> Any:
    return class_on_demand(__name__, name)
