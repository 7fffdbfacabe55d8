"""Earlier requests, looked at again: is what was forgotten then forgotten still, and how much of the base's retain is kept?"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from llm_unlearn.data.sources import load
from llm_unlearn.errors import DataError
from llm_unlearn.measuring.evaluation import assess, measure
from llm_unlearn.prepare import measured, prepare
from llm_unlearn.recipe import Recipe
from llm_unlearn.runfolder import is_main
from llm_unlearn.tasks import Row, Task

LOOKED_AT = ("exact_memorisation", "extraction_strength")  # of each earlier request's rows
KEPT = ("exact_answer", "exact_memorisation")  # of retain
RISE = 0.05  # by which an earlier request's figures may rise


def look_again(
    model: nn.Module, task: Task, known: Sequence[Mapping[str, Any]], first: Recipe, made: Recipe
) -> dict[str, Any]:
    """What the new model still knows of each earlier request, and what it kept of retain."""
    rows = {str(i): rows_of(each, first) for i, each in enumerate(known)}
    most, size = made.evaluation.rows, made.evaluation.batch_size
    earlier = []
    for i, each in enumerate(known):
        then, now = each["figures"], _figures(model, task, rows[str(i)], "forget", LOOKED_AT, most, size)
        holds = (
            None if now is None else all(now[name] <= then[name] + RISE for name in now if then.get(name) is not None)
        )
        earlier.append({"request_id": each["request_id"], "then": then, "now": now, "holds": holds})
    retain = _figures(model, task, list(load(made.retain or "")), "retain", KEPT, most, size)
    return {"earlier": earlier, "retain": {"base": known[0]["retain"], "now": retain}}


def rows_of(each: Mapping[str, Any], first: Recipe) -> list[Row] | None:
    """The rows of an earlier request; None where they are no longer there, as may be right."""
    try:
        return prepare(first).splits["forget"] if each["file"] is None else list(load(each["file"]))
    except DataError:
        return None


def _figures(
    model: nn.Module, task: Task, rows: Sequence[Row] | None, split: str, names: Sequence[str], most: int, size: int
) -> dict[str, float] | None:
    if rows is None:
        return None
    chosen = measured({split: list(rows)}, most, seed=0)
    scores = measure(model, task, chosen, batch_size=size, progress=is_main())
    found = assess(scores, metrics=names).figures
    return {figure.name: float(figure.after) for figure in found if figure.split == split and figure.after is not None}


def table(entry: Mapping[str, Any]) -> str:
    """Return the entry as text."""
    lines = [f"request {entry['request_id']}: {entry['rows']} rows, {entry['seconds'].get('unlearn', 0):.0f} s"]
    words = {True: "still forgotten", False: "COME BACK", None: "not measured: its rows are no longer there"}
    for each in entry["earlier"]:
        now = ", ".join(
            f"{name} {value:.3f} (then {each['then'][name]:.3f})" for name, value in (each["now"] or {}).items()
        )
        lines.append(f"  earlier {each['request_id']}: {words[each['holds']]}{'  ' + now if now else ''}")
    for name, value in (entry["retain"]["now"] or {}).items():
        base = entry["retain"]["base"].get(name)
        lines.append(f"  retain {name}: {value:.3f}{f' (base {base:.3f})' if base is not None else ''}")
    return "\n".join(lines)
