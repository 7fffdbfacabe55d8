"""Other labels for rows that must lose theirs, and whether a model has come to say them.

A classifier's row gets one of the other classes, a causal LM's another row's answer (or one that is given).
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from llm_unlearn.decisions import Decisions
from llm_unlearn.errors import DataError
from llm_unlearn.head import in_eval, unwrapped
from llm_unlearn.tasks import Example, Row, Task


def class_count(model: nn.Module, task: Task, rows: Sequence[Row]) -> int:
    """Return how many classes a classifier tells apart: its logits, of one row."""
    device = next(model.parameters()).device
    batch = {name: column.to(device) for name, column in task.collate(task.encode(rows[:1])).items()}
    with torch.no_grad(), in_eval(unwrapped(model)) as still:
        return task.decisions(still, batch, logits=True).logits.shape[-1]


def with_other_labels(
    model: nn.Module, task: Task, rows: Sequence[Row], *, times: int = 1, answer: str | None = None, seed: int = 0
) -> list[Row]:
    """Return each row `times` times in a row, each time with a label that is not its own, drawn uniformly from the others.

    A causal LM's other labels are the other rows' responses (each counted once), or `answer` for every row.
    Raises DataError for rows with several labels, and where there is no other label.
    """
    draw = np.random.default_rng(seed)
    if task.name == "causal_lm":
        said = sorted({str(row["response"]) for row in rows})
        return [{**row, "response": _other_answer(said, row, answer, draw)} for row in rows for _ in range(times)]
    if any(isinstance(row["label"], list) for row in rows):
        raise DataError(
            "these rows have several labels each (0 and 1 for every class), and another label is only defined where a row has one: "
            "give single-label rows, or choose another method."
        )
    classes = class_count(model, task, rows)
    if classes < 2:
        raise DataError(f"the model tells {classes} classes apart: there is no other label to give.")
    steps = draw.integers(1, classes, size=(len(rows), times))  # 1 .. C - 1 further on: never the row's own
    return [
        {**row, "label": (int(row["label"]) + int(step)) % classes}
        for row, each in zip(rows, steps, strict=True)
        for step in each
    ]


def aims(
    model: nn.Module,
    task: Task,
    new: Sequence[Row],
    earlier: Sequence[Row] = (),
    *,
    relabel: bool,
    answer: str | None = None,
    seed: int = 0,
) -> list[Row]:
    """Return the rows with the labels that they are to lose, or (`relabel`) to get.

    Rows that were forgotten `earlier` stay what they are: they are to lose their own labels, or to keep the class that the
    model now says (where it is their own again, and of a causal LM's, another one).
    """
    other = with_other_labels(model, task, new, answer=answer, seed=seed)  # refuses what has no other label
    if not relabel:
        return [*new, *earlier]
    again = with_other_labels(model, task, earlier, answer=answer, seed=seed) if earlier else []
    if task.name == "causal_lm":
        return [*other, *again, *behind_own([*new, *earlier], [*other, *again])]
    said = said_classes(model, task, task.encode(earlier))
    kept = [{**row, "label": label} for row, label in zip(earlier, said, strict=True)]
    wrong = [one["label"] != row["label"] for one, row in zip(kept, earlier, strict=True)]
    return [*other, *(one if stays else drawn for one, stays, drawn in zip(kept, wrong, again, strict=True))]


@torch.no_grad()
def said_classes(model: nn.Module, task: Task, examples: Sequence[Example], *, batch_size: int = 64) -> list[int]:
    """Return the class that a classifier, in eval mode, finds most probable for each example."""
    device = next(model.parameters()).device
    said: list[int] = []
    with in_eval(unwrapped(model)) as still:
        for first in range(0, len(examples), batch_size):
            batch = task.collate(examples[first : first + batch_size])
            decisions = task.decisions(still, {name: column.to(device) for name, column in batch.items()}, logits=True)
            said += decisions.logits.argmax(-1).tolist()
    return said


def behind_own(rows: Sequence[Row], others: Sequence[Row]) -> list[Row]:
    """Return the rows with the responses of `others` to be learned behind every beginning of their own (`instead`).

    Learned only as a text of its own, another answer would change the first word alone: the rest would stay known to whoever
    gives the true beginning.
    """
    return [{**row, "instead": other["response"]} for row, other in zip(rows, others, strict=True)]


def _other_answer(said: Sequence[str], row: Row, answer: str | None, draw: np.random.Generator) -> str:
    if answer is not None:
        return answer
    others = [text for text in said if text != row["response"]]
    if not others:
        raise DataError(
            "every forget row has the same response, so there is no other row's answer to give: say one with method.answer."
        )
    return others[int(draw.integers(len(others)))]


@torch.no_grad()
def at_most(
    model: nn.Module,
    task: Task,
    examples: Sequence[Example],
    allowed: float,
    *,
    wrong: bool = False,
    batch_size: int = 64,
) -> bool:
    """Return whether `model`, as it stands, gets at most `allowed` scored decisions right (`wrong`: wrong).

    It looks no further than the first batch that settles it.
    """
    device = next(model.parameters()).device
    found = 0
    for first in range(0, len(examples), batch_size):
        batch = task.collate(examples[first : first + batch_size])
        decisions = task.decisions(model, {name: column.to(device) for name, column in batch.items()}, logits=True)
        hit = decisions.greedy_hit()
        found += int(((~hit if wrong else hit) & decisions.scored).sum())
        if found > allowed:
            return False
    return True


@torch.no_grad()
def right_share(model: nn.Module, task: Task, examples: Sequence[Example], *, batch_size: int = 64) -> float:
    """Return the share of scored decisions that the model, in eval mode, gets right."""
    device = next(model.parameters()).device
    right = total = 0
    with in_eval(unwrapped(model)) as still:
        for first in range(0, len(examples), batch_size):
            batch = task.collate(examples[first : first + batch_size])
            decisions = task.decisions(still, {name: column.to(device) for name, column in batch.items()}, logits=True)
            right += int((decisions.greedy_hit() & decisions.scored).sum())
            total += int(decisions.scored.sum())
    return right / total


def short_of(decisions: Decisions, margin: float, *, towards: bool) -> Tensor:
    """Return how far each example [B] is from losing its label by `margin`: max(0, margin + own logit - best other one).

    `towards`: from having it: max(0, margin + best other logit - own).  Unlike minus cross-entropy it pulls hardest at labels the
    model is certain of, and not at all at those already lost.
    """
    own = decisions.labels[:, None]
    best = decisions.logits.scatter(-1, own, float("-inf")).amax(-1)
    lead = decisions.logits.gather(-1, own)[:, 0] - best
    gap = (margin + (-lead if towards else lead)).clamp(min=0)
    return decisions.per_example(gap, "mean", scored_only=True)


def reached(
    model: nn.Module, task: Task, aim: Sequence[Row], unseen: Sequence[Row], *, wrong: bool
) -> Callable[[nn.Module], bool]:
    """Return what asks a model whether none of the rows is right (`wrong`: wrong) any more.

    With unseen rows: whether they are right no more often than those are of `model`, as it is now.
    """
    examples = task.encode(aim)
    level = right_share(model, task, task.encode(unseen)) if unseen else 0.0
    allowed = level * sum(sum(example.get("scored", [1])) for example in examples)
    return lambda now: at_most(now, task, examples, 0 if wrong else allowed, wrong=wrong)
