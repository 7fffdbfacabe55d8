"""The llm-unlearn command, and what every command shares: quiet libraries, and one clear line for what the user can put right.

Exit codes: 0 done, and the verdict or check is good; 1 done, and the verdict or a check says no; 2 a fault the user can put
right, in one line on standard error (with --json also on standard output, as {"error": ...}).
"""

import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from llm_unlearn.errors import RecipeError, UnlearnError, nearest

FINE, FAILED, FAULT = 0, 1, 2
HELP = (
    Path(__file__).parent / "command_line" / "help"
)  # each command's --help as text, so that it takes no second: `python -m llm_unlearn.command_line.help_texts`
COMPLETE = "_LLM_UNLEARN_COMPLETE"  # set by the shell's completion script
COMMANDS = {
    "unlearn": "make a model forget, and show that it did; --continue adds a request to a run",
    "evaluate": "measure a model's figures beside before and gold",
    "attack": "try to bring back what was forgotten",
    "gold": "train a model that knows, and its twin that never did",
    "compare": "put finished runs side by side",
    "merge": "write merged weights, checked; --quantise rounds them and measures again",
    "push": "put a finished run onto the Hugging Face Hub, private unless --public",
    "sign": "sign a run's certificate with an OpenSSH key",
    "verify": "check a certificate: digests, ledger, signature, a row, and the figures where rows are at hand",
    "methods": "list the methods, as a table for a page (--markdown), or show one's settings",
    "metrics": "list the figures, as a table for a page (--markdown), or show one's card",
    "doctor": "say what is installed, what device there is, and what is missing for what",
    "completion": "print the script for tab completion in bash, zsh or fish",
}


def run(job: Callable[[], Any], *, models: bool = True, as_json: bool = False) -> NoReturn:
    """Run a command and exit with the code it returns (nothing: 0), or with 2 and one line for an UnlearnError.

    `models=False`: the command loads none, so there are no libraries to keep quiet (importing them takes seconds).
    """
    try:
        if models:
            quiet()
        code = job()
    except UnlearnError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
            if as_json:
                print(json.dumps({"error": str(error)}))
        sys.exit(FAULT)
    sys.exit(code if isinstance(code, int) else FINE)


def quiet() -> None:
    """Keep the libraries' own bars and notices off the screen; ours say what is going on."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    # peft asks for an attribute that transformers has renamed; nothing a user can act on
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one of COMMANDS and exit; a reader that has seen enough (`| head`) is no fault."""
    try:
        try:
            _main(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains once more as it ends
        sys.exit(FINE)


def _main(argv: Sequence[str] | None) -> NoReturn:
    words = list(sys.argv[1:] if argv is None else argv)
    if os.environ.get(COMPLETE):
        from llm_unlearn.command_line.completion import answer

        sys.exit(answer(os.environ[COMPLETE]))
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        sys.exit(FINE if words else FAULT)
    if words[0] == "--version":
        from llm_unlearn import __version__

        print(__version__)
        sys.exit(FINE)
    as_json = "--json" in words
    name, rest = words[0], [word for word in words[1:] if word != "--json"]
    if name in COMMANDS and asks_for_help(rest) and (HELP / f"{name}.txt").is_file():
        print((HELP / f"{name}.txt").read_text(encoding="utf-8"), end="")
        sys.exit(FINE)
    light = name not in COMMANDS or name in ("methods", "metrics", "doctor", "completion", "compare")
    run(lambda: dispatch(name, rest, as_json), models=not light, as_json=as_json)


def asks_for_help(words: Sequence[str]) -> bool:
    """Return whether plain help is asked for; with --method it is made for that method."""
    return any(word in ("-h", "--help") for word in words) and not any(word.startswith("--method") for word in words)


def overview() -> str:
    """Return what `llm-unlearn --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {words}" for name, words in COMMANDS.items()]
    return "\n".join(
        [
            "usage: llm-unlearn COMMAND [options]",
            "",
            "Make a model forget what it should not know, show that it did, and hand over the proof.",
            "",
            *lines,
            "",
            "llm-unlearn COMMAND --help lists a command's options; --json prints its result as JSON; --version the version.",
            "Exit codes: 0 fine, 1 a verdict or a check says no, 2 a fault you can put right (one line says how).",
            "On several devices: accelerate launch -m llm_unlearn COMMAND ...",
        ]
    )


def dispatch(name: str, words: Sequence[str], as_json: bool = False) -> int:
    """Run a command, print its result and return its exit code; raise RecipeError for a name that is none."""
    if name not in COMMANDS:
        raise RecipeError(f"there is no command {name!r}{nearest(name, COMMANDS)}. Commands: {', '.join(COMMANDS)}.")
    from llm_unlearn.command_line import commands

    result = getattr(commands, name)(words, None if as_json else print)
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(result.content, ensure_ascii=False, allow_nan=False) if as_json else result.text)
    return int(result.code)


def forget(argv: list[str] | None = None, **defaults: Any) -> None:
    """Unlearn, then print the table and what was written where; `defaults` hold for settings that are not given."""
    from llm_unlearn.command_line.commands import unlearned

    words = sys.argv[1:] if argv is None else argv
    result = unlearned(words, print, sys.argv if argv is None else ["llm-unlearn", "unlearn", *argv], defaults)
    if os.environ.get("RANK", "0") == "0":
        print(result.text)


def forget_class(argv: list[str] | None = None) -> None:
    """Make a classifier forget classes; with nothing given, the embedded texts' default class."""
    # of all methods the nearest to gold by the loss attack, on both embedded data sets and on Fashion-MNIST
    forget(argv, task="sequence_classifier", output="outputs/forget_class", method="nabla_tau")


def forget_records(argv: list[str] | None = None) -> None:
    """Make a model forget single rows; with nothing given, the embedded texts' default request."""
    from llm_unlearn.options import read
    from llm_unlearn.recipe import SANDBOX, Recipe

    given = read(sys.argv[1:] if argv is None else argv, cls=Recipe)
    defaults = {"task": "sequence_classifier", "output": "outputs/forget_records"}
    if not any(given.get(name) for name in ("data", "forget", "classes", "concept", "ids")):
        defaults["ids"] = SANDBOX
    forget(argv, **defaults)


def train_target(argv: list[str] | None = None) -> None:
    """Train a target and, with --gold, its twin; then print how long each took."""
    from llm_unlearn.command_line.commands import trained

    result = trained(sys.argv[1:] if argv is None else argv)
    if os.environ.get("RANK", "0") == "0":
        print(result.text)


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


def forget_feature(argv: list[str] | None = None) -> int:
    """Remove a feature, then print the table and where it is; return 1 where the verdict says no."""
    from llm_unlearn.features.job import forget_feature as remove
    from llm_unlearn.features.job import table
    from llm_unlearn.features.request import Feature
    from llm_unlearn.options import read
    from llm_unlearn.settings import build

    words = sys.argv[1:] if argv is None else argv
    request = build(Feature, read(words, "Make a model lose a feature and keep its task.", Feature))
    found = remove(request, command=["llm-unlearn", "forget-feature", *words])
    if request.shows:
        return FINE
    if os.environ.get("RANK", "0") == "0":
        print(f"{table(found)}\n{request.output}")
    return FAILED if found["verdict"]["forgot"] is False or not found["verdict"]["utility_kept"] else FINE
