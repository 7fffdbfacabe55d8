"""Checks a certificate again: are base, result, report and ledger what was certified, is a row in it, does it still hold?"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llm_unlearn.errors import DataError, OutputError, UnlearnError
from llm_unlearn.files import read_json
from llm_unlearn.hub import ADAPTER, MANIFEST, MODEL, RESULTS
from llm_unlearn.manifest import HUB_ID
from llm_unlearn.measuring.verdict import TOLERANCE
from llm_unlearn.publish import certificate, ledger, receipt, signature
from llm_unlearn.recipe import SANDBOX
from llm_unlearn.runfolder import PRIVATE, read_request
from llm_unlearn.tasks import Row

WORDS = {True: "ok", False: "FAILED", None: "not checked"}
SLACK = 0.02  # by which a figure measured again may differ: other hardware, other batches
ROUNDED = TOLERANCE["extraction_strength"]  # of rounded weights, certified before rounding: what their export allows


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at; `ok` is None where it could not be."""

    name: str
    ok: bool | None
    words: str

    def to_json(self) -> dict[str, Any]:
        """Return the check as plain values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `verify` looks at."""

    where: str  # a run's folder, a folder with unlearning.json, or a Hub id
    row: str | None = None  # a row's text, or a JSON object with its prompt and response
    rows: str | None = None  # a file of rows
    receipt: str | None = None  # the requester's receipt.json
    base: str | None = None  # the base model, where it lies elsewhere than the certificate says
    signer: str | None = None  # the OpenSSH public key that must have signed
    measure: bool | None = (
        None  # measure the quick suite again, or fail; false: not. Without it: where rows and base are at hand and nothing differs
    )
    forget: str | None = None  # rows for that, where `where` is no run on this machine
    retain: str | None = None

    def __post_init__(self) -> None:
        """Raise DataError where a row is given without a receipt or the other way round."""
        if bool(self.row or self.rows) != bool(self.receipt):
            raise DataError("a row is checked against a receipt: give both, --row (or --rows) and --receipt.")


def verify(options: Options) -> list[Check]:
    """Return the checks; raise OutputError where there is no certificate to check."""
    place = find(options.where)
    content = read_json(place / MANIFEST)
    sealed = content is not None and certificate.is_sealed(place / MANIFEST)
    words = "its digest is its own" if sealed else f"{MANIFEST} differs from what was written"
    checks = [Check(name="certificate", ok=sealed, words=words)]
    if content is None or not isinstance(content.get("certificate"), Mapping):
        if content is not None and sealed is False and "digest" not in content:
            raise OutputError(
                f"{place / MANIFEST} holds no certificate: it was made by an older version; run it again."
            )
        return checks
    try:
        sealed_content = content["certificate"]
        checks += [*_files(place, sealed_content["files"]), *_ledger(place), _base(place, content, options)]
        checks += [*_signature(place, options), *_held(place, content), *_rows(sealed_content, options)]
    except (KeyError, TypeError, AttributeError):  # a certificate that was changed need not have all its parts
        return [*checks, Check(name="contents", ok=False, words=f"{MANIFEST} lacks parts that every certificate has")]
    if options.measure or (options.measure is None and not any(check.ok is False for check in checks)):
        checks += _measured(place, content, options)
    return checks


def _measured(place: Path, content: Mapping[str, Any], options: Options) -> list[Check]:
    """The certified figures, measured again; what stops it is an error only where they were asked for."""
    from llm_unlearn.publish.remeasure import measured_again

    try:
        return measured_again(place, content, options)
    except UnlearnError as error:
        if options.measure:
            raise
        return [Check(name="figures", ok=None, words=f"not measured: {error}")]


def find(where: str) -> Path:
    """Return the folder with unlearning.json: `where`, its adapter or model, or what the Hub holds under that id."""
    folder = Path(where)
    if not folder.exists():
        if not HUB_ID.fullmatch(where):
            raise OutputError(f"{where} is neither a folder nor a Hub id.")
        from llm_unlearn.publish.remote import download

        folder = download(where)
    for place in (folder, *(folder / name for name in RESULTS)):
        if (place / MANIFEST).is_file():
            return place
    raise OutputError(
        f"{where} holds no {MANIFEST}: give a finished run's folder, or a repository that was pushed from one."
    )


def path_of(place: Path, name: str) -> Path:
    """Return where a certified file lies: beside unlearning.json, or in the run's folder above."""
    return place / name if (place / name).exists() or place.name not in RESULTS else place.parent / name


def _files(place: Path, certified: Mapping[str, Any]) -> list[Check]:
    """One check for each certified file, and one for weights that nobody certified."""
    checks = []
    for name, expected in certified.items():
        path = path_of(place, name)
        found = certificate.digest(path) if path.is_file() else None
        words = (
            f"sha256 {expected['sha256'][:16]}…" if found == expected else "is missing" if found is None else "differs"
        )
        checks.append(Check(name=name, ok=found == expected, words=words))
    more = sorted(set(certificate.digests(place)) - set(certified))
    if more:
        checks.append(Check(name="other weights", ok=False, words=f"{', '.join(more)}: not in the certificate"))
    return checks


