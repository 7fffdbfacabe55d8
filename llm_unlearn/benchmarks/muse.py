"""MUSE, six-way evaluation of machine unlearning on news and books (Shi et al., 2024, arXiv:2407.06460).

Files, as the Hub's muse-bench/MUSE-News and MUSE-Books have them (a JSON list each):
    verbmem/forget.json                    prompt, gt                  C1, verbmem_f: ROUGE-L F1 of a continuation of 128 tokens
    knowmem/forget_qa.json, retain_qa.json question, answer            C2 and C4, knowmem_f and knowmem_r: ROUGE-L of 32 tokens
    knowmem/forget_qa_icl.json, retain_qa_icl.json  question, answer   worked examples before every question, where there are any
    privleak/forget.json, holdout.json, retain.json  text              C3, privleak: MIN-K% 40 % of forget against holdout
C5 and C6 are knowmem_r after ever larger, and after repeated requests: --scalability and --sustainability take finished runs.
Figures are in percent, as the paper gives them.  Without a chat template, ROUGE without stemming, as its code does.

Differs from the paper's code: MIN-K% takes at least one token and rounds up; gold is measured, not a published constant.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llm_unlearn.benchmarks._layout import Source, Table, missing
from llm_unlearn.benchmarks._protocol import Models, Request, Result, Value, line, mean_of, measured
from llm_unlearn.errors import DataError
from llm_unlearn.measuring.evaluation import Evaluation
from llm_unlearn.measuring.figures import Figure
from llm_unlearn.metrics.mia_min_k import mia_min_k
from llm_unlearn.metrics.privleak import SHARE, privleak
from llm_unlearn.runfolder import is_main
from llm_unlearn.scores import Floats, ModelScores, Score, Scores
from llm_unlearn.statistics import area_under_curve
from llm_unlearn.subject import Subject
from llm_unlearn.tasks import CausalLM, Row, Task

FILES = {  # split: file and columns
    "verbmem": ("verbmem/forget", {"prompt": str, "gt": str}),
    "knowmem_f": ("knowmem/forget_qa", {"question": str, "answer": str}),
    "knowmem_r": ("knowmem/retain_qa", {"question": str, "answer": str}),
    "forget": ("privleak/forget", {"text": str}),
    "holdout": ("privleak/holdout", {"text": str}),
    "retain": ("privleak/retain", {"text": str}),
}
PRIVLEAK = ("forget", "holdout", "retain")
TOKENS = {"verbmem": 128, "knowmem_f": 32, "knowmem_r": 32}  # of a greedy answer; of verbmem's true continuation too
STOPS = ("\n\n", "\nQuestion", "Question:")  # an answer ends where the model begins another question


@dataclass(frozen=True, kw_only=True)
class Options(Request):
    """MUSE's own settings."""

    scalability: tuple[str, ...] = ()  # finished runs on ever larger forget sets, in order
    sustainability: tuple[str, ...] = ()  # finished runs of requests that came one after the other, in order


def run(options: Options) -> Result:
    """Return MUSE's figures of every model there is; raise DataError for files in another layout."""
    task = plain(options.reader)
    splits, notes = read(options.data, task)
    evaluations = _evaluations(task, splits, options)
    seconds: dict[str, float] = {}
    models = measured(options, list(evaluations.values()), seconds)
    figures = figures_of(models, seed=options.seed)
    if "knowmem_r" in evaluations:
        figures += _repeated(options, evaluations["knowmem_r"], models)
    elif options.scalability or options.sustainability:
        raise DataError("--scalability and --sustainability measure knowmem_r: they need knowmem/retain_qa.json.")
    return Result(name="muse", request=options.shown(), figures=figures, notes=notes, seconds=seconds)


def plain(task: Task) -> CausalLM:
    """Return the task without the tokenizer's chat template: texts are continued as they stand."""
    if not isinstance(task, CausalLM):
        raise DataError(f"this benchmark is for language models; the model is a {task.name}.")
    tokenizer = copy.copy(task.tokenizer)
    tokenizer.chat_template = None
    return replace(task, tokenizer=tokenizer)


def read(data: str, task: CausalLM) -> tuple[dict[str, list[Row]], list[str]]:
    """Return the rows by split, of the files there are, and what must be said about them."""
    source, splits, notes = Source(data), {}, []
    tables = {split: _table(source, file) for split, (file, _) in FILES.items()}
    missing(list(tables.values()), data, [f"{file}.json" for file, _ in FILES.values()])
    for split, table in tables.items():
        if table is None:
            continue
        file, columns = FILES[split]
        records = [record for _, record in table.needs(columns)]
        if split == "verbmem":
            rows = [{"prompt": each["prompt"], "response": _first_tokens(task, each["gt"])} for each in records]
        elif split in PRIVLEAK:
            rows = [{"prompt": None, "response": each["text"]} for each in records]
        else:
            examples = _table(source, f"{file}_icl")
            if examples is None:
                notes.append(f"{split} without worked examples: {file}_icl.json is not there")
            start = "" if examples is None else _worked(examples.needs(columns))
            rows = [
                {"prompt": f"{start}Question: {each['question']}\nAnswer: ", "response": each["answer"]}
                for each in records
            ]
        splits[split] = [{"id": f"{split}.{number}", **row} for number, row in enumerate(rows)]
    return splits, notes


