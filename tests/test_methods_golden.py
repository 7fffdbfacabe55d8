"""Each method's terms on losses given by hand, against values worked out in the docstrings.

The batch is ragged throughout: forget rows of 3, 1 and 2 decisions, whose last one is an end of sequence (trained, not scored).
A value catches a wrong factor, a gradient a flipped sign.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import Bench, progress
from torch import Tensor, nn

from llm_unlearn.method import LossMethod
from llm_unlearn.methods.concept_poison import ConceptPoison
from llm_unlearn.methods.grad_ascent import GradAscent
from llm_unlearn.methods.grad_diff import GradDiff
from llm_unlearn.methods.kl import KL
from llm_unlearn.methods.nabla_tau import NablaTau
from llm_unlearn.methods.npo import NPO
from llm_unlearn.methods.simnpo import SimNPO
from llm_unlearn.progress import Progress, Stop
from llm_unlearn.run import Run
from llm_unlearn.tasks import Decisions

FORGET = (3, 1, 2)  # decisions a row
RETAIN = (1, 4)
FORGET_LOSSES = (0.5, 1.0, 1.5, 2.0, 0.25, 0.75)  # row sums 3, 2, 1; row means 1, 2, 0.5; their mean 7/6
RETAIN_LOSSES = (4.0, 1.0, 2.0, 3.0, 2.0)  # row means 4 and 2: their mean is 3, that of the five tokens 2.4


class Losses(nn.Module):
    """A model that is nothing but its losses."""

    def __init__(self) -> None:
        super().__init__()
        self.forget, self.retain = (nn.Parameter(torch.tensor(given)) for given in (FORGET_LOSSES, RETAIN_LOSSES))


def ragged(losses: Tensor, lengths: Sequence[int]) -> Decisions:
    """Return decisions with these losses; the last of each row of several is its end of sequence."""
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    scored = torch.ones(len(losses), dtype=torch.bool)
    ends = torch.tensor(lengths).cumsum(0) - 1
    for end, length in zip(ends.tolist(), lengths, strict=True):
        scored[end] = length == 1
    return Decisions(torch.zeros_like(owner), owner, scored, len(lengths), losses=losses)


def streams(model: Losses, batch: Mapping[str, Any], *, logits: bool = False) -> tuple[Decisions, ...]:
    parts = {"forget": (model.forget, FORGET), "poison": (model.forget, FORGET), "retain": (model.retain, RETAIN)}
    return tuple(ragged(*parts[name]) for name in batch)


def terms(method: LossMethod, now: Progress | None = None, *, lead: str = "forget", **columns: Any) -> dict[str, Any]:
    """Return the terms' values and the gradient of their sum for each loss."""
    model = Losses()
    task = SimpleNamespace(streams=streams, name="causal_lm")
    row = {"prompt": None, "response": ""}
    splits = {
        name: [{**row, "response": str(i)} for i in range(n)]
        for name, n in (("forget", 3), ("retain", 6), ("holdout", 1))
    }
    run = Run(model=model, task=task, splits=splits, folder=Path("unused"))  # type: ignore[arg-type]
    batch: dict[str, Any] = {lead: {name: torch.tensor(value) for name, value in columns.items()}, "retain": {}}
    if isinstance(method, GradAscent):
        del batch["retain"]
    found = method.objective(run)(model, batch, now or progress())
    torch.stack(list(found.values())).sum().backward()
    return {
        **{name: term.item() for name, term in found.items()},
        "forget_slope": model.forget.grad,
        "retain_slope": model.retain.grad,
    }


def slope(*values: float) -> Tensor:
    """Return a gradient [6]: the row's value, spread over its decisions in the proportions given."""
    return torch.tensor(values)


RETAIN_SLOPE = torch.tensor([1 / 2, 1 / 8, 1 / 8, 1 / 8, 1 / 8])  # of the mean over rows of each row's mean


# --- ascent ---


