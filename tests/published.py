"""A tiny finished run on disk: what the tests of cards, certificates and pushes publish."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from conftest import Bench, learn

from llm_unlearn.api import unlearn

VERDICT = {"forgot": True, "utility_kept": True}


def make_run(bench: Bench, folder: Path, **settings: Any) -> Path:
    """Return the folder of a run made in `folder`, with its base in folder/base and its rows beside that; once made, another
    call with the same settings finds it finished."""
    tokenizer = bench.task.tokenizer  # type: ignore[attr-defined]
    if not (folder / "base").exists():
        for name, model in (("base", bench.target), ("gold", gold_of(bench))):
            model.save_pretrained(folder / name)  # type: ignore[operator]
            tokenizer.save_pretrained(folder / name)
        (folder / "base/README.md").write_text("---\nlicense: mit\n---\n# Base\n")
    for split, rows in bench.splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values: dict[str, Any] = {
        "model": str(folder / "base"),
        "gold": str(folder / "gold"),
        **{split: str(folder / f"{split}.jsonl") for split in bench.splits},
        "method": {
            "name": "grad_diff",
            "training": {"steps": 12, "learning_rate": 5e-3, "forget_batch": 4, "warmup_steps": 2},
        },
        "lora": {"r": 4, "alpha": 8},
        "evaluation": {"suite": "quick"},
        "output": str(folder / "run"),
    }
    words = ["llm-unlearn", "unlearn", "--forget", str(folder / "forget.jsonl"), "--output", str(folder / "run")]
    unlearn(command=words, **{**values, **settings})
    return Path({**values, **settings}["output"])


def gold_of(bench: Bench) -> torch.nn.Module:
    """Return a model that learned the retain rows alone."""
    return learn(bench.task, copy.deepcopy(bench.origin), bench.splits["retain"], steps=60, rate=1e-2)


def vouch(run: Path, **verdict: bool | None) -> None:
    """Write another verdict into a run's report and certify it anew: toy rows are too few for one of their own."""
    from llm_unlearn.files import read_json, write_json
    from llm_unlearn.hub import MANIFEST
    from llm_unlearn.publish import certificate
    from llm_unlearn.recipe import from_values
    from llm_unlearn.runfolder import read_request

    report, request = read_json(run / "report.json"), read_request(run)
    assert report is not None and request is not None
    report["verdict"] |= verdict or VERDICT
    write_json(run / "report.json", report)
    content = read_json(run / "adapter" / MANIFEST) or {}
    bare = {name: value for name, value in content.items() if name not in ("certificate", "digest")}
    recipe = from_values(request["request"])
    from llm_unlearn.prepare import prepare

    certificate.issue(run, run / "adapter", bare, recipe, prepare(recipe).splits["forget"])
