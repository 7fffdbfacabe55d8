"""The post-hoc concept bottleneck: its sparse regression at the optimum, its donor rule by hand, its accuracy beside the model's."""

import pytest
import torch
from conftest import Bench

from llm_unlearn.concepts import bank, bottleneck
from llm_unlearn.errors import DataError


def test_the_optimum_of_the_elastic_net() -> None:
    """Where a weight is 0 the slope is at most the l1 strength; elsewhere the two cancel."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    x = torch.randn(90, 6, generator=draw)
    x[:, 0] += 2 * (labels == 0)
    x[:, 1] += 2 * (labels == 1)
    strength, ratio = 0.05, 0.9
    weight, bias = (part.double() for part in bottleneck.sparse(x, labels, 3, strength=strength, l1_ratio=ratio))
    error = (x.double() @ weight.T + bias).softmax(1) - torch.nn.functional.one_hot(labels, 3)  # [N, C]
    slope = error.T @ x.double() / 90 + strength * (1 - ratio) * weight
    zero = weight == 0
    assert 4 < zero.sum() < 18
    assert slope[zero].abs().max() <= strength * ratio + 1e-4
    torch.testing.assert_close(slope[~zero], -strength * ratio * weight[~zero].sign(), atol=1e-4, rtol=0)
    torch.testing.assert_close(error.mean(0), torch.zeros(3).double(), atol=1e-4, rtol=0)  # the bias is not penalised


def test_a_strong_penalty_leaves_the_shares_of_the_classes() -> None:
    """W = 0, so b is the log of each class's share: 3 rows to 1 differ by log 3."""
    labels = torch.tensor([0, 0, 0, 1] * 5)
    weight, bias = bottleneck.sparse(
        torch.randn(20, 2, generator=torch.Generator().manual_seed(1)), labels, 2, strength=9.0
    )
    assert not weight.any()
    assert float(bias[0] - bias[1]) == pytest.approx(1.0986, abs=1e-3)


def test_the_donor_rule() -> None:
    """Class 0's concepts by weight: 0, 2, 1; class 2's first is concept 2, so 2 gives (confusion).  Class 1 has concept 1 alone."""
    weight = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, -1.0], [0.5, 0.0, 4.0]])
    assert bottleneck.donor_of(weight, 0) == (2, 2, "confusion")
    assert bottleneck.donor_of(weight, 1) == (0, 1, "shared")
    assert bottleneck.donor_of(weight, 0, top=1) == (2, 0, "shared")
    alone = torch.tensor([[3.0, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.0, 4.0]])
    assert bottleneck.donor_of(
        alone, 0, means=torch.tensor([[2.0, 0.0, 0.0], [-0.9, 0.0, 0.0], [-0.4, 0.0, 0.0]])
    ) == (2, 0, "nearest")
    with pytest.raises(DataError, match="one class only"):
        bottleneck.donor_of(weight[:1], 0)


def test_a_classifier_through_its_own_classes(sentences: Bench) -> None:
    """With a concept a class the bottleneck finds each class by its own concept."""
    model = sentences.target.eval()
    rows = [*sentences.splits["forget"], *sentences.splits["retain"]]
    names = {label: f"class {label}" for label in sorted({row["label"] for row in rows})}
    made = bank.build_bank(model, sentences.task, bank.of_classes(rows, names))
    classes = [names.get(i, "none") for i in range(max(names) + 1)]
    found = bottleneck.fit_bottleneck(model, sentences.task, made, rows, classes=classes, residual=True)
    for label, name in names.items():
        assert found.weight[label].argmax() == made.names.index(name)
    assert found.model_accuracy is not None and found.with_residual is not None
    assert found.accuracy >= 0.7 and found.n >= len(names)
    giver = found.donor("class 0")
    assert giver.name in names.values() and giver.name != "class 0"
    with pytest.raises(DataError, match=r"no class 'clas 1'; did you mean 'class 1'\?"):
        found.donor("clas 1")
    with pytest.raises(DataError, match="of at least two classes"):
        bottleneck.fit_bottleneck(model, sentences.task, made, rows, [0] * len(rows))


def test_a_language_model_has_no_accuracy_of_its_own(language: Bench) -> None:
    rows = [*language.splits["forget"], *language.splits["retain"]]
    labels = [int("live" in row["prompt"]) for row in rows]
    examples = {"homes": bank.saying(rows, ["live"]), "trades": bank.saying(rows, ["work"])}
    made = bank.build_bank(language.target.eval(), language.task, examples)
    found = bottleneck.fit_bottleneck(language.target, language.task, made, rows, labels, ["trade", "home"])
    assert found.model_accuracy is None and found.with_residual is None and found.accuracy == 1.0
    assert found.donor("home").name == "trade"
