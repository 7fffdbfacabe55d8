"""Adversarial inputs: inside the ball and the valid range, on what may be changed, and leaving the model as it was."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from conftest import Bench
from torch import Tensor

from llm_unlearn.adversary import fitted, perturbed, pgd, pixel_range, reversed_gradient
from llm_unlearn.encoding import movable
from llm_unlearn.errors import DataError
from llm_unlearn.other_answers import with_other_labels
from llm_unlearn.tasks import Example

TASKS = ("causal_lm", "sequence_classifier", "image_classifier")
ROUNDING = 1.001  # deltas are kept in fp16


def aimed(bench: Bench, count: int = 6) -> list[Example]:
    rows = with_other_labels(bench.target, bench.task, bench.splits["forget"][:count], seed=3)
    return bench.task.encode(rows)


def norm(values: Tensor) -> float:
    return values.float().norm().item()


@pytest.mark.parametrize("name", ["sequence_classifier", "image_classifier"])
def test_it_turns_rows_into_what_they_were_aimed_at(name: str, bench: Callable[[str], Bench]) -> None:
    here = bench(name)
    examples = aimed(here)
    wide = pgd(here.target, here.task, examples, pixel_radius=0.3, word_radius=1.0, steps=20)
    none = pgd(here.target, here.task, examples, pixel_radius=1e-6, word_radius=1e-6, steps=2)
    assert (
        wide.success > 0.8 and none.success == 0.0
    )  # the target knows these rows: unchanged they have their own labels


def test_the_answer_of_a_language_model_becomes_likelier(language: Bench) -> None:
    examples = aimed(language)
    batch = language.task.collate(examples)
    found = pgd(language.target, language.task, examples, word_radius=1.0, steps=20)
    deltas = torch.nn.utils.rnn.pad_sequence(found.deltas, batch_first=True)
    with torch.no_grad():
        moved = language.task.decisions(
            language.target, perturbed(language.target, language.task, batch, deltas)
        ).mean_nll()
        plain = language.task.decisions(language.target, batch).mean_nll()
    assert (moved < plain).all() and moved.mean() < 0.7 * plain.mean()


@pytest.mark.parametrize("name", TASKS)
def test_it_stays_in_the_ball(name: str, bench: Callable[[str], Bench]) -> None:
    here = bench(name)
    examples = aimed(here)
    found = pgd(here.target, here.task, examples, pixel_radius=0.05, word_radius=0.1, steps=12)
    for example, delta in zip(examples, found.deltas, strict=True):
        batch = here.task.collate([example])
        with torch.no_grad():
            _, clean = here.task.continuous(here.target, batch)
        if name == "image_classifier":
            low, high = pixel_range(None, here.task.collate(examples)["pixel_values"])
            moved = delta.float() / (high - low)  # in shares of each channel's range
            assert norm(moved) <= 0.05 * clean.numel() ** 0.5 * ROUNDING
        else:
            free = movable(here.task.tokenizer, batch)[..., None]  # type: ignore[attr-defined]
            assert delta.shape == clean[0].shape
            assert norm(delta) <= 0.1 * norm(clean * free) * ROUNDING
        assert norm(delta) > 0 and delta.dtype == torch.float16


def test_pixels_stay_pixels(images: Bench) -> None:
    task = type(images.task)(processor=None)
    examples = aimed(images)
    found = pgd(images.target, task, examples, pixel_radius=0.5, steps=5)
    clean = task.collate(examples)["pixel_values"]
    low, high = pixel_range(None, clean)
    moved = clean + torch.stack(found.deltas).float()
    assert (moved >= low - 2e-3).all() and (moved <= high + 2e-3).all()
    assert (torch.stack(found.deltas).float() / (high - low)).flatten(1).norm(dim=1).min() > 0.1


def test_black_and_white_are_what_the_processor_makes_of_them() -> None:
    pixels = torch.rand(2, 3, 4, 4)
    processor = SimpleNamespace(
        do_rescale=True, do_normalize=True, image_mean=[0.5, 0.4, 0.3], image_std=[0.5, 0.2, 0.1]
    )
    low, high = pixel_range(processor, pixels)
    torch.testing.assert_close(low.flatten(), torch.tensor([-1.0, -2.0, -3.0]))
    torch.testing.assert_close(high.flatten(), torch.tensor([1.0, 3.0, 7.0]))
    low, high = pixel_range(SimpleNamespace(do_rescale=True, do_normalize=False), pixels)
    assert low.flatten().tolist() == [0.0] * 3 and high.flatten().tolist() == [1.0] * 3
    low, _ = pixel_range(SimpleNamespace(do_rescale=False), pixels)  # in what unit, nobody says: as they are
    torch.testing.assert_close(low.flatten(), pixels.amin((0, 2, 3)))


@pytest.mark.parametrize("name", ["causal_lm", "sequence_classifier"])
def test_padding_special_tokens_and_answers_are_untouched(name: str, bench: Callable[[str], Bench]) -> None:
    here = bench(name)
    examples = aimed(here)
    assert len({len(each["input_ids"]) for each in examples}) > 1  # ragged
    found = pgd(here.target, here.task, examples, steps=3)
    special = set(here.task.tokenizer.all_special_ids)  # type: ignore[attr-defined]
    for example, delta in zip(examples, found.deltas, strict=True):
        assert len(delta) == len(example["input_ids"])
        moved = (delta != 0).any(-1).tolist()
        given = [label == -100 for label in example["labels"]] if name == "causal_lm" else [True] * len(moved)
        assert moved == [
            free and token not in special for free, token in zip(given, example["input_ids"], strict=True)
        ]


def test_the_model_is_left_as_it_was(images: Bench) -> None:
    model = images.wrapped().train()
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pgd(model, images.task, aimed(images), steps=3)
    assert flags == {name: p.requires_grad for name, p in model.named_parameters()}
    assert all(p.grad is None for p in model.parameters())
    assert all(module.training for module in model.modules())
    assert all(torch.equal(kept[name], tensor) for name, tensor in model.state_dict().items())


def test_the_seed_decides(language: Bench) -> None:
    examples = aimed(language)

    def found(seed: int) -> list[Tensor]:
        return pgd(language.target, language.task, examples, steps=2, seed=seed).deltas

    assert all(map(torch.equal, found(1), found(1)))
    assert not any(map(torch.equal, found(1), found(2)))


def test_a_step_is_one_forward_and_one_backward_for_the_whole_batch(images: Bench) -> None:
    examples, seen = aimed(images), list[int]()
    hook = images.target.register_forward_hook(lambda module, args, out: seen.append(len(out.logits)))
    pgd(images.target, images.task, examples, steps=4, batch_size=8)
    hook.remove()
    assert seen == [6] * 5  # four steps and the count of hits


def test_a_row_without_a_prompt_is_refused(language: Bench) -> None:
    examples = language.task.encode([{"prompt": None, "response": "Abel lives in Ostrand"}])
    with pytest.raises(DataError, match="1 of 1 rows have none: give rows with a prompt"):
        pgd(language.target, language.task, examples)


def test_deltas_take_a_batch_s_length() -> None:
    deltas = torch.ones(2, 3, 4)
    assert fitted(deltas, torch.zeros(2, 5, 4)).sum(-1).tolist() == [[4, 4, 4, 0, 0]] * 2
    assert fitted(deltas, torch.zeros(2, 2, 4, dtype=torch.float64)).dtype == torch.float64


def test_a_reversed_gradient() -> None:
    """d/dx of 3 x^2 at 2 is 12; behind the reversal at strength 0.5 it is -6, and the value is the same."""
    x = torch.tensor(2.0, requires_grad=True)
    value = 3 * reversed_gradient(x, 0.5) ** 2
    value.backward()
    assert value.item() == 12.0 and x.grad is not None and x.grad.item() == -6.0
