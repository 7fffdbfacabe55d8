"""Concept inference and data poisoning (Chang et al., 2024, arXiv:2405.15662; the authors' code for language models).

The target's own answers to the forget questions are attributed to words (Integrated Gradients); the words that carry them are
masked, or a donor's (targeted: the inferred concept's, which the report names); an adapter is trained on them beside retain.
A classifier's forget rows get a donor class's label, and with `patch` a donor's words or pixels (`poisoned.py`): by default
labels alone, which do the forgetting by the paper's own ablation and by this package's (eval/README.md).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar

from llm_unlearn.concepts.attribution import rank
from llm_unlearn.data.poison import Labels, poison
from llm_unlearn.errors import RecipeError
from llm_unlearn.fit import Batches, Module, Objective, Progress, Schedule, Stop, Terms, fit
from llm_unlearn.method import LossMethod, retained
from llm_unlearn.poisoned import ClassLabels, Patch, Poison, language
from llm_unlearn.relabel import classifies, refuse_gate
from llm_unlearn.run import Run
from llm_unlearn.schedule import Mix
from llm_unlearn.tasks import Row


@dataclass(frozen=True, kw_only=True)
class ConceptPoison(LossMethod):
    """L = w loss(poison) + loss(retain)."""

    infers: ClassVar[bool] = True
    paper: ClassVar[str] = "arXiv:2405.15662"
    # None: the paper's, "mask" for texts (random donors leave the truth the likeliest answer: sandbox, EM 0.76), and for
    # classifiers "targeted", the class the target takes the rows for next; "random": any other class that is kept
    labels: Labels | ClassLabels | None = None
    patch: Patch = "none"  # classifiers: what of a forget row's input is a donor's, pixels or words
    patch_side: float | None = None  # share of a picture's side; None: the authors' 64, 96, 96 and 160 pixels of 224
    layer: str | None = None  # localized patches: whose map is looked at; None: the deepest with 4 places a side
    bank: str | None = None  # folder of a concept bank: donors by its bottleneck; None: the target's own next class
    words: int = 5  # ranked words masked or replaced in a text, k of the authors' masking
    replacement: str = "***"  # the authors'; "[MASK]" or another name work too
    # Differs from the paper: there the poisoned text is learned as a text.  That changes the first wrong word alone: behind
    # the true answer's beginning its end stays known (trial: exact answer 0.01, but loss 0.8 beside gold's 4.5, AUC 1.00).
    in_place: bool = True
    mask_prompt: bool = False  # Differs from the paper: the question as it is asked must no longer be answered
    asked: bool = False  # Differs from the paper: there words that the question gives are masked in the answer too
    own_answers: bool = True  # the target's greedy answers, as in the paper; False: the rows' responses
    attribution_steps: int = 32  # the authors'
    donors: int | None = None  # random donors a forget row; None: one for each time the row is shown, at most 64
    poison_weight: float = 0.5  # Differs from the paper: 1 there; with it neighbours fall from 0.98 to 0.94 (sandbox)
    training: Schedule = Schedule()
    stop: Stop = Stop(gate=False, cap=99.0)  # masks spread doubt thinly: only the plain loss says when it is enough

    def check(self, run: Run) -> None:
        """Raise also where the gate is asked for."""
        super().check(run)
        if classifies(run.task):
            self._inputs().check(run)
        elif self.patch != "none" or self.labels == "keep":
            raise RecipeError("patch, and labels=keep, are for classifiers; a causal_lm has labels=mask, random, ...")
        refuse_gate(self.stop)

    def unlearn(self, run: Run) -> None:
        """Make the poison rows from the target, then train on them and retain; the forget rows are only watched."""
        self.check(run)
        forget, retain = run.rows("forget"), retained(run)
        steps = self.training.step_count(len(forget))
        schedule = replace(self.training, steps=steps)
        rows, mix = self._poisoned(run, forget, steps)
        fit(run, {"poison": rows, "retain": retain}, self.objective(run), schedule=schedule, stop=self.stop, mix=mix)

    def _inputs(self) -> Poison:
        named = {field.name: getattr(self, field.name) for field in fields(Poison) if hasattr(self, field.name)}
        return Poison(**{**named, "labels": self.labels or "targeted", "steps": self.attribution_steps})

    def _poisoned(self, run: Run, forget: Sequence[Row], steps: int) -> tuple[Sequence[Row], Mix | None]:
        """Return the poison rows, and what patches pictures as they are drawn; the input is not changed."""
        if classifies(run.task):
            return self._inputs().poisoned(run)
        shown = math.ceil(steps * self.training.forget_batch / len(forget))
        donors = self.donors if self.donors is not None else min(64, shown)
        with_answers = self._answers(run, forget)
        rankings = rank(run.model, language(run), with_answers, steps=self.attribution_steps)
        return poison(
            with_answers,
            run.rows("retain"),  # donors; neighbours would tell other things about the same subjects
            rankings,
            labels=self.labels or "mask",  # type: ignore[arg-type]
            words=self.words,
            donors=donors,
            replacement=self.replacement,
            mask_prompt=self.mask_prompt,
            in_place=self.in_place,
            asked=self.asked,
            donor=run.donor,
            seed=run.seed,
        ), None

    def objective(self, run: Run) -> Objective:
        """Return the two terms; the poison term is off while the forget rows' loss is above the holdout's."""
        known = self._inputs().labelling(run) if classifies(run.task) else None

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
        longest = max(sum(example["scored"]) for example in language(run).encode(forget))
        said = language(run).generate(run.model, [forget[i] for i in asked], max_new_tokens=longest + 1)
        own = dict(zip(asked, said, strict=True))
        return [{**row, "response": own.get(place) or row["response"]} for place, row in enumerate(forget)]
