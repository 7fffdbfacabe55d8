"""U-LiRA: does the unlearned classifier still treat its forget rows as models do that had them and unlearned them?

    python eval/shadows.py --run outputs/pictures                       8 shadows, from the run's gold
    accelerate launch eval/shadows.py --run DIR --shadows 16 --base CHECKPOINT --training.passes 20

Each shadow learns a random half of forget and of unseen rows of its classes with an adapter and has it unlearned by the run's
own method (llm_unlearn/shadows.py).  Prints the figure beside the plain loss attack and writes OUTPUT/shadows.json.  What
the shadows say is kept, so that a second call trains nothing (--cache false: not kept).
"""

import sys
from pathlib import Path

from llm_unlearn import cli
from llm_unlearn.options import read
from llm_unlearn.settings import build


def main() -> None:
    """Make the shadows and print the figures."""
    from llm_unlearn import shadows
    from llm_unlearn.runfolder import is_main

    options = build(shadows.Options, read(sys.argv[1:], __doc__ or "", shadows.Options))
    result = shadows.run(options)
    if is_main():
        print(shadows.table(result))
        print(shadows.write(result, Path(options.output)))


if __name__ == "__main__":
    cli.run(main)
