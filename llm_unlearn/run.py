"""What a method is given: data only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from llm_unlearn.data.mnemonic import Codes
from llm_unlearn.errors import DataError
from llm_unlearn.tasks import Row, Task

Splits = Mapping[str, Sequence[Row]]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One unlearning request on one model."""

    model: nn.Module  # wrapped by an adapter, or bare for full fine-tuning
    task: Task
    splits: Splits  # raw rows by split name
    folder: Path  # where phases keep checkpoints and histories
    seed: int = 0
    trainer: Mapping[str, Any] = field(
        default_factory=dict
    )  # extra TrainingArguments: precision, accumulation, checkpointing
    frozen_copy: nn.Module | None = None  # the model before unlearning, where no adapter can be switched off
    codes: Codes | None = None  # the mnemonic codes that the model was trained with
    donor: str | None = None  # whose rows give targeted answers: what shares most with a concept, by its bottleneck
    origin: str | None = None  # the checkpoint before the target's training, for `retrain`

    def rows(self, split: str) -> Sequence[Row]:
        """Return a split's rows; raise DataError where this run has none."""
        if not self.splits.get(split):
            raise DataError(f"this needs the split {split!r}; the run has {', '.join(sorted(self.splits)) or 'none'}.")
        return self.splits[split]
