"""How models answer questions they were not trained on, kind by kind: `before`, `after` and `gold` beside each other.

result = evaluate_prompts(subject, wrap(forget_rows, available(), hints=retain_rows), kept=control_rows)
result.figures, result.worst
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llm_unlearn.errors import DataError, NotFinite, RecipeError, TaskError, nearest
from llm_unlearn.held_out.worst import worst_cases
from llm_unlearn.held_out.wrappers import KIND, PLAIN
from llm_unlearn.measuring.evaluation import Evaluation, answer_limit, greedy_answers
from llm_unlearn.measuring.figures import KNOWN, Figure, figures, kinds_of, of_kind, unknown_to
from llm_unlearn.measuring.suites import QUICK
from llm_unlearn.metrics.exact_answer import exact_answer
from llm_unlearn.metrics.rouge_l_recall import visible
from llm_unlearn.reporting.report import UNKNOWN
from llm_unlearn.runfolder import is_main
from llm_unlearn.scores import RETAIN_TYPE, ModelScores, Scores
from llm_unlearn.subject import Subject, check_alike
from llm_unlearn.tasks import Row, Task

ASKED, KEPT = "forget_heldout", "retain_heldout"  # the two splits that questions are sorted into
GENERATED = "rouge_l_recall"
NOT_ASKED = ("mia_loss", "forget_quality", "model_utility")  # these compare whole splits, not kinds of question
FIGURES = tuple(name for name in QUICK if name not in NOT_ASKED)
TEACHER_FORCED = tuple(name for name in FIGURES if name != GENERATED)
IN_PART = "before knew it in part"  # extraction strength 0.5, which counts as knowing on forget, without exact answers
UNANSWERED_LIMIT = 64  # tokens of a greedy answer where no row has a true one to go by


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What was measured; `answers` holds texts and is for a private file only."""

    figures: list[Figure]  # split "forget_heldout/KIND", or "retain_heldout/KIND" for what is to be kept
    worst: list[Figure]  # over the wrappers: each figure's highest `after`, and its widest lead over gold
    notes: list[str]  # what the figures alone do not say: counts only
    rows: dict[str, int]  # how many were asked, by "split/KIND"
    models: tuple[str, ...]
    answers: list[
        dict[str, Any]
    ]  # a row each: id, kind, prompt, opening, response, and the greedy answer of each model


def evaluate_prompts(
    subject: Subject,
    rows: Sequence[Row],
    *,
    kept: Sequence[Row] = (),
    wanted: Sequence[str] | None = None,
    generate: bool = False,
    max_new_tokens: int | None = None,
) -> HeldOut:
    """Return the figures of the subject's models on questions by `kind`; every process must call it.

    `kept` are questions whose answers must stay; so are those of `rows` of kind retain, retain_heldout, neighbour, general.
    `wanted` names figures (None: all that the rows allow), `generate` asks for greedy answers and ROUGE-L recall of them;
    `max_new_tokens` of one: None for the longest true answer and 4 more.  Rows without a `response` get greedy answers only.
    Raises DataError, RecipeError, TaskError or NotFinite where something asked for cannot be measured.
    """
    if max_new_tokens is not None and max_new_tokens < 1:
        raise RecipeError(f"--max-new-tokens {max_new_tokens} is too small; it is at least 1.")
    task = _reader(subject)
    generate = generate or GENERATED in (wanted or ())
    groups = {ASKED: [row for row in rows if row["kind"] not in RETAIN_TYPE]}
    groups[KEPT] = [*(row for row in rows if row["kind"] in RETAIN_TYPE), *kept]
    groups = {split: each for split, each in groups.items() if each}
    _check_wanted(groups, wanted, generate)
    for name in subject.names:
        if name != "after":
            check_alike(subject, name)

    every = [row for each in groups.values() for row in each]
    measured, texts, notes = _measured(subject, task, groups, max_new_tokens if generate else 0)
    apart = {row["kind"] for row in every if row.get("asks") == "subject"}
    chosen = wanted or (FIGURES if generate else TEACHER_FORCED)
    return HeldOut(
        figures=_by_kind(measured, chosen, subject.seed),
        worst=worst_cases({name: scores.get(ASKED) for name, scores in measured.items()}, chosen, subject.seed, apart),
        notes=[*_notes(every, generate), *notes, *_confused(measured.get("before", {}).get(ASKED), apart)],
        rows={f"{split}/{kind}": _count(each, kind) for split, each in groups.items() for kind in _kinds(each)},
        models=subject.names,
        answers=[
            {key: row.get(key) for key in ("id", "kind", "prompt", "opening", "response")}
            | {name: texts[name][i] for name in texts}
            for i, row in enumerate(every if generate else ())
        ],
    )


