"""One method on one scenario, measured beside before and gold; every result is a file of its own, so a run can go on."""

import copy
import json
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from peft import PeftModel
from torch import nn
from transformers.trainer_utils import set_seed

from llm_unlearn import metrics
from llm_unlearn.concepts.bank import saying
from llm_unlearn.data.mnemonic import Mnemonic
from llm_unlearn.data.requests import classes_of, removed_classes, strangers_to
from llm_unlearn.files import read_json, write_json
from llm_unlearn.lora import Lora, attach
from llm_unlearn.lora_targets import head_names
from llm_unlearn.measuring.evaluation import measure
from llm_unlearn.metrics._classes import classes_in
from llm_unlearn.papers import corpora
from llm_unlearn.papers.corpora import Corpus
from llm_unlearn.papers.models import Trained, hit_rate, retraining_seconds, trained
from llm_unlearn.papers.plan import CONCEPTS, FORGOTTEN_CLASS, INSTANCES, Entry, Group, Scenario
from llm_unlearn.run import Run
from llm_unlearn.scores import ModelScores
from llm_unlearn.tasks import Row

MEASURED = 2000  # rows of forget and of retain, at most
REQUEST = 16  # rows
STANDARDS = ("before", "gold")
ACCURACIES = {
    "forget_train": "forget",
    "forget_test": "forget_heldout",
    "retain": "retain",
    "test": "retain_heldout",
}
ATTACKS = ("mia_loss_accuracy", "mia_entropy_accuracy", "mia_loss", "mia_entropy")
Cell = dict[str, Any]  # what a file holds


@dataclass(frozen=True)
class Cut:
    """A corpus cut for a scenario."""

    requests: Sequence[Sequence[Row]]  # one after the other; all but "requests" scenarios have one
    retain: Sequence[Row]  # what the gold knows
    test: Sequence[Row]  # of classes that are kept: what retraining is judged by

    @property
    def forget(self) -> list[Row]:
        """Return the rows of all requests."""
        return [row for rows in self.requests for row in rows]


def cut(corpus: Corpus, scenario: Scenario) -> Cut:
    """Return what the scenario forgets: a class, or the first rows of the training rows, which are in random order."""
    rows, test = list(corpus.train), list(corpus.test)
    if scenario.kind in ("class", "concept"):
        forget, retain = apart(rows, scenario)
        return Cut([forget], retain, apart(test, scenario)[1])
    if scenario.kind == "share":
        count = round(scenario.size * len(rows))
        return Cut([rows[:count]], rows[count:], test)
    if scenario.kind == "rows":
        return Cut([rows[: int(scenario.size)]], rows[INSTANCES:], test)
    starts = range(0, REQUEST * int(scenario.size), REQUEST)
    return Cut([rows[start : start + REQUEST] for start in starts], rows[INSTANCES:], test)


def apart(rows: Sequence[Row], scenario: Scenario) -> tuple[list[Row], list[Row]]:
    """Return the rows to forget, of the class or of the class and about the concept, and the others."""
    label, words = CONCEPTS.get(scenario.name, (FORGOTTEN_CLASS, ()))
    mine = [row for row in rows if row["label"] == label]
    asked = {row["id"] for row in (saying(mine, words) if words else mine)}
    return [row for row in rows if row["id"] in asked], [row for row in rows if row["id"] not in asked]


def cells_of(group: Group) -> dict[str, Cell]:
    """Return what is asked for by name of cell: before, gold and each entry, with all settings."""
    plain = {"setup": asdict(group.setup), "scenario": asdict(group.scenario), "seed": group.seed}
    asked: dict[str, Cell] = {name: {**plain, "entry": name} for name in STANDARDS}
    for entry in group.entries:
        asked[entry.name] = {**plain, "entry": asdict(entry), "method": asdict(entry.build())}
    normal: dict[str, Cell] = json.loads(json.dumps(asked))
    return normal


def path_of(folder: Path, group: Group, name: str) -> Path:
    """Return the file of a cell."""
    words = f"{group.setup.name} {group.scenario.name} {name} {group.seed}".replace("%", "percent")
    return folder / "cells" / f"{re.sub(r'[^A-Za-z0-9_]+', '-', words)}.json"


