"""What a sequence of deletion requests is asked for by: a model, its training rows, and a file of row ids a request."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llm_unlearn.data.files import records
from llm_unlearn.data.sources import load
from llm_unlearn.errors import DataError, RecipeError
from llm_unlearn.recipe import SANDBOX, from_values

PEOPLE = 3  # of the sandbox that are forgotten where no request is given
Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Requests:
    """One sequence.  Raises RecipeError where settings contradict each other."""

    task: Literal["causal_lm", "sequence_classifier", "image_classifier"] = "causal_lm"  # what the model does
    model: str = SANDBOX  # the model that is to forget: a folder or a Hub id
    adapter: str | None = None  # a LoRA adapter on top of the model, where the knowledge sits in one
    data: str | None = None  # its training rows; the requests' are among them
    requests: tuple[str, ...] = ()  # a file of row ids each, in the order in which they came in
    test: str | None = None  # rows that the model never saw
    method: Any = "instance_wise"  # how: the name of a file in llm_unlearn/methods
    suite: Literal["quick", "standard", "full"] = "quick"  # which figures each request's report holds
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 on a GPU that has it
    tolerance: float = 0.05  # by which the share of right rows may rise after a later request
    output: str = "outputs/forget_sequence"  # the folder for the requests' folders and the table
    seed: int = 0  # of everything random

    def __post_init__(self) -> None:
        """Raise RecipeError unless there are rows and requests, or the sandbox with neither."""
        if bool(self.data) != bool(self.requests):
            raise RecipeError(
                "--data and --requests belong together: the training rows, and a file of row ids a request."
            )
        if not self.data and (self.model != SANDBOX or self.task != "causal_lm"):
            raise RecipeError(
                "nothing to forget: give --data with the training rows, and --requests with files of row ids."
            )

    def rows(self) -> tuple[Rows, list[Rows], dict[str, Rows]]:
        """Return the training rows, the rows of each request, and further splits."""
        if not self.data:
            return of_people()
        rows = load(self.data)
        splits = {}
        if (
            self.test
        ):  # a classifier's unseen rows show what is kept and, those of the forgotten classes, what is chance
            unseen = load(self.test)
            splits = {"retain_heldout": unseen, **({} if self.task == "causal_lm" else {"holdout": unseen})}
        return rows, chosen(rows, [read_ids(path) for path in self.requests]), splits

    def run(self, say: Callable[[str], None] | None = None) -> dict[str, Any]:
        """Run the sequence and return its record (see continual.continual)."""
        from llm_unlearn.continual import continual

        method: Mapping[str, Any] = {"name": self.method} if isinstance(self.method, str) else self.method
        settings = {"task": self.task, "model": self.model, "adapter": self.adapter, "precision": self.precision}
        recipe = from_values(
            {
                **settings,
                "method": {"name": "instance_wise", **method},
                "forget": ", ".join(Path(path).name for path in self.requests) or f"{PEOPLE} people",
                "retain": self.data or SANDBOX,  # for the record: the rows are given to each request in memory
                "evaluation": {"suite": self.suite},
                "output": self.output,
                "seed": self.seed,
            }
        )
        rows, requests, others = self.rows()
        return continual(recipe, rows, requests, others=others, tolerance=self.tolerance, say=say)


def of_people(count: int = PEOPLE) -> tuple[Rows, list[Rows], dict[str, Rows]]:
    """Return the embedded world's rows, those about each of `count` people, and its unseen ones."""
    from llm_unlearn.sandbox import world

    people = [name for name in world.concepts() if " " in name]
    names = people[:: len(people) // count][:count]
    rows = world.corpus()
    requests: list[Rows] = [[row for row in rows if world.mentions(row, name)] for name in names]
    for number, request in enumerate(requests):  # a row about two of them goes with the first
        gone = {row["id"] for earlier in requests[:number] for row in earlier}
        requests[number] = [row for row in request if row["id"] not in gone]
    unseen = world.splits(names[0])
    heldout = [row for row in unseen["retain_heldout"] if not any(world.mentions(row, name) for name in names)]
    return rows, requests, {"holdout": unseen["holdout"], "retain_heldout": heldout}


def read_ids(path: str | Path) -> list[str]:
    """Return the ids of a deletion request: lines of a text file, or the column `id` of a CSV, JSON or JSONL file."""
    if Path(path).suffix.lower() in (".csv", ".tsv", ".json", ".jsonl"):
        found = [record.get("id") for _, record in records(str(path), "train")]
    else:
        try:
            found = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"cannot read the request {Path(path).name}: {getattr(error, 'strerror', None)}."
            ) from error
    if not found or None in found:
        raise DataError(f"the request {Path(path).name} names no ids: give one a line, or a column `id`.")
    return [str(each) for each in found]


def chosen(rows: Rows, requests: Sequence[Sequence[str]]) -> list[Rows]:
    """Return the rows of each request; raise DataError for ids that are not among the rows, or in two requests."""
    by_id = {str(row["id"]): row for row in rows}
    owner: dict[str, int] = {}
    for number, ids in enumerate(requests, start=1):
        missing = [one for one in ids if one not in by_id]
        if missing:
            raise DataError(
                f"{len(missing)} of the {len(ids)} ids of request {number} are not in the data ({len(by_id)} rows)."
            )
        twice = [one for one in ids if owner.setdefault(one, number) != number]
        if twice:
            raise DataError(
                f"request {number} names {len(twice)} rows that request {owner[twice[0]]} has already removed."
            )
    return [[by_id[one] for one in dict.fromkeys(ids)] for ids in requests]
