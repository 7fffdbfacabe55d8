"""TOFU, the task of fictitious unlearning: forget quality against model utility (Maini et al., 2024, arXiv:2401.06121).

Files, as the Hub's locuslab/TOFU has them (JSON lines): forget10_perturbed.json and retain_perturbed.json (question, answer,
paraphrased_answer, perturbed_answer), real_authors_perturbed.json and world_facts_perturbed.json (question, answer,
perturbed_answer).  Where one of them is missing, forget10.json, retain90.json, real_authors.json or world_facts.json stand in
for what needs no perturbed answers; the rest is not measured.

Differs from the paper's code: all rows count, not the first 300; probabilities leave the end of sequence out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llm_unlearn.benchmarks._layout import Columns, Source, Table, missing
from llm_unlearn.benchmarks._protocol import Models, Request, Result, Value, line, mean_of, measured
from llm_unlearn.errors import RecipeError
from llm_unlearn.measuring.evaluation import Evaluation
from llm_unlearn.measuring.figures import Figure
from llm_unlearn.metrics._components import lead
from llm_unlearn.metrics.forget_quality import FEW, forget_quality
from llm_unlearn.metrics.normalised_probability import normalised_probability
from llm_unlearn.metrics.probability import probability
from llm_unlearn.metrics.rouge_l_recall import rouge_l_recall
from llm_unlearn.metrics.truth_ratio import forgotten, retained, true_losses, truth_ratio
from llm_unlearn.runfolder import is_main
from llm_unlearn.scores import Floats, ModelScores, Score, Scores
from llm_unlearn.statistics import bootstrap_interval, bootstrap_means, harmonic_mean, percentile_interval
from llm_unlearn.tasks import Row

PARTS = {"retain": "Retain", "real_authors": "Real Authors", "world_facts": "World Facts"}  # split: the paper's name
FIGURES = ("Probability", "ROUGE-L recall", "Truth Ratio")
NORMALISED = ("real_authors", "world_facts")  # probability against that of the perturbed answers
ROUNDING = 1e-9  # exactly chance is no better than chance, in whatever order it was computed
TELLS = 1e-3  # before's own forget quality should lie below
Components = dict[str, Floats]  # "Retain Probability": a value a row


@dataclass(frozen=True, kw_only=True)
class Options(Request):
    """TOFU's own settings."""

    split: str = "forget10"  # which forget set: forget01, forget05 or forget10
    mean: Literal["geometric", "arithmetic"] = (
        "geometric"  # of the perturbed answers' probabilities in the truth ratio
    )
    question: str = (
        "{question}"  # how a question is put to a model without a chat template, e.g. "Question: {question}\nAnswer:"
    )
    max_new_tokens: int = 200  # of a greedy answer

    def __post_init__(self) -> None:
        """Raise RecipeError for a forget set that TOFU does not have, or a form without a place for the question."""
        super().__post_init__()
        if self.split not in ("forget01", "forget05", "forget10"):
            raise RecipeError(f"--split {self.split}: TOFU has forget01, forget05 and forget10.")
        if "{question}" not in self.question:
            raise RecipeError("--question needs {question} in it, where the question goes.")


def run(options: Options) -> Result:
    """Return TOFU's figures of every model there is; raise DataError for files in another layout."""
    splits, needs = read(options)
    evaluation = Evaluation(
        options.reader,
        splits,
        generate_on=tuple(splits),
        batch_size=options.batch_size,
        max_new_tokens=options.max_new_tokens,
        progress=is_main(),
    )
    seconds: dict[str, float] = {}
    models = measured(options, [evaluation], seconds)
    figures, notes = figures_of(models, needs, mean=options.mean, seed=options.seed)
    return Result(name="tofu", request=options.shown(), figures=figures, notes=notes, seconds=seconds)


