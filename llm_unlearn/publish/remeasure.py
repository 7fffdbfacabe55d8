"""A certificate's figures, measured again: the quick suite on the same rows, for what is there now."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn

from llm_unlearn.data.sources import load
from llm_unlearn.hub import RESULTS
from llm_unlearn.latest import last_recipe
from llm_unlearn.loading import load_model, load_task
from llm_unlearn.measuring.evaluation import assess
from llm_unlearn.measuring.protocol import evaluation_of, token_count
from llm_unlearn.measuring.suites import figures_of
from llm_unlearn.prepare import Prepared, prepare, with_holdout
from llm_unlearn.publish.verification import ROUNDED, SLACK, Check, Options
from llm_unlearn.recipe import SANDBOX, SECRETS, SPLITS, Recipe, from_values
from llm_unlearn.runfolder import read_request
from llm_unlearn.subject import with_adapter


def measured_again(place: Path, content: Mapping[str, Any], options: Options) -> list[Check]:
    """Return a check for each figure of the quick suite on the result in `place`: is it still what was certified?"""
    recipe = _recipe(place, content, options)
    if isinstance(recipe, str):
        return [Check(name="figures", ok=None, words=recipe)]
    quick = replace(recipe, evaluation=replace(recipe.evaluation, suite="quick"), gold=None, golds=())
    task = load_task(quick, quick.model)
    evaluation = evaluation_of(task, _rows(quick, options, task), quick)
    scores = evaluation.scores("after", _model(place, quick))
    certified = {(each["name"], each["split"]): each for each in content["certificate"]["figures"]}
    slack, before = (ROUNDED, " before rounding") if "quantised" in content else (SLACK, "")
    checks = []
    for figure in assess(scores, before=None, gold=None, metrics=figures_of("quick", quick.task)).figures:
        there = certified.get((figure.name, figure.split))
        if figure.after is None or there is None or there["after"] is None:
            continue
        same = abs(figure.after - there["after"]) <= slack
        words = f"{figure.after:.3f}, certified {there['after']:.3f}{before} (n {figure.n})"
        checks.append(Check(name=f"{figure.name} on {figure.split or 'all'}", ok=same, words=words))
    return checks or [
        Check(name="figures", ok=None, words="not measured: the rows given are none that were certified")
    ]


def _recipe(place: Path, content: Mapping[str, Any], options: Options) -> Recipe | str:
    """The settings to measure by; words where what is needed is not at hand."""
    request = content["request"]
    made = read_request(place.parent) or {}
    if place.name in RESULTS and made.get("finished"):
        first = from_values(made["request"])
        recipe = first if options.forget else last_recipe(place.parent, first)
        if recipe is None:
            return "not measured: the last request's rows are no longer where they were (--forget FILE, --retain FILE)"
        return replace(recipe, model=options.base or recipe.model)
    model = options.base or (SANDBOX if request["model"] == SANDBOX else content["certificate"]["base"]["name"])
    if options.forget:
        given = {"forget": options.forget, "retain": options.retain or options.forget + ".none"}
        return from_values({**given, "model": model, "task": request["task"], "evaluation": request["evaluation"]})
    if request["data"] == SANDBOX and not any(request[name] for name in SECRETS):
        return from_values({"evaluation": request["evaluation"]})
    return "not measured: needs the rows that were to be forgotten (--forget FILE, --retain FILE)"


def _rows(recipe: Recipe, options: Options, task: Any) -> Prepared:
    """The run's own rows, or those that were given: --retain may be left out."""
    if not options.forget:
        return with_holdout(prepare(recipe), recipe, token_count(task))
    named = {"forget": options.forget, "retain": options.retain}
    splits = {name: list(load(path)) for name in SPLITS if (path := named.get(name))}
    return Prepared(splits=splits, holdout="none")


def _model(place: Path, recipe: Recipe) -> nn.Module:
    """The result in `place`, loaded as somebody else would load it."""
    if not (place / "adapter_config.json").is_file():
        return load_model(replace(recipe, adapter=None), str(place))
    model = with_adapter(load_model(recipe, recipe.model), str(place))
    return model.eval() if isinstance(model, PeftModel) else model
