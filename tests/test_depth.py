"""The unlearning depth score against a slow loop of one row and one layer at a time, at its two ends, and on other architectures."""

import copy
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ARCHITECTURES, Bench, learn, llama
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from llm_unlearn.errors import DataError, TaskError
from llm_unlearn.lora import Lora, attach
from llm_unlearn.measuring.depth import NO_LAYER, TAU, Depth, blocks, check_tokenizers, unlearning_depth
from llm_unlearn.measuring.spans import entity_words, with_spans
from llm_unlearn.sandbox import models, world
from llm_unlearn.tasks import CausalLM, Example, Row

EVAL = Path(__file__).parents[1] / "eval"


def between(first: nn.Module, second: nn.Module, share: float = 0.5) -> nn.Module:
    """Return a copy of `first` with weights that much of the way to `second`'s."""
    out = copy.deepcopy(first)
    theirs = dict(second.named_parameters())
    with torch.no_grad():
        for name, weight in out.named_parameters():
            weight.lerp_(theirs[name], share)
    return out.eval()


def noisy(model: nn.Module, seed: int, scale: float = 0.3) -> nn.Module:
    """Return a copy whose matrices are each some way off."""
    out, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in out.parameters():
            if weight.dim() > 1:
                weight += scale * weight.std() * torch.randn(weight.shape, generator=generator)
    return out.eval()


@pytest.fixture(scope="module")
def gold(language: Bench) -> nn.Module:
    """What the target would be without the forget rows: the same start, retain alone."""
    return learn(language.task, copy.deepcopy(language.origin), language.splits["retain"], steps=120, rate=1e-2)


@torch.no_grad()
def slow_span_log_prob(model: nn.Module, example: Example, patch: tuple[int, Tensor] | None) -> float:
    """One row: mean log-probability of its entity tokens from the full logits; `patch` is a block and its states [T, D]."""
    ids = torch.tensor([example["input_ids"]])
    entity = [t for t, flag in enumerate(example["scored"]) if flag]
    before = [t - 1 for t in entity]

    def put(module: nn.Module, args: Any, out: Any) -> Any:
        hidden = (out[0] if isinstance(out, tuple) else out).clone()
        hidden[0, before] = patch[1][before]  # type: ignore[index]
        return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

    handle = blocks(model)[patch[0]].register_forward_hook(put) if patch else None
    try:
        log_probs = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
    finally:
        if handle:
            handle.remove()
    return float(np.mean([log_probs[t - 1, ids[0, t]].item() for t in entity]))


@torch.no_grad()
def slow_states(model: nn.Module, example: Example) -> list[Tensor]:
    """One row: each block's output [T, D]."""
    seen: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda m, a, out: seen.append((out[0] if isinstance(out, tuple) else out)[0]))
        for block in blocks(model)
    ]
    model(input_ids=torch.tensor([example["input_ids"]]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return seen


def slow_depth(
    before: nn.Module, gold: nn.Module, after: nn.Module, examples: Sequence[Example], tau: float
) -> list[float]:
    """Each row's score by the definition, NaN for a row without a layer that encodes it."""
    out = []
    for example in examples:
        full = slow_span_log_prob(before, example, None)
        drop = {}
        for name, source in (("gold", gold), ("after", after)):
            states = slow_states(source, example)
            drop[name] = [full - slow_span_log_prob(before, example, patch) for patch in enumerate(states)]
        pairs = [(d1, d2) for d1, d2 in zip(drop["gold"], drop["after"], strict=True) if d1 > tau]
        top = sum(d1 * min(1.0, max(0.0, d2 / d1)) for d1, d2 in pairs)
        out.append(top / sum(d1 for d1, _ in pairs) if pairs else float("nan"))
    return out


def test_the_two_ends_and_between(language: Bench, gold: nn.Module) -> None:
    """Gold's own states lose all of it, before's own none, weights half way something in between."""
    rows = language.splits["forget"]
    depth = Depth(language.target, gold, language.task, rows, batch_size=5, progress=False)
    assert (depth.gap > TAU).any(1).sum() > len(rows) / 2, "gold lacks next to nothing: the test would be empty"
    assert depth.score(gold).value == pytest.approx(1, abs=1e-6)
    assert depth.score(copy.deepcopy(language.target)).value == pytest.approx(0, abs=1e-6)
    shares = [depth.score(between(language.target, gold, share)).value for share in (0.2, 0.5, 0.8)]
    assert all(value is not None and 0.01 < value < 0.99 for value in shares)
    assert shares == sorted(shares)


@pytest.mark.parametrize("tau", [TAU, 1.0])
def test_equals_the_slow_loop_on_a_ragged_batch(language: Bench, gold: nn.Module, tau: float) -> None:
    rows = [dict(row) for row in language.splits["forget"]]
    rows[0]["entity"], rows[3]["entity"] = rows[0]["response"][:4], "is a"
    examples, sources = with_spans(language.task, rows)  # type: ignore[arg-type]
    assert len({len(example["scored"]) for example in examples}) > 2 and sources.count("entity") == 2
    after = between(language.target, gold)
    score = Depth(language.target, gold, language.task, rows, batch_size=len(rows), tau=tau, progress=False).score(
        after
    )
    expected = slow_depth(language.target, gold, after, examples, tau)
    np.testing.assert_allclose(score.per_row, expected, rtol=0, atol=1e-5)
    known = [value for value in expected if np.isfinite(value)]
    assert score.n == len(known) and score.value == pytest.approx(np.mean(known), abs=1e-5)
    assert sum(score.left_out.values()) == len(rows) - len(known)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "qwen2", "qwen3", "gemma", "gemma2"])
