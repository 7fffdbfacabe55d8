"""Two teachers: one that knows nothing on forget, the model before on retain (Chundawat et al., 2023, arXiv:2205.08096), eq. 2.

L = w KL(incompetent || model) on forget + KL(before || model) on retain
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from peft import PeftModel
from torch import Tensor, nn

from llm_unlearn.data.requests import removed_classes
from llm_unlearn.data.splits import kept
from llm_unlearn.decisions import Decisions
from llm_unlearn.errors import RecipeError
from llm_unlearn.fit import Batches, Module, Objective, Progress, Schedule, Stop, Terms
from llm_unlearn.fresh_classifiers import drawn
from llm_unlearn.head import unwrapped
from llm_unlearn.method import LossMethod
from llm_unlearn.reference import reference_logits
from llm_unlearn.relabel import classifies
from llm_unlearn.run import Run
from llm_unlearn.tasks import IGNORE, Batch


@dataclass(frozen=True, kw_only=True)
class BadTeacher(LossMethod):
    """The incompetent teacher is the classifier itself, untrained; of a causal LM it knows how often words are said.

    Differs from the paper: where whole classes go, the teacher gives them nothing, since an untrained model may happen to name
    just these.  And an untrained language model says any word, so its student would babble.
    """

    paper: ClassVar[str] = "arXiv:2205.08096"
    forget_weight: float = 1.0  # the paper's
    temperature: float = 1.0  # the authors'
    training: Schedule = Schedule()
    stop: Stop = Stop(gate=False)  # the teacher's doubt is where a row's term ends; the thermostat says when all do

    def objective(self, run: Run) -> Objective:
        """Return the two terms; both teachers' logits are taken inside the step, on the batch at hand."""
        incompetent = Ignorance(run)

        def terms(model: Module, batch: Batches, progress: Progress) -> Terms:
            forget, retain = run.task.streams(model, batch, logits=True)
            target = reference_logits(model, run.task, batch["retain"], run.frozen_copy)  # [N, C]
            away = forget.divergence_from(incompetent.logits(batch["forget"], forget), self.temperature)  # [N]
            if not classifies(run.task):
                away = away * progress.still_known(forget)
            near = retain.divergence_from(target, self.temperature)
            return {
                "forget": self.forget_weight * progress.gated(forget.per_example(away, "mean"), forget),
                "retain": retain.per_example(near, "mean").mean(),
            }

        return terms


class Ignorance:
    """The incompetent teacher of one run."""

    def __init__(self, run: Run) -> None:
        """Make the teacher: an untrained twin of a classifier, or the log frequencies of a causal LM's kept words."""
        self.run = run
        self.gone = sorted(removed_classes(run.splits, kept(run.splits))) if classifies(run.task) else []
        self.model = untrained(run.model, run.seed) if classifies(run.task) else None
        self.words: Tensor | None = None  # [C] nats

    @torch.no_grad()
    def logits(self, batch: Batch, forget: Decisions) -> Tensor:
        """Return what the teacher makes of the batch [N, C]."""
        if self.model is None:
            if self.words is None:
                self.words = self._frequencies(forget.logits.shape[-1])
            return self.words.to(forget.logits.device).expand_as(forget.logits)
        found = self.run.task.decisions(self.model.to(forget.logits.device), batch, logits=True).logits
        found[:, self.gone] = -1e4  # nats: nothing, and no infinity whose difference is not a number
        return found

    def _frequencies(self, words: int) -> Tensor:
        said = [label for example in self.run.task.encode(kept(self.run.splits)) for label in example["labels"]]
        counts = torch.bincount(torch.tensor([word for word in said if word != IGNORE]), minlength=words)
        return (counts + 1.0).log()  # one of each, so that none is impossible


def untrained(model: nn.Module, seed: int) -> nn.Module:
    """Return a classifier of the model's class and configuration with new weights; raise RecipeError where it has none."""
    inner = unwrapped(model)
    inner = inner.get_base_model() if isinstance(inner, PeftModel) else inner
    config = getattr(inner, "config", None)
    if config is None:
        raise RecipeError(
            f"bad_teacher needs an untrained {type(inner).__name__}, and it has no configuration to make one from; choose "
            "another method, such as random_label."
        )
    return drawn(lambda: type(inner)(config), seed).eval().requires_grad_(False)
