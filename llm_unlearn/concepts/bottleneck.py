"""A post-hoc concept bottleneck (Yuksekgonul et al., 2023, arXiv:2205.15480): what each class rests on, in a user's concepts.

    y = W P(x) + b,  P(x)_k = signed distance of the model's own state from concept k's plane;  W sparse
    PCBM-h:  y = W P(x) + b + R e(x),  the residual R fitted to what W leaves over

The model is frozen and only looked at.  Row c of W says which concepts speak for class c, so which class shares most with another:
its donor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_unlearn.concepts.bank import Bank
from llm_unlearn.concepts.linear import PENALTY
from llm_unlearn.concepts.states import pooled_states
from llm_unlearn.errors import DataError, nearest
from llm_unlearn.head import in_eval
from llm_unlearn.tasks import CausalLM, Row, Task

TOP = 5  # concepts of a class that the donor rule looks at (the authors' M)
HELD_OUT = 0.2  # of the rows measure, the others are fitted on


class Donor(NamedTuple):
    """Whose place a class takes."""

    name: str  # the class that gives labels and words
    concept: str  # what the two share
    rule: Literal["confusion", "shared", "nearest"]


@dataclass(frozen=True, eq=False)
class Bottleneck:
    """Scores [N, C] = projections [N, K] @ weight.T + bias, and how right they are beside the model itself."""

    concepts: tuple[str, ...]
    classes: tuple[str, ...]
    weight: Tensor  # [C, K], of projections in units of their own spread
    bias: Tensor  # [C]
    centre: Tensor  # [K] of the projections
    spread: Tensor  # [K]
    accuracy: float  # on held-out rows
    with_residual: float | None  # of PCBM-h on the same rows; None: no residual was asked for
    model_accuracy: float | None  # the model's own on the same rows; None: a causal LM has no classes
    n: int  # held-out rows
    means: Tensor  # [C, K] mean projection of each class's rows, in units of the projections' spread

    def scores(self, projections: Tensor) -> Tensor:
        """Return the class scores [N, C] of projections [N, K]."""
        return (projections - self.centre) / self.spread @ self.weight.T + self.bias

    def donor(self, name: str) -> Donor:
        """Return the donor of a class by the paper's rule; raise DataError for a class that there is not."""
        if name not in self.classes:
            raise DataError(
                f"the bottleneck has no class {name!r}{nearest(name, self.classes)}. Classes: {', '.join(self.classes)}."
            )
        giver, concept, rule = donor_of(self.weight, self.classes.index(name), means=self.means)
        return Donor(self.classes[giver], self.concepts[concept], rule)


def donor_of(
    weight: Tensor, target: int, top: int = TOP, means: Tensor | None = None
) -> tuple[int, int, Literal["confusion", "shared", "nearest"]]:
    """Return the donor class of `target`, the concept it is chosen by, and the rule, from weights [C, K].

    confusion: one of the target's `top` concepts is another class's first one.  shared: else the class with the largest weight on
    the target's first concept.  Concepts that do not speak for the target (weight at most 0) are none of its concepts.
    Differs from the paper: where the penalty leaves no other class a positive weight there, the one whose rows' mean projection
    (`means` [C, K]) is the largest (nearest); a tie of zeros would choose by the classes' order.
    """
    first = weight.argmax(1)
    others = [number for number in range(len(weight)) if number != target]
    if not others:
        raise DataError("a donor is another class; this bottleneck has one class only.")
    mine = [int(k) for k in weight[target].argsort(descending=True, stable=True)[:top] if weight[target, k] > 0]
    for concept in mine:
        same = [number for number in others if first[number] == concept and weight[number, concept] > 0]
        if same:
            return max(same, key=lambda number: float(weight[number, concept])), concept, "confusion"
    concept = int(first[target])
    if means is not None and all(weight[number, concept] <= 0 for number in others):
        return (
            max(others, key=lambda number: float(torch.nan_to_num(means[number, concept], -torch.inf))),
            concept,
            "nearest",
        )
    return max(others, key=lambda number: float(weight[number, concept])), concept, "shared"