def kept(folder: Path, group: Group, name: str, asked: Cell) -> Cell | None:
    """Return a finished cell, None where there is none or it was made from other settings."""
    found = read_json(path_of(folder, group, name))
    return found if found is not None and found["request"] == asked else None


def missing(folder: Path, group: Group) -> list[str]:
    """Return the names of the cells that are not finished."""
    return [name for name, asked in cells_of(group).items() if kept(folder, group, name, asked) is None]


def run_group(group: Group, data: Path, folder: Path, kind: "type[Bench] | None" = None) -> None:
    """Make the group's missing cells; a group that is finished costs nothing."""
    wanted = missing(folder, group)
    if not wanted:
        return
    bench = (kind or Bench)(group, data, folder)
    for name in wanted:
        if name in STANDARDS:
            bench.write(name, bench.standard(name))
    for entry in group.entries:
        if entry.name in wanted:
            bench.write(entry.name, bench.unlearned(entry))


def make_target(group: Group, data: Path, folder: Path) -> None:
    """Train the group's target, where it is not there."""
    target_of(group, corpora.corpus(group.setup.data, data, group.setup.rows, group.seed), folder)


def make_gold(group: Group, data: Path, folder: Path) -> None:
    """Train the group's gold, where it is not there."""
    gold_of(group, corpora.corpus(group.setup.data, data, group.setup.rows, group.seed), folder)


def target_of(group: Group, corpus: Corpus, folder: Path) -> Trained:
    """Return the model that knows all training rows, trained or found."""
    mnemonic = Mnemonic() if group.scenario.codes else None
    return trained(group.setup, corpus, corpus.train, corpus.test, folder / "models", group.seed, mnemonic)


def gold_of(group: Group, corpus: Corpus, folder: Path) -> Trained:
    """Return the model that never saw the forget rows, trained or found."""
    split = cut(corpus, group.scenario)
    return trained(group.setup, corpus, split.retain, split.test, folder / "models", group.seed)


