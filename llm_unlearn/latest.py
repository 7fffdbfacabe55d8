"""The request that a run answered last: its own, or the last one that was put on top of it (`--continue`)."""

from pathlib import Path
from typing import Any

from llm_unlearn.files import read_json
from llm_unlearn.recipe import Recipe, from_values, to_dict
from llm_unlearn.runfolder import PRIVATE

REQUESTS = "requests.json"  # in DIR/private: the requests of a run that was continued, each with where its rows lie
RETAIN = "retain.jsonl"  # beside it: the rows that all of them keep


def asking(first: Recipe, forget: str, retain: Path) -> dict[str, Any]:
    """Return the first recipe's settings with the rows of another request."""
    values = to_dict(first)
    for name in ("data", "concept", "holdout", "forget_heldout", "retain_heldout", "neighbour", "general", "gold"):
        values[name] = None
    return values | {"terms": [], "golds": [], "forget": forget, "retain": str(retain)}


def last_recipe(folder: Path, first: Recipe) -> Recipe | None:
    """Return the recipe that the run's report and certificate are about; None where its rows are no longer there."""
    kept = read_json(folder / PRIVATE / REQUESTS)
    if kept is None:
        return first
    file = kept["requests"][-1]["file"]
    return from_values(asking(first, file, folder / PRIVATE / RETAIN)) if Path(file).is_file() else None
