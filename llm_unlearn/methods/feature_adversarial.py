"""Feature unlearning with annotations (Xu, Zhu, Zhou and Zhao, 2024, arXiv:2406.10951): the task stays, the feature goes.

1. remover    min over the gate R   loss(f(R(x)), y) - strength min(loss(h(R(x)), a), log K) + beta mean(max(0, 0.95 - m))
2. model      min over the adapter  loss(f(R(x)), y) + KL(f(R(x)) || f(x)) + w sum_l share_l       R is held
share_l is how much of layer l's pooled states the annotation a explains at best, linearly (`concepts/explained.py`).
What is deployed is f alone: it has learned to say of x what it says of R(x), and to keep a out of its states.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from llm_unlearn.adversary import weights_at_rest
from llm_unlearn.concepts.explained import Explained, before_head
from llm_unlearn.concepts.states import blocks, checked, listening, pooled
from llm_unlearn.data.annotations import Annotations, annotations, balanced
from llm_unlearn.files import write_json
from llm_unlearn.fit import Batches, Module, Objective, Progress, Schedule, Terms, fit
from llm_unlearn.head import in_eval
from llm_unlearn.method import Method
from llm_unlearn.remover import Remover, mask_of, new_remover, raw_and_gated
from llm_unlearn.run import Run
from llm_unlearn.tasks import Example

OPEN = 0.95  # a gate from which on nothing is gained by opening it
DRAWN, EVERY = "balanced", "retain"  # rows drawn so that target and annotation are independent; rows as they come


@dataclass(frozen=True, kw_only=True)
class FeatureAdversarial(Method):
    """Remover, identifier (the model itself under its adapter) and adversary.

    Differs from the paper: there the adversary is never trained again and its loss has no bound, the rows all have the feature,
    and the model is measured behind the remover.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"annotated"})
    removes: ClassVar[str] = "feature"
    paper: ClassVar[str] = "arXiv:2406.10951"
    # whose pooled states are cleared; none: the later half of the blocks; what goes into the head always
    layers: tuple[str, ...] = ()
    # of both task terms; None: 1, of a causal LM 3: what a short answer says sits in one of its words, and the loss is their mean
    task_weight: float | None = None
    drawn_weight: float = 0.0  # of the task's loss on the rows drawn so that target and annotation are independent
    strength: float = 5.0  # lambda of the gradient reversal; the authors' (one feature)
    # Differs from the paper: 5.0, of a pixel's mean change; here of max(0, 0.95 - m), so that no open gate is made to saturate
    beta: float = 0.1
    clear_weight: float = 10.0  # of the annotation's explained share, a layer
    agree_weight: float = 4.0  # of KL(gated || raw)
    memory: int = 512  # states a layer that a step is judged among
    gate_training: Schedule = Schedule(steps=300, forget_batch=32, retain_per_forget=1, learning_rate=3e-3)
    training: Schedule = Schedule(passes=2.0, least_steps=250, forget_batch=32, retain_per_forget=1)

    def unlearn(self, run: Run) -> None:
        """Train the remover on the model as it is, then the model; write into method.json what the remover came to."""
        self.check(run)
        rows = run.rows("annotated")
        found = annotations(rows)
        every = blocks(run.model)
        layers = checked(run.model, self.layers or every[len(every) // 2 :])
        examples = [
            {**example, "annotation": float(number)}
            for example, number in zip(run.task.encode(list(rows)), found.numbers, strict=True)
        ]
        order = balanced(rows, found, seed=run.seed)
        streams = {DRAWN: [examples[i] for i in order], EVERY: examples}
        remover = self._removed(run, streams, found)
        width = getattr(getattr(run.model, "config", None), "hidden_size", 200)
        rate = self.training.learning_rate or min(3e-3, 0.4 / width)  # at 6e-3, width 64, one class was said of all
        schedule = replace(self.training, learning_rate=rate)
        fit(run, {}, self.objective(run, remover, layers, found), schedule=schedule, encoded=streams)
        write_json(run.folder / "method.json", {"layers": list(layers), "values": len(found.names)})

    def _removed(self, run: Run, streams: Mapping[str, Sequence[Example]], found: Annotations) -> Remover:
        """Return the trained remover, which no longer changes."""
        few = run.task.collate(streams[DRAWN][:2])
        remover = new_remover(run.model, run.task, few, len(found.names), seed=run.seed)

        def terms(model: Module, batch: Batches, progress: Progress) -> Terms:
            part = batch[DRAWN]
            kind, values = run.task.continuous(run.model, part)
            gated, gate, known = model(values, mask_of(part, values), part["annotation"].long(), self.strength)
            with in_eval(run.model), weights_at_rest(run.model):  # constants: the gradient passes through to the gate
                kept = self._weight(run) * run.task.decisions(run.model, {**part, kind: gated}).mean_nll().mean()
            closed = self.beta * (OPEN - gate).clamp(min=0).mean()
            return {"task": kept, "adversary": known.mean(), "closed": closed}

        own = replace(run, model=remover)
        fit(own, {}, terms, schedule=self.gate_training, phase="remover", encoded={DRAWN: streams[DRAWN]})
        return remover.eval().requires_grad_(False)

    def _weight(self, run: Run) -> float:
        return self.task_weight or (3.0 if run.task.name == "causal_lm" else 1.0)

    def objective(self, run: Run, remover: Remover, layers: tuple[str, ...], found: Annotations) -> Objective:
        """Return the terms of the second phase; raw and gated inputs of both streams share one forward pass."""
        left = Explained(len(found.names), self.memory)

        def terms(model: Module, batch: Batches, progress: Progress) -> Terms:
            joint = raw_and_gated(remover, model, run.task, batch)
            with listening(model, layers) as seen, before_head(model) as last:
                raw, drawn, other, every = run.task.streams(model, joint, logits=True)
            agreed = [
                one.per_example(one.divergence_from(two.logits.detach()), "mean").mean()
                for one, two in ((raw, drawn), (other, every))
            ]
            told = batch[DRAWN]["annotation"].long()
            first = {name: column[: len(told)] for name, column in batch[DRAWN].items()}
            states = {name: pooled(each[: len(told)], first) for name, each in (seen | last).items()}
            shares = [left.share(name, each, told) for name, each in states.items()]
            kept = every.mean_nll().mean() + self.drawn_weight * drawn.mean_nll().mean()
            return {
                "task": self._weight(run) * kept,
                "agree": self.agree_weight * torch.stack(agreed).mean(),
                "clear": self.clear_weight * torch.stack(shares).sum(),
            }

        return terms