class Bench:
    """A group's rows and models, and what they score."""

    def __init__(self, group: Group, data: Path, folder: Path) -> None:
        """Make or find the models, and measure before and gold."""
        self.group, self.folder = group, folder
        self.corpus = corpora.corpus(group.setup.data, data, group.setup.rows, group.seed)
        self.target, self.gold = target_of(group, self.corpus, folder), gold_of(group, self.corpus, folder)
        self.task, self.cut = self.corpus.task, cut(self.corpus, group.scenario)
        self.rows = {
            "forget": self.cut.forget[:MEASURED],
            "retain": self.cut.retain[-MEASURED:],
            "test": self.corpus.test,
        }
        self.scores = {"before": self.measured(self.target.model), "gold": self.measured(self.gold.model)}

    def measured(self, model: nn.Module) -> ModelScores:
        """Return the model's scores; test rows count as unseen rows of forget and of retain, of a class removal by class."""
        found = measure(model, self.task, self.rows, batch_size=256, progress=False)
        test = found.pop("test")
        keep = np.ones(len(test), dtype=bool)
        if self.group.scenario.kind == "concept":
            gone_ids = {row["id"] for row in apart(self.rows["test"], self.group.scenario)[0]}
            keep = np.array([row["id"] not in gone_ids for row in self.rows["test"]])
        if self.group.scenario.kind == "class":
            gone = classes_in(found["forget"])
            keep = np.array([gone.isdisjoint(row) for row in test.classes or ()])
        mine = test.only(~keep) if not keep.all() else test
        return {
            **found,
            "forget_heldout": replace(mine, split="forget_heldout"),
            "retain_heldout": replace(test.only(keep), split="retain_heldout"),
        }

    def figures(self, scores: ModelScores) -> dict[str, float | None]:
        """Return accuracies, attacks and the distances to gold; None where a figure is not defined (too few rows)."""

        def value(name: str, split: str) -> float | None:
            found = metrics.find(name).score(scores, split, gold=self.scores["gold"], before=self.scores["before"])
            return None if found is None else float(found.value)

        out = {name: value("accuracy", split) for name, split in ACCURACIES.items()}
        out |= {name: value(name, "forget") for name in ATTACKS}
        apart = [value("js_divergence", split) for split in ("forget", "retain_heldout")]
        out["js_divergence"] = None if None in apart else float(np.mean([each for each in apart if each is not None]))
        return out

    def standard(self, name: str) -> Cell:
        """Return the cell of before or gold."""
        model = self.target if name == "before" else self.gold
        training = {"training_seconds": model.seconds, "accuracy_by_epoch": list(model.accuracy)}
        retraining = {"retraining_seconds": round(retraining_seconds(self.gold), 2)} if name == "gold" else {}
        return {"figures": self.figures(self.scores[name]), **training, **retraining, **self._counts()}

    def _counts(self) -> Cell:
        scores = self.scores["before"]
        rows = {"forget": len(self.cut.forget), "retain": len(self.cut.retain)}
        return {"rows": rows, "n": {name: len(scores[split]) for name, split in ACCURACIES.items()}}

    def unlearned(self, entry: Entry) -> Cell:
        """Return the cell of a method: each request after the other on one model, then everything measured."""
        model: nn.Module = copy.deepcopy(self.target.model)
        seconds, learned, returned = 0.0, {}, []
        for number, rows in enumerate(self.cut.requests):
            work = self.folder / "work" / f"{path_of(self.folder, self.group, entry.name).stem}-{number}"
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            start = time.process_time()
            earlier = [row for each in self.cut.requests[:number] for row in each]
            model = self._forgotten(entry, model, rows, work, earlier)
            seconds += time.process_time() - start
            learned = read_json(work / "method.json") or {}
            shutil.rmtree(work)
            if len(self.cut.requests) > 1:
                so_far = self.cut.requests[: number + 1]
                returned.append([hit_rate(model, self.task, self.task.encode(each)) for each in so_far])
        cell = {"figures": self.figures(self.measured(model)), "seconds": round(seconds, 2), "learned": learned}
        return {**cell, **({"forget_by_request": returned} if returned else {})}

    def _forgotten(
        self, entry: Entry, model: nn.Module, rows: Sequence[Row], work: Path, earlier: Sequence[Row]
    ) -> nn.Module:
        """Return the model after the method; one adapter goes on through all requests, so that its base stays the target."""
        set_seed(self.group.seed)
        full = entry.weights == "full"
        frozen = copy.deepcopy(model) if full else None
        model = model if full or isinstance(model, PeftModel) else adapted(model)
        splits = {**self.splits(entry, rows), **({"forgotten": earlier} if earlier else {})}
        seed, codes = self.group.seed, self.target.codes
        run = Run(model=model, task=self.task, splits=splits, folder=work, seed=seed, frozen_copy=frozen, codes=codes)
        entry.build().unlearn(run)
        return model.eval()

    def splits(self, entry: Entry, rows: Sequence[Row]) -> dict[str, Sequence[Row]]:
        """Return what the method is given to forget the rows."""
        return {"forget": rows, "retain": self.cut.retain, "holdout": self._unseen(rows)}

    def _unseen(self, forget: Sequence[Row]) -> Sequence[Row]:
        """Return what methods may take for rows never seen: of a whole class those that claim to be of it, as a job does."""
        holdout = self.corpus.holdout
        classes = removed_classes({"forget": forget}, self.cut.retain)
        others = [row for row in holdout if not classes & set(classes_of(row))]
        return strangers_to(classes, forget, others, self.group.seed) if classes else holdout

    def write(self, name: str, cell: Cell) -> None:
        """Keep a finished cell."""
        path = path_of(self.folder, self.group, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"request": cells_of(self.group)[name], **cell})


def adapted(model: nn.Module) -> nn.Module:
    """Return the model with a fresh adapter on every linear and convolution layer, and the head trained in full."""
    return attach(model, Lora(), None, tuple(head_names(model)))