def _ledger(place: Path) -> list[Check]:
    path = path_of(place, ledger.LEDGER)
    try:
        content = ledger.read(path.parent)
        broken = None if content is None else ledger.broken_at(content)
    except (OutputError, AttributeError) as error:
        return [Check(name="ledger's chain", ok=False, words=str(error))]
    if content is None:
        return []
    count = len(content["requests"])
    words = (
        f"{count} request{'s' if count != 1 else ''} in order" if broken is None else f"broken at request {broken + 1}"
    )
    return [Check(name="ledger's chain", ok=broken is None, words=words)]


def _base(place: Path, content: Mapping[str, Any], options: Options) -> Check:
    """Are the base's files those that were unlearned from?"""
    base = content["certificate"]["base"]
    expected = {name: each for name, each in base["files"].items() if not name.startswith("adapter/")}
    model, revision = options.base or _model_of(place, content), base["commit"] or base["revision"]
    folder = None if model is None else certificate.folder_of(model, revision)
    if folder is None or not expected:
        why = "its digests were not taken" if not expected else "its files are not on this machine: give --base"
        return Check(name="base", ok=None, words=f"{base['name']}: {why}")
    found = certificate.digests(folder)
    differing = [name for name, each in expected.items() if found.get(name) != each]
    if not differing:
        return Check(name="base", ok=True, words=f"{base['name']}: {len(expected)} files as certified")
    at = f" (commit {base['commit']})" if base["commit"] else ""
    words = f"{', '.join(differing)} of {base['name']} differ: the result was made for another revision{at}"
    return Check(name="base", ok=False, words=words)


def _model_of(place: Path, content: Mapping[str, Any]) -> str | None:
    """The base as this machine may know it: the run's own setting, the sandbox, a Hub id."""
    request = read_request(place.parent) if place.name in RESULTS else None
    if request is not None:
        return str(request["request"]["model"])
    name = str(content["request"]["model"])
    return name if name == SANDBOX or HUB_ID.fullmatch(name) else None


def _signature(place: Path, options: Options) -> list[Check]:
    """The signature, where there is one or one is asked for."""
    file = place / MANIFEST
    there = file.with_name(file.name + signature.ENDING).is_file()
    if not there:
        missing = Check(name="signature", ok=False, words=f"{MANIFEST}{signature.ENDING} is missing")
        return [missing] if options.signer else []
    if options.signer:
        good = signature.is_by(file, Path(options.signer))
        return [Check(name="signature", ok=good, words=f"{'by' if good else 'not by'} {options.signer}")]
    key = signature.signed_by(file)
    words = (
        "is not this certificate's"
        if key is None
        else f"by the key {key}: compare it with the one you trust (--signer)"
    )
    return [Check(name="signature", ok=key is not None, words=words)]


def _held(place: Path, content: Mapping[str, Any]) -> list[Check]:
    """The digest in the run's own receipt, where it lies here."""
    kept = read_json(place.parent / PRIVATE / receipt.RECEIPT) if place.name in (ADAPTER, MODEL) else None
    return [] if kept is None else [_against(kept, content["certificate"], content["digest"], "receipt in private/")]


def _against(kept: Mapping[str, Any], sealed: Mapping[str, Any], digest: str, name: str) -> Check:
    if kept.get("request_id") != sealed["request_id"]:
        return Check(name=name, ok=False, words="belongs to another request")
    same = kept.get("digest") == digest
    return Check(name=name, ok=same, words="holds this certificate's digest" if same else "holds another digest")


def _rows(sealed: Mapping[str, Any], options: Options) -> list[Check]:
    """Is each row that was given one of those that were to be forgotten?"""
    if options.receipt is None:
        return []
    kept = receipt.read_receipt(options.receipt)
    if kept["request_id"] != sealed["request_id"]:
        return [Check(name="receipt", ok=False, words="belongs to another request")]
    rows: Sequence[Row] = [receipt.row_of(options.row)] if options.row else []
    if options.rows:
        from llm_unlearn.data.sources import load

        rows = [*rows, *load(options.rows)]
    marks = sealed["rows"]["marks"]
    found = [receipt.was_in(row, marks, kept) for row in rows]
    names = [f"row {number}" if len(rows) > 1 else "row" for number in range(1, len(rows) + 1)]
    said = {True: "was in the request", False: "was not in the request, or is worded otherwise"}
    return [Check(name=name, ok=ok, words=said[ok]) for name, ok in zip(names, found, strict=True)]


def table(checks: Sequence[Check]) -> str:
    """Return the checks as lines of text."""
    width = max(len(check.name) for check in checks)
    return "\n".join(f"{check.name.ljust(width)}  {WORDS[check.ok]:<11}  {check.words}" for check in checks)
