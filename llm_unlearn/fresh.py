"""A tokenizer and a small causal LM from nothing: what the sandbox and the small benchmark targets start from."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD, BOS, EOS = "<pad>", "<s>", "</s>"


@dataclass(frozen=True, kw_only=True)
class Size:
    """The shape of a new Llama; the defaults are the sandbox's, about 2 million parameters."""

    words: int = 1536  # vocabulary, special tokens and the 256 bytes included
    hidden_size: int = 192
    intermediate_size: int = 576
    layers: int = 4
    heads: int = 6
    context: int = 128  # tokens


def new_tokenizer(texts: Iterable[str], size: Size) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer trained on `texts` that begins every text with <s>."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size.words, special_tokens=[PAD, BOS, EOS], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, bpe.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=size.context,
        clean_up_tokenization_spaces=False,
    )


def new_llama(size: Size, words: int, seed: int) -> LlamaForCausalLM:
    """Return an untrained Llama with tied embeddings, fp32, drawn from the seed; torch's own random state stays as it is."""
    config = LlamaConfig(
        vocab_size=words,
        hidden_size=size.hidden_size,
        intermediate_size=size.intermediate_size,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=size.context,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)
