"""Concept inference and data poisoning (Chang et al., 2024, arXiv:2405.15662; the authors' code for language models).

The target's own answers to the forget questions are attributed to words (Integrated Gradients); the words that carry them
are replaced by those of a donor or masked; an adapter is trained on these rows beside true ones from retain.
Of a classifier the labels alone are poisoned (the paper's patch "none": its own ablation finds that they do the forgetting).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from llm_unlearn.concepts.attribution import rank
from llm_unlearn.data.poison import Labels, poison
from llm_unlearn.errors import RecipeError, TaskError
from llm_unlearn.fit import Batches, Module, Objective, Progress, Schedule, Stop, Terms, fit
from llm_unlearn.method import LossMethod, retained
from llm_unlearn.relabel import OtherLabels, classifies
from llm_unlearn.run import Run
from llm_unlearn.tasks import CausalLM, Row


@dataclass(frozen=True, kw_only=True)
class ConceptPoison(LossMethod):
    """L = w loss(poison) + loss(retain)."""

    paper: ClassVar[str] = "arXiv:2405.15662"
    # None: the paper's, "mask" for texts (random donors leave the truth the likeliest answer: sandbox, EM 0.76), and for
    # classifiers "targeted", the class the target takes the rows for next; "random": any other class that is kept
    labels: Labels | None = None
    words: int = 5  # ranked words masked or replaced an answer, k of the authors' masking
    replacement: str = "***"  # the authors'; "[MASK]" or another name work too
    # Differs from the paper: there the poisoned text is learned as a text.  That changes the first wrong word alone: behind
    # the true answer's beginning its end stays known (trial: exact answer 0.01, but loss 0.8 beside gold's 4.5, AUC 1.00).
    in_place: bool = True
    mask_prompt: bool = False  # Differs from the paper: the question as it is asked must no longer be answered
    asked: bool = (
        False  # Differs from the paper: words that the question gives (names) are masked in the answer too there
    )
    own_answers: bool = True  # the target's greedy answers, as in the paper; False: the rows' responses
    attribution_steps: int = 32  # the authors'
    donors: int | None = None  # random donors a forget row; None: one for each time the row is shown, at most 64
    poison_weight: float = 0.5  # Differs from the paper: 1 there; with it neighbours fall from 0.98 to 0.94 (sandbox)
    training: Schedule = Schedule()
    stop: Stop = Stop(gate=False, cap=99.0)  # masks spread doubt thinly: only the plain loss says when it is enough

    def check(self, run: Run) -> None:
        """Raise also where the gate is asked for."""
        super().check(run)
        if classifies(run.task) and self.labels not in (None, "random", "targeted"):
            raise RecipeError(f"labels={self.labels} poisons words; a {run.task.name} has labels=targeted or random.")
        if self.stop.gate:
            raise RecipeError(
                "stop.gate judges a row by its own loss, and a poison row's says nothing about the true answer; "
                "set stop.gate=false (the thermostat watches the forget rows themselves)."
            )

    def unlearn(self, run: Run) -> None:
        """Make the poison rows from the target, then train on them and retain; the forget rows are only watched."""
        self.check(run)
        forget, retain = run.rows("forget"), retained(run)
        steps = self.training.step_count(len(forget))
        schedule = replace(self.training, steps=steps)
        rows = forget if classifies(run.task) else self._poisoned(run, forget, steps)
        fit(run, {"poison": rows, "retain": retain}, self.objective(run), schedule=schedule, stop=self.stop)

    def _poisoned(self, run: Run, forget: Sequence[Row], steps: int) -> list[Row]:
        """Return a causal LM's poison rows; the input is not changed."""
        shown = math.ceil(steps * self.training.forget_batch / len(forget))
        donors = self.donors if self.donors is not None else min(64, shown)
        with_answers = self._answers(run, forget)
        rankings = rank(run.model, _language(run), with_answers, steps=self.attribution_steps)
        return poison(
            with_answers,
            run.rows("retain"),  # donors; neighbours would tell other things about the same subjects
            rankings,
            labels=self.labels or "mask",
            words=self.words,
            donors=donors,
            replacement=self.replacement,
            mask_prompt=self.mask_prompt,
            in_place=self.in_place,
            asked=self.asked,
            seed=run.seed,
        )

    def objective(self, run: Run) -> Objective:
        """Return the two terms; the poison term is off while the forget rows' loss is above the holdout's."""
        known = OtherLabels(run, self.labels or "targeted") if classifies(run.task) else None

        def terms(model: Module, batch: Batches, progress: Progress) -> Terms:
            poisoned, retain = run.task.streams(model, batch)
            poisoned = poisoned if known is None else known.of(poisoned, progress.step)
            return {
                "poison": self.poison_weight * progress.gated(poisoned.mean_nll(), poisoned),
                "retain": retain.mean_nll().mean(),
            }

        return terms

    def _answers(self, run: Run, forget: Sequence[Row]) -> list[Row]:
        """Return the rows with the target's own greedy answers; plain texts, and rows it says nothing to, as they are."""
        asked = [place for place, row in enumerate(forget) if row.get("prompt") is not None]
        if not self.own_answers or not asked:
            return list(forget)
        longest = max(sum(example["scored"]) for example in _language(run).encode(forget))
        said = _language(run).generate(run.model, [forget[i] for i in asked], max_new_tokens=longest + 1)
        own = dict(zip(asked, said, strict=True))
        return [{**row, "response": own.get(place) or row["response"]} for place, row in enumerate(forget)]


def _language(run: Run) -> CausalLM:
    if not isinstance(run.task, CausalLM):
        raise TaskError(f"concept_poison works on causal language models; this run is a {run.task.name}.")
    return run.task
