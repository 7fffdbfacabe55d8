"""What a prediction is, for each kind of model.  The only file that knows text from images.

Every loss, attack score and attribution is written once, on `Decisions`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_unlearn import encoding
from llm_unlearn.codes import columns, heard
from llm_unlearn.decisions import Decisions
from llm_unlearn.encoding import PROMPT, RESPONSE, encode_dialogue, instead, repeats, settled, spelled
from llm_unlearn.errors import DataError
from llm_unlearn.head import in_eval, supervised, unwrapped
from llm_unlearn.vision import check_labels, encode_images, in_dtype

IGNORE = encoding.IGNORE  # the label that Hugging Face losses skip
Row = dict[str, Any]  # as a file gives it
Example = dict[str, Any]  # as a model wants it: a row, tokenised once
Batch = Mapping[str, Tensor]


class Task(ABC):
    """How one kind of model reads rows and makes decisions."""

    name: ClassVar[str]

    @abstractmethod
    def encode(self, rows: Sequence[Row]) -> list[Example]:
        """Return the rows as the model wants them; raise DataError for one that does not fit."""

    @abstractmethod
    def collate(self, examples: Sequence[Example]) -> Batch:
        """Return one padded batch; numbers that a row carries (reference scores) become columns [B]."""

    @abstractmethod
    def decisions(self, model: nn.Module, batch: Batch, *, logits: bool = False) -> Decisions:
        """Return the batch's decisions from one forward pass; `logits=True` also keeps [N, C]."""

    @abstractmethod
    def continuous(self, model: nn.Module, batch: Batch) -> tuple[str, Tensor]:
        """Return the input that can be differentiated, with its name in the model's forward: embeddings or pixels."""

    def settle(self, examples: Sequence[Example], kept: Sequence[Example]) -> None:  # noqa: B027 - most have nothing to do
        """Mark, in place, the decisions that `kept` settle: whoever keeps those rows knows them, so they tell nothing."""

    def hidden(self, model: nn.Module, batch: Batch, layer: int) -> Tensor:
        """Return the hidden states after block `layer`: [B, T, D], or [B, D, H, W] of a convolutional model."""
        states = model(**self.inputs(batch), output_hidden_states=True).hidden_states
        out: Tensor = states[layer]
        return out

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Return what of the batch the model's forward takes; embeddings that were put in stand in for the words."""
        words = "inputs_embeds" if "inputs_embeds" in batch else "input_ids"
        return {name: batch[name] for name in (words, "attention_mask", "pixel_values") if name in batch}

    def streams(self, model: nn.Module, batch: Mapping[str, Batch], *, logits: bool = False) -> tuple[Decisions, ...]:
        """Return each stream's decisions, in the order of `batch`, from ONE forward pass over all of them.

        The streams were padded together by `collate_streams`, so joining them copies only integers.
        """
        parts = list(batch.values())
        shared = set.intersection(*(set(part) for part in parts))
        every = {name: torch.cat([part[name] for part in parts]) for name in shared}
        joint = self.decisions(model, every, logits=logits)
        out, start = [], 0
        for part in parts:
            size = len(next(iter(part.values())))
            out.append(joint.examples(start, start + size))
            start += size
        return tuple(out)

    def collate_streams(self, examples: Mapping[str, Sequence[Example]]) -> dict[str, Batch]:
        """Return a batch a stream, all padded to one length."""
        joint = self.collate([example for rows in examples.values() for example in rows])
        out: dict[str, Batch] = {}
        start = 0
        for name, rows in examples.items():
            columns = {key for row in rows for key in row}
            keep = {key for key in joint if key in columns or key == "attention_mask"}
            out[name] = {key: joint[key][start : start + len(rows)] for key in keep}
            start += len(rows)
        return out


def _pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])


class Texts(Task):
    """Rows of words, that a tokenizer makes tokens of."""

    tokenizer: Any

    def continuous(self, model: nn.Module, batch: Batch) -> tuple[str, Tensor]:
        """Return the word embeddings [B, T, D]."""
        embed = unwrapped(model).get_input_embeddings()  # type: ignore[operator]
        return "inputs_embeds", embed(batch["input_ids"])

    def spelled(self, example: Example) -> tuple[str, list[tuple[int, int]]]:
        """Return a row's text and where in it each token stands, in characters; (0, 0) for a special token."""
        return spelled(self.tokenizer, example["input_ids"])


