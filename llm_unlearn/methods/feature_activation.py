"""Feature unlearning without annotations (Xu, Zhu, Zhou and Zhao, 2024, arXiv:2406.10951), the part that fine-tunes.

    L = loss(f(x~), y) + w KL(f(x~) || f(x))       x~: x without the words or pixels at which the chosen groups' activation is high

The groups are of one layer's units that fire together (`concepts/groups.py`); they are chosen by number, or by examples.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from llm_unlearn.concepts.groups import chosen_by, discover, like_examples, marks, summary
from llm_unlearn.concepts.states import blocks
from llm_unlearn.errors import RecipeError
from llm_unlearn.files import write_json
from llm_unlearn.fit import Batches, Module, Objective, Progress, Schedule, Terms, fit
from llm_unlearn.head import unwrapped
from llm_unlearn.method import Method
from llm_unlearn.run import Run

LIKE = 0.3  # of sentences marks 0.94 rightly of the gendered words, and 0.85 of them (first block, eight examples)
MOST_ROWS = 1000  # that the groups are found on


@dataclass(frozen=True, kw_only=True)
class FeatureActivation(Method):
    """Filter by activation, then fine-tune; the split `examples`, where there is one, chooses the groups.

    Differs from the paper: it fine-tunes on x~ alone and deploys on x, which the model then has not been told to read alike; the
    model's channels are taken as they are, where the paper trains an icCNN first; groups, not a single channel
    of each; where examples choose, the filter looks in these groups' units for what is like the examples.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"retain"})
    removes: ClassVar[str] = "feature"
    paper: ClassVar[str] = "arXiv:2406.10951"
    layer: str | None = None  # none: the first block
    group: tuple[int, ...] = ()  # which groups; none: those that the examples excite
    groups: int | None = None  # into how many the units are cut; none: as the eigengap says
    threshold: float | None = (
        None  # of activation, 0 to 1; the paper's 0.2 for pictures, 0.5 for words, whose groups are never at rest
    )
    fill: Literal["mean", "zero"] = "mean"  # of removed words: the mean embedding, or nothing; pixels become 0
    agree_weight: float = 1.0  # w
    training: Schedule = Schedule(
        passes=2.0, least_steps=300, forget_batch=32
    )  # Differs from the paper: 2 passes of any length

    def unlearn(self, run: Run) -> None:
        """Find and choose the groups, mark what they light up in every row, then fit; write what was chosen into method.json."""
        self.check(run)
        rows = list(run.rows("retain"))
        layer = self.layer or blocks(run.model)[0]
        groups = discover(run.model, run.task, rows[:MOST_ROWS], layer, count=self.groups, seed=run.seed)
        chosen, votes = groups.checked(self.group), list[float]()
        lit_by, least = lambda states: groups.activation(states)[..., list(chosen)], self.threshold
        if not chosen:
            if not run.splits.get("examples"):
                raise RecipeError(
                    f"which of the {len(groups)} groups of {layer} is it? Give method.group, or examples of the feature."
                )
            chosen, votes = chosen_by(groups, run.model, run.task, run.rows("examples"))
            lit_by = like_examples(groups, chosen, run.model, run.task, run.rows("examples")).activation
            least = LIKE if least is None else least
        if least is None:
            least = 0.2 if run.task.name == "image_classifier" else 0.5
        examples = run.task.encode(rows)
        lit = marks(run.model, run.task, examples, layer, lit_by, least)
        told = {**summary(groups), "chosen": list(chosen), "votes": votes, "filtered": float(lit.mean())}
        examples = [{**example, "place": float(place)} for place, example in enumerate(examples)]
        fit(run, {}, self.objective(run, lit.bool()), schedule=self.training, encoded={"rows": examples})
        write_json(run.folder / "method.json", told)

    def objective(self, run: Run, lit: Tensor) -> Objective:
        """Return the two terms; `lit` [rows, T or height, width] marks what is taken away, a constant."""

        def terms(model: Module, batch: Batches, progress: Progress) -> Terms:
            part = batch["rows"]
            kind, values = run.task.continuous(model, part)
            gone = lit[part["place"].long().cpu()].to(values.device)
            if values.dim() == 3:
                table = unwrapped(run.model).get_input_embeddings().weight.detach()  # type: ignore[operator]
                filler = table.mean(0) if self.fill == "mean" else torch.zeros_like(table[0])
                filtered = torch.where(gone[:, : values.shape[1], None], filler.to(values), values)
            else:
                filtered = values.masked_fill(gone[:, None], 0.0)
            joint = {"raw": {**part, kind: values}, "filtered": {**part, kind: filtered}}
            raw, without = run.task.streams(model, joint, logits=True)
            agreed = raw.per_example(raw.divergence_from(without.logits.detach()), "mean").mean()
            return {"task": without.mean_nll().mean(), "agree": self.agree_weight * agreed}

        return terms
