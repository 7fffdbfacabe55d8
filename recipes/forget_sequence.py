"""Forget one deletion request after the other, and check that no later one brings an earlier one back.

    accelerate launch recipes/forget_sequence.py                                  the embedded sandbox: three people, one by one
    accelerate launch recipes/forget_sequence.py --model M --data rows.jsonl --requests monday.txt tuesday.txt --output DIR
    accelerate launch recipes/forget_sequence.py --task image_classifier --model M --data D --test T --requests a.txt b.txt
    ... --method npo --method.beta=0.1                                            any method; instance_wise without this

A request is a file of row ids, one a line (or a CSV, JSON or JSONL file with a column `id`).  DIR/request-1, DIR/request-2, ... are
ordinary runs; DIR/continual.json and DIR/continual.md say what every request still knows after each.  Started again, it goes on.
"""

import sys
from pathlib import Path

from llm_unlearn import cli, options
from llm_unlearn.settings import build


def main() -> None:
    """Run the sequence, then print the table and what came back."""
    from llm_unlearn.sequence import Requests

    asked = build(Requests, options.read(sys.argv[1:], __doc__ or "", Requests))
    from llm_unlearn.continual import TABLE, table
    from llm_unlearn.runfolder import is_main

    record = asked.run(say=print)
    if is_main():
        print(table(record))
        for each in record["came_back"]:
            print(
                f"request {each['request']} came back: {each['right']:.3f} of its rows are right after request {each['after']}, "
                f"{each['right_after_its_own']:.3f} after its own"
            )
        print(Path(asked.output) / TABLE)


if __name__ == "__main__":
    cli.run(main)
