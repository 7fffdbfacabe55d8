"""What every command shares: quiet libraries, and one clear line instead of a traceback for what the user can put right."""

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from llm_unlearn.errors import UnlearnError


def run(job: Callable[[], Any], *, models: bool = True) -> NoReturn:
    """Run a command and exit: 0, or 2 with one line on standard error for an UnlearnError.

    `models=False`: the command loads none, so there are no libraries to keep quiet (importing them takes seconds).
    """
    try:
        if models:
            quiet()
        job()
    except UnlearnError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


def quiet() -> None:
    """Keep the libraries' own bars and notices off the screen; ours say what is going on."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    # peft asks for an attribute that transformers has renamed; nothing a user can act on
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)


def main() -> NoReturn:
    """Run one request from the command line: the options of recipes/forget_concept.py."""
    run(forget)


def forget(argv: list[str] | None = None, **defaults: Any) -> None:
    """Unlearn, then print the table and what was written where; `defaults` hold for settings that are not given."""
    from llm_unlearn.options import parse

    recipe = parse(argv, defaults=defaults)  # before anything slow is imported: a typing error should answer at once
    from llm_unlearn import api, report
    from llm_unlearn.runfolder import is_main

    result = api.unlearn(recipe, say=print, command=sys.argv if argv is None else ["llm-unlearn", *argv])
    if is_main():
        print(report.table(result))
        for path in sorted(Path(recipe.output).iterdir()):
            print(f"{path}{'/' if path.is_dir() else ''}{' (not for publishing)' if path.name == 'private' else ''}")


def forget_class(argv: list[str] | None = None) -> None:
    """Make a classifier forget classes; with nothing given, the embedded texts' default class."""
    forget(argv, task="sequence_classifier", output="outputs/forget_class")


def forget_records(argv: list[str] | None = None) -> None:
    """Make a model forget single rows; with nothing given, the embedded texts' default request."""
    from llm_unlearn.options import read
    from llm_unlearn.recipe import SANDBOX, Recipe

    given = read(sys.argv[1:] if argv is None else argv, cls=Recipe)
    defaults = {"task": "sequence_classifier", "output": "outputs/forget_records"}
    if not any(given.get(name) for name in ("data", "forget", "classes", "concept", "ids")):
        defaults["ids"] = SANDBOX
    unseen = given.get("test") or given.get("holdout") or given.get("data", SANDBOX) == SANDBOX
    if given.get("task", defaults["task"]) != "causal_lm" and unseen:
        defaults["method"] = "nabla_tau"  # of all methods the nearest to gold on the embedded request
    forget(argv, **defaults)


def train_target(argv: list[str] | None = None) -> None:
    """Train a target and, with --gold, its twin; then print how long each took."""
    from llm_unlearn.options import read
    from llm_unlearn.settings import build
    from llm_unlearn.targets import Target

    values = read(
        sys.argv[1:] if argv is None else argv, "Train a model that knows, and its twin that never did.", Target
    )
    target = build(Target, values)
    from llm_unlearn.runfolder import is_main
    from llm_unlearn.targets import train_target as train

    record = train(target)
    if is_main():
        for name, seconds in record["seconds"].items():
            print(f"{name}: {record['rows'][name]} rows, {seconds:.0f} s, in {target.output}/{name}")


def one_shot(argv: list[str] | None = None) -> None:
    """Forget units by their mnemonic codes alone, then print what the codes and, where there are any, unseen rows say."""
    from llm_unlearn.one_shot import OneShot, in_sandbox, report
    from llm_unlearn.one_shot import one_shot as forget_units
    from llm_unlearn.options import read
    from llm_unlearn.recipe import SANDBOX
    from llm_unlearn.settings import build

    values = read(
        sys.argv[1:] if argv is None else argv, "Forget units by their mnemonic codes, with no data.", OneShot
    )
    request = build(OneShot, values)
    report(in_sandbox(request) if request.model == SANDBOX else forget_units(request))