def test_grad_ascent() -> None:
    """-(1 + 2 + 0.5)/3 = -7/6; a decision of row i with n_i decisions pulls with -1/(3 n_i)."""
    found = terms(GradAscent(forget_weight=1.0))
    assert found["forget"] == pytest.approx(-7 / 6)
    torch.testing.assert_close(found["forget_slope"], slope(-1 / 9, -1 / 9, -1 / 9, -1 / 3, -1 / 6, -1 / 6))


def test_grad_diff() -> None:
    """-0.05 * 7/6 = -0.058333 beside (4 + 2)/2 = 3; the token mean of retain would be 2.4."""
    found = terms(GradDiff(forget_weight=0.05))
    assert found["forget"] == pytest.approx(-0.05 * 7 / 6) and found["retain"] == pytest.approx(3.0)
    torch.testing.assert_close(found["forget_slope"], -0.05 * slope(1 / 9, 1 / 9, 1 / 9, 1 / 3, 1 / 6, 1 / 6))
    torch.testing.assert_close(found["retain_slope"], RETAIN_SLOPE)


# --- preference ---


def test_npo_at_the_reference() -> None:
    """log p = log p_target gives -(2/beta) log sigmoid(0) = (2/beta) log 2 = 13.8629 at beta 0.1, whatever the lengths."""
    found = terms(NPO(beta=0.1, forget_weight=1.0), reference_nll=[3.0, 2.0, 1.0])
    assert found["forget"] == pytest.approx(2 / 0.1 * math.log(2), rel=1e-6)
    assert found["forget"] == pytest.approx(13.8629, abs=1e-4)
    assert found["retain"] == pytest.approx(3.0)


def test_npo_away_from_the_reference() -> None:
    """Row sums S = 3, 2, 1 and reference sums R = 1, 2, 4: the term is mean(-(2/beta) log sigmoid(beta (S - R))).

    d/dS = -2 sigmoid(beta (R - S)) / 3 for every decision of the row: negative, so a step down the gradient raises the
    loss; rows beyond the reference (S > R) are pushed less.
    """
    beta = 0.5
    found = terms(NPO(beta=beta, forget_weight=0.2), reference_nll=[1.0, 2.0, 4.0])
    sigmoid = [1 / (1 + math.exp(-beta * distance)) for distance in (2.0, 0.0, -3.0)]
    assert found["forget"] == pytest.approx(0.2 * sum(-2 / beta * math.log(s) for s in sigmoid) / 3, rel=1e-5)
    one, two, three = (-0.2 * 2 * (1 - s) / 3 for s in sigmoid)
    torch.testing.assert_close(found["forget_slope"], slope(one, one, one, two, three, three))
    assert abs(one) < abs(two) < abs(three)


def test_npo_weighs_a_row_by_what_it_adds_up() -> None:
    """A causal LM's row is the sum of its words, a classifier's one decision; a weight that is given holds for both."""
    assert NPO().weight("causal_lm") < 1 < NPO().weight("sequence_classifier") == NPO().weight("image_classifier")
    assert NPO(forget_weight=0.0).weight("causal_lm") == NPO(forget_weight=0.0).weight("image_classifier") == 0.0


def test_npo_with_a_small_beta_is_gradient_ascent() -> None:
    """beta -> 0: the gradient of the term tends to -1 for each row's sum, divided by the 3 rows."""
    found = terms(NPO(beta=1e-4, forget_weight=1.0), reference_nll=[1.0, 2.0, 4.0])
    torch.testing.assert_close(found["forget_slope"], torch.full((6,), -1 / 3), rtol=1e-3, atol=0)


def test_simnpo_value() -> None:
    """mean of -(2/beta) log sigmoid(beta m - gamma) over the rows' mean losses m = 1, 2, 0.5 at beta 3.5, gamma 0.125."""
    wanted = sum(2 / 3.5 * math.log1p(math.exp(-(3.5 * m - 0.125))) for m in (1.0, 2.0, 0.5)) / 3
    found = terms(SimNPO(beta=3.5, gamma=0.125, forget_weight=1.0))
    assert found["forget"] == pytest.approx(wanted, rel=1e-5) and found["retain"] == pytest.approx(3.0)


