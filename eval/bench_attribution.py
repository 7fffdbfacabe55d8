"""Integrated Gradients: how complete they are, and seconds for 100 rows, on an LM, a text classifier, a ViT and a ResNet.

    python eval/bench_attribution.py               100 rows each, 32 steps on the path
    python eval/bench_attribution.py --rows 20 --steps 64

The embedded sandbox's models; the ViT is trained on the embedded pictures first, which is not counted.  `first` is the worst
completeness error with the steps asked for; rows above 5 % are done again with twice the steps, which the seconds include,
and `worst` is what is left.  Seconds are processor seconds of one thread.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageClassification, AutoModelForSequenceClassification

from llm_unlearn import cli, options, settings
from llm_unlearn.concepts.attribution import attribute
from llm_unlearn.fresh_classifiers import for_pictures, new_vit
from llm_unlearn.run import Run
from llm_unlearn.sandbox import models, pictures, texts, world
from llm_unlearn.schedule import Schedule
from llm_unlearn.tasks import CausalLM, ImageClassifier, Row, SequenceClassifier, Task
from llm_unlearn.train import train

Case = tuple[nn.Module, Task, Sequence[Row]]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    rows: int = 100
    steps: int = 32
    batch_size: int = 16
    vit_steps: int = 300  # of the ViT's training
    seed: int = 0


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every case and print the table."""
    given = settings.build(Options, options.read(sys.argv[1:] if argv is None else argv, __doc__ or "", Options))
    torch.set_flush_denormal(True)
    print("| model | rows | seconds | first error, worst | worst | median | rows done again | most steps |")
    print("| --- " + "| ---: " * 7 + "|")
    for name, make in CASES.items():
        model, task, rows = make(given)
        print("| " + " | ".join([name, *measured(model.eval(), task, rows[: given.rows], given)]) + " |", flush=True)


def measured(model: nn.Module, task: Task, rows: Sequence[Row], given: Options) -> list[str]:
    """Return the cells of a line."""
    examples = task.encode([dict(row) for row in rows])
    shape: dict[str, Any] = {"steps": given.steps, "batch_size": given.batch_size}
    first = max(one.error for one in attribute(model, task, examples, tolerance=float("inf"), **shape))
    start = time.process_time()
    found = attribute(model, task, examples, **shape)
    seconds = time.process_time() - start
    errors = sorted(one.error for one in found)
    again = sum(one.steps > given.steps for one in found)
    shares = [f"{value:.2%}" for value in (first, errors[-1], errors[len(errors) // 2])]
    return [str(len(found)), f"{seconds:.1f}", *shares, str(again), str(max(one.steps for one in found))]


def language(given: Options) -> Case:
    """Return the sandbox's language model with its forget rows."""
    model = AutoModelForCausalLM.from_pretrained(models.path("target"), dtype=torch.float32)
    return model, CausalLM(tokenizer=models.tokenizer(), max_length=128), world.splits()["forget"]


def sentences(given: Options) -> Case:
    """Return the sandbox's text classifier with its training rows."""
    model = AutoModelForSequenceClassification.from_pretrained(texts.path("target"), dtype=torch.float32)
    task = SequenceClassifier(tokenizer=texts.tokenizer(), max_length=texts.SIZE.context)
    return model, task, texts.corpus()["train"]


def residual(given: Options) -> Case:
    """Return the sandbox's residual network with its training rows."""
    model = AutoModelForImageClassification.from_pretrained(pictures.path("target"))
    rows = pictures.rows("train")
    return model, ImageClassifier(processor=for_pictures(rows)[1]), rows


def patches(given: Options) -> Case:
    """Return a vision transformer trained on the embedded pictures."""
    rows = pictures.rows("train")
    task = ImageClassifier(processor=for_pictures(rows)[1])
    model = new_vit(len(pictures.CLASSES), side=pictures.SIDE, channels=1, seed=given.seed)
    schedule = Schedule(steps=given.vit_steps, forget_batch=64, learning_rate=2e-3)
    with tempfile.TemporaryDirectory() as work:
        train(Run(model=model, task=task, splits={}, folder=Path(work), seed=given.seed), rows, schedule)
    return model, task, rows


CASES: dict[str, Callable[[Options], Case]] = {
    "sandbox LM": language,
    "text classifier": sentences,
    "ResNet": residual,
    "ViT": patches,
}


if __name__ == "__main__":
    cli.run(main)
