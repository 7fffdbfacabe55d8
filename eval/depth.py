"""How deep is it gone?  The unlearning depth score (arXiv:2605.24614): are the facts still in the hidden states?

    python eval/depth.py --run outputs/quillmere                          before, after and gold are the run's
    python eval/depth.py --model M --adapter A --gold G --forget rows.jsonl --retain rows.jsonl
    accelerate launch eval/depth.py --run DIR                             rows shared out among the processes

Prints the score of `after` (0: wholly recoverable, as in before; 1: gone as in gold), and layer by layer how much of what gold
lacks is missing.  Writes OUTPUT/depth.json, and each row's number to OUTPUT/private.  The rows
of `retain` are a control: what gold's states cost the model there is no knowledge that was to be forgotten.  Without gold there
is no score, and it says so.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_unlearn import cli, options
from llm_unlearn.errors import DataError, RecipeError
from llm_unlearn.files import write_json
from llm_unlearn.loading import load_task
from llm_unlearn.measuring.depth import TAU, Depth, DepthScore, check_tokenizers
from llm_unlearn.runfolder import PRIVATE, is_main
from llm_unlearn.settings import build
from llm_unlearn.subject import Subject
from llm_unlearn.tasks import Row


@dataclass(frozen=True, kw_only=True)
class DepthOptions(Subject):
    """What to score, and on how many rows."""

    tau: float = TAU  # nats that gold's states must cost before a layer counts (arXiv:2605.24614)
    rows: int = 0  # rows of forget, drawn; 0: all
    control: int = 200  # rows of retain, drawn, to see what gold's states cost where nothing was forgotten; 0: none


def main() -> None:
    """Score, print and write."""
    given = build(DepthOptions, options.read(sys.argv[1:], __doc__ or "", DepthOptions))
    if "before" not in given.names:
        raise RecipeError("the model before unlearning is missing: give --adapter (without it is before) or --before.")
    forget = _drawn(given.splits.get("forget", []), given.rows, given.seed)
    control = _drawn(given.splits.get("retain", []), given.control, given.seed) if given.control else []
    if not forget:
        raise DataError("no rows to score: give --run, or --forget with a file of rows.")
    found = {"forget": forget, "retain": control} if control else {"forget": forget}
    scores = _scores(given, found) if "gold" in given.names else {}
    if is_main():
        _write(given, found, scores)
        print(_table(scores) if scores else "unlearning depth: not measured: needs gold (--gold)")
        print(f"{given.output}/depth.json")


def _write(given: DepthOptions, splits: dict[str, list[Row]], scores: dict[str, DepthScore]) -> None:
    """Write the scores; each row's own number and id go into a file that only the owner reads."""
    folder = Path(given.output)
    (folder / PRIVATE).mkdir(parents=True, exist_ok=True, mode=0o700)
    content: dict[str, Any] = {"figure": "unlearning_depth", "tau": given.tau, "seed": given.seed}
    content["subject"] = given.run or {"model": given.model, "adapter": given.adapter, "gold": given.gold}
    content |= {split: scores[split].to_json() if split in scores else None for split in splits}
    write_json(folder / "depth.json", content)
    rows = {
        split: [
            {"id": str(row.get("id", i)), "depth": value}
            for i, (row, value) in enumerate(zip(splits[split], score.rows_to_json(), strict=True))
        ]
        for split, score in scores.items()
    }
    write_json(folder / PRIVATE / "depth_rows.json", rows, mode=0o600)


def _drawn(rows: list[Row], count: int, seed: int) -> list[Row]:
    """Return `count` rows drawn without replacement, in row order; all of them where count is 0 or more than there are."""
    if not count or count >= len(rows):
        return rows
    return [rows[i] for i in sorted(np.random.default_rng(seed).choice(len(rows), count, replace=False))]


def _scores(given: DepthOptions, splits: dict[str, list[Row]]) -> dict[str, DepthScore]:
    task, before = given.reader, given.load("before")
    try:
        reader_of_gold = load_task(given.recipe, str(given.recipe.gold))
    except DataError:
        pass  # saved without its tokenizer: the sizes of the vocabularies are compared all the same
    else:
        check_tokenizers(task, reader_of_gold, "gold")
    gold = given.load("gold")
    depths = {
        split: Depth(before, gold, task, rows, batch_size=given.batch_size, tau=given.tau, lenders=given.splits[split])
        for split, rows in splits.items()
    }
    del gold
    after = given.load("after")
    return {split: depth.score(after) for split, depth in depths.items()}


def _table(scores: dict[str, DepthScore]) -> str:
    """Return the score beside its two ends, the layers, and what the control says."""
    lines = [
        "| split | before | after | gold | 95 % interval of after | n | left out |",
        "|---|---|---|---|---|---|---|",
    ]
    for split, score in scores.items():
        content = score.to_json()
        interval = "-" if content["interval"] is None else "{:.3f} - {:.3f}".format(*content["interval"])
        value = "-" if score.value is None else f"{score.value:.3f}"
        lines.append(f"| {split} | 0 | {value} | 1 | {interval} | {score.n} | {sum(score.left_out.values())} |")
    lines += ["", "| block | nats that gold's states cost: " + " | ".join(scores) + " | erasure ratio on forget | n |"]
    lines.append("|---" * (len(scores) + 3) + "|")
    for number, layer in enumerate(scores["forget"].layers):
        gaps = " | ".join(f"{score.layers[number].gap:.2f}" for score in scores.values())
        ratio = "-" if layer.erasure is None else f"{layer.erasure:.2f}"
        lines.append(f"| {number} | {gaps} | {ratio} | {layer.n} |")
    spans = ", ".join(f"{count} by {source}" for source, count in scores["forget"].spans.items())
    lines += ["", f"0 and 1 are before's and gold's by definition. Spans of forget: {spans}."]
    if "retain" in scores:
        cost = [np.mean([layer.gap for layer in scores[split].layers]) for split in ("forget", "retain")]
        lines.append(
            f"Control: gold's states cost {cost[1]:.2f} nats on retain against {cost[0]:.2f} on forget. The nearer the two, "
            "the less of the gap is knowledge: gold and before then do not share a basis (they were trained apart)."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