def read(options: Options) -> tuple[dict[str, list[Row]], dict[str, str]]:
    """Return the rows by split, and for each split the file that what it lacks would need."""
    source = Source(options.data)
    names = {split: (f"{split}_perturbed", split) for split in NORMALISED}
    names["retain"] = ("retain_perturbed", f"retain{100 - int(options.split[-2:])}")
    names["forget"] = (f"{options.split}_perturbed", options.split)
    splits: dict[str, list[Row]] = {}
    tables = []
    for split in ("forget", *PARTS):
        full, plain = names[split]
        table = source.read(full)
        columns: Columns = {"question": str, "answer": str}
        if table is not None:
            paraphrased = {} if split in NORMALISED else {"paraphrased_answer": str}
            columns = {**columns, **paraphrased, "perturbed_answer": list}
        else:
            table = source.read(plain)
        tables.append(table)
        if table is not None:
            splits[split] = _rows(table.needs(columns), split, options.question)
    missing(tables, options.data, [f"{full}.json" for full, _ in names.values()])
    return splits, {split: f"{full}.json" for split, (full, _) in names.items()}


def _rows(table: Table, split: str, form: str) -> list[Row]:
    rows = []
    for number, (_, record) in enumerate(table):
        row = {"id": f"{split}.{number}", "fact": f"{split}.{number}", "response": record["answer"]}
        row["prompt"] = form.replace("{question}", record["question"])
        for column, name in (("paraphrased_answer", "paraphrase"), ("perturbed_answer", "wrong")):
            if record.get(column) is not None:
                row[name] = record[column]
        rows.append(row)
    return rows


def figures_of(
    models: Models, needs: Mapping[str, str], *, mean: str = "geometric", seed: int = 0
) -> tuple[list[Figure], list[str]]:
    """Return TOFU's figures in its own order and under its own names, and what must be said beside them.

    `needs` names each split's file, for what was not measured.
    """
    notes: list[str] = []
    out = quality(models, needs, notes, mean=mean)
    out += utility(models, notes, mean=mean, seed=seed)
    for part, name in {"forget": "Forget", **PARTS}.items():
        for figure in FIGURES:
            value = mean_of(part, _by_row(part, figure, mean))
            target = "gold" if part == "forget" else "high"
            out.append(line(f"{name} {figure}", value, models, needs=needs[part], target=target, seed=seed))
    return out, notes


def _by_row(split: str, figure: str, mean: str) -> Callable[[Scores], Floats | None]:
    """Return what gives a figure's value for each row of a split; None where it cannot be measured."""

    def ratio(rows: Scores) -> Floats | None:
        found = _ratios(rows, mean)
        return None if found is None else (forgotten if split == "forget" else retained)(found)

    def likelihood(rows: Scores) -> Floats | None:
        if split not in NORMALISED:
            return probability(rows.log_probs)
        return None if rows.wrong_losses is None else normalised_probability(rows.wrong_losses, rows.losses)

    def overlap(rows: Scores) -> Floats | None:
        if rows.generated is None or rows.answers is None:
            return None
        return rouge_l_recall(rows.generated, rows.answers)

    return {"Probability": likelihood, "ROUGE-L recall": overlap, "Truth Ratio": ratio}[figure]


def _ratios(rows: Scores, mean: str) -> Floats | None:
    return None if rows.wrong_losses is None else truth_ratio(rows.wrong_losses, true_losses(rows), mean=mean)


def components(scores: ModelScores, mean: str = "geometric") -> Components:
    """Return the measured ones of the nine parts of model utility, a value a row, NaN left out."""
    out = {}
    for part, name in PARTS.items():
        for figure in FIGURES:
            values = _by_row(part, figure, mean)(scores[part]) if part in scores else None
            if values is not None and np.isfinite(values).any():
                out[f"{name} {figure}"] = values[np.isfinite(values)]
    return out


