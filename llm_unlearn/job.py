"""One unlearning request at work in its folder, from the model before to the report."""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from transformers.trainer_utils import set_seed

from llm_unlearn import guard, hub
from llm_unlearn.class_attributions import with_attribution
from llm_unlearn.data.mnemonic import FILE, Codes
from llm_unlearn.errors import NothingChanged
from llm_unlearn.files import read_json, write_json
from llm_unlearn.fit import logged
from llm_unlearn.loading import (
    PEFT_TASKS,
    embedded_origin,
    load_adapted,
    load_codes,
    load_model,
    load_task,
)
from llm_unlearn.lora import attach
from llm_unlearn.manifest import manifest, peak_memory_bytes, redacted_command, redacted_request, versions
from llm_unlearn.measuring.alike import check_alike
from llm_unlearn.measuring.evaluation import assess
from llm_unlearn.measuring.figures import unknown_to
from llm_unlearn.measuring.protocol import evaluation_of, further, token_count
from llm_unlearn.measuring.reading import read_before
from llm_unlearn.measuring.suites import figures_of
from llm_unlearn.measuring.verdict import verdict
from llm_unlearn.prepare import Prepared, with_holdout
from llm_unlearn.publish import certificate
from llm_unlearn.recipe import SANDBOX, Recipe, to_dict
from llm_unlearn.reporting import plots
from llm_unlearn.reporting import report as reports
from llm_unlearn.reporting.caveats import caveats
from llm_unlearn.reporting.worst import worst_rows
from llm_unlearn.run import Run
from llm_unlearn.runfolder import RunFolder, is_main, on_main
from llm_unlearn.scores import ModelScores, Scores
from llm_unlearn.targets import training_seconds
from llm_unlearn.tasks import Task

WORK, SCORES = "work", "scores"


@dataclass
class Clock:
    """Seconds by phase."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, phase: str) -> Iterator[None]:
        """Add the block's seconds to the phase."""
        start = time.perf_counter()
        yield
        self.seconds[phase] = round(self.seconds.get(phase, 0.0) + time.perf_counter() - start, 2)


def _trainer_arguments(recipe: Recipe) -> dict[str, Any]:
    checkpointing = {"gradient_checkpointing": True} if recipe.gradient_checkpointing else {}
    return {"gradient_accumulation_steps": recipe.accumulation, **checkpointing}


def answers_of(scores: Scores) -> Sequence[Any] | None:
    """Return a model's greedy answers, of a classifier the most probable classes; None where there are none."""
    if scores.probabilities is None:
        return scores.generated
    return [int(p.argmax()) for p in scores.probabilities]