def _measured(
    subject: Subject, task: Task, groups: Mapping[str, Sequence[Row]], max_new_tokens: int | None
) -> tuple[dict[str, dict[str, Scores]], dict[str, tuple[str, ...]], list[str]]:
    """Return each model's scores on the rows that have answers, its greedy answers to all (0 tokens: none), and notes."""
    every = [row for each in groups.values() for row in each]
    answered = {split: [row for row in each if "response" in row] for split, each in groups.items()}
    answered = {split: each for split, each in answered.items() if each}
    evaluation = Evaluation(task, answered, generate_on=(), batch_size=subject.batch_size, progress=is_main())
    measured: dict[str, dict[str, Scores]] = {}
    texts: dict[str, tuple[str, ...]] = {}
    notes: list[str] = []

    def ask(name: str) -> list[str]:
        """Put the questions to one model, which is gone from memory before the next one comes."""
        model = subject.load(name)
        measured[name] = evaluation.scores(name, model)
        _check_finite(name, measured[name], answered)
        if max_new_tokens == 0:
            return []
        limit, cut = _limit(task, every, measured[name], max_new_tokens)
        size, title = subject.batch_size, f"generate {name}"
        texts[name] = greedy_answers(model, task, every, max_new_tokens=limit, batch_size=size, title=title)
        measured[name] = _with_answers(measured[name], texts[name], groups)
        return [*cut, *_empty(name, texts[name])]

    for name in subject.names:
        notes += [note for note in ask(name) if note not in notes]
    return measured, texts, notes


def _reader(subject: Subject) -> Task:
    if subject.task != "causal_lm" or subject.recipe.task != "causal_lm":
        raise TaskError("questions are put to a causal LM; this model is a classifier, which has no answers to give.")
    return subject.reader


def _kinds(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["kind"] for row in rows))


def _count(rows: Sequence[Row], kind: str) -> int:
    return sum(row["kind"] == kind for row in rows)


def _check_wanted(groups: Mapping[str, Sequence[Row]], wanted: Sequence[str] | None, generate: bool) -> None:
    """Raise unless there are rows and every figure that is asked for can be measured on them."""
    for name in wanted or ():
        if name not in FIGURES:
            raise RecipeError(f"unknown figure {name!r}{nearest(name, FIGURES)}.  Figures: {', '.join(FIGURES)}.")
    rows = [row for each in groups.values() for row in each]
    if not rows:
        raise DataError("there are no questions to ask: give at least one row.")
    bare = sum("response" not in row for row in rows)
    if bare and (wanted or (bare == len(rows) and not generate)):
        what = ", ".join(wanted) if wanted else "figures"
        raise DataError(
            f"{bare} of {len(rows)} questions have no answer, which {what} cannot do without: give them a column `response`, "
            "or ask for the models' own answers alone with --generate and no --figures."
        )
    texts = sum(row.get("prompt") is None for row in rows)
    if generate and texts:
        raise DataError(
            f"{texts} of {len(rows)} rows are plain text without a question, so there is nothing to answer: "
            "leave them out, or leave --generate out."
        )


def _check_finite(name: str, scores: ModelScores, rows: Mapping[str, Sequence[Row]]) -> None:
    """Raise NotFinite where a model's loss on an answer, a paraphrase or a wrong answer is NaN."""
    bad, total = 0, 0
    for split, each in scores.items():
        losses, said, wrong = each.losses, each.paraphrase_loss, each.wrong_losses
        for i, row in enumerate(rows[split]):
            values = [losses[i]]
            if row.get("paraphrase") and said is not None:
                values.append(said[i])
            values += list(wrong[i]) if wrong is not None else []
            bad += bool(np.isnan(values).any())
        total += len(each)
    if bad:
        raise NotFinite(
            f"the model {name} gives a loss that is not a number on {bad} of {total} rows, so nothing can be measured: "
            "try --precision fp32; if that changes nothing, its weights are broken."
        )


