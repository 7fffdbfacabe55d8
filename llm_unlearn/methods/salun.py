"""Saliency unlearning (Fan et al., 2024, arXiv:2310.12508): random labels, learned by the salient weights alone.

    mask = |gradient of forget's loss at the target| in the largest half;   L = w loss(forget, random labels) + loss(retain)

A weight outside the mask gets no gradient and stays as it is.  Under a fresh adapter (B = 0) the gradient of A is 0 and says
nothing: with G the gradient of the weight matrix under it A's would be B^T G, and for a B of any direction that is as large as
G's columns are.  So A's entries are judged by their column of G, B's by their own gradient, and half of each is kept.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from llm_unlearn.errors import RecipeError
from llm_unlearn.fit import Objective, Schedule, Stop, fit
from llm_unlearn.method import LossMethod, retained
from llm_unlearn.relabel import random_labels, refuse_gate, relabelled
from llm_unlearn.run import Run
from llm_unlearn.strength import note
from llm_unlearn.weights.importance import saliency
from llm_unlearn.weights.lowrank import columns


@dataclass(frozen=True, kw_only=True)
class SalUn(LossMethod):
    """Another class for each row of forget; of a causal LM the response of a retain row that is asked alike."""

    paper: ClassVar[str] = "arXiv:2310.12508"
    share: float = 0.5  # of the weights that may change, sec. 4
    forget_weight: float = 1.0  # sec. 4, alpha = 1 between the two terms
    training: Schedule = Schedule()
    stop: Stop = Stop(gate=False)  # a row with a wrong label does not say what is still known of the true one

    def __post_init__(self) -> None:
        """Raise RecipeError for a share that is none."""
        if not 0 < self.share <= 1:
            raise RecipeError(
                f"share={self.share}: the share of the weights that may change is above 0 and at most 1."
            )

    def check(self, run: Run) -> None:
        """Raise also where the gate is asked for."""
        super().check(run)
        refuse_gate(self.stop)

    def unlearn(self, run: Run) -> None:
        """Find the salient weights, then train them on the wrong labels and on retain."""
        self.check(run)
        schedule = replace(self.training, steps=self.training.step_count(len(run.rows("forget"))))
        mask = salient(run, self.share)
        count = sum(each.numel() for each in mask.values())
        streams = {"relabelled": relabelled(run, schedule), "retain": retained(run)}
        fit(run, streams, self.objective(run), schedule=schedule, stop=self.stop, mask=mask)
        note(run, {"method": "salun", "share_of_weights_trained": sum(int(m.sum()) for m in mask.values()) / count})

    def objective(self, run: Run) -> Objective:
        """Return the two terms."""
        return random_labels(run, self.forget_weight)


def salient(run: Run, share: float) -> dict[str, Tensor]:
    """Return for each trainable weight the entries, bool, that are among the most salient for forget."""
    examples = run.task.encode(run.rows("forget"))
    found = saliency(run.model, run.task, examples, title="saliency")
    factors = {name for name in found if ".lora_A." in name}
    if not any(found[name].any() for name in factors):  # a fresh adapter
        dense = saliency(run.model, run.task, examples, weights="base", title="saliency of A") if factors else {}
        found |= {name: each for name, each in columns(run.model, dense).items() if name in factors}
        groups = [factors, set(found) - factors]
    else:
        groups = [set(found)]
    mask: dict[str, Tensor] = {}
    for names in groups:
        every = torch.cat([found[name].flatten() for name in sorted(names)]) if names else torch.empty(0)
        if not len(every):
            continue
        least = every.kthvalue(max(1, len(every) - round(share * len(every)) + 1)).values
        mask |= {name: (found[name] >= least) & (found[name] > 0) for name in names}
    return mask
