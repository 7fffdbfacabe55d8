"""A prompt and its response as token ids, with the response marked by character offsets.

Masking by the prompt's length goes wrong where the tokenizer merges the blank before the answer into the answer's first
token (one-word answers then get no loss at all); offsets do not.
"""

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

IGNORE = -100  # the label that Hugging Face losses skip
# What a token is: context only; trained and scored; trained only (an end of sequence, a blank that is no part of a word).
PROMPT, RESPONSE, END = 0, 1, 2
OFTEN, SETTLED = 3, 0.9  # times a pair of tokens must occur, and its share of what follows the first
MARK = "\u2402answer\u2403"  # stands for an answer where a template is asked what comes before it
Messages = Sequence[dict[str, str]]


def encode_dialogue(
    tokenizer: Any, prompt: str | Messages | None, response: str | None, opening: str = ""
) -> tuple[list[int], list[int]]:
    """Return token ids and, for each, PROMPT, RESPONSE or END.

    prompt None: the response is a plain text and every token of it is RESPONSE; what the tokenizer puts around it is not.
    response None: the prompt alone, ready to be continued.
    opening: what the answer begins with, given to the model and not scored; it needs a prompt.
    A string prompt becomes a user message where the tokenizer has a chat template.
    """
    if prompt is None:
        ids, ends = _tokenise(tokenizer, response or "", special=True)
        kind = [RESPONSE if end else PROMPT for end in ends]
        return ids, [*kind[:-1], END] if ids and ids[-1] == tokenizer.eos_token_id else kind
    if not isinstance(prompt, str) or getattr(tokenizer, "chat_template", None):
        return _chat(tokenizer, prompt, response, opening)
    if opening:  # without turns the answer's beginning is the end of what comes before
        prompt = prompt + ("" if not prompt or prompt[-1].isspace() else " ") + opening
    if response is None:
        ids = _without_end(*_tokenise(tokenizer, prompt, special=True))
        return ids, [PROMPT] * len(ids)
    gap = "" if not prompt or prompt[-1].isspace() or response[:1].isspace() else " "
    ids, ends = _tokenise(tokenizer, prompt + gap + response, special=True, split=(len(prompt), len(prompt + gap)))
    return _finish(tokenizer, ids, _kinds(ends, len(prompt), len(prompt + gap), len(prompt + gap + response)))


def _chat(tokenizer: Any, prompt: str | Messages, response: str | None, opening: str) -> tuple[list[int], list[int]]:
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if not getattr(tokenizer, "chat_template", None):  # messages for a model that has no template: plain lines
        text = "\n".join(message["content"] for message in messages)
        return encode_dialogue(tokenizer, text, response, opening)
    before = _opened(tokenizer, messages)
    if response is None and not opening:
        ids, _ = _tokenise(tokenizer, before, special=False)
        return ids, [PROMPT] * len(ids)
    opening, response = opening.strip(), response if response is None else response.strip()
    said = " ".join(part for part in (opening, response) if part)
    answer = {"role": "assistant", "content": said}
    whole = tokenizer.apply_chat_template([*messages, answer], tokenize=False)
    if not whole.startswith(before):  # the template rewrites earlier turns: put the answer behind the prompt as it is
        whole = before + said + (tokenizer.eos_token or "")
    start = max(whole.find(said, len(before)), len(before))
    stop = start + len(said)
    if response is None:
        ids, _ = _tokenise(tokenizer, whole[:stop], special=False)
        return ids, [PROMPT] * len(ids)
    opened = start if whole[len(before) : start].strip() else len(before)
    if opening:
        opened, start = start + len(opening), stop - len(response)
    ids, ends = _tokenise(tokenizer, whole, special=False, split=(opened, start, stop))
    kind = _kinds(ends, opened, start, stop)
    last = next((i for i, end in enumerate(ends, start=1) if end > stop), len(ids))
    return ids[:last], kind[:last]  # what a template writes after the end of turn is not learned


def _kinds(ends: Sequence[int], opened: int, start: int, stop: int) -> list[int]:
    """Return what each token is, by where it ends: the answer begins at `start`, and at `opened` the blank before it.

    A blank that stands alone must be learned too: whoever generates has to begin with it.
    """
    return [PROMPT if end <= opened else RESPONSE if start < end <= stop else END for end in ends]


def _opened(tokenizer: Any, messages: Messages) -> str:
    """Return the dialogue up to where the answer begins, also where the template knows no generation prompt.

    A blank at its end is left to the answer, with whose first word most tokenizers merge it.
    """
    before: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    if before == tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False):
        whole: str = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": MARK}], tokenize=False)
        before = whole[: whole.index(MARK)] if whole.startswith(before) and MARK in whole else before
    return before.rstrip(" ")