def fit_bottleneck(
    model: nn.Module,
    task: Task,
    bank: Bank,
    rows: Sequence[Row],
    labels: Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
    *,
    residual: bool = False,
    strength: float = 1e-5,
    l1_ratio: float = 0.99,
    seed: int = 0,
    batch_size: int = 64,
) -> Bottleneck:
    """Return the bottleneck of the model through the bank's concepts.

    labels: each row's class in 0..C-1, for a causal LM whom or what a row is about; None: the rows' own.  A fifth of the rows,
    drawn class by class, is held out and measures.  strength, l1_ratio: of the elastic net, the paper's.
    """
    truth = torch.tensor([row["label"] for row in rows] if labels is None else list(labels))
    if truth.dim() != 1 or truth.is_floating_point() or len(truth.unique()) < 2:
        raise DataError("a bottleneck needs one label a row, of at least two classes.")
    count = int(truth.max()) + 1 if classes is None else len(classes)
    projections = bank.projections(model, task, rows, batch_size=batch_size)
    test = _drawn(truth, seed)
    centre, spread = projections[~test].mean(0), projections[~test].std(0).clamp(min=1e-12)
    x = (projections - centre) / spread
    weight, bias = sparse(x[~test], truth[~test], count, strength=strength, l1_ratio=l1_ratio)
    scores = x @ weight.T + bias  # [N, C]
    hybrid = None
    if residual:
        layer = bank.concepts[-1].layer
        states = pooled_states(model, task, rows, [layer], pool=bank.pool, batch_size=batch_size)[layer]
        hybrid = _share(scores + _residual(states, scores, truth, ~test), truth, test)
    held = [row for row, out in zip(rows, test, strict=True) if out]
    return Bottleneck(
        concepts=bank.names,
        classes=tuple(classes) if classes is not None else tuple(map(str, range(count))),
        weight=weight,
        bias=bias,
        centre=centre,
        spread=spread,
        accuracy=_share(scores, truth, test),
        with_residual=hybrid,
        model_accuracy=None if isinstance(task, CausalLM) else _own(model, task, held, batch_size),
        n=int(test.sum()),
        means=torch.stack([x[truth == number].mean(0) for number in range(count)]),  # NaN for a class without rows
    )


def sparse(
    x: Tensor,
    labels: Tensor,
    classes: int,
    *,
    strength: float = 1e-5,
    l1_ratio: float = 0.99,
    steps: int = 5000,
    tolerance: float = 1e-7,
) -> tuple[Tensor, Tensor]:
    """Return weight [C, K] and bias [C] that minimise mean cross-entropy + strength (l1_ratio |W|_1 + (1 - l1_ratio) |W|^2 / 2).

    By accelerated proximal gradient steps.  Differs from the paper: one multinomial regression; there one against the rest, by
    stochastic steps.  Rows count alike whatever the sizes of their classes.
    """
    x = x.double()
    design = torch.cat([x, torch.ones(len(x), 1).double()], dim=1)  # [N, K + 1], the last column is the bias's
    step = 1 / (0.5 * float(torch.linalg.matrix_norm(design, 2)) ** 2 / len(x) + strength * (1 - l1_ratio))
    truth = F.one_hot(labels, classes).double()
    weight = torch.zeros(classes, design.shape[1], dtype=torch.double)
    ahead, momentum = weight, 1.0
    for _ in range(steps):
        slope = ((ahead @ design.T).softmax(0) - truth.T) @ design / len(x)  # [C, K + 1]
        slope[:, :-1] += strength * (1 - l1_ratio) * ahead[:, :-1]
        new = ahead - step * slope
        new[:, :-1] = F.softshrink(new[:, :-1], step * strength * l1_ratio)
        if ((ahead - new) * (new - weight)).sum() > 0:  # the momentum points uphill: start it again
            momentum, ahead = 1.0, weight
            continue
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead, moved = new + (momentum - 1) / following * (new - weight), (new - weight).abs().max()
        weight, momentum = new, following
        if moved < tolerance:
            break
    return weight[:, :-1].float(), weight[:, -1].float()


def _residual(states: Tensor, scores: Tensor, labels: Tensor, fitted: Tensor) -> Tensor:
    """Return R e(x) [N, C] of all rows, fitted on those in `fitted` with the bottleneck's scores held fixed."""
    centre, spread = states[fitted].mean(0), states[fitted].std(0).clamp(min=1e-6)
    x = ((states - centre) / spread).double()
    weight = torch.zeros(scores.shape[1], x.shape[1], dtype=torch.double, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        total = (
            F.cross_entropy(scores[fitted].double() + x[fitted] @ weight.T, labels[fitted])
            + 0.5 * PENALTY * weight.square().sum()
        )
        total.backward()
        return total

    optimiser.step(loss)
    return (x @ weight.detach().T).float()


def _drawn(labels: Tensor, seed: int) -> Tensor:
    """Return [N] True for the held-out rows: of each class a fifth, at least one where it has two."""
    draw, out = np.random.default_rng(seed), torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        places = (labels == label).nonzero()[:, 0]
        if len(places) > 1:
            out[places[torch.as_tensor(draw.permutation(len(places)))][: max(1, round(HELD_OUT * len(places)))]] = True
    if not out.any():
        raise DataError(
            "no class has two rows: none can be held out to measure the bottleneck; give more rows of each class."
        )
    return out


def _share(scores: Tensor, labels: Tensor, of: Tensor) -> float:
    return float((scores[of].argmax(1) == labels[of]).double().mean())


@torch.no_grad()
def _own(model: nn.Module, task: Task, rows: Sequence[Row], batch_size: int) -> float:
    """Return the share of rows that the model itself classifies right."""
    examples, device, hits = task.encode(list(rows)), next(model.parameters()).device, 0
    with in_eval(model):
        for first in range(0, len(examples), batch_size):
            batch = {key: part.to(device) for key, part in task.collate(examples[first : first + batch_size]).items()}
            hits += int(task.decisions(model, batch, logits=True).greedy_hit().sum())
    return hits / len(examples)
