"""The parts of model utility, and which of them `before` has no better than by chance."""

import numpy as np

from llm_unlearn.metrics.probability import probability
from llm_unlearn.metrics.rouge_l_recall import rouge_l_recall
from llm_unlearn.metrics.truth_ratio import ratios, retained, true_losses, truth_ratio
from llm_unlearn.scores import Floats, ModelScores, Scores, row_means
from llm_unlearn.statistics import bootstrap_interval

PARTS = ("retain", "neighbour", "general")


def components(scores: ModelScores) -> dict[str, Floats]:
    """Return each measured component's values a row, NaN left out, by "figure on split"."""
    out: dict[str, Floats] = {}
    for split in (part for part in PARTS if part in scores):
        rows = scores[split]
        out[f"probability on {split}"] = probability(rows.log_probs)
        if rows.generated is not None and rows.answers is not None:
            out[f"rouge_l_recall on {split}"] = rouge_l_recall(rows.generated, rows.answers)
        ratio = ratios(rows)
        if ratio is not None:
            out[f"truth_ratio on {split}"] = retained(ratio)
    finite = {name: values[np.isfinite(values)] for name, values in out.items()}
    return {name: values for name, values in finite.items() if len(values)}


def lead(name: str, rows: Scores) -> Floats | None:
    """Return how far each row is above chance [B]; None where chance cannot be told."""
    if name.startswith("rouge") and rows.generated is not None and rows.answers is not None:
        order = sorted(range(len(rows)), key=lambda i: rows.ids[i])  # whatever order the rows come in
        following = dict(zip(order, [*order[1:], order[0]], strict=True))
        others = [rows.answers[following[i]] for i in range(len(rows))]
        return rouge_l_recall(rows.generated, rows.answers) - rouge_l_recall(rows.generated, others)
    if rows.wrong_losses is None:
        return None
    if name.startswith("probability"):
        lead: Floats = probability(rows.log_probs) - row_means([np.exp(-losses) for losses in rows.wrong_losses])
        return lead
    true = true_losses(rows)
    everyone = [np.append(losses, true[i]) if len(losses) else losses for i, losses in enumerate(rows.wrong_losses)]
    any_true = [
        retained(truth_ratio([np.delete(losses, k) for k in range(len(losses))], losses)).mean()
        if len(losses)
        else np.nan
        for losses in everyone
    ]
    above: Floats = retained(truth_ratio(rows.wrong_losses, true)) - np.array(any_true, dtype=float)
    return above


def left_out(before: ModelScores) -> list[str]:
    """Return the components on which `before` is no better than chance."""
    names = []
    for name in components(before):
        above = lead(name, before[name.rpartition(" ")[2]])
        bound = None if above is None else bootstrap_interval(np.sort(above[np.isfinite(above)]))
        if bound is not None and bound[0] <= 0:
            names.append(name)
    return names
