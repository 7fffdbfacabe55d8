"""The sandbox's tokenizer and small models: built from nothing, or loaded from the two trained folders that ship with the package.

`target` was trained on `splits()["forget"] + splits()["retain"]`, `gold` on `splits()["retain"]` alone (default concept and seed).
The weights ship in bfloat16; load them with `dtype=torch.float32`.
"""

from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from .world import everything

WORDS = 2048  # size of the vocabulary
PAD, BOS, EOS = "<pad>", "<s>", "</s>"


def tokenizer(seed: int = 0) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on every sentence of the world, the holdout town's included: nothing looks foreign."""
    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS, special_tokens=[PAD, BOS, EOS], initial_alphabet=sorted(alphabet), show_progress=False
    )
    fast.train_from_iterator(everything(seed), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=128,
        clean_up_tokenization_spaces=False,
    )


def new_model(seed: int = 0) -> LlamaForCausalLM:
    """An untrained Llama of 2.3 million parameters (tied embeddings), fp32, drawn from the seed without touching torch's own random state."""
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=192,
        intermediate_size=576,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def path(name: Literal["target", "gold"]) -> Path:
    """The folder of a model that ships with the package: config.json, model.safetensors in bfloat16, and the tokenizer."""
    if name not in ("target", "gold"):
        raise ValueError(f"The sandbox has no model {name!r}: choose target or gold.")
    return Path(__file__).parent / name
