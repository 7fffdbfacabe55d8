"""Decisions by hand, the three tasks' batches, one forward over several streams, and greedy answers."""

import copy
import logging
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import Bench, byte_level_bpe, facts, texts_of
from torch import nn

from llm_unlearn.errors import TaskError
from llm_unlearn.tasks import IGNORE, CausalLM, Decisions, ImageClassifier, SequenceClassifier


def given(**changes: Any) -> Decisions:
    """Return three examples of 2, 1 and 3 decisions with losses 1..6; the last of each row of several is unscored."""
    owner = torch.tensor([0, 0, 1, 2, 2, 2])
    scored = torch.tensor([True, False, True, True, True, False])
    values = {"labels": torch.zeros(6, dtype=torch.long), "owner": owner, "scored": scored, "batch_size": 3}
    return Decisions(**{**values, "losses": torch.arange(1.0, 7.0), **changes})


# --- decisions ---


def test_losses_by_example() -> None:
    """Row losses (1, 2), (3), (4, 5, 6): sums 3, 3, 15; means 1.5, 3, 5; means over what is scored 1, 3, 4.5."""
    decisions = given()
    assert decisions.per_example(decisions.nll()).tolist() == [3.0, 3.0, 15.0]
    assert decisions.mean_nll().tolist() == [1.5, 3.0, 5.0]
    assert decisions.loss().tolist() == [1.0, 3.0, 4.5]
    assert decisions.per_example(decisions.nll(), scored_only=True).tolist() == [1.0, 3.0, 9.0]


def test_no_loss_counts_above_its_ceiling_nor_one_that_the_input_gives_away() -> None:
    """Losses 1..6 under ceilings 4 4 2 4.5 4 9, the first one told: 0 2 2 4 4 6; none has a gradient where it was cut."""
    losses = torch.arange(1.0, 7.0, requires_grad=True)
    told = torch.tensor([True, False, False, False, False, False])
    limited = given(losses=losses, told=told).limited(torch.tensor([4.0, 4.0, 2.0, 4.5, 4.0, 9.0]))
    assert limited.nll().tolist() == [0.0, 2.0, 2.0, 4.0, 4.0, 6.0]
    limited.nll().sum().backward()
    assert losses.grad is not None and losses.grad.tolist() == [0.0, 1.0, 0.0, 1.0, 0.0, 1.0]
    assert given(told=told).examples(0, 1).told is not None and len(given(told=told).examples(0, 1).told) == 2  # type: ignore[arg-type]


def test_an_example_without_decisions_counts_nothing() -> None:
    decisions = given(batch_size=4)
    assert decisions.loss().tolist() == [1.0, 3.0, 4.5, 0.0]


def test_a_part_of_a_batch() -> None:
    part = given().examples(1, 3)
    assert part.batch_size == 2 and part.owner.tolist() == [0, 1, 1, 1]
    assert part.loss().tolist() == [3.0, 4.5]


def test_losses_without_logits_say_how_to_get_them() -> None:
    with pytest.raises(TaskError, match=r"logits=True"):
        _ = given().logits
    with pytest.raises(TaskError):
        given().greedy_hit()


def test_nll_of_one_label_and_of_several() -> None:
    """-log softmax(0, log 3)[1] = -log 3/4; binary: -log sigmoid at logits (0, log 3) for (1, 0) = (log 2 + log 4)/2."""
    scores = torch.tensor([[0.0, 3.0]]).log().nan_to_num(neginf=0.0)
    one = {"owner": torch.tensor([0]), "scored": torch.tensor([True]), "batch_size": 1}
    single = Decisions(labels=torch.tensor([1]), scores=scores, **one)
    assert single.nll().item() == pytest.approx(-torch.tensor(0.75).log().item())
    assert single.greedy_hit().tolist() == [True]
    several = Decisions(labels=torch.tensor([[1.0, 0.0]]), scores=scores, **one)
    assert several.nll().item() == pytest.approx((torch.tensor(2.0).log() + torch.tensor(4.0).log()).item() / 2)
    assert several.greedy_hit().tolist() == [False]
    torch.testing.assert_close(single.log_probs().exp().sum(-1), torch.ones(1))


