"""Feature unlearning without annotations (Xu, Zhu, Zhou and Zhao, 2024, arXiv:2406.10951), the part that fine-tunes.

    L = loss(f(x~), y) + w KL(f(x~) || f(x))       x~: x without the words or pixels at which the chosen groups' activation is high

The groups are of one layer's units that fire together (`concepts/groups.py`); they are chosen by number, or by examples.
By examples it is as in `invariant.py`: each row's value is the example that it is most like, in the chosen groups' units, and
x~ has no word that goes with the value, or another value's colours.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from llm_unlearn.concepts.groups import Groups, chosen_by, discover, marks, summary
from llm_unlearn.concepts.inferred import inferred
from llm_unlearn.concepts.states import blocks, later_half
from llm_unlearn.data.annotations import COLUMN, TWIN
from llm_unlearn.errors import RecipeError
from llm_unlearn.files import write_json
from llm_unlearn.fit import Batches, Module, Objective, Progress, Schedule, Terms, fit
from llm_unlearn.head import unwrapped
from llm_unlearn.invariant import Removal, make_invariant, parts
from llm_unlearn.method import Method
from llm_unlearn.run import Run
from llm_unlearn.tasks import Batch

MOST_ROWS = 1000  # that the groups are found on


@dataclass(frozen=True, kw_only=True)
class FeatureActivation(Method):
    """Filter by activation, then fine-tune; the split `examples`, where there is one, chooses the groups.

    Differs from the paper: it fine-tunes on x~ alone and deploys on x, which the model then has not been told to read alike; the
    model's channels are taken as they are, where the paper trains an icCNN first; groups, not a single channel of each.  Where
    examples choose, the groups' units tell each row's value by what is like the examples; what takes it out of the rows is
    counted by these values (`telling.py`, `moments.py`), and they are balanced against the targets, cleared and judged by.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"retain"})
    removes: ClassVar[str] = "feature"
    paper: ClassVar[str] = "arXiv:2406.10951"
    layer: str | None = None  # none: the first block
    group: tuple[int, ...] = ()  # which groups; none: those that the examples excite
    groups: int | None = None  # into how many the units are cut; none: as the eigengap says
    # by group: of activation, 0 to 1; the paper's 0.2 for pictures, 0.5 for words, whose groups are never at rest
    threshold: float | None = None
    fill: Literal["mean", "zero"] = "mean"  # by group: of removed words the mean embedding, or nothing; pixels are 0
    agree_weight: float = 4.0  # w
    clear_weight: float = 10.0  # by examples: of the value's explained share, a layer
    held_share: float = 0.15  # by examples: of the rows, kept out to judge by
    rounds: int = 3  # by examples: at most
    training: Schedule = Schedule(passes=2.0, least_steps=300, forget_batch=32)  # Differs from the paper: any length

    def unlearn(self, run: Run) -> None:
        """Find and choose the groups, mark what they light up in every row, then fit; write what was chosen into method.json."""
        self.check(run)
        rows = [{key: value for key, value in row.items() if key not in (COLUMN, TWIN)} for row in run.rows("retain")]
        layer = self.layer or blocks(run.model)[0]
        groups = discover(run.model, run.task, rows[:MOST_ROWS], layer, count=self.groups, seed=run.seed)
        if not self.group:
            write_json(run.folder / "method.json", {**summary(groups), **self._by_examples(run, rows, groups)})
            return
        chosen = list(groups.checked(self.group))
        least = self.threshold or (0.2 if run.task.name == "image_classifier" else 0.5)
        examples = run.task.encode(rows)
        lit = marks(run.model, run.task, examples, layer, lambda states: groups.activation(states)[..., chosen], least)
        examples = [{**example, "place": float(place)} for place, example in enumerate(examples)]
        fit(run, {}, self.objective(run, lit.bool()), schedule=self.training, encoded={"rows": examples})
        write_json(run.folder / "method.json", {**summary(groups), "chosen": chosen, "filtered": float(lit.mean())})

    def _by_examples(self, run: Run, rows: list[dict[str, Any]], groups: Groups) -> dict[str, Any]:
        """Infer the rows' values, fit, and return what was chosen and what held-out rows tell."""
        if not run.splits.get("examples"):
            raise RecipeError(
                f"which of the {len(groups)} groups of {groups.layer} is it? Give method.group, or examples of the feature."
            )
        shown = run.rows("examples")
        chosen, votes = chosen_by(groups, run.model, run.task, shown)
        cut = parts(run, rows, inferred(groups, chosen, run.model, run.task, shown, rows), self.held_share)
        told: dict[str, Any] = {"chosen": list(chosen), "votes": votes, "values": len(cut.known.names)}
        settings = Removal(
            layers=later_half(run.model), task_weight=3.0 if run.task.name == "causal_lm" else 1.0, memory=512,
            clear_weight=self.clear_weight, agree_weight=self.agree_weight, rounds=self.rounds, training=self.training,
        )  # fmt: skip
        return told | make_invariant(run, cut, cut.judge(run.seed), cut.view(run), settings)

    def _filtered(self, run: Run, part: Batch, values: Tensor, lit: Tensor) -> Tensor:
        """Return the continuous input without what is lit."""
        gone = lit[part["place"].long().cpu()].to(values.device)
        if values.dim() != 3:
            return values.masked_fill(gone[:, None], 0.0)
        table = unwrapped(run.model).get_input_embeddings().weight.detach()  # type: ignore[operator]
        filler = table.mean(0) if self.fill == "mean" else torch.zeros_like(table[0])
        return torch.where(gone[:, : values.shape[1], None], filler.to(values), values)

    def objective(self, run: Run, lit: Tensor) -> Objective:
        """Return the two terms; `lit` [rows, T or height, width] marks what is taken away, a constant."""

        def terms(model: Module, batch: Batches, progress: Progress) -> Terms:
            part = batch["rows"]
            kind, values = run.task.continuous(model, part)
            joint = {"raw": {**part, kind: values}, "filtered": {**part, kind: self._filtered(run, part, values, lit)}}
            raw, without = run.task.streams(model, joint, logits=True)
            agreed = raw.per_example(raw.divergence_from(without.logits.detach()), "mean").mean()
            return {"task": without.mean_nll().mean(), "agree": self.agree_weight * agreed}

        return terms
