"""What is installed, what device there is, and what is missing for what.  Nothing is loaded but torch."""

import ast
import importlib.util
import os
import shutil
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

PACKAGE = "llm-unlearn"
PROGRAMS = {"ssh-keygen": "signing certificates and checking signatures"}
EXTRAS = {
    "tcav": "captum's own TCAV classifier",
    "harness": "lm-evaluation-harness tasks",
    "quant": "the quantisation schemes nf4 and bnb-int8",
    "track": "training curves in TensorBoard",
}


def first_lines(folder: str) -> dict[str, str]:
    """Return {name: first line of its docstring} of the files in a folder of this package; nothing is imported."""
    files = sorted(path for path in (Path(__file__).parents[1] / folder).glob("*.py") if not path.stem.startswith("_"))
    docs = {path.stem: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "" for path in files}
    return {name: (doc.splitlines() or [""])[0] for name, doc in docs.items()}


def examined() -> dict[str, Any]:
    """Return what was found: versions (None where missing), device, extras, programs, Hub and faults in words."""
    needed = _requirements()
    found = {name: _version(name) for name in needed[""]}
    wrong = [_fault(name, text, found[name]) for name, text in needed[""].items()]
    extras = {extra: {name: _version(name) for name in needed.get(extra, {})} for extra in EXTRAS if needed.get(extra)}
    return {
        "versions": {PACKAGE: _version(PACKAGE), **found},
        "device": _device(),
        "extras": extras,
        "programs": {name: shutil.which(name) is not None for name in PROGRAMS},
        "hub": _hub(),
        "faults": [words for words in wrong if words],
    }


def _requirements() -> dict[str, dict[str, str]]:
    """What the package says it needs, by extra ("" for always): {name: requirement}."""
    out: dict[str, dict[str, str]] = {"": {}}
    try:
        listed = metadata(PACKAGE).get_all("Requires-Dist") or []
    except PackageNotFoundError:  # run from a checkout that is not installed
        listed = []
    for text in listed:
        need = Requirement(text)
        extras = [name for name in EXTRAS if need.marker is not None and need.marker.evaluate({"extra": name})]
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            extras = [""]
        for extra in extras:
            out.setdefault(extra, {})[need.name] = str(need.specifier)
    return out


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _fault(name: str, wanted: str, there: str | None) -> str:
    if there is None:
        return f"{name} is missing: pip install {name}"
    fits = Requirement(f"{name}{wanted}").specifier.contains(there, prereleases=True)
    return "" if fits else f"{name} {there} is not {wanted}: pip install '{name}{wanted}'"


def _device() -> dict[str, Any]:
    """The accelerator, or the processor and its threads."""
    if importlib.util.find_spec("torch") is None:
        return {"kind": None, "words": "torch is not installed"}
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        bf16 = torch.cuda.is_bf16_supported()
        return {"kind": "cuda", "words": f"{', '.join(names)}{', with bf16' if bf16 else ''}"}
    if torch.backends.mps.is_available():
        return {"kind": "mps", "words": "Apple GPU"}
    return {
        "kind": "cpu",
        "words": f"no accelerator; {torch.get_num_threads()} threads of {os.cpu_count()} processors",
    }


def _hub() -> dict[str, Any]:
    """Where the Hub is and whether there is a token; never the token itself."""
    from huggingface_hub import constants, get_token

    return {
        "endpoint": constants.ENDPOINT,
        "token": get_token() is not None,
        "offline": bool(constants.HF_HUB_OFFLINE),
    }


def told(found: dict[str, Any]) -> str:
    """Return the findings as text."""
    lines = [f"{name}: {there or 'missing'}" for name, there in found["versions"].items()]
    lines.append(f"device: {found['device']['words']}")
    for extra, parts in found["extras"].items():
        missing = [name for name, there in parts.items() if there is None]
        state = f"missing {', '.join(missing)}: pip install 'llm-unlearn[{extra}]'" if missing else "there"
        lines.append(f"{EXTRAS[extra]} [{extra}]: {state}")
    lines += [
        f"{PROGRAMS[name]} ({name}): {'there' if there else 'missing'}" for name, there in found["programs"].items()
    ]
    hub = found["hub"]
    token = "there" if hub["token"] else "none (pushing needs one: hf auth login)"
    lines.append(
        f"Hub: {hub['endpoint']}{', switched off by HF_HUB_OFFLINE' if hub['offline'] else ''}; token: {token}"
    )
    return "\n".join([*lines, *(f"fault: {words}" for words in found["faults"])] or ["nothing found"])
