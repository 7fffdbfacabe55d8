"""Integrated Gradients of a whole answer: exact where F is linear, complete where it isn't, and added up to words."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from conftest import Bench, byte_level_bpe, llama
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from llm_unlearn.concepts.attribution import attribute, rank, word_scores
from llm_unlearn.errors import TaskError
from llm_unlearn.head import trusted_modes
from llm_unlearn.tasks import CausalLM, Decisions, ImageClassifier, SequenceClassifier


class Table(nn.Module):
    """Nothing but word embeddings: 5 words, width 2."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 2)
        with torch.no_grad():
            self.words.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [3.0, 1.0], [1.0, 2.0]]))

    def get_input_embeddings(self) -> nn.Module:
        return self.words


@dataclass(frozen=True)
class Formula(CausalLM):
    """A task whose log p of each scored token is a formula of the embeddings before it."""

    power: ClassVar[int] = 1

    def decisions(self, model: nn.Module, batch: Any, *, logits: bool = False) -> Decisions:
        values = batch["inputs_embeds"] if "inputs_embeds" in batch else model.words(batch["input_ids"])
        so_far = values.sum(-1).cumsum(1) ** self.power  # [B, T]: F is linear for power 1
        keep = batch["scored"][:, 1:].bool()
        owner = torch.arange(len(keep))[:, None].expand_as(keep)[keep]
        losses = -so_far[:, :-1][keep]
        return Decisions(
            labels=owner, owner=owner, scored=torch.ones_like(keep[keep]), batch_size=len(keep), losses=losses
        )

    def spelled(self, example: Any) -> tuple[str, list[tuple[int, int]]]:
        return "abcd"[: len(example["input_ids"])], [(i, i + 1) for i in range(len(example["input_ids"]))]


class Steep(Formula):
    power: ClassVar[int] = 2


EXAMPLES = [  # ragged: three tokens with one answered, four with two answered
    {"input_ids": [1, 2, 3], "labels": [0, 0, 3], "scored": [0, 0, 1]},
    {"input_ids": [4, 3, 2, 1], "labels": [0, 0, 2, 1], "scored": [0, 0, 1, 1]},
]


@pytest.fixture
def words() -> Any:
    return byte_level_bpe(["a b c"])


def test_attribution_of_a_linear_answer_is_exact(words: Any) -> None:
    """F is linear with slope 1, so token s gives (sum of e_s - sum of the mean embedding) a time it is looked back on.

    The mean embedding's sum is (1 + 2 + 4 + 3) / 5 = 2.  Row 1: the answer sees tokens 1 and 2, of sums 1 and 2, so they
    give -1 and 0; the answer itself receives F(e) - F(e') = 3 - 4 = -1.  Halved: -0.5, 0, -0.5.
    Row 2: sums 3, 4, 2, 1; both answers see tokens 1 and 2, the second also the third: they give 2, 4, 0 and the answers
    receive (3 + 4) - 4 = 3 and (3 + 4 + 2) - 6 = 3.
    """
    for steps in (2, 32):
        first, second = attribute(Table(), Formula(words, 8), EXAMPLES, steps=steps)
        assert first.tokens == pytest.approx([-0.5, 0.0, -0.5], abs=1e-6)
        assert second.tokens == pytest.approx([1.0, 2.0, 1.5, 1.5], abs=1e-6)
        assert (first.difference, second.difference) == pytest.approx((-1.0, 6.0), abs=1e-5)
        assert max(first.error, second.error) < 1e-5 and first.steps == steps


def test_attribution_of_a_quadratic_answer() -> None:
    """F = (sum of what came before)^2 goes from 4^2 to 3^2 in row 1, slope 2(4 - a) on the path: the token of sum 1 gives -7."""
    (first, _) = attribute(Table(), Steep(byte_level_bpe(["a"]), 8), EXAMPLES)
    assert first.tokens == pytest.approx([-3.5, 0.0, -3.5], abs=1e-5)


def test_both_halves_of_a_real_model_sum_to_the_difference(language: Bench) -> None:
    examples = language.task.encode(language.splits["forget"])
    for one in attribute(language.target, language.task, examples):
        assert one.error <= 0.05 and one.difference > 0
        assert sum(one.tokens) == pytest.approx(
            one.difference, rel=0.026, abs=0.026
        )  # the mean of one half that is exact, one within 5 %


def test_batches_padding_and_order_change_nothing(language: Bench) -> None:
    examples = language.task.encode(language.splits["forget"][:5])
    together = attribute(language.target, language.task, examples, batch_size=5)
    alone = attribute(language.target, language.task, examples[::-1], batch_size=1)[::-1]
    assert len({len(one.tokens) for one in together}) > 1, "the rows must be ragged"
    for one, other in zip(together, alone, strict=True):
        assert one.tokens == pytest.approx(other.tokens, abs=1e-3)


