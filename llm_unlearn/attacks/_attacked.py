"""What an attack is handed: fresh merged models, the rows to measure, and what they score without an attack."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from peft import PeftModel
from torch import nn

from llm_unlearn.measuring.evaluation import measure
from llm_unlearn.metrics.exact_answer import exact_answer
from llm_unlearn.metrics.extraction_strength import extraction_strength
from llm_unlearn.scores import Floats, Scores
from llm_unlearn.tasks import Row, Task

FIGURES: Mapping[str, Callable[[Any], Floats]] = {
    "extraction_strength": extraction_strength,
    "exact_answer": exact_answer,
}
ATTACKED = ("after", "gold")


class Attacked:
    """The models under attack and the forget rows they are attacked for.  No model is kept: each call loads its own."""

    def __init__(
        self,
        load: Callable[[str], nn.Module],
        names: Sequence[str],
        task: Task,
        splits: Mapping[str, Sequence[Row]],
        *,
        folder: Path,
        rows: int = 200,
        seed: int = 0,
        batch_size: int = 64,
        progress: bool = False,
    ) -> None:
        """Choose at most `rows` forget rows to measure.  `load(name)` returns a fresh copy of one of `names`."""
        self._load, self.names, self.task, self.splits = load, tuple(names), task, splits
        self.folder, self.seed, self.batch_size, self.most, self.progress = folder, seed, batch_size, rows, progress
        self.rows = spread([plain(row) for row in splits["forget"]], rows, seed)
        self._baseline: dict[str, Scores] = {}

    @property
    def targets(self) -> tuple[str, ...]:
        """The models that are attacked: "after" and, where there is one, "gold"."""
        return tuple(name for name in ATTACKED if name in self.names)

    def model(self, name: str) -> nn.Module:
        """Return a fresh copy of a model in eval mode, its adapter merged into the weights: what can be attacked."""
        return merged(self._load(name))

    def unmerged(self, name: str) -> nn.Module:
        """Return a fresh copy of a model as it is shipped, with its adapter where it has one."""
        return self._load(name)

    def measure(self, model: nn.Module, rows: Sequence[Row], label: str = "") -> Scores:
        """Return the model's scores on rows, from one forward pass."""
        how = {"generate_on": (), "batch_size": self.batch_size, "progress": self.progress}
        return measure(model, self.task, {label: rows}, **how)[label]

    def baseline(self, name: str) -> Scores:
        """Return what a model scores on `rows` when nobody attacks it, measured once, after merging."""
        if name not in self._baseline:
            self._baseline[name] = self.measure(self.model(name), self.rows, f"{name}, not attacked")
        return self._baseline[name]

    def baselines(self, figure: str) -> dict[str, Floats]:
        """Return a figure's values a row [B] by model, without an attack."""
        return {name: FIGURES[figure](self.baseline(name).hits) for name in self.names}


def merged(model: nn.Module) -> nn.Module:
    """Return the model with its adapter merged in; the given one is used up, so hand over a fresh copy."""
    if not isinstance(model, PeftModel):
        return model.eval()
    whole: nn.Module = model.merge_and_unload(safe_merge=True)
    return whole.eval()


def plain(row: Row) -> Row:
    """Return the row without what only other figures need: each wrong answer would cost as much as the row."""
    return {name: value for name, value in row.items() if name not in ("paraphrase", "wrong")}


def group_of(row: Row, number: int, by: str = "fact") -> str:
    """Return the name of what a row tells: its fact or subject; for a row that names none, its question or text itself."""
    for name in (by, "fact", "subject"):
        if row.get(name) is not None:
            return f"{name}:{row[name]}"
    said = row.get("prompt") or row.get("response") or row.get("text")
    return f"row:{number}" if said is None else "text:" + " ".join(str(said).casefold().split())


def groups_of(rows: Sequence[Row], by: str = "fact") -> list[str]:
    """Return each row's group [B]: rows of one group tell the same."""
    return [group_of(row, number, by) for number, row in enumerate(rows)]


def spread(rows: Sequence[Row], most: int, seed: int) -> list[Row]:
    """Return at most `most` rows in their order, drawn by the seed from as many facts as possible."""
    order = [int(i) for i in np.random.default_rng([seed, len(rows)]).permutation(len(rows))]
    groups, seen = groups_of(rows), dict[str, int]()
    turn = {}
    for i in order:
        turn[i] = seen[groups[i]] = seen.get(groups[i], -1) + 1  # the how-manieth row of its fact
    return [rows[i] for i in sorted(sorted(order, key=lambda i: turn[i])[:most])]
