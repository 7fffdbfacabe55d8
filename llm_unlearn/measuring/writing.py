"""How a causal LM writes when it is left alone: seeded samples, and figures that tell language from rubble."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from llm_unlearn.loading import place
from llm_unlearn.tasks import CausalLM


def load_writer(model: str, adapter: str | None = None) -> tuple[nn.Module, Any]:
    """Return a causal LM, with a PEFT adapter where one is given, and its tokenizer."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    if adapter is not None:
        loaded = PeftModel.from_pretrained(loaded, adapter)
    return loaded.to(place()).eval(), AutoTokenizer.from_pretrained(model)


@torch.no_grad()
def write_texts(
    model: Any,
    tokenizer: Any,
    count: int,
    *,
    tokens: int,
    seed: int,
    prompt: str = "",
    batch_size: int = 64,
    on_batch: Callable[[int], object] | None = None,
) -> list[str]:
    """Return `count` texts sampled at temperature 1 from the prompt on (from the first token without one)."""
    first = tokenizer(prompt, return_tensors="pt").to(model.device)
    if first[next(iter(first))].shape[1] == 0:
        raise ValueError("this tokenizer starts a text with no token: give a prompt to begin with.")
    texts: list[str] = []
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        while len(texts) < count:
            number = min(batch_size, count - len(texts))
            many = {name: tensor.repeat(number, 1) for name, tensor in first.items() if name != "token_type_ids"}
            # a model may end its texts with its beginning-of-text token (TinyStories' do)
            ends = [token for token in (tokenizer.eos_token_id, tokenizer.bos_token_id) if token is not None]
            out = model.generate(
                **many, do_sample=True, top_k=0, max_new_tokens=tokens, eos_token_id=ends, pad_token_id=ends[0]
            )
            texts += [text.strip() for text in tokenizer.batch_decode(out, skip_special_tokens=True)]
            if on_batch is not None:
                on_batch(number)
    return texts


def words_of(text: str) -> list[str]:
    """Return the text's words, lower-cased."""
    return re.findall(r"\w+", text.lower())


def distinct(texts: Sequence[str], n: int) -> float:
    """Return the share of different n-grams of words among all (Li et al., 2016, arXiv:1510.03055); NaN without any."""
    grams = [
        tuple(words[i : i + n]) for text in texts for words in [words_of(text)] for i in range(len(words) - n + 1)
    ]
    return len(set(grams)) / len(grams) if grams else float("nan")


def mention_rate(texts: Sequence[str], name: str) -> float:
    """Return the share of texts that hold the name as a whole word, whatever the case."""
    pattern = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)
    return sum(bool(pattern.search(text)) for text in texts) / len(texts)


@torch.no_grad()
def loss_under(model: Any, tokenizer: Any, texts: Sequence[str], batch_size: int = 32) -> float:
    """Return the mean over texts of their mean loss under the model, nats a token."""
    task = CausalLM(tokenizer, max_length=model.config.max_position_embeddings)
    examples = task.encode([{"prompt": None, "response": text} for text in texts if text])
    losses = []
    for first in range(0, len(examples), batch_size):
        batch = {
            name: tensor.to(model.device)
            for name, tensor in task.collate(examples[first : first + batch_size]).items()
        }
        losses.append(task.decisions(model, batch).loss())
    return torch.cat(losses).mean().item()
