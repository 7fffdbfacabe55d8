"""Strict typed settings: plain values (YAML, command line) into frozen dataclasses, every fault named by its full path."""

import dataclasses
import math
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import yaml

from llm_unlearn.errors import RecipeError, UnlearnError, nearest

T = TypeVar("T")
Hints = Mapping[str, type]  # names that a class's annotations use and its module imports for type checking only
TRUE, FALSE, NOTHING = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}, {"null", "none", "~", ""}


class Text(str):
    """A value from the command line: what it means depends on the type of the setting that it is for."""


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; raises RecipeError for a missing or malformed file and for a key given twice."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read the recipe {path}: {getattr(error, 'strerror', None) or error}.") from error
    try:
        values = yaml.load(text, Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else f"{path}"
        raise RecipeError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}.") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: a recipe is `key: value` lines; this file holds a {type(values).__name__}.")
    return values


class _UniqueKeys(yaml.SafeLoader):
    """A safe loader that refuses the same key twice (YAML would silently keep the last)."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key_node, _ in node.value:
                if key_node.value in seen:
                    problem = f"the key {key_node.value!r} is given twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
                seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


def assign(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set `tree[a][b] = value` for the path "a.b", making the sections on the way."""
    *sections, leaf = path.split(".")
    for section in sections:
        below = tree.get(section)
        if not isinstance(below, dict):  # nothing yet, or null: the section is switched on by setting something in it
            below = tree[section] = {}
        tree = below
    tree[leaf] = value


def hints_of(cls: type, names: Hints | None = None) -> dict[str, Any]:
    """Return the types of the settings of the dataclass `cls`, by name, in order."""
    hints = get_type_hints(cls, localns=dict(names or {}))
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def build(cls: type[T], values: Any, where: str = "", names: Hints | None = None) -> T:
    """Return the dataclass `cls` made from a mapping of plain values; `where` is the path of the section, for messages.

    Raises RecipeError for an unknown or missing key, a value of the wrong type, and what the class's own checks refuse.
    """
    section = where or "the recipe"
    if not isinstance(values, Mapping):
        raise RecipeError(f"{section}: expected a section of `key: value` lines, got {_say(values)}.")
    hints = hints_of(cls, names)
    for key in values:
        if key not in hints:
            known = f"Known: {', '.join(hints) or 'none'}."
            raise RecipeError(f"{join(where, str(key))}: unknown key{nearest(str(key), hints)}. {known}")
    for field in dataclasses.fields(cast(Any, cls)):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if field.init and required and field.name not in values:
            raise RecipeError(f"{join(where, field.name)}: missing, and it has no default.")
    values = {key: _on_top(default_of(cls, key), value) for key, value in values.items()}
    made = {key: convert(value, hints[key], join(where, key)) for key, value in values.items()}
    try:
        return cls(**made)
    except UnlearnError as error:
        raise RecipeError(f"{where}: {error}" if where else str(error)) from error


def default_of(cls: type, name: str) -> Any:
    """Return the default of a dataclass's setting, None where it has none."""
    field = next(field for field in dataclasses.fields(cast(Any, cls)) if field.name == name)
    made = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return None if made is dataclasses.MISSING else made


def _on_top(default: Any, value: Any) -> Any:
    """A section's values with those that it leaves out taken from the section that is there by default."""
    if not isinstance(value, Mapping) or not dataclasses.is_dataclass(default):
        return value
    there = {field.name: getattr(default, field.name) for field in dataclasses.fields(default) if field.init}
    return {**there, **{key: _on_top(there.get(key), item) for key, item in value.items()}}


def join(where: str, key: str) -> str:
    """Return the path of `key` in the section `where`."""
    return f"{where}.{key}" if where else key


def convert(value: Any, hint: Any, where: str) -> Any:
    """Return `value` as the type `hint`; raises RecipeError naming `where`, the value and the type it should have."""
    origin = get_origin(hint)
    if hint is Any or (dataclasses.is_dataclass(value) and isinstance(hint, type) and isinstance(value, hint)):
        return value
    if dataclasses.is_dataclass(hint):
        return build(cast(type, hint), value, where)
    if origin in (Union, types.UnionType):
        return _union(value, get_args(hint), where)
    if origin is Literal:
        return _literal(value, get_args(hint), where)
    if origin in (tuple, list, Sequence, frozenset):
        return _sequence(value, hint, where)
    if origin in (dict, Mapping):
        return _mapping(value, get_args(hint), where)
    return _scalar(value, hint, where)


