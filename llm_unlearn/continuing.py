"""Requests that keep coming: another one on top of a finished run, with the earlier ones measured again.

llm-unlearn unlearn --request new.jsonl --continue DIR [--retain rows.jsonl] [--method npo --method.beta=0.03]

The new rows are forgotten by a fresh adapter on top of DIR's; both are then joined into one adapter for the same base, which
takes DIR/adapter's place.  DIR/ledger.json has one entry more, DIR/private/receipts the new receipt.  Give the same command
again after an interruption.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn

from llm_unlearn import api, guard, hub
from llm_unlearn import options as command_line
from llm_unlearn.data.sources import load
from llm_unlearn.earlier import KEPT, LOOKED_AT, look_again, rows_of
from llm_unlearn.errors import DataError, OutputError
from llm_unlearn.files import read_json, write_json, write_text
from llm_unlearn.latest import REQUESTS, RETAIN, asking
from llm_unlearn.loading import checkpoint, load_model, load_task
from llm_unlearn.manifest import manifest, peak_memory_bytes
from llm_unlearn.measuring.protocol import token_count
from llm_unlearn.prepare import prepare, with_holdout
from llm_unlearn.publish import certificate, ledger, receipt
from llm_unlearn.recipe import Recipe, from_values, to_dict
from llm_unlearn.reporting.plots import PAGE
from llm_unlearn.reporting.report import REPORT, read_report
from llm_unlearn.runfolder import PRIVATE, fingerprint, is_main, on_main, read_request
from llm_unlearn.settings import build
from llm_unlearn.subject import with_adapter
from llm_unlearn.tasks import Row

NEXT, READY = "next", "ready"
EQUAL = 1e-3  # of the largest logit: two adapters one after the other against both joined


@dataclass(frozen=True, kw_only=True)
class Request:
    """A further request."""

    run: str  # the folder of the run to go on with (--continue)
    request: str  # the rows to forget now
    retain: str | None = None  # rows to keep; without it those of the run, less the new ones
    gold: str | None = None  # a model that never saw these rows nor the earlier ones
    settings: Mapping[str, Any] = field(default_factory=dict)  # method, evaluation and others, over the run's own


def read(words: Sequence[str]) -> Request:
    """Return the request that a command line asks for."""
    own = {"--continue": "run", "--request": "request", "--retain": "retain", "--gold": "gold"}
    values: dict[str, Any] = {}
    rest: list[str] = []
    queue = list(words)
    while queue:
        option, equals, value = queue.pop(0).partition("=")
        if option not in own:
            rest.append(f"{option}{equals}{value}")
        elif equals or queue:
            values[own[option]] = value if equals else queue.pop(0)
        else:
            raise DataError(f"{option}: expected a value.")
    if "request" not in values:
        raise DataError("--continue needs --request FILE: the rows that are to be forgotten now.")
    return build(Request, {**values, "settings": command_line.read(rest) if rest else {}})


def go_on(request: Request, say: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Unlearn the new rows on top of the run, measure the earlier requests, and return the ledger's new entry with `forgotten`.

    Raises OutputError where the folder holds no finished run with an adapter, or its files are not what was certified.
    """
    folder = Path(request.run)
    on_main(lambda: _move(folder))  # what an interrupted call had ready
    first = _first(folder)
    rows = [dict(row) for row in load(request.request)]
    known = _known(folder, first)
    mark = receipt_mark(folder, rows)
    if known[-1].get("rows") == mark:
        return {**_entries(folder)[-1], "forgotten": known[-1]["forgotten"], "done_before": True}
    recipe = on_main(lambda: to_dict(_recipe(folder, first, request, rows)))
    made = from_values(recipe)
    report = api.unlearn(made, command=["llm-unlearn", "unlearn", "--continue", request.run], say=say)
    model, task = _joined(folder, made), load_task(made, made.model)
    found = look_again(model, task, known, first, made)
    on_main(lambda: _stage(folder, made, report, found, known, mark, request))
    on_main(lambda: _move(folder))
    shutil.rmtree(folder / PRIVATE / NEXT, ignore_errors=True) if is_main() else None
    return {**_entries(folder)[-1], "forgotten": all(each["holds"] is not False for each in found["earlier"])}


