"""Ordinary training on rows: how targets, their golds and the method `retrain` are made, all by this one function."""

from collections.abc import Sequence

from llm_unlearn.data.mnemonic import Codes, Mixing
from llm_unlearn.fit import Batches, Module, Progress, Schedule, Terms, fit
from llm_unlearn.run import Run
from llm_unlearn.tasks import Row

TRAINING = Schedule(
    passes=10.0,
    least_steps=1,
    forget_batch=64,
    warmup_steps=50,
    decay="cosine",
    weight_decay=0.01,
    group_by_length=True,
)


def train(run: Run, rows: Sequence[Row], schedule: Schedule = TRAINING, codes: Codes | None = None) -> None:
    """Minimise the rows' mean loss, changing `run.model`'s trainable weights; resumes like every fit.

    With `codes`, some draws of a row are its unit's code instead.
    """
    mix = None if codes is None else Mixing(codes, run.task, rows, run.seed)

    def terms(model: Module, batch: Batches, progress: Progress) -> Terms:
        (rows_of_step,) = run.task.streams(model, batch)
        return {"loss": rows_of_step.mean_nll().mean()}

    fit(run, {"train": rows}, terms, schedule=schedule, phase="train", dropout=True, mix=mix)
