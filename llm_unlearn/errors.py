"""The errors a user can meet.  Each says what is wrong (with the value), why, and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class UnlearnError(ValueError):
    """Anything the user can put right: the command line prints it as one line and exits with 2."""


class DataError(UnlearnError):
    """A file, row or split that cannot be used."""


class RecipeError(UnlearnError):
    """A setting that does not exist, has the wrong type, or contradicts another."""


class OutputError(UnlearnError):
    """An output folder that holds something else, or something incomplete."""


class TaskError(UnlearnError):
    """A model, method or figure that does not fit the task."""


class NothingChanged(UnlearnError):
    """The method ran and the model's outputs are what they were."""


class NotFinite(UnlearnError):
    """A loss, gradient or output became NaN or infinite."""


class MissingExtra(UnlearnError):
    """A feature that needs an optional dependency."""


def missing_extra(feature: str, extra: str) -> MissingExtra:
    """Return the error to raise where `feature` needs the optional dependencies named `extra`."""
    return MissingExtra(f"{feature} needs an optional dependency: pip install 'llm-unlearn[{extra}]'.")


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the choice closest to `name`, or "" where none is close."""
    found = get_close_matches(name, list(choices), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""
