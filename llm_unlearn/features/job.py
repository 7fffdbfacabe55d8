"""One feature's removal at work in its folder: before, unlearn, guard, save, reload, after, gold, report."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers.trainer_utils import set_seed

from llm_unlearn import guard, hub
from llm_unlearn.concepts.groups import discover, summary
from llm_unlearn.concepts.states import blocks, checked
from llm_unlearn.data.annotations import COLUMN, Annotations, annotations
from llm_unlearn.data.sources import fingerprint
from llm_unlearn.features import picture
from llm_unlearn.features.judged import figures, verdict
from llm_unlearn.features.measured import Measured, measure
from llm_unlearn.features.request import Feature, Rows, in_sandbox
from llm_unlearn.files import read_json, write_json
from llm_unlearn.fit import logged
from llm_unlearn.job import Clock
from llm_unlearn.loading import PEFT_TASKS, load_model, load_task
from llm_unlearn.lora import attach
from llm_unlearn.manifest import manifest, peak_memory_bytes, redacted_command, redacted_request, versions
from llm_unlearn.measuring.figures import Assessment
from llm_unlearn.methods.feature_activation import MOST_ROWS
from llm_unlearn.publish import certificate
from llm_unlearn.recipe import SANDBOX, Recipe, method_name, plain, to_dict
from llm_unlearn.reporting import plots
from llm_unlearn.reporting import report as reports
from llm_unlearn.run import Run
from llm_unlearn.runfolder import RunFolder, is_main, on_main, open_run

WORK, GROUPS = "work", "groups"
Say = Callable[[str], None] | None


def forget_feature(
    request: Feature, rows: Mapping[str, Rows] | None = None, *, command: Sequence[str] = (), say: Say = None
) -> dict[str, Any]:
    """Remove the feature and return the report (also DIR/report.json); where groups are only to be shown, what they are.

    `rows` by role (annotated or retain, test, examples) are taken in place of the request's files.
    """
    if request.model == SANDBOX:
        request, rows = in_sandbox(request)
    splits = {**(rows or request.splits())}
    if request.shows:
        return show(request, splits["retain"], say)
    inputs = {name: fingerprint(each) for name, each in splits.items()}
    asked = _asked(request)
    with open_run(request.output, asked, inputs=inputs, overwrite=request.overwrite, command=command) as folder:
        return (
            folder.report
            if folder.state == "finished" and folder.report
            else Job(request, splits, folder, command).report()
        )


def show(request: Feature, rows: Rows, say: Say = None) -> dict[str, Any]:
    """Find the groups of the layer, write DIR/groups.png and DIR/groups.json, say what they are, and change nothing."""
    recipe = request.recipe
    model, task = load_model(recipe, request.model), load_task(recipe, request.model)
    layer = request.layer or blocks(model)[0]
    count = getattr(request.chosen(), "groups", None)
    groups = discover(model, task, rows[:MOST_ROWS], layer, count=count, seed=request.seed)
    words = picture.named_words(groups, model, task, rows[:MOST_ROWS]) if picture.is_text(task) else None
    folder = Path(request.output)
    content = {**summary(groups), "words": words, "rows": groups.rows}
    if is_main():
        folder.mkdir(parents=True, exist_ok=True)
        picture.draw(folder / f"{GROUPS}.png", groups, rows, words)
        write_json(folder / f"{GROUPS}.json", content)
        (say or print)(f"{picture.told(groups, words)}\n{folder / GROUPS}.png")
    return content


def _asked(request: Feature) -> dict[str, Any]:
    """Return the request as plain values, the method's settings written out."""
    method = request.chosen()
    return {**plain(request), "method": {"name": method_name(method), **plain(method)}}


