"""The command line of a recipe: argparse made from the dataclass, and every key as --a.b=c."""

import argparse
import dataclasses
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

from llm_unlearn.comments import comments_of
from llm_unlearn.errors import RecipeError, nearest
from llm_unlearn.recipe import DEFAULT_METHOD, SANDBOX, Recipe, from_values, override, type_names
from llm_unlearn.settings import Text, default_of, hints_of, load_yaml

METHOD_OPTION = re.compile(r"--method(\.\w+)+")
SHORT = {"--suite": "--evaluation.suite"}
FIRST = (
    "model",
    "data",
    "concept",
    "terms",
    "examples",
    "explain",
    "classes",
    "ids",
    "test",
    "forget",
    "retain",
    "holdout",
    "method",
    "output",
    "overwrite",
    "seed",
    "gold",
    "merge",
    "push_to_hub",
    "private",
    "allow_unverified",
    "show_records",
)


class _Parser(argparse.ArgumentParser):
    """An argument parser whose faults are RecipeErrors."""

    def error(self, message: str) -> NoReturn:
        """Raise RecipeError."""
        raise RecipeError(f"{message.removeprefix('argument ')}.  --help lists the options.")


def parse(
    argv: Sequence[str] | None = None,
    description: str = "Make a model forget, and show that it did.",
    defaults: Mapping[str, Any] | None = None,
) -> Recipe:
    """Return the recipe that a command line asks for (`sys.argv[1:]` when None); --help prints and exits.

    `defaults` are a command's own, for what neither options nor --config give.  Raises RecipeError for an unknown option, a
    value of the wrong type and settings that contradict each other.
    """
    own, given = dict(defaults or {}), read(sys.argv[1:] if argv is None else argv, description)
    if "method" in own and isinstance(given.get("method"), dict):  # its settings alone are given, or its name too
        given["method"] = {"name": own["method"], **given["method"]}
    return from_values(own | given)


def read(argv: Sequence[str], description: str = "", cls: type = Recipe) -> dict[str, Any]:
    """Return the plain values of the --config file, if any, with the options on top: what `build(cls, values)` takes."""
    parser = _make_parser(description, argv, cls)
    known, rest = parser.parse_known_args([_spelled(word) for word in _unabbreviated(argv, cls)])
    given = {key: value for key, value in vars(known).items() if value is not None}
    options = [option for action in parser._actions for option in action.option_strings]
    given.update(_method_options(rest, options, allowed="--method" in options))
    config = given.pop("config", None)
    return override(load_yaml(config) if config else {}, given)


def help_text(program: str, description: str, cls: type, usage: str | None = None) -> str:
    """Return what --help prints for the settings of `cls`, whatever the width of the terminal."""
    parser = _make_parser(description, ["--help"], cls)
    parser.prog, parser.usage = program, usage
    parser.formatter_class = lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=110, max_help_position=32)
    return parser.format_help()


def _unabbreviated(argv: Sequence[str], cls: type) -> list[str]:
    """The words with a recipe's short names of long options written out."""
    if cls is not Recipe:
        return list(argv)
    return [
        SHORT.get(word.partition("=")[0], word.partition("=")[0]) + "".join(word.partition("=")[1:]) for word in argv
    ]


def _spelled(word: str) -> str:
    """An option as --help spells it: --show-records and --evaluation.batch_size, however it was typed."""
    option, equals, value = word.partition("=")
    if not option.startswith("--"):
        return word
    return (
        (option[:2] + (option[2:].replace("-", "_") if "." in option else option[2:].replace("_", "-")))
        + equals
        + value
    )


def _method_options(rest: Sequence[str], options: Sequence[str], *, allowed: bool) -> Iterator[tuple[str, Text]]:
    """The --method.a=b and --method.a b among the words that the parser doesn't know; RecipeError for any other."""
    words = iter(rest)
    for word in words:
        option, equals, value = word.partition("=")
        if not (allowed and METHOD_OPTION.fullmatch(option)):
            fault = (
                f"unknown option {option}{nearest(option, options)}"
                if word.startswith("-")
                else f"{word!r} belongs to no option"
            )
            raise RecipeError(f"{fault}.  --help lists the options.")
        text = value if equals else next(words, "--")
        if not equals and text.startswith("--"):
            raise RecipeError(f"{option}: expected a value.")
        yield option.removeprefix("--"), Text(text)