def test_simnpo_gradient() -> None:
    """d/dm = -2 sigmoid(gamma - beta m) / 3, a decision's share 1/n: the length counts, unlike in NPO."""
    push = [-2 / (1 + math.exp(3.5 * m - 0.125)) / 3 for m in (1.0, 2.0, 0.5)]
    one, two, three = push[0] / 3, push[1], push[2] / 2
    torch.testing.assert_close(
        terms(SimNPO(beta=3.5, gamma=0.125, forget_weight=1.0))["forget_slope"],
        slope(one, one, one, two, three, three),
    )


# --- the target's own distribution ---


def test_kl_is_zero_and_flat_at_the_target(language: Bench, tmp_path: Path) -> None:
    """KL(p || p) = 0 with gradient sum p - p = 0; the forget term is -0.05 times the rows' mean loss."""
    run = language.run(tmp_path)
    batch = run.task.collate_streams(
        {name: run.task.encode(run.rows(name)[:5]) for name in ("forget", "retain")}
    )  # rows of 4 to 12 tokens
    for name, parameter in run.model.named_parameters():
        if "lora_A" in name:
            nn.init.normal_(parameter)
    found = KL(forget_weight=0.05).objective(run)(run.model, batch, progress())
    (forget,) = run.task.streams(run.model, {"forget": batch["forget"]})
    assert found["retain"].item() == pytest.approx(0.0, abs=1e-6)
    assert found["forget"].item() == pytest.approx(-0.05 * forget.mean_nll().mean().item(), rel=1e-3)
    found["retain"].backward()
    grads = [p.grad for p in run.model.parameters() if p.grad is not None]
    assert grads and max(grad.abs().max().item() for grad in grads) < 1e-5


def test_kl_of_distributions_given_by_hand() -> None:
    """Two words.  Row 1, one decision: p = (1/2, 1/2), q = (3/4, 1/4): KL = log 2 - (log 3)/2 = 0.143841.

    Row 2, two decisions: that and its mirror image, q = (1/4, 3/4), and q = p: mean 0.0719205.  Mean of the rows 0.107881;
    the mean of the three decisions would be 0.0959.  (KL(q || p) of the first is 0.130812: the order matters.)
    """
    p = torch.full((3, 2), 0.5).log()
    q = torch.tensor([[0.75, 0.25], [0.25, 0.75], [0.5, 0.5]]).log()
    owner = torch.tensor([0, 1, 1])

    def decide(scores: Tensor) -> Decisions:
        return Decisions(torch.zeros(3, dtype=torch.long), owner, torch.ones(3, dtype=torch.bool), 2, scores=scores)

    task = SimpleNamespace(streams=lambda *a, **k: (decide(q), decide(q)), decisions=lambda *a, **k: decide(p))
    run = Run(model=nn.Linear(1, 1), task=task, splits={}, folder=Path("unused"), frozen_copy=nn.Linear(1, 1))  # type: ignore[arg-type]
    found = KL(forget_weight=0.05).objective(run)(run.model, {"forget": {}, "retain": {}}, progress())
    first = math.log(2) - math.log(3) / 2
    assert first == pytest.approx(0.143841, abs=1e-6)
    assert found["retain"].item() == pytest.approx((first + first / 2) / 2, rel=1e-5)
    wanted = F.cross_entropy(q, torch.zeros(3, dtype=torch.long), reduction="none")
    assert found["forget"].item() == pytest.approx(-0.05 * (wanted[0] + wanted[1:].mean()).item() / 2, rel=1e-5)


# --- towards unseen data ---

# Scored losses: row 1 (0.5, 1.0), row 2 (2.0), row 3 (0.25); their means 0.75, 2, 0.25 and the mean of these is 1.
SCORED = slope(1 / 6, 1 / 6, 0, 1 / 3, 1 / 3, 0)  # d mean / d loss


