"""Tab completion by click, which comes with huggingface_hub: commands, options, and the choices that options have.

    eval "$(llm-unlearn completion bash)"          in ~/.bashrc; likewise zsh and fish

The options are read from the commands' help texts, so that a tab takes no second.
"""

import importlib.util
import re
from typing import Any

from llm_unlearn.cli import COMMANDS, COMPLETE, HELP
from llm_unlearn.command_line.doctor import first_lines
from llm_unlearn.errors import RecipeError, missing_extra, nearest

SHELLS = ("bash", "zsh", "fish")
OPTION = re.compile(r"^  (?:-\w, )?(--[a-z][\w.-]*)(?: (\[?[A-Za-z][\w|.\[\] ]*?\]?))?(?:  .*)?$", re.MULTILINE)
CHOICES = {"--method": "methods"}  # options whose choices are files of a folder


def script(shell: str) -> str:
    """Return a shell's completion script; raise RecipeError for a shell that is not known."""
    if shell not in SHELLS:
        raise RecipeError(f"unknown shell {shell!r}{nearest(shell, SHELLS)}. Shells: {', '.join(SHELLS)}.")
    return str(_complete(shell).source())


def answer(instruction: str) -> int:
    """Print what completes the words in COMP_WORDS, as the scripts ask for it; return the exit code."""
    shell, _, task = instruction.partition("_")
    if shell not in SHELLS or task != "complete":
        return 1
    print(_complete(shell).complete())
    return 0


def options_of(command: str) -> dict[str, str]:
    """Return {option: what stands for its value} from a command's help text; {} where there is none."""
    path = HELP / f"{command}.txt"
    return (
        {found[1]: found[2] or "" for found in OPTION.finditer(path.read_text(encoding="utf-8"))}
        if path.is_file()
        else {}
    )


def _complete(shell: str) -> Any:
    if importlib.util.find_spec("click") is None:
        raise missing_extra("tab completion (click)", "completion")
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise RecipeError(f"this version of click completes nothing for {shell}.")
    return kind(_tree(), {}, "llm-unlearn", COMPLETE)


def _tree() -> Any:
    """The commands and their options as click knows them; it runs none of them."""
    import click

    group = click.Group("llm-unlearn")
    for name in COMMANDS:
        kinds: list[click.Parameter] = []
        for number, (option, value) in enumerate(options_of(name).items()):
            kinds.append(
                click.Option(
                    [option, f"option{number}"], is_flag=not value or value.startswith("["), type=_type(option, value)
                )
            )
        if name in ("methods", "metrics"):
            kinds.append(click.Argument(["name"], type=click.Choice(list(first_lines(name)))))
        elif name == "completion":
            kinds.append(click.Argument(["shell"], type=click.Choice(SHELLS)))
        else:
            kinds.append(click.Argument(["folder"], nargs=-1, type=click.Path()))
        group.add_command(click.Command(name, params=kinds))
    return group


def _type(option: str, value: str) -> Any:
    import click

    if not value or value.startswith("["):
        return None
    if option in CHOICES:
        return click.Choice(list(first_lines(CHOICES[option])))
    return click.Choice(value.split("|")) if "|" in value else click.Path()
