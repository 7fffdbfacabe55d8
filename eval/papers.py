"""The founding papers' own claims on classifiers, at this machine's scale: every method beside before and gold.

    python eval/papers.py --data DIR                                     seeds 0 1 2, two processes: within the hour on 2 cores
    python eval/papers.py --only "random 15 %" class --seeds 0           some scenarios, one seed
    python eval/papers.py --setups "fashion resnet" --methods nabla_tau  one data set and model, one method
    python eval/papers.py --full                                         all rows, a ResNet-20 on CIFAR-10: hours

Fashion-MNIST (20,000 rows; a small ResNet and a small ViT), CIFAR-10 (10,000 rows of a JPEG copy; a ResNet), AG News and
GoEmotions (a small text encoder), all trained here: a target, and a gold for each set of rows that is forgotten.  What is run
is a table in llm_unlearn/papers/plan.py; what is claimed, in llm_unlearn/papers/claims.py.  Without --full, 256 rows and five
requests run on the first seed alone, and the ViT forgets a class and 15 %, not 3 and 30 %.

Trained models and finished cells stay in --output and are found again, so an interrupted run goes on.  Writes papers.md,
papers.json and papers.png there.  One thread a process; seconds are processor seconds, so other work does not count.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from llm_unlearn import cli, options
from llm_unlearn.errors import RecipeError, nearest
from llm_unlearn.files import write_json, write_text
from llm_unlearn.papers import cells, corpora, pages, plan
from llm_unlearn.settings import build

Work = Callable[[plan.Group, Path, Path], None]


@dataclass(frozen=True, kw_only=True)
class Papers:
    """What to run."""

    data: str | None = None  # the folder of the data sets; LLM_UNLEARN_DATA without it
    only: tuple[str, ...] = ()  # scenarios; all without this
    setups: tuple[str, ...] = ()  # data sets and models; all without this
    methods: tuple[str, ...] = ()  # all without this
    seeds: tuple[int, ...] = (0, 1, 2)
    jobs: int = 2  # processes, one thread each
    full: bool = False  # all rows and longer schedules
    output: str = "outputs/papers"

    def __post_init__(self) -> None:
        """Raise RecipeError for a name that is none, and no process to work in."""
        known = {
            "only": [scenario.name for scenario in plan.SCENARIOS],
            "setups": [setup.name for setup in plan.SETUPS],
            "methods": sorted({entry.method for entry in plan.ENTRIES}),
        }
        for option, names in known.items():
            for name in getattr(self, option):
                if name not in names:
                    raise RecipeError(
                        f"{option}: {name!r} is none{nearest(name, names)}. There are {', '.join(names)}."
                    )
        if self.jobs < 1:
            raise RecipeError(f"jobs: {self.jobs} is too small; it is at least 1.")


def start(log: str) -> None:
    """Prepare a worker process: one thread, and the bars of its fits into a file of its own."""
    import torch

    torch.set_num_threads(1)
    cli.quiet()
    sys.stderr = (Path(log) / f"{os.getpid()}.txt").open("w", encoding="utf-8")


def each(work: Work, groups: Sequence[plan.Group], data: Path, folder: Path, jobs: int, title: str) -> None:
    """Do the work for every group, some at a time; the first failure ends it."""
    log = folder / "log"
    log.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=start, initargs=(str(log),)) as pool:
        waiting = [pool.submit(work, group, data, folder) for group in groups]
        try:
            for done in tqdm(as_completed(waiting), total=len(waiting), desc=title):
                done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def main() -> None:
    """Train and run what is missing, then print and write the tables."""
    given = build(Papers, options.read(sys.argv[1:], __doc__ or "", Papers))
    data, folder = corpora.folder(given.data), Path(given.output)
    groups = plan.groups(given.only, given.setups, given.seeds, given.full, given.methods)
    if not groups:
        raise RecipeError(
            "no method of the plan runs on what was chosen; leave out --only, --setups or --methods, or add --full."
        )
    todo = [group for group in groups if cells.missing(folder, group)]
    if todo:
        targets, golds = models_of(todo)
        each(cells.make_target, targets, data, folder, given.jobs, "targets")
        each(cells.make_gold, golds, data, folder, given.jobs, "golds")
        each(cells.run_group, todo, data, folder, given.jobs, "cells")
    every = pages.scenarios(groups, folder)
    text = pages.page(every)
    write_text(folder / "papers.md", text)
    write_json(folder / "papers.json", pages.content(every))
    pages.picture(every).save(folder / "papers.png")
    print(text)


def models_of(groups: Sequence[plan.Group]) -> tuple[list[plan.Group], list[plan.Group]]:
    """Return a group for each target and for each gold: those that share one must not train it at the same time."""
    targets = {(group.setup.name, group.seed, group.scenario.codes): group for group in groups}
    golds = {(group.setup.name, group.seed, group.scenario.gold): group for group in groups}
    return list(targets.values()), list(golds.values())


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        cli.run(main)