# --- language ---


def test_decisions_never_hold_what_is_ignored_or_padding(language: Bench) -> None:
    batch = language.batch("forget")
    assert (batch["labels"] == IGNORE).any() and (batch["attention_mask"] == 0).any()
    decisions = language.task.decisions(language.target, batch)
    assert (decisions.labels >= 0).all()
    assert len(decisions.labels) == int((batch["labels"][:, 1:] != IGNORE).sum())
    assert decisions.owner.tolist() == sorted(decisions.owner.tolist())
    ends = decisions.labels == language.task.tokenizer.eos_token_id  # type: ignore[attr-defined]
    assert ends.sum() == len(batch["labels"]) and not (ends & decisions.scored).any()


def test_the_first_token_of_a_text_is_not_predicted_from_nothing(language: Bench) -> None:
    text = {"prompt": None, "response": "Abel lives in Quillmere."}
    (example,) = language.task.encode([text])
    decisions = language.task.decisions(language.origin, language.task.collate([example]))
    assert decisions.labels.tolist() == example["input_ids"][1:] and decisions.scored.all()


def test_several_streams_in_one_forward_equal_each_alone(bench: Any) -> None:
    for name in ("causal_lm", "sequence_classifier", "image_classifier"):
        here = bench(name)
        examples = {split: here.task.encode(rows[:5]) for split, rows in here.splits.items()}
        for example in examples["forget"]:
            example["reference_nll"] = 2.5
        batch = here.task.collate_streams(examples)
        assert batch["forget"]["reference_nll"].tolist() == [2.5] * 5 and "reference_nll" not in batch["retain"]
        for logits in (False, True):
            together = here.task.streams(here.target, batch, logits=logits)
            for split, part in zip(examples, together, strict=True):
                alone = here.task.decisions(here.target, here.task.collate(examples[split]), logits=logits)
                torch.testing.assert_close(part.nll(), alone.nll(), rtol=1e-4, atol=1e-5)
                assert torch.equal(part.labels, alone.labels) and torch.equal(part.owner, alone.owner)
                assert part.batch_size == 5


def test_a_number_that_only_some_rows_carry_is_not_made_up(language: Bench) -> None:
    examples = language.task.encode(language.splits["forget"][:2])
    examples[0]["reference_nll"] = 1.0
    column = language.task.collate(examples)["reference_nll"]
    assert column[0] == 1.0 and column[1].isnan()


def test_what_stands_in_for_words_is_used(language: Bench) -> None:
    """Embeddings put into a batch replace its ids, and the loss is differentiable in them."""
    batch = dict(language.batch("forget", 4))
    name, embeddings = language.task.continuous(language.target, batch)
    leaf = embeddings.detach().requires_grad_()
    plain = language.task.decisions(language.target, batch).nll()
    replaced = language.task.decisions(language.target, {**batch, name: leaf}).nll()
    torch.testing.assert_close(replaced, plain, rtol=1e-5, atol=1e-5)
    replaced.sum().backward()
    assert leaf.grad is not None and leaf.grad[batch["attention_mask"].bool()].abs().sum() > 0


def test_hidden_states_of_a_layer(language: Bench) -> None:
    batch = language.batch("forget", 3)
    own = copy.deepcopy(language.target)  # transformers leaves hooks on a model that was asked for hidden states
    states = language.task.hidden(own, batch, 1)
    assert states.shape == (3, batch["input_ids"].shape[1], 32)


# --- greedy answers ---


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_a_model_that_knows_answers(language: Bench, batch_size: int, caplog: pytest.LogCaptureFixture) -> None:
    """Prompts of different lengths in one batch, in the order they were asked."""
    rows = [*language.splits["retain"], *language.splits["forget"]]
    model = copy.deepcopy(language.target).train()
    with caplog.at_level(logging.WARNING, logger="transformers"):
        answers = language.task.generate(model, rows, max_new_tokens=24, batch_size=batch_size)  # type: ignore[attr-defined]
    assert answers == [row["response"] for row in rows]
    assert model.training and not caplog.records


