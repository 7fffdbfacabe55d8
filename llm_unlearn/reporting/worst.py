"""The rows that went worst: forgotten ones still known, kept ones now lost.  Named by a keyed mark, never by their text."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from llm_unlearn.metrics.exact_answer import exact_answer
from llm_unlearn.metrics.extraction_strength import extraction_strength
from llm_unlearn.runfolder import MARK, fingerprint
from llm_unlearn.scores import RETAIN_TYPE, ModelScores, Scores

MOST = 5  # rows a list
MARGIN = 0.05  # of extraction strength above gold's: less is what the verdict lets pass


def worst_rows(
    before: ModelScores, after: ModelScores, gold: ModelScores | None, key: bytes
) -> dict[str, list[dict[str, Any]]]:
    """Return the rows "still_known" (by extraction strength above gold's, or above 0) and "lost" (exact before, not now).

    A row's mark is HMAC-SHA256 of its id under the run's private key: who has the key and the rows finds it again.
    """
    known = [line for split in ("forget", "forget_heldout") for line in _still_known(split, before, after, gold)]
    lost = [line for split in RETAIN_TYPE for line in _lost(split, before, after)]
    known.sort(key=lambda line: (-line["after"], line["loss"]))
    lost.sort(key=lambda line: -line["loss"])
    chosen = {"still_known": known[:MOST], "lost": lost[:MOST]}
    return {
        name: [{**line, "row": fingerprint(key, line["row"])[:MARK]} for line in lines]
        for name, lines in chosen.items()
    }


def _still_known(
    split: str, before: ModelScores, after: ModelScores, gold: ModelScores | None
) -> Iterator[dict[str, Any]]:
    if split not in after or split not in before:
        return
    strengths = [extraction_strength(model[split].hits) for model in (before, after)]
    never = extraction_strength(gold[split].hits) if gold is not None and split in gold else None
    for i in np.flatnonzero(strengths[1] > MARGIN + (0.0 if never is None else never)):
        values = {"before": strengths[0][i], "after": strengths[1][i], "gold": None if never is None else never[i]}
        yield _line(after[split], int(i), values)


def _lost(split: str, before: ModelScores, after: ModelScores) -> Iterator[dict[str, Any]]:
    if split not in after or split not in before:
        return
    old, new = (exact_answer(model[split].hits) for model in (before, after))
    for i in np.flatnonzero((old == 1) & (new < 1)):
        yield _line(after[split], int(i), {"before": old[i], "after": new[i], "gold": None})


def _line(scores: Scores, i: int, values: dict[str, Any]) -> dict[str, Any]:
    plain = {name: None if value is None else round(float(value), 4) for name, value in values.items()}
    loss = round(float(scores.losses[i]), 4)
    return {"row": scores.ids[i], "split": scores.split, "kind": scores.kinds[i], **plain, "loss": loss}
