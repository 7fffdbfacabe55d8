"""Finished runs side by side: one table and one picture, forget against utility, from their reports alone.

    python eval/compare.py outputs/table/*                       comparison.md, .csv, .png and attacks.csv in outputs/comparison
    python eval/compare.py RUN RUN --forget exact_memorisation@forget_heldout --utility exact_answer@retain
    python eval/compare.py outputs/*/* --force                   also runs on other rows or beside another gold

comparison.md holds a short table, every figure on every split for before, each method and gold, and every attack on runs that
`eval/attack.py --run` attacked.  No model is loaded.  Runs that were measured on other rows, or beside another model before or another gold, are refused.
"""

import argparse
from pathlib import Path

from llm_unlearn import cli
from llm_unlearn.reporting import compare


def main() -> None:
    """Read the reports, print the table and write table and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="folders of finished runs")
    parser.add_argument("--output", default="outputs/comparison")
    text, classes = compare.AXES
    parser.add_argument("--forget", help=f"figure@split upward (default: {text[0]}, of classifiers {classes[0]})")
    parser.add_argument("--utility", help=f"figure to the right (default: {text[1]}, of classifiers {classes[1]})")
    parser.add_argument("--force", action="store_true", help="put runs side by side that can't be compared")
    given = parser.parse_args()
    runs, without = compare.read(given.runs)
    if without:
        print(f"left out, no finished run: {', '.join(without)}")
    if not given.force:
        compare.refuse(runs)
    paths = compare.write(Path(given.output), runs, forget=given.forget, utility=given.utility)
    print(paths[0].read_text(encoding="utf-8"))
    print("\n".join(str(path) for path in paths))


if __name__ == "__main__":
    cli.run(main, models=False)
