"""What is shipped beside an adapter: how it was made, without what it was made to forget.

Fingerprints are keyed with a random key that stays in DIR/private, so nobody can try out which concept, row or folder it was.
"""

import platform
import re
import resource
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import llm_unlearn
from llm_unlearn.builds import is_build
from llm_unlearn.options import METHOD_OPTION
from llm_unlearn.recipe import PATHS, SANDBOX, SECRETS
from llm_unlearn.runfolder import fingerprint

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "safetensors", "numpy")
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
ENDING = re.compile(r"\.(jsonl?|csv|parquet|ya?ml|txt)")  # of a file's name, shown; the rest may name somebody
PROGRAM = ("llm-unlearn", "unlearn")  # words of a command that are shown as they are
MODELS = ("model", "gold", "golds", "adapter", "origin", "weights")  # may be Hub ids, which are public names


def manifest(
    recipe: Mapping[str, Any],
    *,
    key: bytes,
    splits: Mapping[str, Sequence[Mapping[str, Any]]],
    argv: Sequence[str],
    seconds: Mapping[str, float],
    peak_memory: int,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the content of unlearning.json.

    `recipe` is `recipe.to_dict`'s; `splits` the rows by split, of which only counts and keyed fingerprints are kept; `argv` the
    command with its program; `seconds` by phase; `peak_memory` in bytes; `extra` what else the run has to say.
    """
    request = redacted_request(recipe, key)
    content = {
        "schema": 1,
        "method": request["method"],
        "seed": recipe["seed"],
        "request": {name: value for name, value in request.items() if name not in ("method", "seed")},
        "versions": versions(),
        "data": {
            name: {"rows": len(rows), "fingerprint": _mark(key, list(rows))} for name, rows in splits.items() if rows
        },
        "command": redacted_command(argv, key),
        "seconds": dict(seconds),
        "peak_memory_bytes": peak_memory,
        **_without_paths(extra or {}, {str(recipe[name]): str(request[name]) for name in PATHS if recipe.get(name)}),
    }
    return dict(_without(content, _secrets(recipe), key))


def versions() -> dict[str, str | None]:
    """Return the versions of Python, this package and what it stands on; None for what is not installed."""
    found: dict[str, str | None] = {"llm_unlearn": llm_unlearn.__version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def peak_memory_bytes() -> int:
    """Return the most memory this process has held: on the GPU where one was used, in RAM otherwise."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def redacted_request(recipe: Mapping[str, Any], key: bytes) -> dict[str, Any]:
    """Return the recipe's plain values with concept, terms and paths replaced: fit for the report and the manifest."""
    hidden = {name: _hide(name, value, key) for name, value in recipe.items()}
    return dict(_without(hidden, _secrets(recipe), key))


def redacted_command(argv: Sequence[str], key: bytes) -> list[str]:
    """Return the command's words; the values of --concept and --terms are keyed fingerprints, paths base name and fingerprint.

    Options, numbers and plain words (a method, a choice) stay as they are unless they mention the concept or a term.
    """
    words: list[str] = []
    name = ""  # the option whose values are being read
    secrets: list[str] = []
    for word in argv:
        option, equals, value = word.partition("=")
        if option.startswith("--"):
            name = option[2:].replace("-", "_") if not METHOD_OPTION.fullmatch(option) else option[2:]
            words.append(option + (f"={_word(name, value, key)}" if equals else ""))
        else:
            value = word
            words.append(_word(name or "program", word, key))
        if name in SECRETS and value and not value.isdecimal():
            secrets.append(value)
    return list(_without(words, secrets, key))


def _word(name: str, value: str, key: bytes) -> str:
    """One value of the option `name` as it may be shown."""
    if name in SECRETS or name in PATHS:
        return str(_hide(name, value, key))
    if re.fullmatch(r"[-+\w.]*", value) and (name != "program" or value in PROGRAM):  # a number, a method, a choice
        return value
    return _path(value, key)


def _hide(name: str, value: Any, key: bytes) -> Any:
    """The value of a setting as it may be shown."""
    if value is None or value == SANDBOX or (name not in SECRETS and name not in PATHS):
        return value
    if isinstance(value, list | tuple):
        return [_hide(name, item, key) for item in value]
    if name in SECRETS:
        return _mark(key, value)
    public = (
        name in MODELS and (HUB_ID.fullmatch(str(value)) or is_build(str(value))) and not Path(str(value)).exists()
    )
    if public:
        return value
    return _path(str(value), key) if name in MODELS else _nameless(str(value), key)


def _path(value: str, key: bytes) -> str:
    """A path as base name and keyed fingerprint."""
    return f"{Path(value).name}#{_mark(key, value)}"


def _nameless(value: str, key: bytes) -> str:
    """A path to rows or results as kind and keyed fingerprint: its name may be that of a person who is to be forgotten."""
    ending = Path(value).suffix
    return f"{'file' + ending if ENDING.fullmatch(ending) else 'path'}#{_mark(key, value)}"


def _mark(key: bytes, value: Any) -> str:
    return f"hmac-sha256:{fingerprint(key, value)[:32]}"


def _secrets(recipe: Mapping[str, Any]) -> list[str]:
    values = [recipe.get(name) for name in SECRETS]
    said = [str(item) for value in values if value for item in (value if isinstance(value, list | tuple) else [value])]
    return [
        word for word in said if not word.isdecimal()
    ]  # the number of a class tells nothing, and stands in every version


def _without_paths(value: Any, shown: Mapping[str, str]) -> Any:
    """The value with each text that is one of the recipe's paths as it may be shown."""
    if isinstance(value, Mapping):
        return {name: _without_paths(item, shown) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(item, shown) for item in value]
    return shown.get(value, value) if isinstance(value, str) else value


def _without(value: Any, secrets: Sequence[str], key: bytes) -> Any:
    """The value with every mention of a secret in its texts replaced, whatever the case, and absolute paths shortened."""
    if isinstance(value, str):
        if value.startswith(("/", "~", "./", "../")) and "#hmac" not in value:
            value = _path(value, key)
        for secret in sorted(secrets, key=len, reverse=True):
            pattern = re.escape(secret) if len(secret) > 3 else rf"(?<![^\W_]){re.escape(secret)}(?![^\W_])"
            value = re.sub(pattern, _mark(key, secret), value, flags=re.IGNORECASE)
        return value
    if isinstance(value, Mapping):
        return {name: _without(item, secrets, key) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without(item, secrets, key) for item in value]
    return value