def _union(value: Any, options: tuple[Any, ...], where: str) -> Any:
    """The first of the types that fits; for X | None an empty word or null is None."""
    rest = [option for option in options if option is not type(None)]
    if len(rest) < len(options) and (value is None or (isinstance(value, Text) and value.lower() in NOTHING)):
        return None
    faults = []
    for option in rest:
        try:
            return convert(value, option, where)
        except RecipeError as error:
            faults.append(error)
    if len(faults) == 1 or any(dataclasses.is_dataclass(option) for option in rest):
        raise faults[0]
    raise RecipeError(f"{where}: expected {' or '.join(_name(option) for option in options)}, got {_say(value)}.")


def _literal(value: Any, choices: tuple[Any, ...], where: str) -> Any:
    for choice in choices:
        same = str(choice) == str(value) if isinstance(value, Text) else (type(choice), choice) == (type(value), value)
        if same:
            return choice
    words = [str(choice) for choice in choices]
    raise RecipeError(f"{where}: {value!r} is not one of {', '.join(words)}{nearest(str(value), words)}.")


def _sequence(value: Any, hint: Any, where: str) -> Any:
    """A list of plain values; from the command line one word, several, or YAML's [a, b]."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], Text):
        value = value[0]
    if isinstance(value, Text):
        value = [Text(item) for item in _flow(value, where)] if value.startswith("[") else [value]
    if not isinstance(value, list | tuple):
        raise RecipeError(f"{where}: expected {_name(hint)}, got {_say(value)}.")
    origin, args = get_origin(hint), get_args(hint)
    if origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
        if len(value) != len(args):
            raise RecipeError(f"{where}: expected {len(args)} values, got {len(value)}.")
        return tuple(
            convert(item, arg, f"{where}[{i}]") for i, (item, arg) in enumerate(zip(value, args, strict=True))
        )
    items = (convert(item, args[0], f"{where}[{i}]") for i, item in enumerate(value))
    return list(items) if origin is list else frozenset(items) if origin is frozenset else tuple(items)


def _mapping(value: Any, args: tuple[Any, ...], where: str) -> dict[Any, Any]:
    if isinstance(value, Text):
        value = _flow(value, where)
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where}: expected a section of `key: value` lines, got {_say(value)}.")
    return {convert(key, args[0], where): convert(item, args[1], join(where, str(key))) for key, item in value.items()}


def _flow(value: str, where: str) -> Any:
    """A list or mapping written on one line, its items as they stand (1984 stays "1984" where text is wanted)."""
    try:
        return yaml.load(value, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{where}: {str(value)!r} is not a list: write [first, second].") from error


def _scalar(value: Any, hint: Any, where: str) -> Any:
    made: Any = None
    if hint is bool:
        made = _boolean(value)
    elif hint is int:
        made = _whole(value)
    elif hint is float:
        made = _number(value)
    elif hint is str and isinstance(value, str):
        made = str(value)
    elif hint is Path and isinstance(value, str | Path):
        made = Path(value)
    elif isinstance(hint, type) and hint not in (str, Path) and isinstance(value, hint):
        made = value
    if made is None:
        quotes = " (put it in quotes)" if hint is str and not isinstance(value, list | dict | None) else ""
        raise RecipeError(f"{where}: expected {_name(hint)}, got {_say(value)}{quotes}.")
    return made


def _boolean(value: Any) -> bool | None:
    if isinstance(value, Text):
        return True if value.lower() in TRUE else False if value.lower() in FALSE else None
    return value if isinstance(value, bool) else None


def _whole(value: Any) -> int | None:
    if isinstance(value, Text):
        try:
            return int(value)
        except ValueError:
            return None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)  # YAML 1.1 reads 1e-4 as a string
    except ValueError:
        return None
    return None if math.isnan(number) else number


def _name(hint: Any) -> str:
    """The name of a type in plain words."""
    origin = get_origin(hint)
    if origin in (tuple, list, Sequence, frozenset):
        return f"a list of {_name(get_args(hint)[0])} values"
    words = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        Path: "a path",
        type(None): "null",
    }
    return words[hint] if hint in words else getattr(hint, "__name__", str(hint))


def _say(value: Any) -> str:
    """A value with its kind, for messages."""
    if value is None:
        return "nothing (null)"
    kind = {str: "text", Text: "text", bool: "a truth value", int: "a whole number", float: "a number"}
    return (
        f"{str(value) if isinstance(value, Mapping) else repr(value)} ({kind.get(type(value), type(value).__name__)})"
    )