class Job:
    """One request at work in its folder: before, unlearn, guard, save, reload, after, gold, report."""

    def __init__(
        self,
        recipe: Recipe,
        prepared: Prepared,
        folder: RunFolder,
        command: Sequence[str],
        known: Mapping[str, ModelScores],
    ) -> None:
        """Load the task and choose the rows to measure."""
        self.recipe, self.folder, self.command = recipe, folder, command
        self.clock = Clock()
        set_seed(recipe.seed)
        self.task: Task = load_task(recipe, recipe.model)
        for gold in (recipe.gold, *recipe.golds):  # before an hour is spent on what can't be compared
            check_alike(recipe, gold, "gold", self.task)
        self.prepared = with_holdout(prepared, recipe, token_count(self.task))
        self.evaluation = evaluation_of(self.task, self.prepared, recipe)
        self.prepared = with_attribution(self.prepared, recipe, self.evaluation.splits["forget"])
        for name, scores in known.items():
            self.evaluation.put(name, scores)

    def report(self) -> dict[str, Any]:
        """Do what is not done yet and return the report."""
        model = load_model(self.recipe, self.recipe.model)
        before = self._scores("before", model)
        self.prepared.look("before", model, self.task)
        logits = guard.probe_logits(model, self.task, self._probe())
        place, model = self._unlearned(model)
        change = guard.output_change(logits, guard.probe_logits(model, self.task, self._probe()))
        try:
            changed = guard.check_changed(change, knew="forget" not in unknown_to(before))
        except NothingChanged:
            on_main(lambda: shutil.rmtree(place, ignore_errors=True))
            raise
        after = self._scores("after", model)
        self.prepared.look("after", model, self.task)
        gold = self._gold()
        before, after, gold = read_before(self.recipe, self.evaluation, self.recipe.model, before, after, gold)
        return self._write(place, before, after, gold, changed, change)

    def _probe(self) -> list[dict[str, Any]]:
        return self.task.encode(self.evaluation.splits["forget"][: guard.PROBE])

    def _scores(self, name: str, model: nn.Module) -> ModelScores:
        """Return a model's scores, kept in the private folder so that a resumed run does not measure twice."""
        if name == "after":
            with self.clock.time(name):
                return self.evaluation.scores(name, model, keep=False)
        kept = self.folder.private / f"{SCORES}_{name}.json"
        digest = self.evaluation.digest(name, model)
        if (content := read_json(kept)) is not None and content.get("model") == digest:
            self.evaluation.put(name, {split: Scores.from_json(each) for split, each in content["splits"].items()})
        with self.clock.time(name):
            scores = self.evaluation.scores(name, model)
        if is_main():
            splits = {split: each.to_json(text=True) for split, each in scores.items()}
            write_json(kept, {"model": digest, "splits": splits}, mode=0o600)
        return scores

    def _unlearned(self, model: nn.Module) -> tuple[Path, nn.Module]:
        """Return where the result was saved, and the result reloaded from there."""
        recipe, method = self.recipe, self.recipe.method
        codes = load_codes(recipe)
        run = Run(
            model=self._start(model),
            task=self.task,
            splits=self.prepared.for_method(),
            folder=self.folder.path / WORK,
            seed=recipe.seed,
            trainer=_trainer_arguments(recipe),
            frozen_copy=model if recipe.lora is None and method.starts_from == "target" else None,
            codes=codes,
            origin=recipe.origin,
            donor=self.prepared.donor,
        )
        with self.clock.time("unlearn"):
            method.unlearn(run)
        left = None if codes is None else Codes.load(run.folder / FILE) or codes.apart_from(run.splits)
        place = Path(on_main(lambda: str(hub.save(run.model, self.folder.path, recipe, left))))
        return place, hub.reload(run.model, place)

    def _start(self, model: nn.Module) -> nn.Module:
        """Return what the method changes: the target under a fresh adapter, its own adapter, a copy of it, or the origin."""
        if self.recipe.method.starts_from == "origin":
            if self.recipe.origin is None and self.recipe.model == SANDBOX:
                return embedded_origin(self.recipe).to(next(model.parameters()).device)
            return load_model(self.recipe, self.recipe.origin or "", role="origin").train()
        if self.recipe.lora is None:
            return load_model(self.recipe, self.recipe.model)
        if self.recipe.adapter and self.recipe.method.edits_adapter:
            return load_adapted(self.recipe, self.recipe.adapter)
        return attach(model, self.recipe.lora, PEFT_TASKS.get(self.recipe.task))

    def _gold(self) -> ModelScores | None:
        """Return the scores of the model that never knew, where there is one."""
        if (kept := self.evaluation.kept("gold")) is not None:
            return kept
        if self.recipe.gold is None:
            return None
        model = load_model(self.recipe, self.recipe.gold, role="gold")
        self.prepared.look("gold", model, self.task)
        return self._scores("gold", model)

    def _golds(self) -> list[ModelScores]:
        """Return the scores of the further golds."""
        loaded = {f"gold_{number}": path for number, path in enumerate(self.recipe.golds, start=1)}
        return [self._scores(name, load_model(self.recipe, path, role="gold")) for name, path in loaded.items()]

    def _write(
        self,
        place: Path,
        before: ModelScores,
        after: ModelScores,
        gold: ModelScores | None,
        changed: bool,
        change: float,
    ) -> dict[str, Any]:
        """Write manifest, report.json and report.html, and clear the working folder."""
        content = self._content(before, after, gold, changed, change)
        history = logged(self.folder.path / WORK)
        shipped = manifest(
            to_dict(self.recipe),
            key=self.folder.key,
            splits=self.prepared.splits,
            argv=self.command,
            seconds=self.clock.seconds,
            peak_memory=content["peak_memory_bytes"],
            extra={
                "base_model": hub.base_name(self.recipe),
                "largest_logit_change": change,
                "holdout": self.prepared.holdout,
                "learned": self._learned(),
            },
        )

        def write() -> None:
            plots.write_html(self.folder.path, content, history=history, before=before, after=after, gold=gold)
            reports.write_report(self.folder.path, content)
            certificate.issue(self.folder.path, place, shipped, self.recipe, self.prepared.splits["forget"])
            shutil.rmtree(self.folder.path / WORK, ignore_errors=True)

        on_main(write)
        return content

    def _content(
        self, before: ModelScores, after: ModelScores, gold: ModelScores | None, changed: bool, change: float
    ) -> dict[str, Any]:
        """Return what report.json holds."""
        recipe = self.recipe
        names = figures_of(recipe.evaluation.suite, recipe.task)
        golds, others = self._golds(), further(recipe, self.evaluation)
        assessment = assess(
            after, before=before, gold=gold, golds=golds, metrics=names, seed=recipe.seed, others=others
        )
        request = redacted_request(to_dict(recipe), self.folder.key)
        content = reports.build(
            request={name: value for name, value in request.items() if name not in ("method", "seed")},
            method=request["method"],
            versions={name: version or "" for name, version in versions().items()},
            seed=recipe.seed,
            assessment=assessment,
            verdict=verdict(
                assessment.judged, changed=changed, unknown=assessment.unknown, removed=assessment.removed
            ),
            holdout=self.prepared.holdout,
            seconds=self.clock.seconds,
            peak_memory_bytes=peak_memory_bytes(),
            notes=self._notes(change),
        )
        content["whole_classes"] = bool(self.prepared.strangers)
        content["rows"] = {name: len(rows) for name, rows in self.prepared.splits.items() if rows}
        content["command"] = redacted_command(self.command, self.folder.key)
        content["worst"] = worst_rows(before, after, gold, self.folder.key)
        content |= self.prepared.explained(self.folder.key, show=recipe.show_records)
        return content | ({"records": self._records(before, after)} if recipe.show_records else {})

    def _records(self, before: ModelScores, after: ModelScores) -> list[dict[str, Any]]:
        """Return the forget rows with the models' greedy answers: what --show-records asks for, and nothing else shows."""
        answers = [answers_of(scores["forget"]) for scores in (before, after)]
        rows = self.evaluation.splits["forget"]
        old, new = (answer or [None] * len(rows) for answer in answers)
        return [
            {
                "prompt": row.get("prompt", row.get("text")),
                "response": row.get("response", row.get("label")),
                "before": was,
                "after": now,
            }
            for row, was, now in zip(rows, old, new, strict=True)
        ]

    def _notes(self, change: float) -> list[str]:
        notes = list(self.prepared.notes)
        if (self.folder.path / hub.ADAPTER).exists():
            notes.append(
                "the result is an adapter: switching it off restores the model before (--merge writes merged weights)"
            )
        if self.recipe.gold is None:
            notes.append("no gold model was given: figures are compared with the holdout where there is one")
        retraining = training_seconds(self.recipe.gold or "")
        if retraining and (spent := self.clock.seconds.get("unlearn")):
            notes.append(
                f"unlearning took {spent:.0f} s, training gold {retraining:.0f} s: {spent / retraining:.0%} of it"
            )
        notes += caveats(self._learned())
        rolled = [state["rolled_back"] for state in self._states() if "rolled_back" in state]
        notes += [f"retain's loss rose beyond the tolerance: rolled back to step {step}" for step in rolled]
        return notes

    def _learned(self) -> dict[str, Any]:
        """Return what the method found out about itself (method.json): scale, energy kept, steps to its goal."""
        return read_json(self.folder.path / WORK / "method.json") or {}

    def _states(self) -> list[dict[str, Any]]:
        return [read_json(path) or {} for path in sorted((self.folder.path / WORK).glob("*/done.json"))]