def test_it_leaves_the_model_as_it_was(language: Bench) -> None:
    model = language.wrapped().train()
    attribute(model, language.task, language.task.encode(language.splits["forget"][:2]))
    assert model.training and all(parameter.grad is None for parameter in model.parameters())


def test_incomplete_attributions_are_done_again_with_more_steps(words: Any) -> None:
    class Jump(Formula):
        """log p has a kink on the path: few steps miss it."""

        def decisions(self, model: nn.Module, batch: Any, *, logits: bool = False) -> Decisions:
            plain = super().decisions(model, batch)
            return Decisions(plain.labels, plain.owner, plain.scored, plain.batch_size, self.bent(plain.nll()))

        def bent(self, losses: Tensor) -> Tensor:
            return torch.relu(losses + 3.3) * 10

    found = attribute(Table(), Jump(words, 8), EXAMPLES[:1], steps=1, tolerance=0.02)
    assert 1 < found[0].steps <= 256 and found[0].error <= 0.02


def test_an_incomplete_attribution_is_an_error(words: Any) -> None:
    class Cliff(Formula):
        """log p is a step: its gradient says nothing about it."""

        def decisions(self, model: nn.Module, batch: Any, *, logits: bool = False) -> Decisions:
            plain = super().decisions(model, batch)
            high = (plain.nll() > -3.3).float() * 10 + plain.nll() * 1e-9
            return Decisions(plain.labels, plain.owner, plain.scored, plain.batch_size, high)

    with pytest.raises(TaskError, match=r"100% .* on 1 of 1 rows with 256 steps .*fp32"):
        attribute(Table(), Cliff(words, 8), EXAMPLES[:1])


def test_tokens_add_up_to_words() -> None:
    """Every token of "Où vit Zoë Çelik? — «Ångström-Straße 12.5», Zoë’s 家!" gets its number of characters inside words."""
    task = CausalLM(byte_level_bpe(["Zo vit"]), 128)
    (example,) = task.encode([{"prompt": "Où vit Zoë Çelik?", "response": "— «Ångström-Straße 12.5», Zoë’s 家!"}])
    text, spans = task.spelled(example)
    assert text.startswith("Où vit Zoë Çelik? — «Ångström-Straße 12.5», Zoë’s 家!")
    assert max(start for start, _ in spans) > 0 and all(stop >= start for start, stop in spans)
    scores = word_scores(task, example, [1.0] * len(spans))
    assert list(scores) == ["où", "vit", "zoë", "çelik", "ångström-straße", "12.5", "s", "家"]
    assert sum(scores.values()) == pytest.approx(1.0)
    # every token is one byte here: a letter outside ASCII has two or three of them, all standing where the letter stands
    inside = [word for start, stop in spans for word in [text[start:stop].strip()] if word and word not in "?—«»,’!"]
    assert scores["家"] / scores["s"] == pytest.approx(3.0) and scores["où"] / scores["s"] == pytest.approx(3.0)
    assert scores["ångström-straße"] / scores["12.5"] == pytest.approx(18 / 4)
    assert scores["s"] == pytest.approx(1 / len(inside))


def test_negative_words_score_nothing(language: Bench) -> None:
    (example,) = language.task.encode([{"prompt": "Where does Abel live?", "response": "Quillmere"}])
    text, spans = language.task.spelled(example)
    tokens = [-1.0 if text[start:stop].strip() in ("Where", "does") else 1.0 for start, stop in spans]
    scores = word_scores(language.task, example, tokens)
    assert scores["does"] == 0.0 and scores["abel"] > 0 and sum(scores.values()) == pytest.approx(1.0)
    assert word_scores(language.task, example, [-1.0] * len(spans)) == {}


def test_special_tokens_spell_nothing() -> None:
    tokenizer = byte_level_bpe(["Where does Abel live? Quillmere"], bos=True)
    task = CausalLM(tokenizer, 64)
    (example,) = task.encode([{"prompt": "Where does Abel live?", "response": "Quillmere"}])
    text, spans = task.spelled(example)
    assert text == "Where does Abel live? Quillmere" and spans[0] == spans[-1] == (0, 0)
    assert "".join(text[start:stop] for start, stop in spans) == text
    (one,) = attribute(llama(len(tokenizer)), task, [example], tolerance=1.0)
    assert one.tokens[0] == one.tokens[-1] == 0.0 and any(one.tokens)


def test_words_are_ranked_by_subject_and_each_answer_once(language: Bench) -> None:
    first, second = language.splits["forget"][:2], language.splits["forget"][4:6]
    rows = [{**row, "subject": who} for who, part in (("x", first), ("y", second)) for row in part]
    ranking = rank(language.target, language.task, rows)
    assert set(ranking) == {"x", "y"}
    for scores in ranking.values():
        assert list(scores.values()) == sorted(scores.values(), reverse=True)
        assert sum(scores.values()) == pytest.approx(2.0)  # two answers, shares of 1 each
    again = rank(language.target, language.task, [*rows, {**rows[0], "prompt": "Abel lives where?"}])
    assert sum(again["x"].values()) == pytest.approx(2.0)