def test_answers_end_at_the_limit(language: Bench) -> None:
    (answer,) = language.task.generate(language.target, language.splits["forget"][1:2], max_new_tokens=2)  # type: ignore[attr-defined]
    assert answer and language.splits["forget"][1]["response"].startswith(answer)
    assert len(answer) < len(language.splits["forget"][1]["response"])


def test_answers_of_a_tokenizer_without_padding_or_end(language: Bench) -> None:
    tokenizer = byte_level_bpe(texts_of(facts(0, 24)), eos=False)
    tokenizer.pad_token = None
    task = CausalLM(tokenizer=tokenizer, max_length=128)
    answers = task.generate(language.origin, facts(0, 3), max_new_tokens=3)
    assert len(answers) == 6
    assert task.collate(task.encode(facts(0, 3)))["input_ids"].shape[0] == 6


# --- classifiers ---


def test_a_classifier_decides_once_per_example(sentences: Bench, images: Bench) -> None:
    for here in (sentences, images):
        batch = here.batch("forget", 5)
        decisions = here.task.decisions(here.target, batch)
        assert decisions.owner.tolist() == [0, 1, 2, 3, 4] and decisions.scored.all()
        assert decisions.logits.shape == (5, 3)
        torch.testing.assert_close(
            decisions.loss(), F.cross_entropy(decisions.logits, batch["labels"], reduction="none")
        )
        name, leaf = here.task.continuous(here.target, batch)
        assert leaf.shape[0] == 5 and name in ("inputs_embeds", "pixel_values")


def test_several_labels_of_one_example(sentences: Bench) -> None:
    task = SequenceClassifier(tokenizer=sentences.task.tokenizer, max_length=64)  # type: ignore[attr-defined]
    rows = [{"text": "Abel lives.", "label": [1, 0, 1]}, {"text": "Berit is a baker.", "label": [0, 0, 1]}]
    batch = task.collate(task.encode(rows))
    assert batch["labels"].dtype == torch.float32 and batch["labels"].shape == (2, 3)
    decisions = task.decisions(sentences.origin, batch)
    truth = F.binary_cross_entropy_with_logits(decisions.logits, batch["labels"], reduction="none").mean(-1)
    torch.testing.assert_close(decisions.loss(), truth)


def test_long_sentences_are_cut_for_classifiers(sentences: Bench) -> None:
    task = SequenceClassifier(tokenizer=sentences.task.tokenizer, max_length=8)  # type: ignore[attr-defined]
    (example,) = task.encode([{"text": "Abel lives in Quillmere. " * 20, "label": 0}])
    assert len(example["input_ids"]) == 8


def test_images_through_a_processor() -> None:
    class Halved:
        def __call__(self, images: list[torch.Tensor], return_tensors: str) -> dict[str, torch.Tensor]:
            return {"pixel_values": torch.stack(images) / 2}

    task = ImageClassifier(processor=Halved())
    batch = task.collate(task.encode([{"image": torch.ones(3, 4, 4), "label": 1}] * 2))
    assert batch["pixel_values"].shape == (2, 3, 4, 4) and (batch["pixel_values"] == 0.5).all()
    assert batch["labels"].tolist() == [1, 1]


def test_models_are_called_and_not_closed_over(language: Bench) -> None:
    """The wrapper handed in is the module that runs: data-parallel gradients depend on it."""

    class Wrapper(nn.parallel.DistributedDataParallel):
        def __init__(self, module: nn.Module) -> None:
            nn.Module.__init__(self)
            self.module, self.calls = module, 0

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return self.module(*args, **kwargs)

    wrapped = Wrapper(copy.deepcopy(language.target))
    plain = language.task.decisions(wrapped.module, language.batch("forget")).nll()
    before = wrapped.calls
    torch.testing.assert_close(language.task.decisions(wrapped, language.batch("forget")).nll(), plain)
    assert wrapped.calls == before + 1
