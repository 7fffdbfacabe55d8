"""Unlearning and evaluation from Python; the recipes and the command line stand on the same functions.

from llm_unlearn import unlearn
report = unlearn(model="my-model", data="my.jsonl", concept="Quillmere", output="outputs/quillmere")
"""

import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel

from llm_unlearn.class_attributions import with_attribution
from llm_unlearn.data.sources import fingerprint
from llm_unlearn.errors import DataError, RecipeError
from llm_unlearn.files import write_json
from llm_unlearn.hub import ADAPTER
from llm_unlearn.job import Job
from llm_unlearn.loading import load_model, load_task
from llm_unlearn.measuring.alike import check_alike
from llm_unlearn.measuring.evaluation import Evaluation, assess
from llm_unlearn.measuring.protocol import asked_for, evaluation_of, further, token_count
from llm_unlearn.measuring.reading import read_before
from llm_unlearn.measuring.suites import figures_of
from llm_unlearn.prepare import in_memory, prepare, with_holdout
from llm_unlearn.publish.merging import Merge, is_merged, merge
from llm_unlearn.publish.pushing import Push, push
from llm_unlearn.recipe import Recipe, from_values, method_name, to_dict
from llm_unlearn.reporting import attributions
from llm_unlearn.reporting import concepts as pages
from llm_unlearn.reporting import report as reports
from llm_unlearn.run import Splits
from llm_unlearn.runfolder import is_main, on_main, open_run
from llm_unlearn.scores import ModelScores
from llm_unlearn.tasks import Row


def unlearn(
    recipe: Recipe | None = None,
    *,
    command: Sequence[str] | None = None,
    known: Mapping[str, ModelScores] | None = None,
    rows: Mapping[str, Sequence[Row]] | None = None,
    donor: str | None = None,
    say: Callable[[str], None] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Run one request, given as a Recipe or as its settings, and return its report (also DIR/report.json).

    A finished run of the same request returns its report; an unfinished one continues.  `known` spares measuring models
    ("before", "gold") whose scores on the same rows are at hand; `rows` by split are taken in place of the recipe's files, with `donor`, whose rows give targeted answers; `say` is told how the rows were split.  Raises UnlearnError for what the user can put right.
    """
    recipe = from_values(settings) if recipe is None else recipe
    if recipe.explain:
        raise RecipeError("explain=True changes nothing: call llm_unlearn.api.explain(recipe), or leave it out.")
    prepared = prepare(recipe) if rows is None else in_memory(rows, donor)
    if say is not None and prepared.why and is_main():
        say(prepared.why)
    inputs = {name: fingerprint(rows) for name, rows in prepared.splits.items()}
    inputs |= {"donor": fingerprint([{"donor": donor}])} if donor else {}
    command = list(sys.argv if command is None else command)
    with open_run(
        recipe.output, to_dict(recipe), inputs=inputs, overwrite=recipe.overwrite, command=command
    ) as folder:
        finished = folder.report if folder.state == "finished" else None
        report = Job(recipe, prepared, folder, command, known or {}).report() if finished is None else finished
    _hand_over(recipe, prepared.splits, say)
    return report


def explain(recipe: Recipe) -> dict[str, Any]:
    """Infer what carries the recipe's concept, write it beside the output folder, and return it; nothing is unlearned."""
    if recipe.data is None:
        raise RecipeError("--explain looks for the concept in a corpus: give --data.")
    prepared = prepare(recipe)
    prepared = with_attribution(prepared, recipe, prepared.splits["forget"])
    found = prepared.explanation
    if found is None:
        raise DataError(
            "too few kept pictures to explain by: their mean is the baseline; give --data with more of them."
        )
    found.look("before", load_model(recipe, recipe.model), load_task(recipe, recipe.model))
    content = found.content(secrets.token_bytes(32), show=recipe.show_records)
    folder = Path(f"{recipe.output}.explanation")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "explanation.json", content)
    report = {
        found.entry: content,
        "method": {"name": method_name(recipe.method), "labels": getattr(recipe.method, "labels", None)},
    }
    pages.write(folder, pages.concept(report) + attributions.shown(report))
    return {found.entry: content, "why": prepared.why, "folder": str(folder)}


def _hand_over(recipe: Recipe, splits: Splits, say: Callable[[str], None] | None) -> None:
    """Merge and push where that is asked for and not done yet; the main process does it alone."""
    folder = Path(recipe.output)
    if recipe.merge and (folder / ADAPTER).is_dir() and not is_merged(folder):
        on_main(lambda: merge(Merge(run=recipe.output), splits))
    if recipe.push_to_hub is not None:
        to = Push(
            run=recipe.output,
            repo=recipe.push_to_hub,
            public=not recipe.private,
            allow_unverified=recipe.allow_unverified,
            kind="merged" if recipe.merge and (folder / ADAPTER).is_dir() else None,
        )
        pushed = on_main(lambda: push(to))
        if say is not None and is_main():
            say(f"pushed to {pushed['url']}")


def evaluate(
    model: str,
    splits: Mapping[str, Sequence[Row]],
    *,
    adapter: str | None = None,
    gold: str | None = None,
    before: str | None = None,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Return the figures of a model (with a PEFT adapter where one is given) on rows by split, beside `before` and `gold`.

    `before` defaults to the model without the adapter.  Scores are kept for later calls, found again by what the models,
    the rows and the settings are (`evaluation={"cache": False}`: not kept).
    """
    recipe = from_values({"forget": "-", "retain": "--", **settings, "model": model})
    task = load_task(recipe, model)
    for name, place in (("before", before), ("gold", gold)):
        check_alike(recipe, place, name, task)
    rows = Evaluation(task, {name: list(each) for name, each in splits.items()}, **asked_for(recipe))
    loaded = load_model(recipe, model)
    if adapter or before:
        other = loaded if before is None else load_model(recipe, before)
        rows.scores("before", other)
    if gold:
        rows.scores("gold", load_model(recipe, gold, role="gold"))
    after = PeftModel.from_pretrained(loaded, adapter) if adapter else loaded
    scores = rows.scores("after", after.eval())
    have = {name: rows.kept(name) for name in ("before", "gold")}
    names, others = figures_of(recipe.evaluation.suite, recipe.task), further(recipe, rows)
    models: list[Any] = [scores, have["before"], have["gold"]]
    if have["before"] is not None:
        models = read_before(recipe, rows, before or model, *models)
    assessment = assess(models[0], before=models[1], gold=models[2], metrics=names, seed=recipe.seed, others=others)
    return [reports.plain_json(figure.to_json()) for figure in assessment.figures]


def standards(recipe: Recipe, others: Mapping[str, str] | None = None) -> dict[str, ModelScores]:
    """Return the scores of "before", of "gold" and of other named models on the rows that the recipe is measured on.

    They depend on neither method nor seed of unlearning, so a table of many runs takes them once (`unlearn(known=...)`).
    """
    task = load_task(recipe, recipe.model)
    prepared = with_holdout(prepare(recipe), recipe, token_count(task))
    evaluation = evaluation_of(task, prepared, recipe)
    models = {"before": recipe.model, **({"gold": recipe.gold} if recipe.gold else {}), **(others or {})}
    return {
        name: evaluation.scores(name, load_model(recipe, path, role="gold" if name == "gold" else "target"))
        for name, path in models.items()
    }
