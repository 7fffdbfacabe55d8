"""Cut TOFU (Maini et al., 2024, arXiv:2401.06121) into this toolkit's splits.

    python recipes/tofu.py --data DIR_WITH_TOFU --output outputs/tofu/data                 60 authors, for a small model
    python recipes/tofu.py --data DIR_WITH_TOFU --output outputs/tofu/data --whole         all 200 authors

forget is forget10 (20 authors); retain the first 30 authors (or all others); holdout the 10 authors after those, who must be
left out of the target's training (TOFU of early 2024 has no holdout).  Wordings that are never trained: the paraphrased
questions of forget and of the first 20 retained authors.  Nothing is downloaded: DIR holds the JSON lines of locuslab/TOFU.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from llm_unlearn import cli
from llm_unlearn.errors import DataError
from llm_unlearn.files import write_text

Rows = list[dict[str, Any]]
AN_AUTHOR = 20  # rows


def read(folder: Path, name: str) -> Rows:
    """Return the rows of one of TOFU's files."""
    path = folder / f"{name}.json"
    if not path.exists():
        raise DataError(f"{path} is missing: --data must be the folder with the JSON lines of locuslab/TOFU.")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def number(rows: Rows, first_author: int) -> Rows:
    """Return the rows with their author as `subject` and an id and a fact of their own."""
    return [
        {
            **row,
            "id": f"author{author}.{i % AN_AUTHOR}",
            "fact": f"author{author}.{i % AN_AUTHOR}",
            "subject": f"author {author}",
        }
        for i, row in enumerate(rows)
        for author in [first_author + i // AN_AUTHOR]
    ]


def reworded(rows: Rows) -> Rows:
    """Return the rows asked by their paraphrased question."""
    return [
        {
            "id": row["id"] + ".paraphrase",
            "fact": row["fact"],
            "kind": "paraphrase",
            "question": row["paraphrased_question"],
            "answer": row["answer"],
        }
        for row in rows
    ]


def cut(folder: Path, retained: int, holdout: int) -> dict[str, Rows]:
    """Return the splits: `retained` authors kept, the `holdout` authors after them never trained on."""
    full = read(folder, "full")
    forget = number(read(folder, "forget10_perturbed"), 180)
    perturbed = number(read(folder, "retain_perturbed"), 0)
    end = retained * AN_AUTHOR
    retain = [*perturbed, *number(full[len(perturbed) : end], len(perturbed) // AN_AUTHOR)]
    return {
        "forget": forget,
        "forget_heldout": reworded(forget),
        "retain": retain,
        "retain_heldout": reworded(perturbed),
        "holdout": number(full[end : end + holdout * AN_AUTHOR], retained),
    }


def main() -> None:
    """Write a JSON lines file a split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("LLM_UNLEARN_DATA")
    parser.add_argument("--data", default=f"{default}/tofu" if default else None, help="folder with TOFU's JSON lines")
    parser.add_argument("--output", default="outputs/tofu/data")
    parser.add_argument("--whole", action="store_true", help="all authors: 160 retained, 20 left out as holdout")
    given = parser.parse_args()
    if given.data is None:
        raise DataError(
            "no --data: give the folder with TOFU's JSON lines (or set LLM_UNLEARN_DATA to the folder above it)."
        )
    splits = cut(Path(given.data), *((160, 20) if given.whole else (30, 10)))
    Path(given.output).mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        write_text(
            Path(given.output) / f"{name}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        )
        print(f"{name}: {len(rows)} rows")


if __name__ == "__main__":
    cli.run(main)
