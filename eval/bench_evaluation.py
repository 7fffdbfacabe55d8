"""Seconds of a whole TOFU forget evaluation: through the one pass that all figures share, and with a pass for each figure.

    python eval/bench_evaluation.py --data DIR --model M --gold G [--rows 60]

Both sides take every figure that is defined on the forget set, of the same model on the same rows with the same code, and must
find the same values; a pass of its own reads only the rows that its figure needs.  The greedy answers cost both sides the same
and are timed apart; gold is measured before the clock starts.  CPU seconds of this process (wall seconds on a GPU).
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from llm_unlearn import cli

Splits = Mapping[str, Sequence[dict[str, Any]]]
BARE = ("id", "fact", "prompt", "response")  # columns of a row without paraphrase and wrong answers
CHOICES = (
    (False, False),
    (False, True),
    (True, False),
    (True, True),
)  # with paraphrases and wrong answers; with holdout


def main() -> None:
    """Measure both sides and print seconds, passes and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "model", "gold"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--rows", type=int, default=60, help="of the forget set, and as many strangers")
    given = parser.parse_args()
    from llm_unlearn.benchmarks import tofu
    from llm_unlearn.measuring.evaluation import measure

    options = tofu.Options(model=given.model, gold=given.gold, data=given.data)
    read = {name: rows[: given.rows] for name, rows in tofu.read(options)[0].items()}
    # retain rows stand in as the strangers of the loss attack: what it costs, not what it finds, is measured here
    splits = {"forget": read["forget"], "holdout": bare(read["retain"])}
    gold = measure(options.load("gold"), options.reader, splits, generate_on=(), progress=False)
    model = options.load("after")

    def scores(rows: Splits) -> Any:
        return measure(model, options.reader, rows, generate_on=(), progress=False)

    known = scores(splits)
    needs = {name: need for name in names() if (need := needed(name, known, gold)) is not None}

    def each() -> dict[str, float]:
        return {name: value(name, scores(cut(splits, *need)), gold) for name, need in needs.items()}

    def all_at_once() -> dict[str, float]:
        found = scores(splits)
        return {name: value(name, found, gold) for name in needs}

    one, together = clock(all_at_once)
    many, apart = clock(each)
    reader: Any = options.reader
    answers, _ = clock(lambda: reader.generate(model, splits["forget"], max_new_tokens=60))
    largest = max(abs(together[name] - apart[name]) for name in needs)
    print(f"{len(needs)} figures on {given.rows} forget rows: {', '.join(needs)}; largest difference {largest:.0e}")
    print(f"one pass for all {one:.2f} s, one pass a figure {many:.2f} s: ratio {one / many:.2f}")
    told = f"{(one + answers) / (many + answers):.2f}"
    print(f"with the greedy answers ({answers:.2f} s on both sides): ratio {told}")


def names() -> list[str]:
    """Return the figures that are reported on forget."""
    from llm_unlearn import metrics

    return [name for name in metrics.available() if "forget" in metrics.find(name).SPLITS]


def bare(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows without paraphrases and wrong answers."""
    return [{key: row[key] for key in BARE} for row in rows]


def cut(splits: Splits, full: bool, holdout: bool) -> dict[str, Any]:
    """Return the rows that a figure needs."""
    forget = splits["forget"] if full else bare(splits["forget"])
    return {"forget": forget, **({"holdout": splits["holdout"]} if holdout else {})}


def needed(name: str, known: Mapping[str, Any], gold: Mapping[str, Any]) -> tuple[bool, bool] | None:
    """Return the least that a figure needs to have a value; None where these files give it none."""
    from llm_unlearn import metrics

    for full, holdout in CHOICES:
        forget = known["forget"] if full else replace(known["forget"], paraphrase_loss=None, wrong_losses=None)
        scores = {"forget": forget, **({"holdout": known["holdout"]} if holdout else {})}
        if metrics.find(name).score(scores, "forget", gold=gold) is not None:
            return full, holdout
    return None


def value(name: str, scores: Any, gold: Any) -> float:
    """Return a figure on forget."""
    from llm_unlearn import metrics

    found = metrics.find(name).score(scores, "forget", gold=gold)
    return float("nan") if found is None else found.value


def clock(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return seconds and result: CPU time of this process, wall time on a GPU."""
    now = time.perf_counter if torch.cuda.is_available() else time.process_time
    start = now()
    result = work()
    return now() - start, result


if __name__ == "__main__":
    cli.run(main)