def left_out(before: ModelScores, mean: str = "geometric") -> list[str]:
    """Return the parts on which `before` is no better than chance: the lower 95 % bound of its lead over chance is at most 0.

    Chance is what model utility takes (the next row's answer, a wrong answer for the true one); of a normalised probability it
    is an equal share.
    """
    names = []
    for name in components(before, mean):
        part = next(split for split, title in PARTS.items() if name.startswith(title))
        figure = name.removeprefix(PARTS[part]).strip()
        rows = before[part]
        above: Floats | None
        if figure == "Probability" and part in NORMALISED and rows.wrong_losses is not None:
            shares = np.array([1 / (1 + len(each)) for each in rows.wrong_losses])
            above = normalised_probability(rows.wrong_losses, rows.losses) - shares
        else:
            kinds = {"Probability": "probability", "ROUGE-L recall": "rouge_l_recall", "Truth Ratio": "truth_ratio"}
            above = lead(kinds[figure], rows)
        bound = None if above is None else bootstrap_interval(above[np.isfinite(above)])
        if bound is not None and bound[0] <= ROUNDING:
            names.append(name)
    return names


def utility(models: Models, notes: list[str], *, mean: str, seed: int) -> list[Figure]:
    """Return Model Utility, the harmonic mean of the parts that are left in; that of all nine too where some are left out."""
    nine = [f"{name} {figure}" for name in PARTS.values() for figure in FIGURES]
    found = components(models["after"], mean)
    dropped = [name for name in left_out(models["before"], mean) if name in found] if "before" in models else []
    kept = [name for name in nine if name in found and name not in dropped]
    told = f"{len(kept)} of 9 parts"
    if dropped:
        told += f"; left out, before is no better than chance: {', '.join(dropped)}"
    if absent := [name for name in nine if name not in found]:
        told += f"; not measured: {', '.join(absent)}"
    if "before" not in models:
        notes.append("no model before: parts of Model Utility on which it knows nothing could not be left out")
    out = [
        line(
            "Model Utility",
            _harmonic(kept, mean, told),
            models,
            needs="retain, real authors or world facts",
            target="high",
        )
    ]
    if kept:
        columns = components(models["after"], mean)
        draws = np.array([bootstrap_means(columns[name], seed=seed) for name in kept])
        interval = percentile_interval(np.array([harmonic_mean(column) for column in draws.T]))
        out = [Figure(**{**vars(out[0]), "interval": interval})]
    if dropped and not absent:
        everything = _harmonic(nine, mean, "the paper's own: with the parts that before knows nothing of")
        out.append(line("Model Utility, all 9 parts", everything, models, needs="", target="high"))
    return out


def _harmonic(names: list[str], mean: str, told: str) -> Value:
    def value(scores: ModelScores) -> Score | None:
        found = components(scores, mean)
        if not names or any(name not in found for name in names):
            return None
        rows = sum(len(scores[part]) for part in PARTS if part in scores)
        return Score(harmonic_mean([float(found[name].mean()) for name in names]), None, rows, told)

    return value


def quality(models: Models, needs: Mapping[str, str], notes: list[str], *, mean: str) -> list[Figure]:
    """Return Forget Quality (the Kolmogorov-Smirnov p-value of the truth ratios against gold's) and its distance D."""
    gold = _finite(models.get("gold"), mean)

    def compared(place: int) -> Value:
        def value(scores: ModelScores) -> Score | None:
            mine = _finite(scores, mean)
            if mine is None or gold is None or scores is models.get("gold"):  # gold against itself says nothing
                return None
            few = f"fewer than {FEW} facts: almost everything passes" if len(mine) < FEW else ""
            return Score(forget_quality(mine, gold)[place], None, len(mine), few)

        return value

    need = f"{needs['forget']} and --gold" if gold is None else needs["forget"]
    out = [
        line("Forget Quality", compared(0), models, needs=need, target="high"),
        line("Forget Quality, KS distance D", compared(1), models, needs=need, target="low"),
    ]
    if out[0].before is not None and out[0].before >= TELLS:
        notes.append(
            f"before's own Forget Quality is {out[0].before:.2g}, not below {TELLS:g}: "
            "these rows do not tell it from gold, so a high value after says nothing"
        )
    return out


def _finite(scores: ModelScores | None, mean: str) -> Floats | None:
    rows = None if scores is None else scores.get("forget")
    found: Any = None if rows is None else _ratios(rows, mean)
    return None if found is None or not np.isfinite(found).any() else found[np.isfinite(found)]