def test_nabla_tau_value_and_gradient() -> None:
    """alpha ReLU(L_val - L_f)^2 at L_val 2, L_f 1, alpha 0.5: value 0.5; gradient -2 alpha (L_val - L_f) dL_f = -dL_f."""
    found = terms(NablaTau(alpha=0.5), progress(unseen=2.0))
    assert found["forget"] == pytest.approx(0.5) and found["retain"] == pytest.approx(0.5 * 3.0)
    torch.testing.assert_close(found["forget_slope"], -SCORED)
    torch.testing.assert_close(found["retain_slope"], 0.5 * RETAIN_SLOPE)


@pytest.mark.parametrize("two_sided", [False, True])
def test_nabla_tau_beyond_unseen_data(two_sided: bool) -> None:
    """L_f = 1 above L_val = 0.4: the ReLU is silent; two-sided 0.5 (0.6)^2 = 0.18 with gradient +0.6 dL_f pulls back."""
    found = terms(NablaTau(alpha=0.5, two_sided=two_sided), progress(unseen=0.4))
    assert found["forget"] == pytest.approx(0.18 if two_sided else 0.0)
    torch.testing.assert_close(found["forget_slope"], 0.6 * SCORED if two_sided else torch.zeros(6))


def test_nabla_tau_by_the_sample() -> None:
    """Rows' losses 0.75, 2, 0.25 against 1.25: (0.5^2 + 0 + 1^2)/3 = 0.416667; the exploded row 2 hides nobody.

    Gradient of row i: -2 (1.25 - l_i) / 3 over its scored decisions (2 in row 1, 1 in row 3).
    """
    found = terms(NablaTau(alpha=0.5, reduction="sample"), progress(unseen=1.25))
    assert found["forget"] == pytest.approx(0.5 * 1.25 / 3)
    torch.testing.assert_close(found["forget_slope"], slope(-1 / 12, -1 / 12, 0, 0, -1 / 3, 0))


def test_nabla_taus_alpha() -> None:
    """5/3 of the forget share 3/9 is 0.5556, cut to 0.5; halfway through it has fallen to half."""
    assert terms(NablaTau(), progress(unseen=2.0))["forget"] == pytest.approx(0.5)
    half = progress(unseen=2.0, steps=10)
    half.step = 5
    assert terms(NablaTau(alpha=0.4), half)["forget"] == pytest.approx(0.2)
    assert terms(NablaTau(alpha=0.4), half)["retain"] == pytest.approx(0.8 * 3.0)


def test_nabla_tau_measures_unseen_data_every_few_epochs() -> None:
    measured: list[int] = []
    now = progress(steps=12)
    now.measure = lambda split: measured.append(now.step) or 2.0  # type: ignore[func-returns-value]
    for now.step in range(12):
        terms(NablaTau(validate_every=5), now)
    assert measured == [0, 5, 10]


def test_nabla_tau_over_a_whole_accumulated_step() -> None:
    """The square's slope comes from the mean over the step (1.5 here), not from this micro-batch's 1."""
    now = progress(unseen=2.0)
    now.whole_step = lambda: 1.5
    found = terms(NablaTau(alpha=0.5), now)
    torch.testing.assert_close(found["forget_slope"], -0.5 * SCORED)


# --- poisoned rows ---


def test_concept_poison() -> None:
    """Two ordinary mean losses: 7/6 on the poison rows (so their gradient is positive: they are learned), 3 on retain."""
    found = terms(ConceptPoison(poison_weight=0.5), lead="poison")
    assert found["poison"] == pytest.approx(0.5 * 7 / 6) and found["retain"] == pytest.approx(3.0)
    torch.testing.assert_close(found["forget_slope"], 0.5 * slope(1 / 9, 1 / 9, 1 / 9, 1 / 3, 1 / 6, 1 / 6))
    off = progress(stop=Stop(gate=False), state={"on": False})
    assert terms(ConceptPoison(), off, lead="poison")["poison"] == 0.0