def receipt_mark(folder: Path, rows: Sequence[Row]) -> str:
    """Return the keyed fingerprint by which a run knows a request again."""
    content = read_request(folder) or {}
    text = json.dumps([receipt.said(row).decode("utf-8", "replace") for row in rows])
    return fingerprint(bytes.fromhex(content["key"]), text)


def _first(folder: Path) -> Recipe:
    """The run's own recipe."""
    request = read_request(folder)
    if request is None or not request["finished"] or not (folder / hub.ADAPTER / hub.MANIFEST).is_file():
        raise OutputError(f"{folder} holds no finished run with an adapter: there is nothing to continue.")
    wrong = [
        name for name, each in certificate.digests(folder / hub.ADAPTER).items() if not _certified(folder, name, each)
    ]
    if wrong:
        raise OutputError(f"{folder / hub.ADAPTER}: {', '.join(wrong)} is not what was certified; restore it first.")
    recipe = from_values(request["request"])
    if recipe.task != "causal_lm" or recipe.adapter:
        raise OutputError(f"{folder} cannot be continued: only a causal LM whose run started without an adapter can.")
    return recipe


def _certified(folder: Path, name: str, each: Any) -> bool:
    content = read_json(folder / hub.ADAPTER / hub.MANIFEST) or {}
    return bool(content.get("certificate", {}).get("files", {}).get(name) == each)


def _known(folder: Path, first: Recipe) -> list[dict[str, Any]]:
    """The requests so far: where their rows lie and what they scored when they were new.  Only for DIR/private."""
    kept = read_json(folder / PRIVATE / REQUESTS)
    if kept is not None:
        return list(kept["requests"])
    figures = {(f["name"], f["split"]): f for f in read_report(folder)["figures"]}
    return [
        {
            "request_id": _entries(folder)[-1]["request_id"],
            "file": None,  # the run's own recipe names them
            "rows": "",
            "forgotten": True,
            "figures": {name: figures[name, "forget"]["after"] for name in LOOKED_AT if (name, "forget") in figures},
            "retain": {name: figures[name, "retain"]["before"] for name in KEPT if (name, "retain") in figures},
        }
    ]


def _entries(folder: Path) -> list[dict[str, Any]]:
    return list((ledger.read(folder) or {"requests": []})["requests"])


def _recipe(folder: Path, first: Recipe, request: Request, rows: Sequence[Row]) -> Recipe:
    """The new request as a recipe of its own, worked on in DIR/private/next; rows that are to go, now or since earlier, are not
    among those that are kept."""
    path = folder / PRIVATE / RETAIN
    earlier = [rows_of(each, first) or [] for each in _known(folder, first)]
    gone = {receipt.said(row) for each in [rows, *earlier] for row in each}
    source = (
        load(request.retain)
        if request.retain
        else load(str(path))
        if path.exists()
        else prepare(first).splits["retain"]
    )
    kept = [row for row in source if receipt.said(row) not in gone]
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), mode=0o600)
    values = asking(first, request.request, path)
    values |= {"gold": request.gold, "adapter": str(folder / hub.ADAPTER), "merge": False, "push_to_hub": None}
    settings = dict(request.settings)
    return from_values({**values, **settings, "output": str(folder / PRIVATE / NEXT), "overwrite": False})