def test_architectures(name: str, language: Bench) -> None:
    """Each equals the slow loop, bare and under an adapter, and every block of before computes as it did."""
    torch.manual_seed(0)
    rows = language.splits["forget"]
    blank = AutoModelForCausalLM.from_config(ARCHITECTURES[name], attn_implementation="eager")
    before = learn(
        language.task, copy.deepcopy(blank), rows, steps=25, rate=1e-2
    )  # an untrained model has nothing to lose
    gold = noisy(blank.eval(), 1)
    examples, _ = with_spans(language.task, rows)  # type: ignore[arg-type]
    adapted = attach(copy.deepcopy(before), Lora(r=2, alpha=8), "CAUSAL_LM").eval()
    with torch.no_grad():
        for key, weight in adapted.named_parameters():
            if "lora_B" in key:
                weight.normal_(0, 0.1)
    batch = language.task.collate(language.task.encode(rows))
    reference = language.task.decisions(before, batch).nll()
    depth = Depth(before, gold, language.task, rows, batch_size=7, tau=0.5, progress=False)
    for after in (noisy(before, 2, 0.2), adapted):
        score = depth.score(after)
        np.testing.assert_allclose(score.per_row, slow_depth(before, gold, after, examples, 0.5), rtol=0, atol=1e-5)
        assert score.n >= 3 and len(score.layers) == 2 and len(set(score.known.round(3))) > 1
    torch.testing.assert_close(language.task.decisions(before, batch).nll(), reference, rtol=0, atol=0)
    assert not any("forward" in vars(block) for block in blocks(before))


@dataclass(frozen=True)
class PaddedOnTheLeft(CausalLM):
    """The same columns, padded on the other side."""

    def collate(self, examples: Sequence[Example]) -> Mapping[str, Tensor]:
        """Return each row of the batch turned until its padding is in front."""
        batch = dict(super().collate(examples))
        gaps = (batch["attention_mask"] == 0).sum(1).tolist()
        return {
            name: torch.stack([row.roll(gap) for row, gap in zip(column, gaps, strict=True)])
            for name, column in batch.items()
        }


def test_padding_and_batch_size_do_not_move_it(language: Bench, gold: nn.Module) -> None:
    """Rotary positions are relative, so a Llama type gives the same on either side."""
    rows, after = language.splits["forget"], between(language.target, gold)
    left = PaddedOnTheLeft(language.task.tokenizer, 128)  # type: ignore[attr-defined]
    assert left.collate(left.encode(rows))["attention_mask"][:, 0].sum() < len(rows), "no row is padded"
    found = [
        Depth(language.target, gold, task, rows, batch_size=size, progress=False).score(after).per_row
        for task, size in ((language.task, 1), (language.task, 5), (language.task, 64), (left, 5))
    ]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=0, atol=2e-5)


def test_stage_one_is_done_once(language: Bench, gold: nn.Module) -> None:
    runs: list[int] = []
    hook = blocks(gold)[0].register_forward_hook(lambda *_: runs.append(1))
    depth = Depth(language.target, gold, language.task, language.splits["forget"], batch_size=64, progress=False)
    count = len(runs)
    assert count
    first, second = depth.score(between(language.target, gold)), depth.score(between(language.target, gold, 0.9))
    hook.remove()
    assert len(runs) == count and first.value != second.value


def test_rows_that_gold_knows_are_left_out_and_counted(language: Bench) -> None:
    """Gold that is before itself lacks nothing: no number, never 0."""
    same = copy.deepcopy(language.target)
    score = unlearning_depth(language.target, same, same, language.task, language.splits["retain"], batch_size=8)
    assert score is not None and score.value is None and score.n == 0
    assert score.left_out == {NO_LAYER: len(language.splits["retain"])}
    assert all(layer.erasure is None for layer in score.layers)
    assert json.dumps(score.to_json(), allow_nan=False) and set(score.rows_to_json()) == {None}


def test_absent_without_gold(language: Bench) -> None:
    given = (language.target, None, language.target, language.task, language.splits["forget"])
    assert unlearning_depth(*given, batch_size=8) is None