def _table(source: Source, file: str) -> Table | None:
    configuration, split = file.split("/")
    return source.read(file, hub=(configuration, split))


def _worked(examples: Table) -> str:
    return "".join(f"Question: {each['question']}\nAnswer: {each['answer']}\n\n" for _, each in examples)


def _first_tokens(task: CausalLM, text: str) -> str:
    """Return the beginning of the true continuation, as long as the model's own may be."""
    ids = task.tokenizer.encode(text, add_special_tokens=False)[: TOKENS["verbmem"]]
    return str(task.tokenizer.decode(ids, skip_special_tokens=True))


def _evaluations(task: CausalLM, splits: Mapping[str, list[Row]], options: Options) -> dict[str, Evaluation]:
    """Return one evaluation a number of new tokens, and one without any."""
    common: dict[str, Any] = {"batch_size": options.batch_size, "progress": is_main()}
    out = {
        split: Evaluation(task, {split: splits[split]}, generate_on=(split,), max_new_tokens=TOKENS[split], **common)
        for split in TOKENS
        if split in splits
    }
    texts = {split: splits[split] for split in PRIVLEAK if split in splits}
    return {**out, **({"privleak": Evaluation(task, texts, generate_on=(), **common)} if texts else {})}


def figures_of(models: Models, *, seed: int = 0) -> list[Figure]:
    """Return C1 to C4 under the names of the paper's code."""
    out = []
    for name, split, kind, target in (
        ("verbmem_f", "verbmem", "f1", "gold"),
        ("knowmem_f", "knowmem_f", "f1", "gold"),
        ("knowmem_f, recall", "knowmem_f", "recall", "gold"),
        ("knowmem_r", "knowmem_r", "f1", "high"),
        ("knowmem_r, recall", "knowmem_r", "recall", "high"),
    ):
        out.append(
            line(name, _overlap(split, kind), models, needs=f"{FILES[split][0]}.json", target=target, seed=seed)
        )
    gold = models.get("gold")

    def leak(scores: ModelScores) -> Score | None:
        mine, theirs = _area(scores, "forget"), None if gold is None else _area(gold, "forget")
        found = None if mine is None or theirs is None or scores is gold else privleak(mine.value, theirs.value)
        return None if mine is None or found is None else Score(found, None, mine.n, mine.detail)

    need = "privleak/forget.json, privleak/holdout.json" + (
        " and --gold" if gold is None else ", a gold whose AUC is below 1"
    )
    out.append(line("privleak", leak, models, needs=need))
    for split in ("forget", "retain"):
        needs = f"privleak/{split}.json and privleak/holdout.json"
        name = f"AUC Min-40%, {split} against holdout"
        out.append(line(name, lambda scores, split=split: _area(scores, split), models, needs=needs))  # type: ignore[misc]
    return out


def rouge_l(generated: Sequence[str], answers: Sequence[str], kind: Literal["f1", "recall"]) -> Floats:
    """Return ROUGE-L of each row [B] without stemming."""
    place = ("recall", "f1").index(kind)
    return np.array(
        [_rouge_l(text, answer)[place] for text, answer in zip(generated, answers, strict=True)], dtype=float
    )


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=False)


@lru_cache(maxsize=65536)
def _rouge_l(text: str, answer: str) -> tuple[float, float]:
    found = _scorer().score(answer, text)["rougeL"]
    return found.recall, found.fmeasure


def _overlap(split: str, kind: Any) -> Value:
    def percent(rows: Scores) -> Floats | None:
        if rows.generated is None or rows.answers is None:
            return None
        said = rows.generated if split == "verbmem" else [until(text) for text in rows.generated]
        return 100 * rouge_l(said, rows.answers, kind)

    return mean_of(split, percent)


def until(text: str) -> str:
    """Return an answer up to where another question begins."""
    for stop in STOPS:
        text = text.split(stop)[0]
    return text


def _area(scores: ModelScores, split: str) -> Score | None:
    """Return the signed area under the curve of MIN-K%, the split's rows as members and holdout's as strangers."""
    members, others = (
        mia_min_k(scores[part].log_probs, SHARE) if part in scores else np.array([]) for part in (split, "holdout")
    )
    members, others = members[~np.isnan(members)], others[~np.isnan(others)]
    if not len(members) or not len(others):
        return None
    return Score(
        area_under_curve(members, others),
        None,
        len(members) + len(others),
        f"{len(members)} members, {len(others)} holdout rows",
    )


def _repeated(options: Options, evaluation: Evaluation, models: Models) -> list[Figure]:
    """Return knowmem_r after each run of a series, beside before and gold; raise DataError for a folder without a finished run."""
    out = []
    value = _overlap("knowmem_r", "f1")
    for kind in ("scalability", "sustainability"):
        folders = getattr(options, kind)
        for number, folder in enumerate(folders, start=1):
            name = f"{kind} {number}"
            subject = Subject(run=folder, precision=options.precision, batch_size=options.batch_size)
            scores = evaluation.scores(f"{name}, {Path(folder).name}", subject.load("after"))
            figure = line(
                f"knowmem_r, {name} of {len(folders)}", value, {**models, "after": scores}, needs="", target="high"
            )
            out.append(replace(figure, detail=Path(folder).name))
    return out