def _joined(folder: Path, made: Recipe) -> nn.Module:
    """The base under one adapter that is the sum of both; raise OutputError where its outputs are not those of both."""
    base = load_model(replace(made, adapter=None), made.model)
    model = PeftModel.from_pretrained(base, str(folder / hub.ADAPTER), adapter_name="earlier")
    model.load_adapter(str(folder / PRIVATE / NEXT / hub.ADAPTER), adapter_name="new")
    model.add_weighted_adapter(["earlier", "new"], [1.0, 1.0], "default", combination_type="cat")
    model.set_adapter("default")
    model.delete_adapter("earlier")
    model.delete_adapter("new")
    model.peft_config["default"].base_model_name_or_path = checkpoint(
        made.model
    )  # else peft asks the Hub for its public name
    task = load_task(made, made.model)
    probe = task.encode(list(load(made.forget or ""))[: guard.PROBE])
    both = with_adapter(load_model(made, made.model), str(folder / PRIVATE / NEXT / hub.ADAPTER))
    expected = guard.probe_logits(both, task, probe)
    difference = guard.output_change(expected, guard.probe_logits(model.eval(), task, probe))
    if difference > EQUAL * float(expected.abs().max()):
        raise OutputError(f"the two adapters do not add up: logits differ by {difference:.3g}. {folder} is as it was.")
    return model.eval()


def _stage(
    folder: Path,
    made: Recipe,
    report: Mapping[str, Any],
    found: Mapping[str, Any],
    known: Sequence[Mapping[str, Any]],
    mark: str,
    request: Request,
) -> None:
    """Put all that changes into DIR/private/ready, whole: from then on the request counts as done."""
    part, new = folder / PRIVATE / f"{READY}.part", folder / PRIVATE / NEXT
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(mode=0o700)
    whole = replace(made, adapter=None)
    place = hub.save(_joined(folder, made), part, whole)
    for name in (REPORT, PAGE):
        shutil.copyfile(new / name, part / name)
    prepared = with_holdout(prepare(made), made, token_count(load_task(made, made.model)))
    shipped = manifest(
        to_dict(whole),
        key=bytes.fromhex((read_request(folder) or {})["key"]),
        splits=prepared.splits,
        argv=["llm-unlearn", "unlearn"],
        seconds=report["seconds"],
        peak_memory=peak_memory_bytes(),
        extra={"base_model": hub.base_name(whole), "requests": len(known) + 1},
    )
    more = {"seconds": report["seconds"], **found}
    sealed = certificate.issue(
        part, place, shipped, whole, prepared.splits["forget"], earlier=ledger.read(folder), more=more
    )
    kept = {(f["name"], f["split"]): f["after"] for f in report["figures"]}
    holds = all(each["holds"] is not False for each in found["earlier"])
    entry = {
        "request_id": sealed["certificate"]["request_id"],
        "file": request.request,
        "rows": mark,
        "forgotten": holds,
    }
    entry["figures"] = {name: kept[name, "forget"] for name in LOOKED_AT if (name, "forget") in kept}
    write_json(part / PRIVATE / REQUESTS, {"requests": [*known, entry]}, mode=0o600)
    part.replace(folder / PRIVATE / READY)


def _move(folder: Path) -> None:
    """Move what is ready into its place; can be taken up again at any point."""
    ready = folder / PRIVATE / READY
    if not ready.is_dir():
        return
    if (ready / PRIVATE / receipt.RECEIPT).exists():
        kept = receipt.read_receipt(ready / PRIVATE / receipt.RECEIPT)
        (folder / PRIVATE / "receipts").mkdir(mode=0o700, exist_ok=True)
        old = folder / PRIVATE / receipt.RECEIPT
        if old.exists() and (earlier := receipt.read_receipt(old))["request_id"] != kept["request_id"]:
            old.replace(folder / PRIVATE / "receipts" / f"{earlier['request_id']}.json")
        (ready / PRIVATE / receipt.RECEIPT).replace(old)
    for name in (hub.ADAPTER,):
        if (ready / name).is_dir():
            shutil.rmtree(folder / name, ignore_errors=True)
            (ready / name).replace(folder / name)
    for name in (REPORT, PAGE, ledger.LEDGER, f"{PRIVATE}/{REQUESTS}"):
        if (ready / name).exists():
            (ready / name).replace(folder / name)
    shutil.rmtree(ready)
