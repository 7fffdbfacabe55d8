"""How much of the states' spread an annotation explains: a linear adversary that is solved anew at every step.

    share = sum_k p_k (mu_k - mu)^T S^-1 (mu_k - mu) / (K - 1)          mu_k: mean of the states with value k, S: their covariance

It lies between 0 and 1, and is 0 exactly where no linear read-out tells the value better than a constant one (equal class
means; Belrose et al., 2023, arXiv:2306.03819, theorem 3.1).  Minimising it is the game against a linear adversary that is
always at its best, so it neither has to be kept strong nor can be cheated by turning the states round.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from llm_unlearn.concepts.states import bare
from llm_unlearn.lora_targets import head_names

HEAD = "what goes into the head"
RIDGE = 1e-2  # added to the covariance, as a share of its mean variance


class Explained:
    """Keeps the latest states of each layer, so that a small batch is judged among many."""

    def __init__(self, classes: int, memory: int = 512) -> None:
        """Keep `memory` states a layer.  A fit that is taken up again begins with none."""
        self.classes, self.memory = classes, memory
        self.past: dict[str, tuple[Tensor, Tensor]] = {}

    def share(self, name: str, states: Tensor, values: Tensor) -> Tensor:
        """Return the share that `values` [B] explain of the layer's `states` [B, D]; its gradient goes to these states.

        They are a part of those that are judged, so it is smaller than that of a whole batch: in a ratio, it would drown the task.
        """
        before = self.past.get(name)
        own = states.double()
        every, labels = own, values
        if before is not None:
            every, labels = torch.cat([own, before[0]]), torch.cat([values, before[1]])
        self.past[name] = (
            torch.cat([states.detach().double(), *([] if before is None else [before[0]])])[: self.memory],
            labels[: self.memory],
        )
        return explained(every, labels, self.classes)


def explained(states: Tensor, values: Tensor, classes: int) -> Tensor:
    """Return the share of the spread of states [N, D] that values [N] in 0..K-1 explain; the covariance gets no gradient."""
    centre = states.detach().mean(0)
    apart = states.detach() - centre
    cover = apart.T @ apart / len(states)  # [D, D]
    scale = cover.diagonal().mean().clamp(min=1e-12)
    cover = cover + RIDGE * scale * torch.eye(len(cover), dtype=cover.dtype, device=cover.device)
    member = torch.nn.functional.one_hot(values.long(), classes).to(states)  # [N, K]
    counts = member.sum(0)  # [K]
    means = member.T @ states / counts.clamp(min=1)[:, None] - centre  # [K, D]
    distances = (means * torch.linalg.solve(cover, means.detach().T).T).sum(-1)  # gradient: half, made whole below
    distances = 2 * distances - distances.detach()
    return ((counts / len(states)) * distances).sum().float() / (classes - 1)


@contextmanager
def before_head(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Give a dict that each forward pass of a classifier fills with its head's input under HEAD, graph and all.

    It stays empty where no head is found, as of a causal LM.
    """
    seen: dict[str, Tensor] = {}
    names = head_names(bare(model))
    if not names:
        yield seen
        return
    module = bare(model).get_submodule(names[-1])
    hook = module.register_forward_pre_hook(lambda module, given: seen.update({HEAD: given[0]}))
    try:
        yield seen
    finally:
        hook.remove()
