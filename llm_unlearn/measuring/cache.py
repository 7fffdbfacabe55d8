"""Scores kept on disk by fingerprint: the same model, rows and options are measured once, whoever asks.

A file holds one model on one split, with the answers' text, so it is readable by its owner alone.  Its name is made from the
weights as they were loaded (whatever folder, adapter or revision they came from, in the number format they are run in), the
rows as they are read, the options, the kind of device, and the code: of this package, torch and transformers.
"""

import functools
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from llm_unlearn.errors import OutputError
from llm_unlearn.files import read_json, write_json
from llm_unlearn.goldcache import home
from llm_unlearn.head import unwrapped
from llm_unlearn.runfolder import on_main
from llm_unlearn.scores import Scores
from llm_unlearn.tasks import Row, Task

logger = logging.getLogger(__name__)
PACKAGE = Path(__file__).parents[1]
UNTOLD = ("_name_or_path", "transformers_version")  # of a model's config: where it lay says nothing about what it is


def folder() -> Path:
    """Return where scores are kept for other runs: `private/scores` in LLM_UNLEARN_CACHE or ~/.cache/llm_unlearn."""
    return home() / "private" / "scores"


def of_model(model: nn.Module) -> str:
    """Return a digest of every weight and buffer, of both configs, of which adapter is on, at what scale, and of the device."""
    inner = unwrapped(model)
    digest = hashlib.blake2b(digest_size=20)
    configs = (getattr(inner, name, None) for name in ("config", "generation_config"))
    settings = [
        {name: value for name, value in (config.to_dict() if config else {}).items() if name not in UNTOLD}
        for config in configs
    ]
    kinds = sorted({f"{type(module).__module__}.{type(module).__qualname__}" for module in inner.modules()})
    device = next((weight.device.type for weight in inner.parameters()), None)
    adapters = [
        (name, module.active_adapters, module.disable_adapters, module.merged, getattr(module, "scaling", None))
        for name, module in inner.named_modules()
        if hasattr(module, "active_adapters") and hasattr(module, "disable_adapters") and hasattr(module, "merged")
    ]
    _feed(digest, [settings, kinds, device, adapters, dict(inner.state_dict())])
    return digest.hexdigest()


def of_rows(task: Task, rows: Sequence[Row]) -> str:
    """Return a digest of the rows, of how the task encodes them (chat template), and of what turns tokens into text."""
    digest = hashlib.blake2b(digest_size=20)
    plain = [{name: value for name, value in row.items() if _is_plain(value)} for row in rows]
    backend = getattr(getattr(task, "tokenizer", None), "backend_tokenizer", None)
    words = "" if backend is None else backend.to_str()
    _feed(digest, [task.name, words, plain, task.encode(rows)])
    return digest.hexdigest()


@functools.cache
def of_code() -> str:
    """Return a digest of the package's own source and of the versions it stands on: other code may measure otherwise."""
    digest = hashlib.blake2b(digest_size=20)
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(str(path.relative_to(PACKAGE)).encode() + b"\0" + path.read_bytes())
    _feed(digest, [torch.__version__, transformers.__version__, np.__version__])
    return digest.hexdigest()


def place(folder: Path, split: str, model: str, rows: str, options: Mapping[str, Any]) -> Path:
    """Return the file of one model's scores of one split under these options and this code."""
    digest = hashlib.blake2b(digest_size=20)
    _feed(digest, [of_code(), split, model, rows, dict(options)])
    return folder / f"{digest.hexdigest()}.json"


def get(path: Path) -> Scores | None:
    """Return the scores in a file, the same in every process; None where there is none."""
    content = on_main(lambda: read_json(path))
    return None if content is None else Scores.from_json(content)


def put(path: Path, scores: Scores) -> None:
    """Write scores for their owner's eyes only; where the disk refuses, say so and go on without them."""

    def write() -> None:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_json(path, scores.to_json(text=True), mode=0o600)
        except (OSError, OutputError) as error:
            logger.warning("scores are not kept for later runs: %s", error)

    on_main(write)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(each) for each in value)
    if isinstance(value, dict):
        return all(_is_plain(each) for each in value.values())
    return value is None or isinstance(value, str | int | float)


def _feed(digest: Any, value: Any) -> None:
    """Add a value to the digest, with what keeps its parts apart."""
    if isinstance(value, torch.Tensor):
        digest.update(f"tensor {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    elif isinstance(value, np.ndarray):
        _feed(digest, torch.from_numpy(np.ascontiguousarray(value)))
    elif isinstance(value, dict):
        digest.update(f"dict {len(value)} ".encode())
        for key in sorted(value, key=str):
            _feed(digest, str(key))
            _feed(digest, value[key])
    elif isinstance(value, list | tuple):
        digest.update(f"list {len(value)} ".encode())
        for each in value:
            _feed(digest, each)
    else:
        text = json.dumps(value, default=str, ensure_ascii=False).encode()
        digest.update(f"{type(value).__name__} {len(text)} ".encode() + text)