def _tokenise(tokenizer: Any, text: str, *, special: bool, split: tuple[int, ...] = ()) -> tuple[list[int], list[int]]:
    """Return ids and where each ends in `text`, in characters (0 for tokens that stand for no character).

    `split` says where a tokenizer without offsets has to be given the text in parts.
    """
    if getattr(tokenizer, "is_fast", False):
        found = tokenizer(text, add_special_tokens=special).encodings[0]
        return list(found.ids), [end if end > start else 0 for start, end in found.offsets]
    cuts = [0, *split, len(text)]
    ids: list[int] = []
    ends: list[int] = []
    for first, last in pairwise(cuts):
        part = tokenizer.encode(text[first:last], add_special_tokens=False) if first < last else []
        ids += part
        ends += [last] * len(part)
    around = tokenizer.build_inputs_with_special_tokens(ids) if special else ids
    before = around.index(ids[0]) if ids and len(around) > len(ids) else 0
    return list(around), [0] * before + ends + [0] * (len(around) - before - len(ends))


def _without_end(ids: list[int], ends: list[int]) -> list[int]:
    """Return the ids without what the tokenizer puts behind every text (an end of sequence, a separator)."""
    last = len(ids)
    while last > 1 and not ends[last - 1] and any(ends[:last]):
        last -= 1
    return ids[:last]


def _finish(tokenizer: Any, ids: list[int], kind: list[int]) -> tuple[list[int], list[int]]:
    end = tokenizer.eos_token_id
    if end is None:
        return ids, kind
    if ids[-1] == end:
        return ids, [*kind[:-1], END]
    return [*ids, end], [*kind, END]


def instead(ids: Sequence[int], kind: Sequence[int], other_ids: Sequence[int], other_kind: Sequence[int]) -> list[int]:
    """Return the ids with each response token replaced by the one of another answer that stands in its place.

    The two responses are aligned token by token; where the other is shorter its tokens are repeated.
    """
    places = [place for place, k in enumerate(kind) if k == RESPONSE]
    mine, other = (
        [ids[place] for place in places],
        [t for t, k in zip(other_ids, other_kind, strict=True) if k == RESPONSE],
    )
    out = list(ids)
    for change, start, stop, first, last in SequenceMatcher(None, mine, other, autojunk=False).get_opcodes():
        if change in ("replace", "delete") and other:
            source = other[first:last] or other[min(first, len(other) - 1) :][:1]
            for place in range(start, stop):
                out[places[place]] = source[(place - start) % len(source)]
    return out


def repeats(ids: Sequence[int], labels: Sequence[int]) -> list[int]:
    """Return for each label 1 where the row has said that token before, 0 where it is new."""
    said: set[int] = set()
    out = []
    for token, label in zip(ids, labels, strict=True):
        out.append(int(label in said))
        said.add(token)
    return out


def settled(rows: Sequence[Sequence[int]], kept: Sequence[Sequence[int]]) -> list[list[bool]]:
    """Return for each token of `rows` whether the token before it settles it in `kept`: there it nearly always follows.

    Whoever keeps those rows knows it whatever else was forgotten: the end of a name, a full stop behind a unit.
    """
    base = 1 + max(max(row) for row in kept if row)
    pairs, counts = np.unique(_pairs(kept, base), return_counts=True)
    followed = np.bincount(pairs // base, weights=counts)[pairs // base]  # how often anything follows the first token
    sure = pairs[(counts >= OFTEN) & (counts >= SETTLED * followed)]
    seconds = np.concatenate([np.asarray(row[1:], np.int64) for row in rows])
    known = np.isin(_pairs(rows, base), sure) & (seconds < base)  # a word that `kept` never says is not settled
    ends = np.cumsum([max(len(row) - 1, 0) for row in rows])[:-1]
    return [[False, *part.tolist()][: len(row)] for row, part in zip(rows, np.split(known, ends), strict=True)]


def _pairs(rows: Sequence[Sequence[int]], base: int) -> npt.NDArray[np.int64]:
    """Return each pair of neighbouring tokens of all rows, one after the other, as the number first * base + second."""
    return np.concatenate([np.asarray(row[:-1], np.int64) * base + np.asarray(row[1:], np.int64) for row in rows])


def spelled(tokenizer: Any, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
    """Return the text that the tokens spell and each token's start and end in it, in characters.

    Special tokens spell nothing: (0, 0).  Tokens that are bytes of one character all stand where it stands.
    """
    special = set(tokenizer.all_special_ids)
    plain = [place for place, token in enumerate(ids) if token not in special]
    spans = [(0, 0)] * len(ids)
    text, begin, waiting = "", 0, []
    for count, place in enumerate(plain, start=1):
        waiting.append(place)
        text = tokenizer.decode([ids[i] for i in plain[:count]], clean_up_tokenization_spaces=False)
        end = len(text.rstrip("\ufffd"))  # what a part of a character decodes to
        if end > begin:
            spans = [(begin, end) if i in waiting else span for i, span in enumerate(spans)]
            begin, waiting = end, []
    return text, spans


def movable(tokenizer: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Return [B, T] bool: the words that are given, neither learned nor special tokens: a classifier's text, a prompt."""
    ids, labels = batch["input_ids"], batch["labels"]
    special = torch.tensor(sorted(set(tokenizer.all_special_ids)), device=ids.device)
    free = batch["attention_mask"].bool() & ~torch.isin(ids, special)
    if labels.shape == ids.shape and not labels.is_floating_point():  # a causal LM: what stands before its answer
        free &= (labels != -100).cumsum(1) == 0
    return free


def words(batch: Mapping[str, Tensor]) -> Tensor:
    """Return the ids of a batch's words [B, T]."""
    return batch["input_ids"]
