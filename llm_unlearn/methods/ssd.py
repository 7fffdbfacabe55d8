"""Selective synaptic dampening (Foster, Schoepf and Brintrup, 2024, arXiv:2308.07707).

    theta *= min(lambda F_full / F_forget, 1)   where F_forget > alpha F_full

F is the diagonal empirical Fisher of the checkpoint's own weights, F_full over the whole training set (retain and forget).
No step of training.  Under a fresh adapter the change of each weight matrix becomes the adapter's low-rank product; the share
of its energy that this keeps is in method.json.  The edit itself is not of low rank: where little is kept, use --lora=none.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from llm_unlearn.data.splits import kept
from llm_unlearn.errors import RecipeError
from llm_unlearn.method import Method
from llm_unlearn.run import Run
from llm_unlearn.strength import Probe, choose, note
from llm_unlearn.weights.importance import fisher_diagonal
from llm_unlearn.weights.lowrank import effective, write_edit

Strength = tuple[float, float]  # alpha, lambda


@dataclass(frozen=True, kw_only=True)
class SSD(Method):
    """Dampens the weights that matter for forget and hardly for the whole, at the strength that a probe chooses.

    With forget a share w of the data no weight has F_forget > F_full / w: an alpha above 1 / w changes nothing.
    """

    paper: ClassVar[str] = "arXiv:2308.07707"
    # Differs from the paper: alpha 10 and lambda 1 there (for a ResNet and 1 to 5 % of CIFAR).  Here they are the first
    # strength that is tried; `--method.alphas 10 --method.lambdas 1` is the paper's
    alphas: tuple[float, ...] = (10.0, 5.0, 2.5, 1.5, 1.2, 1.0)
    lambdas: tuple[float, ...] = (1.0, 0.3, 0.0)  # 0: set to nothing what alpha selects
    rows: int = 1024  # rows of forget and of retain that F is measured on; Differs from the paper: all
    batch_size: int = 32  # rows in one backward pass; the result does not depend on it
    probe: Probe = Probe()

    def __post_init__(self) -> None:
        """Raise RecipeError for strengths that cannot be."""
        if not self.alphas or not self.lambdas or min(self.alphas) <= 0 or min(self.lambdas) < 0:
            raise RecipeError("ssd needs alphas above 0 and lambdas of at least 0, one of each or more.")

    def unlearn(self, run: Run) -> None:
        """Measure F on both sets, try the strengths, and leave the model with the best."""
        self.check(run)
        retain = kept(run.splits)
        share = len(run.rows("forget")) / (len(run.rows("forget")) + len(retain))
        forget_fisher = self._fisher(run, run.rows("forget"), "forget")
        full = self._fisher(run, retain, "retain")
        for name, fisher in full.items():
            fisher.mul_(1 - share).add_(forget_fisher[name], alpha=share)

        def apply(strength: Strength) -> dict[str, float]:
            counts = {"changed": 0, "weights": 0}
            energy = write_edit(run.model, changes(run, full, forget_fisher, strength, counts), full)[""]
            return {"energy_kept": energy, "share_of_weights_changed": counts["changed"] / counts["weights"]}

        strengths = [(alpha, damping) for damping in self.lambdas for alpha in self.alphas]
        (alpha, damping), facts = choose(run, strengths, apply, self.probe)
        note(run, {"method": "ssd", "alpha": alpha, "lambda": damping, "forget_share": share, **facts})

    def _fisher(self, run: Run, rows: Sequence[Any], title: str) -> dict[str, Tensor]:
        some = random.Random(run.seed).sample(list(rows), min(self.rows, len(rows)))
        return fisher_diagonal(
            run.model,
            run.task,
            run.task.encode(some),
            weights="base",
            batch_size=self.batch_size,
            title=f"F of {title}",
        )


def changes(
    run: Run, full: Mapping[str, Tensor], forget: Mapping[str, Tensor], strength: Strength, counts: dict[str, int]
) -> Iterator[tuple[str, Tensor]]:
    """Yield each weight's name and change, and count the numbers that change."""
    alpha, damping = strength
    for name, whole in full.items():
        weight = effective(run.model, name)
        selected = forget[name] > alpha * whole
        factor = (damping * whole / forget[name].where(selected, 1.0)).clamp(max=1)
        counts["changed"] += int(selected.sum())
        counts["weights"] += weight.numel()
        yield name, (weight * (factor - 1)).where(selected, 0.0)
