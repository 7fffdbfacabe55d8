"""Feature unlearning with annotations (Xu, Zhu, Zhou and Zhao, 2024, arXiv:2406.10951): the task stays, the feature goes.

1. remover    min over the gate R   loss(f(R(x)), y) - strength min(loss(h(R(x)), a), log K) + beta mean(max(0, 0.95 - m))
2. model      min over the adapter  as in `invariant.py`, with x~ = R(x)       R is held
R begins with what counting finds: of a text the words that tell the value are closed (`telling.py`), for the game with h may leave them
open; a picture gets another value, drawn whatever its class (`moments.py`), for a gate can close a place, but what lies over the
whole picture, as a tint does, it can only take away with the picture.
What is deployed is f alone: it has learned to say of x what it says of R(x), and to keep a out of its states.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from llm_unlearn.adversary import weights_at_rest
from llm_unlearn.concepts.states import checked, later_half
from llm_unlearn.data.annotations import annotations
from llm_unlearn.files import write_json
from llm_unlearn.fit import Batches, Module, Progress, Schedule, Terms, fit
from llm_unlearn.head import in_eval
from llm_unlearn.invariant import DOWN, Parts, Removal, View, make_invariant, parts, values_of
from llm_unlearn.judging import Judge
from llm_unlearn.method import Method
from llm_unlearn.remover import Remover, mask_of, new_remover
from llm_unlearn.run import Run
from llm_unlearn.tasks import Batch, Example

OPEN = 0.95  # a gate from which on nothing is gained by opening it


@dataclass(frozen=True, kw_only=True)
class FeatureAdversarial(Method):
    """Remover, identifier (the model itself under its adapter) and adversary.

    Differs from the paper: there the gate alone takes the feature out, the adversary is never trained again and its loss has no
    bound, the rows all have the feature, they are not drawn so that target and feature are independent, and the model is
    measured behind the remover.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"annotated"})
    removes: ClassVar[str] = "feature"
    paper: ClassVar[str] = "arXiv:2406.10951"
    # whose pooled states are cleared; none: the later half of the blocks; what goes into the head always
    layers: tuple[str, ...] = ()
    # of the task's loss; None: 1, of a causal LM 3: what a short answer says sits in one of its words, and the loss is their mean
    task_weight: float | None = None
    strength: float = 5.0  # lambda of the gradient reversal; the authors' (one feature)
    # Differs from the paper: 5.0, of a pixel's mean change; here of max(0, 0.95 - m), so that no open gate is made to saturate
    beta: float = 0.1
    clear_weight: float = 10.0  # of the annotation's explained share, a layer; twice as much in each further round
    agree_weight: float = 4.0  # of KL(gated || raw)
    memory: int = 512  # states a layer that a step is judged among
    held_share: float = 0.15  # of the rows: kept out, to judge by
    gate_rounds: int = 2  # of the remover at most: one ends it where a probe of what it lets through tells little
    rounds: int = 3  # of the model at most: one ends it where held-out rows tell that the feature is down
    gate_training: Schedule = Schedule(steps=300, forget_batch=32, learning_rate=3e-3)
    training: Schedule = Schedule(passes=2.0, least_steps=300, forget_batch=32)

    def unlearn(self, run: Run) -> None:
        """Train the remover on the model as it is, then the model; write into method.json what held-out rows tell."""
        self.check(run)
        rows = run.rows("annotated")
        layers = checked(run.model, self.layers or later_half(run.model))
        cut = parts(run, rows, annotations(rows), self.held_share)
        judge = cut.judge(run.seed)
        view, gates = self._removed(run, cut, judge, cut.view(run))
        settings = Removal(
            layers=layers, task_weight=self._weight(run), clear_weight=self.clear_weight, agree_weight=self.agree_weight,
            memory=self.memory, rounds=self.rounds, training=self.training,
        )  # fmt: skip
        told = make_invariant(run, cut, judge, view, settings)
        write_json(run.folder / "method.json", {"layers": list(layers), "values": judge.values, "gate": gates, **told})

    def _weight(self, run: Run) -> float:
        return self.task_weight or (3.0 if run.task.name == "causal_lm" else 1.0)

    def _removed(self, run: Run, cut: Parts, judge: Judge, plain: View) -> tuple[View, list[float]]:
        """Return the input behind the trained remover, and what a probe told of it after each round."""
        drawn = cut.drawn(run.seed)
        remover = new_remover(run.model, run.task, run.task.collate(drawn[:2]), judge.values, seed=run.seed)
        left: list[float] = []
        while not left or (left[-1] > DOWN and len(left) < self.gate_rounds):
            if left:
                remover.restart(run.seed + len(left))
            self._gate_round(run, remover, drawn, plain, len(left))
            left.append(round(judge.of_inputs(run.model, run.task, _gated(remover, plain).change), 4))
        return _gated(remover.eval().requires_grad_(False), plain), left

    def _gate_round(self, run: Run, remover: Remover, drawn: Sequence[Example], plain: View, number: int) -> None:
        """Train the remover once, its gradient's reversal twice as strong in each further round."""
        strength = self.strength * 2**number

        def terms(model: Module, batch: Batches, progress: Progress) -> Terms:
            part = batch["rows"]
            kind, values = run.task.continuous(run.model, part)
            values, _ = plain.change(part, values)
            gated, gate, known = model(values, mask_of(part, values), values_of(part), strength)
            with in_eval(run.model), weights_at_rest(run.model):  # constants: the gradient passes through to the gate
                kept = run.task.decisions(run.model, {**part, kind: gated}).mean_nll().mean()
            closed = self.beta * (OPEN - gate).clamp(min=0).mean()
            return {"task": self._weight(run) * kept, "adversary": known.mean(), "closed": closed}

        own: Any = replace(run, model=remover)
        phase = "remover" if number == 0 else f"remover-{number + 1}"
        fit(own, {}, terms, schedule=self.gate_training, phase=phase, encoded={"rows": drawn})


def _gated(remover: Remover, plain: View) -> View:
    def change(part: Batch, values: Tensor) -> tuple[Tensor, Tensor]:
        values, shown = plain.change(part, values)
        return remover.gate(values)[0], shown

    return View(change, plain.swaps)