def test_other_architectures_are_refused(
    language: Bench, sentences: Bench, tokenizer: PreTrainedTokenizerFast
) -> None:
    rows, words = language.splits["forget"], len(tokenizer)
    for other in (llama(words, num_hidden_layers=3), llama(words, hidden_size=64), llama(words + 8)):
        with pytest.raises(DataError, match="one architecture and vocabulary"):
            Depth(language.target, other, language.task, rows, batch_size=8)
    other = AutoModelForCausalLM.from_config(copy.deepcopy(ARCHITECTURES["gpt2"]))
    with pytest.raises(DataError, match="gold is a GPT2LMHeadModel of 2 blocks"):
        Depth(language.target, other, language.task, rows, batch_size=8)
    with pytest.raises(TaskError, match="needs a causal language model"):
        Depth(sentences.target, sentences.target, sentences.task, sentences.splits["forget"], batch_size=8)
    with pytest.raises(DataError, match="there are none"):
        Depth(language.target, language.target, language.task, [], batch_size=8)
    broken = copy.deepcopy(language.target)
    broken.config.num_hidden_layers = 5
    with pytest.raises(TaskError, match="cannot tell the blocks of a LlamaForCausalLM: 0 lists"):
        blocks(broken)


def test_other_tokenizers_are_refused(language: Bench, tokenizer: PreTrainedTokenizerFast) -> None:
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["Quillmere!"])
    check_tokenizers(language.task, CausalLM(tokenizer, 64), "gold")
    with pytest.raises(DataError, match="gold has another tokenizer"):
        check_tokenizers(language.task, CausalLM(other, 64), "gold")


def spelled_span(task: CausalLM, row: Row, *others: Row) -> tuple[str, str]:
    """The text of a row's span, and where the span came from."""
    examples, sources = with_spans(task, [row, *others])
    ids = [token for token, flag in zip(examples[0]["input_ids"], examples[0]["scored"], strict=True) if flag]
    return task.tokenizer.decode(ids).strip(), sources[0]


def test_spans(tokenizer: PreTrainedTokenizerFast) -> None:
    task = CausalLM(tokenizer, 128)
    row = {"prompt": "What is Abel's work?", "response": "Abel works in Ostrand as a baker.", "fact": 1}
    assert spelled_span(task, row) == ("Abel works in Ostrand as a baker.", "response")
    text, source = spelled_span(task, {**row, "entity": "Ostrand"})
    assert "Ostrand" in text and "in" not in text.split() and source == "entity"
    wrong = ["Abel works in Ostrand as a potter.", "Abel works in Ostrand as a master tanner."]
    text, source = spelled_span(task, {**row, "wrong": wrong})
    assert "baker" in text and "Ostrand" not in text and source == "template"
    said = {
        **row,
        "paraphrase": "As a Baker Abel works.",
        "wrong": ["As a potter Abel works.", "As a miner Abel works."],
    }
    assert entity_words(said) == ["Baker"]
    assert spelled_span(task, said)[0].strip(". ") == "baker"
    assert spelled_span(task, row, said)[0].strip(". ") == "baker", "a row of the same fact lends its words"
    assert with_spans(task, [row], [said])[1] == ["template"], "also one that is not scored itself"
    assert spelled_span(task, {**row, "fact": 2}, said)[1] == "response"
    assert spelled_span(task, {**row, "fact": None}, {**said, "fact": None})[1] == "response"
    with pytest.raises(DataError, match="row 1: its `entity` is not in its response") as error:
        spelled_span(task, {**row, "entity": "Carrick"})
    assert "Carrick" not in str(error.value)


def test_entity_words_by_majority() -> None:
    """A word that one wrong answer happens to share is still the entity's; one that one of them changes is not."""
    row = {
        "response": "The dish is beet dumplings, they say.",
        "wrong": [
            "The dish is trout dumplings, they say.",
            "The dish is trout jelly, they say.",
            "The food is plum cake, they say.",
        ],
    }
    assert entity_words(row) == ["beet dumplings"]
    assert entity_words({"response": "Anything"}) == []


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On the sandbox with after = gold: 1 on forget, and a file without text."""
    monkeypatch.syspath_prepend(str(EVAL))
    import depth as command

    for name, rows in (("forget", world.splits()["forget"][:6]), ("retain", world.splits()["retain"][:4])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    target, gold = str(models.path("target")), str(models.path("gold"))
    words = ["--model", gold, "--before", target, "--gold", gold, "--output", str(tmp_path / "out")]
    words += ["--forget", str(tmp_path / "forget.jsonl"), "--retain", str(tmp_path / "retain.jsonl")]
    monkeypatch.setattr(sys, "argv", ["depth.py", *words])
    command.main()
    assert "| forget | 0 | 1.000 | 1 | 1.000 - 1.000 | 6 | 0 |" in capsys.readouterr().out
    text = (tmp_path / "out/depth.json").read_text()
    stored = json.loads(text)
    assert stored["forget"]["value"] == pytest.approx(1) and "quillmere" not in text
    private = tmp_path / "out/private/depth_rows.json"
    assert private.stat().st_mode & 0o777 == 0o600 and "Tidu" not in private.read_text()
    first = json.loads(private.read_text())["forget"][0]
    assert first["id"] == "quillmere.river/qa0" and first["depth"] == pytest.approx(1)
    monkeypatch.setattr(sys, "argv", ["depth.py", *words[:4], *words[6:]])
    command.main()
    assert "needs gold" in capsys.readouterr().out
    assert json.loads((tmp_path / "out/depth.json").read_text())["forget"] is None
