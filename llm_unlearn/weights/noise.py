"""Structured noise on weights from two Fisher diagonals: which weights, how far, and which way (Yamashita et al., Eqs. 5-7)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from llm_unlearn.errors import DataError
from llm_unlearn.head import in_eval, trainable, unwrapped
from llm_unlearn.tasks import Example, Task
from llm_unlearn.weights.lowrank import write_edit

FLOOR = 1e-16  # added to both Fisher values, as the authors start theirs: 0 / 0 is 1
SAMPLE = 2**24  # elements from which a quantile is taken at most: torch.quantile takes no more


def ratio(forget: Tensor, retain: Tensor, *, smooth: float, clip: float) -> Tensor:
    """Return eta = (f_F + d) / (f_R + d), d = smooth * mean(f_R) + FLOOR (Eq. 6): how much more a weight matters to forget.

    Differs from the paper: smooth (there 0), and eta is cut at its `clip` quantile.  With a floor alone one dead weight sets
    the largest eta, and Eq. 7 then switches its whole tensor off; in an adapter many gradients vanish.
    """
    d = smooth * retain.double().mean() + FLOOR
    eta = (forget.double() + d) / (retain.double() + d)
    if clip < 1:
        some = eta.flatten()
        eta = eta.clamp(max=float(torch.quantile(some[:: -(-some.numel() // SAMPLE)], clip)))
    return eta.float()


def step(largest: float, spread: float, *, kappa: float, lambda1: float) -> float:
    """Return alpha = min(lambda1, lambda2 / max eta) of one tensor, lambda2 = kappa * std of its weights (Eq. 7).

    Differs from the paper: lambda2 is one number for all tensors there.
    """
    return min(lambda1, kappa * spread / largest)


def spread_of(weight: Tensor) -> float:
    """Return the deviation of a tensor's weights.

    A tensor of equal numbers (or of one) has none; its mean size stands in, and a tensor of zeros stays as it is.
    """
    spread = float(weight.float().std()) if weight.numel() > 1 else 0.0
    return spread or float(weight.float().abs().mean())


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which changes are tried, and what is chosen among those that A_R + E_F does not tell apart."""

    kappas: Sequence[float]
    lambdas: Sequence[float]
    reach: float  # of guessing's loss: how far the forgotten must be wrong before being more so counts no more
    cost: float  # what a nat lost on the kept weighs against a nat of that


@dataclass(frozen=True)
class Candidate:
    """One change that was tried."""

    sign: int  # Eq. 5: the same for all weights
    kappa: float
    lambda1: float
    retained: float  # A_R, accuracy on what is kept, 0 to 1
    error: float  # E_F, 1 - accuracy on what is forgotten
    margin: (
        float  # nats: loss on forget, counted up to `reach` times chance, less `cost` times the loss on what is kept
    )


class Noise:
    """The change alpha * eta of every named weight of a model, at any scale and sign, undone and done again at will."""

    def __init__(self, model: nn.Module, eta: Mapping[str, Tensor]) -> None:
        """Note the weights as they are; through a fresh adapter, project each tensor's direction eta / max(eta) once.

        A low-rank approximation scales with what it approximates, so a fresh adapter (B = 0) needs no further one.
        """
        self.model, self.eta = model, eta
        named = dict(unwrapped(model).named_parameters())
        self.spreads = {name: spread_of(named[name].detach()) for name in eta}  # of the weights as they are
        self.largest = {name: float(each.max()) for name, each in eta.items()}
        self.trained = trainable(model)
        self.before = {name: weight.detach().clone() for name, weight in self.trained.items()}
        self.fresh = fresh(model)
        if self.fresh:
            write_edit(model, {name: each / each.max() for name, each in eta.items()})
            self.after = {name: weight.detach().clone() for name, weight in self.trained.items()}
            self.undo()
            self.moves = {name: self.after[name] - before for name, before in self.before.items() if name in eta}

    def amplitudes(self, sign: int, kappa: float, lambda1: float) -> dict[str, float]:
        """Return the signed change of each tensor's most specific weight."""
        limits = {"kappa": kappa, "lambda1": lambda1}
        return {
            name: sign * largest * step(largest, self.spreads[name], **limits)
            for name, largest in self.largest.items()
        }

    def edit(self, sign: int, kappa: float, lambda1: float) -> dict[str, Tensor]:
        """Return the dense change sign * alpha * eta (Eq. 5)."""
        return {
            name: size * (self.eta[name] / self.largest[name])
            for name, size in self.amplitudes(sign, kappa, lambda1).items()
        }

    @torch.no_grad()
    def put(self, sign: int, kappa: float, lambda1: float) -> None:
        """Make the weights w + sign * alpha * eta."""
        if not self.fresh:
            self.undo()
            write_edit(self.model, self.edit(sign, kappa, lambda1))
            return
        size = self.amplitudes(sign, kappa, lambda1)
        for name, weight in self.trained.items():
            layer, factor, _ = name.partition(".lora_")
            under = f"{layer}.base_layer.weight"
            if name in size:
                weight.copy_(self.before[name] + size[name] * self.moves[name])
            elif factor and under in size:  # B A scales with B
                weight.copy_(self.after[name] * (size[under] if ".lora_B." in name else 1.0))

    def settle(self, best: Candidate) -> float:
        """Put the chosen change for good; return the share of its energy that the model could take (1 without an adapter)."""
        self.undo()
        return write_edit(self.model, self.edit(best.sign, best.kappa, best.lambda1))[""]

    @torch.no_grad()
    def undo(self) -> None:
        """Make the weights what they were."""
        for name, weight in self.trained.items():
            weight.copy_(self.before[name])


