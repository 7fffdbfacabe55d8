"""Figures of a model or a finished run, measured now: a table beside before and gold, and OUTPUT/evaluation.json.

llm-unlearn evaluate --run outputs/quillmere --suite full
llm-unlearn evaluate --model M --adapter A --gold G --forget forget.jsonl --retain retain.jsonl
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from llm_unlearn.errors import DataError
from llm_unlearn.files import write_json
from llm_unlearn.measuring.evaluation import assess
from llm_unlearn.measuring.protocol import evaluation_of, further
from llm_unlearn.measuring.verdict import verdict
from llm_unlearn.prepare import Prepared
from llm_unlearn.recipe import Evaluation
from llm_unlearn.reporting import report as reports
from llm_unlearn.runfolder import on_main
from llm_unlearn.subject import Subject, check_alike


@dataclass(frozen=True, kw_only=True)
class Options(Subject):
    """What is measured."""

    suite: Literal["quick", "standard", "full"] = "standard"  # which figures; full: gradient norms too
    rows: int = 200  # at most so many rows of a split


def measured(options: Options) -> dict[str, Any]:
    """Return figures, verdict and notes, also written to OUTPUT/evaluation.json; every process of a job calls this."""
    splits = options.splits
    if not splits.get("forget"):
        raise DataError("there are no rows to measure: give --run DIR, or --forget FILE with --model.")
    for name in ("before", "gold"):
        if name in options.names:
            check_alike(options, name)
    how = Evaluation(suite=options.suite, rows=options.rows, batch_size=options.batch_size)
    recipe = replace(options.recipe, evaluation=how)
    holdout = "given" if splits.get("holdout") else "none"
    evaluation = evaluation_of(options.reader, Prepared(splits=splits, holdout=holdout), recipe)  # type: ignore[arg-type]
    scores = {name: evaluation.scores(name, options.load(name)) for name in options.names}
    from llm_unlearn.measuring.suites import figures_of

    found = assess(
        scores["after"],
        before=scores.get("before"),
        gold=scores.get("gold"),
        metrics=figures_of(options.suite, recipe.task),
        seed=options.seed,
        others=further(recipe, evaluation),
    )
    changed = scores["after"] is not scores.get("before")
    content: dict[str, Any] = reports.plain_json(
        {
            "figures": [figure.to_json() for figure in found.figures],
            "verdict": verdict(found.judged, changed=changed, unknown=found.unknown, removed=found.removed),
            "before_did_not_know": sorted(found.unknown),
            "notes": [],
        }
    )
    Path(options.output).mkdir(parents=True, exist_ok=True)
    on_main(lambda: write_json(Path(options.output) / "evaluation.json", content))
    return content