def _make_parser(description: str, argv: Sequence[str], cls: type) -> argparse.ArgumentParser:
    """A parser with an option for each setting of `cls` outside `method`; none has a default, so what is given shows."""
    asked = cls is Recipe and any(word in ("-h", "--help") for word in argv)
    form = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        description=description, allow_abbrev=False, formatter_class=form, epilog=_method_help(argv) if asked else ""
    )
    main = parser.add_argument_group("main options")
    main.add_argument("--config", metavar="FILE", help="a YAML file with any of these settings; options win over it")
    more = parser.add_argument_group("more settings, as in the YAML file")
    hints, comments = hints_of(cls, type_names()), comments_of(cls)
    for name in sorted(hints, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST)):
        default = DEFAULT_METHOD if name == "method" and cls is Recipe else default_of(cls, name)
        section = next(
            (part for part in (hints[name], *get_args(hints[name])) if dataclasses.is_dataclass(part)), None
        )
        _add(main if name in FIRST else more, name, hints[name], comments.get(name, ""), default)
        if name != "method" and isinstance(section, type):
            for key, hint, comment, value in settings_of(section, default):
                _add(more, f"{name}.{key}", hint, comment, value)
    return parser


def _add(group: argparse._ArgumentGroup, name: str, hint: Any, comment: str, default: Any) -> None:
    """Add the option for one setting.  The value stays text: only the strict builder knows its type."""
    if dataclasses.is_dataclass(hint) and name != "method":
        return  # a section that can't be switched off: its settings have options
    switch = hint is bool or set(get_args(hint)) == {bool, types.NoneType}
    shown = "" if default in (None, ()) or switch or dataclasses.is_dataclass(default) else f" (default: {default})"
    kwargs: dict[str, Any] = {"dest": name, "type": Text, "help": (comment + shown).replace("%", "%%")}
    kwargs["metavar"] = name.rpartition(".")[2].upper()
    if switch:
        kwargs.update(nargs="?", const=Text("true"), metavar="BOOL")
    elif get_origin(hint) in (tuple, list):
        kwargs.update(nargs="+", action="extend")
    elif get_origin(hint) is Literal:
        kwargs["metavar"] = "|".join(str(choice) for choice in get_args(hint))
    elif get_origin(hint) in (Union, types.UnionType) and any(
        dataclasses.is_dataclass(part) for part in get_args(hint)
    ):
        kwargs.update(nargs="?", const={}, metavar="none")  # without a value: the section as it is by default
    group.add_argument(_spelled(f"--{name}"), **kwargs)


def settings_of(cls: type, given: Any = None) -> Iterator[tuple[str, Any, str, Any]]:
    """Yield (name, type, comment, default) of each setting of a dataclass, those of nested sections with dotted names.

    The defaults are those of the object `given`, where there is one.
    """
    hints, comments = hints_of(cls), comments_of(cls)
    for name, hint in hints.items():
        default = default_of(cls, name) if given is None else getattr(given, name)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            for key, *rest in settings_of(hint, default):
                yield (f"{name}.{key}", *rest)
        else:
            yield name, hint, comments.get(name, ""), default


def _method_help(argv: Sequence[str]) -> str:
    """The methods, and the hyper-parameters of the one that is asked for."""
    from llm_unlearn.method import available, find

    words = [
        word.partition("=")[2] or following
        for word, following in zip(argv, [*argv[1:], ""], strict=True)
        if word.partition("=")[0] == "--method"
    ]
    name = next((word for word in words if word and not word.startswith("-")), DEFAULT_METHOD)
    lines = [f"methods: {', '.join(available())}", "", f"settings of the method {name}:"]
    for key, _, comment, default in settings_of(find(name)):
        lines.append(f"  --method.{key}={default}  {comment}".rstrip())
    return "\n".join(
        [
            *lines,
            "",
            f"With nothing given, {DEFAULT_METHOD} makes the embedded {SANDBOX} model forget its default concept.",
        ]
    )