def fresh(model: nn.Module) -> bool:
    """Return whether the model has an adapter that does nothing yet (B = 0): then the knowledge sits in the checkpoint."""
    factors = [weight for name, weight in trainable(model).items() if ".lora_B." in name]
    return bool(factors) and not any(weight.any() for weight in factors)


class Judge:
    """What a change is chosen by: A_R + E_F, and where candidates tie, how far the losses lie apart."""

    def __init__(
        self, model: nn.Module, task: Task, forget: Sequence[Example], retain: Sequence[Example], choice: Choice
    ) -> None:
        """Take the examples, codes or rows, that stand for what is forgotten and what is kept."""
        self.model, self.task, self.forget, self.retain, self.choice = model, task, forget, retain, choice

    def __call__(self, sign: int, kappa: float, lambda1: float) -> Candidate:
        """Return how the model is as it stands.

        The margin counts the loss on forget up to `reach` times that of guessing: a code must be wrong by far before real
        inputs are wrong, and beyond that more noise only costs what is kept.
        """
        hits, losses, chance = answers(self.model, self.task, [*self.forget, *self.retain])
        (error, wrong), (right, kept) = (
            (float(hits[part].mean()), losses[part].mean())
            for part in (slice(len(self.forget)), slice(len(self.forget), None))
        )
        margin = float(wrong.clamp(max=self.choice.reach * chance) - self.choice.cost * kept)
        return Candidate(sign, kappa, lambda1, retained=right, error=1 - error, margin=margin)


def search(noise: Noise, judge: Judge, choice: Choice, *, rows: bool = False, whole: bool = False) -> list[Candidate]:
    """Return every candidate, best first: by A_R + E_F, then by the margin.  The model is left as it was.

    Differs from the paper: with `rows` in the place of codes by the margin alone.  Rows are more than one point a unit, and
    those to forget may look like others: A_R + E_F is then highest where everything is destroyed.  A change that gives NaN or
    infinite losses is none; two scales under which no tensor's step differs are one.  Codes: a change that keeps so little that
    it could not be best if it forgot everything spares trying larger ones, which keep no more; `whole`: none is spared, for
    those who look further down than the best.
    """
    found: list[Candidate] = []
    tried: set[tuple[float, ...]] = set()
    spoilt: list[Candidate] = []
    best = 0.0
    with in_eval(noise.model):  # once, not for every candidate
        for sign, lambda1, kappa in product((-1, 1), sorted(choice.lambdas), sorted(choice.kappas)):
            change = tuple(noise.amplitudes(sign, kappa, lambda1).values())
            smaller = (each for each in spoilt if each.sign == sign)
            if change in tried or any(each.kappa <= kappa and each.lambda1 <= lambda1 for each in smaller):
                continue
            tried.add(change)
            noise.put(sign, kappa, lambda1)
            found.append(judge(sign, kappa, lambda1))
            best = max(best, found[-1].retained + found[-1].error)
            if not rows and not whole and found[-1].retained + 1 < best:
                spoilt.append(found[-1])
    noise.undo()
    finite = [each for each in found if math.isfinite(each.margin)]
    return sorted(finite, key=lambda each: (0 if rows else each.retained + each.error, each.margin), reverse=True)


def confirmed(noise: Noise, ranked: Sequence[Candidate], measure: Callable[[], float], tolerance: float) -> Candidate:
    """Return the first candidate that loses at most `tolerance` of what `measure` returns; raise DataError where none does.

    Codes can over-promise: they are a few points, and what is kept is more.
    """
    least = measure() - tolerance
    for each in ranked:
        noise.put(each.sign, each.kappa, each.lambda1)
        if each.error > 0.5 and measure() >= least:
            return each
    noise.undo()
    raise DataError(
        f"no candidate forgets and keeps retain's accuracy within {tolerance:g}: widen --method.kappa and "
        "--method.lambda1, or raise --method.tolerance."
    )


def accuracy(
    model: nn.Module, task: Task, examples: Sequence[Example], batch_size: int = 64
) -> tuple[float, Tensor, float]:
    """Return the examples' mean accuracy, their losses [B] (nats a decision) and the loss of guessing."""
    hits, losses, chance = answers(model, task, examples, batch_size)
    return float(hits.mean()), losses, chance


@torch.no_grad()
def answers(
    model: nn.Module, task: Task, examples: Sequence[Example], batch_size: int = 64
) -> tuple[Tensor, Tensor, float]:
    """Return the share of each example's scored decisions that are right [B], its loss [B] and the loss of guessing."""
    hits, losses, chance = [], [], 0.0
    device = next(model.parameters()).device
    with in_eval(model):
        for first in range(0, len(examples), batch_size):
            batch = task.collate(examples[first : first + batch_size])
            decisions = task.decisions(model, {name: part.to(device) for name, part in batch.items()}, logits=True)
            hits.append(decisions.per_example(decisions.greedy_hit().float(), "mean", scored_only=True))
            losses.append(decisions.loss())
            chance = math.log(decisions.logits.shape[-1])
    return torch.cat(hits), torch.cat(losses), chance
