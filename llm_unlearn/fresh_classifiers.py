"""Small untrained classifiers of ordinary Hugging Face architectures: what embedded and measured classifiers start from."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from llm_unlearn.pixels import Pixels

M = TypeVar("M", bound=nn.Module)


def drawn(make: Callable[[], M], seed: int) -> M:
    """Return what `make` makes with its weights drawn from the seed; torch's own random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def new_resnet(
    classes: int,
    *,
    channels: int = 3,
    widths: tuple[int, ...] = (32, 64, 128),
    blocks: int = 1,
    seed: int = 0,
    **config: Any,
) -> ResNetForImageClassification:
    """Return a residual network of basic blocks; it halves a picture's sides twice before its first stage."""
    shape = ResNetConfig(
        num_channels=channels,
        embedding_size=widths[0],
        hidden_sizes=list(widths),
        depths=[blocks] * len(widths),
        layer_type="basic",
        **{"num_labels": classes, **config},
    )
    return drawn(lambda: ResNetForImageClassification(shape), seed)


def new_vit(
    classes: int,
    *,
    side: int,
    channels: int = 3,
    patch: int = 4,
    width: int = 64,
    layers: int = 4,
    heads: int = 4,
    seed: int = 0,
    **config: Any,
) -> ViTForImageClassification:
    """Return a vision transformer for square pictures of `side` pixels, read in patches of `patch` x `patch`."""
    shape = ViTConfig(
        image_size=side,
        patch_size=patch,
        num_channels=channels,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        **{"num_labels": classes, **config},
    )
    return drawn(lambda: ViTForImageClassification(shape), seed)


def new_bert(
    classes: int,
    words: int,
    *,
    context: int = 64,
    width: int = 128,
    layers: int = 2,
    heads: int = 4,
    multi_label: bool = False,
    seed: int = 0,
    **config: Any,
) -> BertForSequenceClassification:
    """Return a text encoder with a classification head for a vocabulary of `words`; pad token 0."""
    shape: dict[str, Any] = {
        "vocab_size": words,
        "max_position_embeddings": context,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_labels": classes,
        "problem_type": "multi_label_classification" if multi_label else "single_label_classification",
        "pad_token_id": 0,
    }
    return drawn(lambda: BertForSequenceClassification(BertConfig(**shape, **config)), seed)


def for_pictures(rows: Sequence[Mapping[str, Any]], seed: int = 0) -> tuple[ResNetForImageClassification, Pixels]:
    """Return a residual network of some 55,000 parameters for the rows' pictures and classes, and what makes pixels of them.

    Raises DataError for pictures of more than one size.
    """
    labels = [row["label"] for row in rows]
    classes = max(len(label) if isinstance(label, list) else label + 1 for label in labels)
    some = Pixels()([row["image"] for row in rows])  # [N, C, H, W] in 0..1
    mean, std = (round(value.item(), 4) for value in (some.mean(), some.std()))
    kind: dict[str, Any] = {"problem_type": "multi_label_classification"} if isinstance(labels[0], list) else {}
    model = new_resnet(classes, channels=some.shape[1], widths=(16, 32, 48), seed=seed, **kind)
    return model, Pixels(channels=some.shape[1], mean=(mean,), std=(max(std, 1e-3),))