class Job:
    """One request at work."""

    def __init__(
        self, request: Feature, splits: Mapping[str, Rows], folder: RunFolder, command: Sequence[str]
    ) -> None:
        """Load the task and check rows and layers before anything slow."""
        self.request, self.splits, self.folder, self.command = request, splits, folder, command
        self.recipe: Recipe = request.recipe
        self.clock = Clock()
        set_seed(request.seed)
        self.task = load_task(self.recipe, request.model)
        known = COLUMN in splits["test"][0]
        self.found: Annotations | None = annotations(splits["test"]) if known else None
        if "annotated" in splits:
            annotations(splits["annotated"])

    def report(self) -> dict[str, Any]:
        """Do the work and return the report."""
        model = load_model(self.recipe, self.request.model)
        if self.request.layer:
            checked(model, (self.request.layer,))
        before = self._measured("before", model)
        probe = self.task.encode(self.splits["test"][: guard.PROBE])
        logits = guard.probe_logits(model, self.task, probe)
        place, model = self._unlearned(model)
        change = guard.output_change(logits, guard.probe_logits(model, self.task, probe))
        guard.check_changed(change, knew=True)
        after = self._measured("after", model)
        gold = (
            self._measured("gold", load_model(self.recipe, self.request.gold, role="gold"))
            if self.request.gold
            else None
        )
        return self._write(place, {"before": before, "after": after, "gold": gold}, change)

    def _measured(self, name: str, model: nn.Module) -> Measured:
        with self.clock.time(name):
            return measure(model, self.task, self.splits["test"], self.found, seed=self.request.seed)

    def _unlearned(self, model: nn.Module) -> tuple[Path, nn.Module]:
        """Return where the result was saved, and the result reloaded from there: nothing of the remover is in it."""
        request = self.request
        start = model if request.lora is None else attach(model, request.lora, PEFT_TASKS.get(request.task))
        work = self.folder.path / WORK
        run = Run(
            model=load_model(self.recipe, request.model) if request.lora is None else start,
            task=self.task,
            splits=self.splits,
            folder=work,
            seed=request.seed,
            frozen_copy=model if request.lora is None else None,
        )
        with self.clock.time("unlearn"):
            request.chosen().unlearn(run)
        place = Path(on_main(lambda: str(hub.save(run.model, self.folder.path, self.recipe))))
        return place, hub.reload(run.model, place)

    def _write(self, place: Path, models: Mapping[str, Measured | None], change: float) -> dict[str, Any]:
        asked = {**to_dict(self.recipe), **_asked(self.request)}
        found = figures(models, self.request.seed)
        request = redacted_request(asked, self.folder.key)
        learned = read_json(self.folder.path / WORK / "method.json") or {}
        content = reports.build(
            request={
                name: value for name, value in request.items() if name not in ("method", "seed", "forget", "retain")
            },
            method=request["method"],
            versions={name: version or "" for name, version in versions().items()},
            seed=self.request.seed,
            assessment=Assessment(found, [], frozenset(), found),
            verdict=verdict(found),
            holdout="none",
            seconds=self.clock.seconds,
            peak_memory_bytes=peak_memory_bytes(),
            notes=self._notes(learned),
        )
        content["rows"] = {name: len(rows) for name, rows in self.splits.items()}
        content["command"] = redacted_command(self.command, self.folder.key)
        content["learned"] = learned
        shipped = manifest(
            asked, key=self.folder.key, splits=self.splits, argv=self.command, seconds=self.clock.seconds,
            peak_memory=content["peak_memory_bytes"],
            extra={"base_model": hub.base_name(self.recipe), "largest_logit_change": change, "learned": learned},
        )  # fmt: skip
        history = logged(self.folder.path / WORK)

        def write() -> None:
            plots.write_html(self.folder.path, content, history=history)
            reports.write_report(self.folder.path, content)
            rows = self.splits.get("annotated") or self.splits["retain"]
            certificate.issue(self.folder.path, place, shipped, self.recipe, rows)
            shutil.rmtree(self.folder.path / WORK, ignore_errors=True)

        on_main(write)
        return content

    def _notes(self, learned: Mapping[str, Any]) -> list[str]:
        notes = [
            "the rows measured are drawn so that the feature says nothing of the target; a probe is fitted anew for each model"
        ]
        if self.request.data == self.request.test or (self.request.test is None and self.request.data != SANDBOX):
            notes.append("no --test was given: the rows measured are rows that the model was trained on")
        if learned.get("down") is False:
            notes.append(
                f"the method itself could not remove the feature: after {len(learned['rounds']) - 1} rounds "
                f"{learned['left']:.0%} of it is left by {learned['held_out_rows']} training rows that were held out"
            )
        if self.found is None:
            notes.append("the rows have no annotations: whether the feature is gone was not measured")
        if (self.folder.path / hub.ADAPTER).exists():
            notes.append("the result is an adapter: switching it off restores the model before")
        return notes


def table(report: Mapping[str, Any]) -> str:
    """Return the figures with the verdict under them, for the terminal."""
    lines = [list(reports.COLUMNS), *(line[:-1] for line in reports.cells(report))]
    widths = [max(len(line[i]) for line in lines) for i in range(len(reports.COLUMNS))]
    out = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join([*out, "", *reports.verdict_lines(report)])
