"""Linear probes: multinomial logistic regression on hidden states, and how right it is on rows that it was not fitted on."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llm_unlearn.errors import DataError

FOLDS = 5
PENALTY = 1e-2  # on the squared weights of standardised states, as share of the mean loss


@dataclass(frozen=True, eq=False)
class Linear:
    """Scores [N, K] = states [N, D] @ weight.T + bias."""

    weight: Tensor  # [K, D]
    bias: Tensor  # [K]

    def scores(self, states: Tensor) -> Tensor:
        """Return the class scores [N, K]."""
        return states.to(self.weight) @ self.weight.T + self.bias

    def classes(self, states: Tensor) -> Tensor:
        """Return the most probable class [N]."""
        return self.scores(states).argmax(-1)

    @property
    def direction(self) -> Tensor:
        """Return the unit vector [D] along which class 1 of two grows."""
        difference = self.weight[1] - self.weight[0]
        return difference / difference.norm().clamp(min=1e-12)


def fit(states: Tensor, labels: Tensor, *, classes: int | None = None, penalty: float = PENALTY) -> Linear:
    """Return the regression of labels [N] in 0..K-1 on states [N, D], each class with the same total weight.

    The states are standardised inside; the result takes them as they are.  Raises DataError where fewer than two classes are
    there.  The optimum is unique (`penalty` > 0), so nothing is drawn.
    """
    count = int(labels.max()) + 1 if classes is None else classes
    sizes = torch.bincount(labels, minlength=count).double()  # [K]
    if (sizes > 0).sum() < 2:
        raise DataError("a linear probe needs rows of at least two classes; all rows given are of one.")
    states = states.double()
    centre, width = states.mean(0), states.std(0, unbiased=False)
    width = torch.where(width > 1e-9 * width.max().clamp(min=1e-30), width, torch.inf)  # a constant unit tells nothing
    x = (states - centre) / width
    each = (1 / sizes[labels]) / (sizes > 0).sum()  # [N], sums to 1
    weight = torch.zeros(count, x.shape[1], dtype=torch.double, requires_grad=True)
    bias = torch.zeros(count, dtype=torch.double, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=200, tolerance_grad=1e-8, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        nll = F.cross_entropy(x @ weight.T + bias, labels, reduction="none")
        total = (each * nll).sum() + 0.5 * penalty * weight.square().sum()
        total.backward()
        return total

    optimiser.step(loss)
    with torch.no_grad():
        own = weight / width
        return Linear((own).float(), (bias - own @ centre).float())


def held_out(states: Tensor, labels: Tensor, *, folds: int = FOLDS, seed: int = 0, penalty: float = PENALTY) -> Tensor:
    """Return for each row [N] bool whether a probe fitted on the other folds' rows tells its class right.

    Folds are drawn class by class; a class with fewer rows than folds is in fewer of them.
    """
    draw = np.random.default_rng(seed)
    fold = torch.zeros(len(labels), dtype=torch.long)
    for label in labels.unique():
        places = (labels == label).nonzero()[:, 0]
        fold[places[torch.as_tensor(draw.permutation(len(places)))]] = torch.arange(len(places)) % folds
    right = torch.zeros(len(labels), dtype=torch.bool)
    count = int(labels.max()) + 1
    for number in fold.unique():
        mine = fold == number
        if len(labels[~mine].unique()) < 2:
            raise DataError(f"{len(labels)} rows are too few for {folds} folds that each leave two classes to fit on.")
        probe = fit(states[~mine], labels[~mine], classes=count, penalty=penalty)
        right[mine] = probe.classes(states[mine]) == labels[mine]
    return right


def balanced_accuracy(right: Tensor, labels: Tensor) -> float:
    """Return the mean over classes of the share of rows told right: 1 / K by chance, whatever the classes' sizes."""
    return float(torch.stack([right[labels == label].double().mean() for label in labels.unique()]).mean())


class LeaveOneOut:
    """Ridge regression of 0/1 labels on states [N, D], each row scored by the fit to all others: exact, and one solve for any labels.

    With H the hat matrix, the score of row i without row i is (H y - h_ii y_i) / (1 - h_ii).  The direction is Fisher's discriminant's.
    """

    def __init__(self, states: Tensor, *, penalty: float = 1e-3) -> None:
        """Solve once; the states are standardised inside."""
        spread = states.std(0, unbiased=False)
        x = torch.cat([(states - states.mean(0)) / spread.clamp(min=1e-6), torch.ones(len(states), 1)], dim=1)
        gram = x.T @ x + penalty * len(x) * torch.eye(x.shape[1])
        self._x, self._solved = x, torch.linalg.solve(gram, x.T)  # [N, D + 1], [D + 1, N]
        self._own = (x * self._solved.T).sum(1)  # [N], the diagonal of H

    def scores(self, labels: Tensor) -> Tensor:
        """Return each row's score [N] by the others' labels [N]: near 1 for rows like those labelled 1."""
        labels = labels.to(self._x)
        fitted = self._x @ (self._solved @ labels)
        return (fitted - self._own * labels) / (1 - self._own).clamp(min=1e-6)
