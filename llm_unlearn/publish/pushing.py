"""A finished run onto the Hub: adapter, card, certificate, report and pictures, in one commit, private unless told otherwise.

Never published: DIR/private (receipt, request, scores), checkpoints, and reports that hold rows.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from llm_unlearn.errors import OutputError
from llm_unlearn.files import read_json
from llm_unlearn.hub import MANIFEST, RESULTS
from llm_unlearn.publish import ledger, signature
from llm_unlearn.publish.card import Kind, base_id, card, licence_of, unverified
from llm_unlearn.publish.card_charts import pictures
from llm_unlearn.publish.certificate import WEIGHTS, folder_of
from llm_unlearn.publish.remote import Repository, exists
from llm_unlearn.publish.verification import Check, verify
from llm_unlearn.publish.verification import Options as Verified
from llm_unlearn.recipe import SANDBOX
from llm_unlearn.reporting.plots import PAGE
from llm_unlearn.reporting.report import REPORT, read_report
from llm_unlearn.runfolder import read_request

CARD = "README.md"
READERS = (
    *(
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
    ),
    *("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "preprocessor_config.json"),
)
SHIPPED = ("config.json", "generation_config.json", "adapter_config.json", MANIFEST, MANIFEST + signature.ENDING)
BARE = (".gitattributes",)  # what the Hub itself puts into a new repository


@dataclass(frozen=True, kw_only=True)
class Push:
    """What is pushed and where to."""

    run: str  # the folder of a finished run
    repo: str  # user/name
    public: bool = False  # for everybody to see; private without it
    allow_unverified: bool = False  # push although the verdict does not vouch for it; the card then says so
    kind: Kind | None = None  # adapter, model, merged or quantised; what the run made where none is named


def push(options: Push) -> dict[str, Any]:
    """Push a finished run and return {repo, url, files}; give the same command again after an interruption.

    Raises OutputError for a run without a report or with a failed verdict, for files that are not what was certified, for a
    repository that holds something else, and for what goes wrong on the way.
    """
    folder, kind, place = _what(options)
    report = _report(folder, options)
    manifest = read_json(place / MANIFEST) or {}
    _check_intact(place)
    _check_base(manifest, kind)
    there = Repository(options.repo)
    seen = there.look()
    _check_other(there, seen, folder, options)
    files = files_of(folder, place, kind, repo=options.repo, report=report, manifest=manifest)
    if seen is None:
        there.create(private=not options.public)
    gone = [name for name in (seen or {}).get("files", ()) if name not in files and name not in BARE]
    url = there.put(files, gone, f"{manifest['method']['name']}: {kind}, card, report and certificate")
    return {"repo": options.repo, "url": url, "private": not options.public, "files": sorted(files)}


def files_of(
    folder: Path,
    place: Path,
    kind: Kind,
    *,
    repo: str | None,
    report: Mapping[str, Any],
    manifest: Mapping[str, Any],
) -> dict[str, Path | bytes]:
    """Return {name in the repository: file or content} of what is published; nothing of DIR/private is among it."""
    files: dict[str, Path | bytes] = {REPORT: folder / REPORT}
    for name in (*SHIPPED, *READERS):
        if (place / name).is_file():
            files[name] = place / name
    for path in (path for pattern in WEIGHTS for path in place.glob(pattern)):
        files[path.name] = path
    for name in (PAGE, ledger.LEDGER):
        if (folder / name).is_file():
            files[name] = folder / name
    model, revision = base_here(folder, manifest)
    if base_id(manifest) is None and model is not None and (base := folder_of(model, revision)) is not None:
        for name in READERS:
            if (base / name).is_file():
                files.setdefault(name, base / name)
    drawn = pictures(report)
    licence = {} if model is None else licence_of(model, revision)
    made = card(report, manifest, repo=repo, kind=kind, licence=licence, pictures=list(drawn))
    return {**files, **drawn, CARD: str(made).encode()}


def base_here(folder: Path, manifest: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return the base model as this machine knows it, and its revision; (None, None) for a local one whose path is lost."""
    request = read_request(folder)
    if request is not None:
        return str(request["request"]["model"]), request["request"].get("revision")
    if manifest["request"]["model"] == SANDBOX:
        return SANDBOX, None
    return base_id(manifest), manifest["request"]["revision"]


