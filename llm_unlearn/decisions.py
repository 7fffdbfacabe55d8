"""Decisions: every supervised prediction in a batch, whatever kind of model made it."""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from llm_unlearn.errors import TaskError

MOMENTS_CHUNK = 2**18  # numbers of [n, C] at once, 1 MB in fp32: it stays in a processor's cache
FLOOR = -1e4  # nats below the most probable word


@dataclass(frozen=True, eq=False)
class Decisions:
    """Every supervised prediction in a batch, one row each: one per example of a classifier, one per token of a causal LM."""

    labels: Tensor  # [N] words or classes, or [N, C] of 0 and 1 for a multi-label classifier; never IGNORE
    owner: Tensor  # [N] which of the B examples the row belongs to
    scored: Tensor  # [N] False on the end-of-sequence token, which is trained and not scored
    batch_size: int  # B
    losses: Tensor | None = None  # [N] nats, where the logits were never built
    told: Tensor | None = None  # [N] True where the input itself says the label, as a question says a name
    scores: Tensor | None = None  # [N, C] fp32

    @property
    def logits(self) -> Tensor:
        """Return [N, C] in fp32; raise TaskError where the forward pass was not asked to keep them."""
        if self.scores is None:
            raise TaskError("these decisions hold losses only; ask for decisions(..., logits=True).")
        return self.scores

    def nll(self) -> Tensor:
        """Return -log p(label) [N], nats; for multi-label rows the mean binary cross-entropy over the C labels."""
        if self.losses is not None:
            return self.losses
        if self.labels.is_floating_point():
            return F.binary_cross_entropy_with_logits(self.logits, self.labels, reduction="none").mean(-1)
        return F.cross_entropy(self.logits, self.labels, reduction="none")

    def log_probs(self) -> Tensor:
        """Return the log-probabilities [N, C], fp32."""
        return self.logits.log_softmax(-1)

    def probabilities(self) -> Tensor:
        """Return the probability of each class [N, C] in double precision; for multi-label rows each class's own."""
        scores = self.logits.double()
        return scores.sigmoid() if self.labels.is_floating_point() else scores.softmax(-1)

    def divergence_from(self, target: Tensor, temperature: float = 1.0) -> Tensor:
        """Return KL(target || these) of each decision [N], nats, of the logits [N, C] of both divided by the temperature.

        For multi-label rows the mean over the C labels, as `nll` is.
        """
        mine, theirs = self.logits / temperature, target.float() / temperature
        if not self.labels.is_floating_point():
            log_p = theirs.log_softmax(-1)
            return (log_p.exp() * (log_p - mine.log_softmax(-1)).masked_fill(log_p == -math.inf, 0.0)).sum(-1)
        sides = ((F.logsigmoid(sign * theirs), F.logsigmoid(sign * mine)) for sign in (1, -1))
        return torch.stack([log_p.exp() * (log_p - log_q) for log_p, log_q in sides]).sum(0).mean(-1)

    def log_prob_moments(self, of: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of log p under the decision's own distribution, [n] each, nats, fp32.

        `of` [N] bool chooses the n decisions.  Some rows at a time, so that no second [N, C] is held.  The variance is taken
        about the mean: near certainty a difference of squares has no digits left.
        """
        chosen = of.nonzero()[:, 0]
        means, deviations = [], []
        for rows in chosen.split(max(1, MOMENTS_CHUNK // self.logits.shape[-1])):
            scores = self.logits[rows]  # [n, C], a copy
            scores -= scores.amax(-1, keepdim=True)
            scores.clamp_(min=FLOOR)  # a word that is ruled out: 0 times minus infinity would be NaN
            weights = scores.exp()
            total = weights.sum(-1)
            mean = torch.linalg.vecdot(weights, scores) / total
            scores -= mean[:, None]
            means.append(mean - total.log())
            deviations.append((torch.linalg.vecdot(weights, scores.square_()) / total).sqrt())
        empty = self.logits.new_zeros(0)
        return torch.cat([empty, *means]), torch.cat([empty, *deviations])

    def greedy_hit(self) -> Tensor:
        """Return [N] bool: is the most probable class the label (for multi-label rows: one of them)."""
        best = self.logits.argmax(-1)
        if self.labels.is_floating_point():
            return self.labels.gather(-1, best[:, None])[:, 0] > 0
        return best == self.labels

    def per_example(self, values: Tensor, reduce: str = "sum", *, scored_only: bool = False) -> Tensor:
        """Return [B]: the sum or mean of `values` [N] over each example's rows; 0 for an example without rows."""
        weight = self.scored.to(values.dtype) if scored_only else torch.ones_like(values)
        total = values.new_zeros(self.batch_size).index_add(0, self.owner, values * weight)
        if reduce == "sum":
            return total
        return total / values.new_zeros(self.batch_size).index_add(0, self.owner, weight).clamp(min=1)

    def loss(self) -> Tensor:
        """Return each example's mean loss [B] in nats a scored decision: what memorisation and membership are judged by."""
        return self.per_example(self.nll(), "mean", scored_only=True)

    def surprise(self, cap: float) -> Tensor:
        """Return each example's mean loss [B] over scored decisions with none counted above `cap` nats.

        Near a share of unknown decisions: one at 30 nats cannot stand for the others, as it does in a mean loss.
        """
        return self.per_example(self.nll().clamp(max=cap), "mean", scored_only=True)

    def mean_nll(self) -> Tensor:
        """Return each example's mean nll [B] over every trained decision, the end of sequence included."""
        return self.per_example(self.nll(), "mean")

    def limited(self, ceiling: Tensor) -> "Decisions":
        """Return the decisions with no loss counted above its `ceiling` [N], nats; what is above it has no gradient.

        The ceiling of what the input says is 0: repeating it takes no knowledge.
        """
        if self.told is not None:
            ceiling = ceiling.masked_fill(self.told, 0.0)
        return replace(self, losses=torch.minimum(self.nll(), ceiling))

    def examples(self, start: int, stop: int) -> "Decisions":
        """Return the decisions of examples start..stop-1 of the batch."""
        rows = (self.owner >= start) & (self.owner < stop)
        return Decisions(
            labels=self.labels[rows],
            owner=self.owner[rows] - start,
            scored=self.scored[rows],
            batch_size=stop - start,
            losses=None if self.losses is None else self.losses[rows],
            told=None if self.told is None else self.told[rows],
            scores=None if self.scores is None else self.scores[rows],
        )
