"""Merged weights of a run, in shards, checked equal to base and adapter; and a 4-bit export, checked for what comes back.

DIR/merged      the base with the adapter in its weights: nothing to switch off
DIR/quantised   the same, rounded to few bits and stored as ordinary numbers: every loader reads it, and it is as large as before
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from llm_unlearn import guard
from llm_unlearn.attacks._attacked import FIGURES, merged, plain, spread
from llm_unlearn.attacks._weights import rewrite
from llm_unlearn.attacks.quantise import rewrite_of
from llm_unlearn.errors import OutputError
from llm_unlearn.files import read_json, write_json, write_text
from llm_unlearn.hub import ADAPTER, MANIFEST, MERGED, MODEL, QUANTISED
from llm_unlearn.loading import load_model, reader_of
from llm_unlearn.measuring.evaluation import measure
from llm_unlearn.measuring.verdict import TOLERANCE
from llm_unlearn.publish.card import Kind, card, licence_of
from llm_unlearn.publish.certificate import digests, seal
from llm_unlearn.publish.pushing import CARD, base_here
from llm_unlearn.reporting.report import REPORT, read_report
from llm_unlearn.run import Splits
from llm_unlearn.runfolder import is_main
from llm_unlearn.subject import Subject
from llm_unlearn.tasks import Row

EQUAL = {"torch.float32": 1e-4, "torch.bfloat16": 5e-2}  # of the largest logit: rounding of the merged weights
LEAK = TOLERANCE["extraction_strength"]  # by which extraction strength of the forget rows may rise through rounding
PROBE = 16  # rows that logits are compared on
ROWS = 200  # forget rows that are measured after rounding


@dataclass(frozen=True, kw_only=True)
class Merge:
    """What is merged and how it is stored."""

    run: str  # the folder of a finished run
    quantise: str | None = (
        None  # also round it: int4, int4/32, int8, nf4 (bitsandbytes); none: merged weights as they are
    )
    shard: str = "5GB"  # the largest file


def merge(options: Merge, splits: Splits | None = None) -> dict[str, Any]:
    """Write DIR/merged, with --quantise DIR/quantised, and return what was measured.

    `splits` are the run's rows, where they are at hand; without them its request says where they are read from.  Raises OutputError, and leaves what was there, where the stored model is not base + adapter, or rounding brings rows back.
    """
    folder, subject = Path(options.run), Subject(run=options.run)
    recipe, task = subject.recipe, subject.reader
    if options.quantise is None and not (folder / ADAPTER).is_dir():
        raise OutputError(f"{folder} has no adapter to merge: {folder / MODEL} holds whole weights already.")
    change = None if options.quantise is None else rewrite_of(options.quantise)
    kind: Kind = "merged" if change is None else "quantised"
    part = folder / f"{kind}.part"
    shutil.rmtree(part, ignore_errors=True)
    model = subject.load("after")
    given = subject.splits if splits is None else splits
    rows = spread([plain(row) for row in given["forget"]], ROWS, 0)
    probe = task.encode([*rows[:PROBE], *given.get("retain", [])[:PROBE]])
    logits = guard.probe_logits(model, task, probe)
    found: dict[str, Any] = {"kind": kind}
    if change is not None:
        found |= {"scheme": options.quantise, "before_rounding": _strength(model, task, rows)}
    whole = merged(model)
    if change is not None:
        found["rounded"] = str(rewrite(whole, change))
    whole.save_pretrained(part, max_shard_size=options.shard)  # type: ignore[operator]
    reader_of(task).save_pretrained(part)
    stored = load_model(replace(recipe, adapter=None, revision=None), str(part))
    difference = guard.output_change(logits, guard.probe_logits(stored, task, probe))
    limit = EQUAL[str(next(stored.parameters()).dtype)] * float(logits.abs().max())
    found |= {"largest_logit_difference": difference, "limit": limit if change is None else None}
    if change is None and difference > limit:
        shutil.rmtree(part)
        raise OutputError(
            f"the merged weights are not base + adapter: logits differ by {difference:.3g}, at most {limit:.3g} is rounding. "
            "Nothing was written."
        )
    if change is not None:
        found["after_rounding"] = _strength(stored, task, rows)
        _check_leak(part, found)
    _finish(folder, part, kind, found)
    return {"folder": str(folder / kind), **found, "files": sorted(path.name for path in (folder / kind).iterdir())}


def _strength(model: nn.Module, task: Any, rows: Sequence[Row]) -> float:
    """The extraction strength of the forget rows, mean over rows."""
    scores = measure(model, task, {"forget": rows}, generate_on=(), progress=is_main())["forget"]
    return float(FIGURES["extraction_strength"](scores.hits).mean())


def _check_leak(part: Path, found: dict[str, Any]) -> None:
    before, after = found["before_rounding"], found["after_rounding"]
    if after > before + LEAK:
        shutil.rmtree(part)
        raise OutputError(
            f"rounding by {found['scheme']} brings forgotten rows back: their extraction strength rises from {before:.3f} to "
            f"{after:.3f}, at most {LEAK} more is allowed. Nothing was written; try --quantise int8, or another method."
        )


def _finish(folder: Path, part: Path, kind: Kind, found: dict[str, Any]) -> None:
    """Certify what is stored, write its card, and put it in its place."""
    source = folder / (ADAPTER if (folder / ADAPTER).is_dir() else MODEL)
    content = read_json(source / MANIFEST)
    if content is None or "certificate" not in content:
        raise OutputError(f"{source / MANIFEST} holds no certificate: it was made by an older version; run it again.")
    certified = content["certificate"]
    kept = {name: each for name, each in certified["files"].items() if not (source / name).is_file()}
    files = {**digests(part), **kept}
    sealed = seal(
        {**content, "certificate": {**certified, "files": files, "made_from": content["digest"]}, kind: found}
    )
    write_json(part / MANIFEST, sealed)
    model, revision = base_here(folder, content)
    licence = {} if model is None else licence_of(model, revision)
    text = str(card(read_report(folder), sealed, kind=kind, licence=licence))
    write_text(part / CARD, text)
    place = folder / {"merged": MERGED, "quantised": QUANTISED}[kind]
    shutil.rmtree(place, ignore_errors=True)
    part.replace(place)


def is_merged(folder: Path) -> bool:
    """Return whether a run's merged weights are there, made from what is in the folder now."""
    content, made = read_json(folder / ADAPTER / MANIFEST), read_json(folder / MERGED / MANIFEST)
    if content is None or made is None or not (folder / REPORT).is_file():
        return False
    return bool(made.get("certificate", {}).get("made_from") == content.get("digest"))