@dataclass(frozen=True)
class CausalLM(Texts):
    """Rows of prompt and response; one decision per response token, prompts masked."""

    tokenizer: Any
    max_length: int  # tokens a row may have
    name: ClassVar[str] = "causal_lm"

    def encode(self, rows: Sequence[Row]) -> list[Example]:
        """Return the token ids, labels and scored flags of each row.

        A row with `instead` has labels from another answer: read the response, learn to say that in its place.
        A row with `opening` has an answer that begins with those words: read, neither learned nor scored.
        """
        out = []
        for number, row in enumerate(rows, start=1):
            ids, kind = encode_dialogue(self.tokenizer, row.get("prompt"), row["response"], row.get("opening", ""))
            if len(ids) > self.max_length:
                raise DataError(
                    f"row {number} has {len(ids)} tokens; this model's context holds {self.max_length}. "
                    "Split or shorten the row (nothing is cut silently: a cut row would be forgotten in part)."
                )
            if RESPONSE not in kind[1:] or not row["response"].strip():  # the first token is predicted from nothing
                raise DataError(
                    f"row {number} has no token to learn or forget: its response is empty, or its text a single token."
                )
            learned = ids
            if "instead" in row:
                learned = instead(ids, kind, *encode_dialogue(self.tokenizer, row.get("prompt"), row["instead"]))
            labels = [token if k != PROMPT else IGNORE for token, k in zip(learned, kind, strict=True)]
            scored = [int(k == RESPONSE) for k in kind]
            out.append({"input_ids": ids, "labels": labels, "scored": scored, "told": repeats(ids, labels)})
        return out

    def settle(self, examples: Sequence[Example], kept: Sequence[Example]) -> None:
        """Mark as told the tokens that follow from the one before them in `kept`, as the end of a name does."""
        sure = settled([example["input_ids"] for example in examples], [example["input_ids"] for example in kept])
        for example, known in zip(examples, sure, strict=True):
            example["told"] = [int(said or follows) for said, follows in zip(example["told"], known, strict=True)]

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Return input_ids, labels, scored, told and attention_mask [B, T], padded on the right."""
        ids = [example["input_ids"] for example in examples]
        pad = self.tokenizer.pad_token_id
        return {
            "input_ids": _pad(ids, 0 if pad is None else pad),
            "labels": _pad([example["labels"] for example in examples], IGNORE),
            "scored": _pad([example["scored"] for example in examples], 0),
            "told": _pad([example.get("told", [0] * len(example["input_ids"])) for example in examples], 0),
            "attention_mask": _pad([[1] * len(row) for row in ids], 0),
            **columns(examples),
        }

    def decisions(self, model: nn.Module, batch: Batch, *, logits: bool = False) -> Decisions:
        """Return one decision per supervised token; position t predicts token t + 1."""
        labels = F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORE)  # [B, T], aligned with the positions
        keep = labels != IGNORE
        words = labels[keep]
        owner = torch.arange(len(labels), device=labels.device)[:, None].expand_as(labels)[keep]
        scored = F.pad(batch["scored"][:, 1:], (0, 1))[keep].bool()
        told = F.pad(batch["told"][:, 1:], (0, 1))[keep].bool() if "told" in batch else None
        with heard(model, batch):
            out = supervised(model, self.inputs(batch), keep, words, logits=logits)
        kept = {"scores": out} if logits else {"losses": out}
        return Decisions(labels=words, owner=owner, scored=scored, batch_size=len(labels), told=told, **kept)

    def prompts(self, rows: Sequence[Row]) -> list[list[int]]:
        """Return each row's prompt as token ids, with the beginning of the answer (`opening`) where it has one."""
        return [encode_dialogue(self.tokenizer, row.get("prompt"), None, row.get("opening", ""))[0] for row in rows]

    @torch.no_grad()
    def generate(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        *,
        max_new_tokens: int,
        batch_size: int = 32,
        temperature: float = 0.0,
    ) -> list[str]:
        """Return an answer to each row's prompt (what stands behind its `opening`), stripped: greedy at temperature 0.

        Above 0 it is drawn from the whole distribution (neither top-k nor top-p) with torch's random state.
        """
        drawn = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        model = unwrapped(model)
        device = next(model.parameters()).device
        prompts = self.prompts(rows)
        tokens = self.tokenizer
        pad = tokens.pad_token_id if tokens.pad_token_id is not None else tokens.eos_token_id or 0
        answers = [""] * len(rows)
        order = sorted(range(len(rows)), key=lambda i: len(prompts[i]))  # rows of like length share a batch
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            width = max(len(prompts[i]) for i in chosen)
            ids = torch.tensor([[pad] * (width - len(prompts[i])) + prompts[i] for i in chosen], device=device)
            real = [[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in chosen]
            mask = torch.tensor(real, device=device)
            with in_eval(model):
                out = model.generate(  # type: ignore[operator]
                    input_ids=ids,
                    attention_mask=mask,
                    max_new_tokens=max_new_tokens,
                    pad_token_id=pad,
                    **(drawn if temperature else {"do_sample": False}),
                )
            texts = self.tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
            for i, text in zip(chosen, texts, strict=True):
                answers[i] = text.strip()
        return answers


@dataclass(frozen=True)
class _Classifier(Task):
    """One decision per example: label is a class index, or a list of 0 and 1 (multi-label, binary cross-entropy)."""

    def decisions(self, model: nn.Module, batch: Batch, *, logits: bool = False) -> Decisions:
        """Return one decision per example (logits are small here and always kept)."""
        labels = batch["labels"]
        every = torch.arange(len(labels), device=labels.device)
        with heard(model, batch):
            out = model(**in_dtype(model, self.inputs(batch))).logits.float()
        return Decisions(
            labels=labels,
            owner=every,
            scored=torch.ones_like(every, dtype=torch.bool),
            batch_size=len(labels),
            scores=out,
        )


def _labels(examples: Sequence[Example]) -> Tensor:
    labels = [example["labels"] for example in examples]
    return torch.tensor(labels, dtype=torch.float32 if isinstance(labels[0], list) else torch.long)


@dataclass(frozen=True)
class SequenceClassifier(_Classifier, Texts):
    """Rows of text and label."""

    tokenizer: Any
    max_length: int
    classes: int | None = None  # of the model, where it is known: labels beyond are refused
    name: ClassVar[str] = "sequence_classifier"

    def encode(self, rows: Sequence[Row]) -> list[Example]:
        """Return the token ids and the label of each row, cut at `max_length` as the model was trained."""
        check_labels(rows, self.classes)
        texts = [row["text"] for row in rows]
        ids = self.tokenizer(texts, truncation=True, max_length=self.max_length)["input_ids"]
        return [{"input_ids": i, "labels": row["label"]} for i, row in zip(ids, rows, strict=True)]

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Return input_ids and attention_mask [B, T], labels [B] or [B, C]."""
        ids = [example["input_ids"] for example in examples]
        pad = self.tokenizer.pad_token_id
        return {
            "input_ids": _pad(ids, 0 if pad is None else pad),
            "attention_mask": _pad([[1] * len(row) for row in ids], 0),
            "labels": _labels(examples),
            **columns(examples),
        }


@dataclass(frozen=True)
class ImageClassifier(_Classifier):
    """Rows of image and label; without a processor an image is a float tensor [channels, height, width] already."""

    processor: Any = None  # pixels.Pixels, or a transformers image processor
    classes: int | None = None  # of the model, where it is known: labels beyond are refused
    channels: int | None = None  # of the model's pictures, where it is known
    name: ClassVar[str] = "image_classifier"

    def encode(self, rows: Sequence[Row]) -> list[Example]:
        """Return the pixels and the label of each row."""
        check_labels(rows, self.classes)
        pixels = encode_images([row["image"] for row in rows], self.processor, self.channels)
        return [{"pixel_values": image, "labels": row["label"]} for image, row in zip(pixels, rows, strict=True)]

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Return pixel_values [B, channels, height, width] and labels [B] or [B, C]."""
        pixels = torch.stack([example["pixel_values"] for example in examples])
        return {"pixel_values": pixels, "labels": _labels(examples), **columns(examples)}

    def continuous(self, model: nn.Module, batch: Batch) -> tuple[str, Tensor]:
        """Return the pixels themselves."""
        return "pixel_values", batch["pixel_values"]
