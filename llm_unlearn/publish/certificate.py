"""unlearning.json as a certificate: what was asked, made and measured, in a form that anybody can check again.

It adds to the manifest: a request id, marks of the forgotten rows (`receipt.py`), SHA-256 of the base's files and of all that
was made, the figures beside gold, and its own digest.  The digest finds accidents; against somebody who writes everything anew
there is the receipt, which holds it too, and a detached signature (`signature.py`).
"""

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from tqdm.auto import tqdm

from llm_unlearn.errors import OutputError
from llm_unlearn.files import read_json, write_json
from llm_unlearn.hub import MANIFEST, base_name
from llm_unlearn.loading import checkpoint
from llm_unlearn.manifest import HUB_ID
from llm_unlearn.publish import ledger, receipt
from llm_unlearn.recipe import SANDBOX, Recipe
from llm_unlearn.reporting.report import REPORT, ordered

SCHEMA = 1
WEIGHTS = ("*.safetensors", "*.bin", "*.safetensors.index.json")
DESCRIPTION = ("config.json", "adapter_config.json")
LARGE = 2**30  # bytes from which hashing shows a bar
BLOCK = 2**22  # bytes read at once


def issue(
    folder: Path,
    place: Path,
    content: Mapping[str, Any],
    recipe: Recipe,
    rows: Sequence[Mapping[str, Any]],
    *,
    earlier: Mapping[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write place/unlearning.json, folder/ledger.json and folder/private/receipt.json; return the first's content.

    `content` is the manifest, `rows` the forget rows; folder/report.json and the result in `place` must be there.  `earlier` is the ledger to go on with, `more` what its new entry says beside.
    """
    request_id, issued = str(uuid.uuid4()), ledger.now()
    report = read_json(folder / REPORT)
    if report is None:
        raise OutputError(f"{folder} holds no {REPORT}: the run has not finished; run the same command again.")
    made = {**digests(place), REPORT: digest(folder / REPORT)}
    entry = ledger.entry(request_id, method=str(content["method"]["name"]), rows=len(rows), files=made, **(more or {}))
    ledger.write(folder, ledger.append(earlier, entry))
    made[ledger.LEDGER] = digest(folder / ledger.LEDGER)
    marks, keys = receipt.mark_rows(rows)
    sealed = seal(
        {
            **content,
            "certificate": {
                "schema": SCHEMA,
                "request_id": request_id,
                "issued": issued,
                "rows": {"scheme": "HMAC-SHA256, a random 128-bit key a row, order shuffled", "marks": marks},
                "base": base_of(recipe),
                "files": made,
                "figures": figures(report),
                "verdict": {name: report["verdict"][name] for name in ("forgot", "utility_kept", "changed")},
            },
        }
    )
    write_json(place / MANIFEST, sealed)
    kept = {
        "schema": receipt.SCHEMA,
        "request_id": request_id,
        "issued": issued,
        "digest": sealed["digest"],
        "keys": keys,
    }
    (folder / "private").mkdir(mode=0o700, exist_ok=True)
    write_json(folder / "private" / receipt.RECEIPT, kept, mode=0o600)
    return sealed


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content with its own digest as `digest`."""
    bare = {name: value for name, value in content.items() if name != "digest"}
    bare = json.loads(json.dumps(bare, allow_nan=False))  # as it will be read
    return {**bare, "digest": ledger.digest_of(bare)}


def is_sealed(path: Path) -> bool:
    """Return whether a certificate's file is byte for byte what was written."""
    content = read_json(path)
    if content is None or seal(content) != content:
        return False
    return path.read_bytes() == (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def figures(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the report's figures that have a value, without intervals: name, split, before, after, gold, n."""
    kept = ("name", "split", "before", "after", "gold", "n")
    return [{name: figure[name] for name in kept} for figure in ordered(report["figures"])]


def base_of(recipe: Recipe) -> dict[str, Any]:
    """Return what the base is called in public, its commit on the Hub, and the digests of its files: {} where they are not on
    this machine.  An adapter that the base had before counts as part of it."""
    folder = folder_of(recipe.model, recipe.revision)
    commit = folder.name if folder is not None and folder.parent.name == "snapshots" else None
    files = {} if folder is None else digests(folder)
    if recipe.adapter and (first := folder_of(recipe.adapter)) is not None:
        files |= {f"adapter/{name}": each for name, each in digests(first).items()}
    return {"name": base_name(recipe), "revision": recipe.revision, "commit": commit, "files": files}


def folder_of(model: str, revision: str | None = None) -> Path | None:
    """Return the folder with a model's files: itself, the sandbox's, or the Hub's cache; None where there is none."""
    path = Path(checkpoint(model) if model == SANDBOX else model)
    if path.is_dir():
        return path
    if not HUB_ID.fullmatch(model):
        return None
    for name in DESCRIPTION:
        found = try_to_load_from_cache(model, name, revision=revision)
        if isinstance(found, str):
            return Path(found).parent
    return None


def digests(folder: Path) -> dict[str, dict[str, Any]]:
    """Return {file: {sha256, bytes}} of the weights and configurations in a folder."""
    named = {path for pattern in (*WEIGHTS, *DESCRIPTION) for path in folder.glob(pattern) if path.is_file()}
    large = sum(path.stat().st_size for path in named) > LARGE
    return {path.name: digest(path) for path in tqdm(sorted(named), desc="digests", disable=not large)}


def digest(path: Path) -> dict[str, Any]:
    """Return a file's SHA-256 in hex, and its bytes."""
    sha, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            sha.update(block)
            size += len(block)
    return {"sha256": sha.hexdigest(), "bytes": size}