def kinds_in(folder: Path) -> list[Kind]:
    """Return what a run's folder holds, the plainest first."""
    return [cast(Kind, name) for name in RESULTS if (folder / name / MANIFEST).is_file()]


def _what(options: Push) -> tuple[Path, Kind, Path]:
    folder = Path(options.run)
    request = read_request(folder)
    if request is None or not request["finished"] or not (folder / REPORT).is_file():
        state = (
            "is no run's folder" if request is None else "holds a run without a report: give its command again first"
        )
        raise OutputError(f"{folder} {state}; a run is pushed with its report or not at all.")
    found = kinds_in(folder)
    if not found or (options.kind and options.kind not in found):
        missing = options.kind or "certified result"
        raise OutputError(f"{folder} holds no {missing}; there is: {', '.join(found) or 'nothing to push'}.")
    kind = options.kind or found[0]
    return folder, kind, folder / kind


def _report(folder: Path, options: Push) -> dict[str, Any]:
    """The report, where it may be shown and vouches for the run."""
    report = read_report(folder)
    if "records" in report:
        raise OutputError(
            f"{folder / REPORT} holds forget rows (--show-records): they must not be published; run it again without."
        )
    why = unverified(report)
    if why and not options.allow_unverified:
        raise OutputError(
            f"{folder} is not pushed: {why}. --allow-unverified pushes it all the same, and the card says so."
        )
    return report


def _check_intact(place: Path) -> None:
    wrong: list[Check] = [
        check for check in verify(Verified(where=str(place))) if check.ok is False and check.name != "base"
    ]
    if wrong:
        said = "; ".join(f"{check.name} {check.words}" for check in wrong)
        raise OutputError(f"{place} is not what was certified: {said}. Run it again, or restore the files.")


def _check_base(manifest: Mapping[str, Any], kind: Kind) -> None:
    """Raise OutputError where an adapter's base is no longer on the Hub: nobody could load it."""
    base = base_id(manifest)
    if kind != "adapter" or base is None:
        return
    revision = manifest["certificate"]["base"]["commit"] or manifest["request"]["revision"]
    if not exists(base, revision):
        at = f" at {revision}" if revision else ""
        raise OutputError(
            f"the base model {base}{at} is not on the Hub: nobody could load the adapter. "
            "Merge it (llm-unlearn merge) and push that with --kind merged."
        )


def _check_other(there: Repository, seen: Mapping[str, Any] | None, folder: Path, options: Push) -> None:
    """Raise OutputError where the repository holds something else than an earlier push of this run, or is seen by others."""
    if seen is None:
        return
    if not seen["private"] and not options.public:
        raise OutputError(f"{options.repo} is there and public: give --public, or another name.")
    if seen["private"] and options.public:
        raise OutputError(
            f"{options.repo} is there and private: make it public in its settings on the Hub, then push again."
        )
    if set(seen["files"]) <= set(BARE):
        return
    if MANIFEST not in seen["files"]:
        raise OutputError(f"{options.repo} holds other content; it is left alone. Give another name.")
    try:
        content = json.loads(there.read(MANIFEST))
        request_id = content["certificate"]["request_id"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise OutputError(f"{options.repo} holds another {MANIFEST}; it is left alone. Give another name.") from error
    known = [each["request_id"] for each in (ledger.read(folder) or {}).get("requests", ())]
    if request_id not in known:
        raise OutputError(f"{options.repo} holds the result of another request; it is left alone. Give another name.")