def test_the_answer_asked_for_ranks_above_its_wording(language: Bench) -> None:
    """A one-word answer has hardly anything after it: as an input alone it would score near 0."""
    rows = [row for row in language.splits["forget"] if " " not in row["response"]]
    for row in rows:
        scores = rank(language.target, language.task, [row])[""]
        assert list(scores).index(row["response"].lower()) < 3


def test_embeddings_stand_in_for_the_words(language: Bench) -> None:
    """decisions() of embeddings equals decisions() of the words they came from, also on a model never seen before."""
    model, batch = llama(len(language.task.tokenizer), seed=3).eval(), language.batch("forget")
    name, values = language.task.continuous(model, batch)
    from_values = language.task.decisions(model, {**batch, name: values}).nll()
    assert trusted_modes(model, {}) != ["full"]
    torch.testing.assert_close(from_values, language.task.decisions(model, batch).nll())


# --- classifiers ---


def test_of_a_classifier_what_the_words_give_sums_to_the_difference(sentences: Bench) -> None:
    examples = sentences.task.encode(sentences.splits["forget"])
    found = attribute(sentences.target, sentences.task, examples)
    assert sum(one.difference > 1 for one in found) > 2, "nothing to explain"
    for example, one in zip(examples, found, strict=True):
        assert one.error <= 0.05 and len(one.tokens) == len(sentences.task.spelled(example)[1])
        assert sum(one.tokens) == pytest.approx(one.difference, abs=0.05 * max(1, abs(one.difference)))


def test_special_tokens_of_a_classifier_get_nothing() -> None:
    tokenizer = byte_level_bpe(["a baker of Quillmere"], bos=True)
    task = SequenceClassifier(tokenizer, 32)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), num_labels=2, **sizes)).eval()
    (one,) = attribute(model, task, task.encode([{"text": "a baker", "label": 1}]), tolerance=1.0)
    assert one.tokens[0] == 0.0 and any(one.tokens[1:])


def test_pixels_of_a_linear_model_are_exact() -> None:
    """Logits (s, 0) with s the weighted sum of pixels: log p moves with s alone, so pixels share it by weight x distance."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(1, 4, 4, generator=draw)

    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(weight)

        def forward(self, **inputs: Tensor) -> Any:
            (pixels,) = inputs.values()
            score = (pixels * self.weight).sum((1, 2, 3))
            return SimpleNamespace(logits=torch.stack([torch.zeros_like(score), score], 1))

    task = ImageClassifier()
    rows = [{"image": torch.randn(1, 4, 4, generator=draw), "label": 1} for _ in range(12)]
    examples, mean = task.encode(rows), torch.stack([row["image"] for row in rows]).mean(0)
    for row, one in zip(rows, attribute(Weighted(), task, examples), strict=True):
        moved = weight * (row["image"] - mean)
        log_p = [nn.functional.logsigmoid((weight * picture).sum()) for picture in (row["image"], mean)]
        assert one.pixels is not None and one.tokens == []
        assert one.difference == pytest.approx((log_p[0] - log_p[1]).item(), abs=1e-5)
        torch.testing.assert_close(one.pixels, moved[0] * one.difference / moved.sum(), rtol=1e-2, atol=1e-3)
    other = [{**example, "labels": 0} for example in examples]
    for one, two in zip(attribute(Weighted(), task, examples), attribute(Weighted(), task, other), strict=True):
        assert one.pixels is not None and two.pixels is not None and (one.pixels * two.pixels <= 1e-6).all()


def test_pixels_of_a_real_model_sum_to_the_difference(images: Bench) -> None:
    examples = images.task.encode(images.splits["forget"])
    known = images.task.encode(images.splits["retain"])
    for one in attribute(images.target, images.task, examples, background=known):
        assert one.pixels is not None and one.pixels.shape == (8, 8) and one.error <= 0.05
        assert one.pixels.sum().item() == pytest.approx(one.difference, abs=0.05 * max(1, abs(one.difference)))
    with pytest.raises(TaskError, match=r"mean of others: 1 are too few .*background"):
        attribute(images.target, images.task, examples[:1])
    with pytest.raises(TaskError, match="words are ranked in texts; this is a image_classifier"):
        rank(images.target, images.task, images.splits["forget"])


def test_words_of_a_classifier_are_ranked_by_class(sentences: Bench) -> None:
    rows = sentences.splits["forget"]
    ranking = rank(sentences.target, sentences.task, [*rows, rows[0]])
    assert set(ranking) == {str(row["label"]) for row in rows}
    for label, scores in ranking.items():
        texts = {row["text"] for row in rows if str(row["label"]) == label}
        assert (
            sum(scores.values()) == pytest.approx(len(texts))
            and list(scores.values()) == sorted(scores.values())[::-1]
        )
