"""Hidden states by layer name, and the linear probes that read them."""

import copy
from collections.abc import Callable

import pytest
import torch
from conftest import Bench
from torch import nn

from llm_unlearn.concepts import linear, states
from llm_unlearn.errors import DataError, TaskError
from llm_unlearn.vision import bridge


@pytest.mark.parametrize("kind", ["causal_lm", "sequence_classifier", "image_classifier"])
def test_states_are_those_of_the_model_itself(kind: str, bench: Callable[[str], Bench]) -> None:
    """Row by row without padding: the first block's mean over real tokens (patches) is what hidden_states holds."""
    here = bench(kind)
    rows = here.splits["forget"][:5]
    model = copy.deepcopy(here.target).eval()  # asking for hidden states leaves hooks behind, which cannot be pickled
    names = states.blocks(model)
    found = states.pooled_states(model, here.task, rows, batch_size=2)
    assert tuple(found) == names and len(names) >= 2
    for i, row in enumerate(rows):
        batch = here.task.collate(here.task.encode([row]))
        with torch.no_grad():
            whole = model(**here.task.inputs(batch), output_hidden_states=True).hidden_states
        expected = whole[1][0].mean(0)  # after the first block; the last one's may be normed
        torch.testing.assert_close(found[names[0]][i], expected, atol=1e-5, rtol=1e-5)


def test_last_token_and_maps() -> None:
    words = torch.arange(12.0).reshape(2, 3, 2)
    batch = {"attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]])}
    assert states.pooled(words, batch, "last").tolist() == [[2.0, 3.0], [10.0, 11.0]]
    assert states.pooled(words, batch).tolist() == [[1.0, 2.0], [8.0, 9.0]]
    assert states.pooled(torch.ones(2, 3, 4, 4), {}).shape == (2, 3)


def test_a_plain_network_has_stages() -> None:
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()),
        nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(24, 3),
    )
    model = bridge(net.eval())
    assert states.blocks(model) == ("net.0", "net.1")
    with pytest.raises(
        TaskError, match=r"has no layer 'net\.10'; did you mean 'net\.1(\.0)?'\?; its blocks are net\.0, net\.1"
    ):
        states.checked(model, ["net.10"])


def test_a_probe_finds_the_direction_and_chance_is_chance() -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 2
    told = torch.randn(120, 8, generator=draw)
    told[:, 3] += 6 * labels
    probe = linear.fit(told, labels)
    assert probe.direction.argmax() == 3 and (probe.classes(told) == labels).all()
    assert linear.balanced_accuracy(linear.held_out(told, labels), labels) > 0.95
    untold = torch.randn(120, 8, generator=draw)
    assert 0.3 < linear.balanced_accuracy(linear.held_out(untold, labels), labels) < 0.7
    with pytest.raises(DataError, match="at least two classes"):
        linear.fit(told, torch.zeros(120, dtype=torch.long))


def test_balanced_accuracy_is_a_mean_over_classes() -> None:
    """9 of 9 and 0 of 1 right: 0.5, not 0.9."""
    assert linear.balanced_accuracy(torch.tensor([True] * 9 + [False]), torch.tensor([0] * 9 + [1])) == 0.5


def test_scaling_a_unit_changes_nothing() -> None:
    draw = torch.Generator().manual_seed(1)
    x, y = torch.randn(60, 4, generator=draw), torch.arange(60) % 3
    x[:, 0] += y
    scaled = x * torch.tensor([100.0, 1.0, 0.01, 1.0])
    torch.testing.assert_close(linear.fit(x, y).scores(x), linear.fit(scaled, y).scores(scaled), atol=1e-3, rtol=1e-3)