def _limit(task: Any, rows: Sequence[Row], scores: ModelScores, given: int | None) -> tuple[int, list[str]]:
    """Return the tokens a greedy answer may have, and a note where the model's context leaves no more room."""
    room = task.max_length - max(len(prompt) for prompt in task.prompts(rows))
    limit = given or max([answer_limit(each) for each in scores.values()], default=UNANSWERED_LIMIT)
    if room < (given or 1):
        raise DataError(
            f"the longest question leaves room for {max(room, 0)} tokens of an answer in this model's context of "
            f"{task.max_length}: shorten it or take it out" + (", or lower --max-new-tokens." if given else ".")
        )
    note = f"greedy answers end after {room} tokens instead of {limit}: the longest question leaves no more room"
    return min(limit, room), [note] if room < limit else []


def _with_answers(
    scores: dict[str, Scores], texts: Sequence[str], groups: Mapping[str, Sequence[Row]]
) -> dict[str, Scores]:
    """Return the scores with the greedy answers of the rows that have a true one."""
    rest = iter(texts)
    by_split = {split: [(row, next(rest)) for row in rows] for split, rows in groups.items()}
    return {
        split: replace(each, generated=tuple(text for row, text in by_split[split] if "response" in row))
        for split, each in scores.items()
    }


def _by_kind(measured: Mapping[str, ModelScores], names: Sequence[str], seed: int) -> list[Figure]:
    """Return each figure of each kind, the figures one after the other, what is to be kept behind what is asked."""
    out: list[Figure] = []
    for split, scores in measured["after"].items():
        for kind in kinds_of(scores):
            parts = {name: {split: of_kind(each[split], kind)} for name, each in measured.items()}
            old, gold = parts.get("before"), parts.get("gold")
            remark = _remark(old[split] if old else None)
            for figure in figures(parts["after"], before=old, gold=gold, metrics=names, seed=seed):
                detail = remark if remark and figure.after is not None else figure.detail
                out.append(replace(figure, split=f"{split}/{kind}", detail=detail))
    return sorted(out, key=lambda figure: names.index(figure.name))


def _remark(before: Scores | None) -> str:
    """Return what is said beside a kind that `before` does not answer; forget rows in a wrapper may be known in part."""
    if before is None or not unknown_to({before.split: before}):
        return ""
    wrapped = before.split == ASKED and before.kinds[0].startswith(KIND)
    return UNKNOWN if not wrapped or unknown_to({"forget": replace(before, split="forget")}) else IN_PART


def _confused(before: Scores | None, apart: Collection[str]) -> list[str]:
    """Return a note where wrappers keep `before` itself from answering: they then say little about `after`."""
    kinds = (
        [] if before is None else [kind for kind in kinds_of(before) if kind.startswith(KIND) and kind not in apart]
    )
    kinds = [kind for kind in kinds if kind != KIND + PLAIN]
    if before is None or not kinds:
        return []
    whole = sum(float(np.mean(exact_answer(of_kind(before, kind).hits))) >= KNOWN for kind in kinds)
    note = f"before gives the exact answer to most rows under {whole} of {len(kinds)} wrappers"
    return [
        note
        + (
            f"; under the other {len(kinds) - whole} a low figure after may be confusion, not forgetting"
            if whole < len(kinds)
            else ""
        )
    ]


def _notes(rows: Sequence[Row], generate: bool) -> list[str]:
    notes = []
    bare = sum("response" not in row for row in rows)
    if bare:
        notes.append(f"{bare} of {len(rows)} questions have no answer: they enter no figure")
    wrong = {len(row["wrong"]) for row in rows if row.get("wrong")}
    if len(wrong) > 1:
        notes.append(
            f"the rows have {min(wrong)} to {max(wrong)} wrong answers: the truth ratio takes each row's geometric mean, so rows count alike"
        )
    blind = sum("response" in row and not visible(row["response"]) for row in rows)
    if generate and blind:
        notes.append(
            f"{blind} true answers hold no letter a to z and no digit: ROUGE cannot see them, and leaves them out"
        )
    return notes


def _empty(name: str, texts: Sequence[str]) -> list[str]:
    empty = sum(not text for text in texts)
    return [f"{name}: {empty} of {len(texts)} greedy answers are empty; their ROUGE-L recall is 0"] if empty else []
