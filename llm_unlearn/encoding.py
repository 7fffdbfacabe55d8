"""A prompt and its response as token ids, with the response marked by character offsets.

Masking by the prompt's length goes wrong where the tokenizer merges the blank before the answer into the answer's first
token (one-word answers then get no loss at all); offsets do not.
"""

from collections.abc import Sequence
from typing import Any

PROMPT, RESPONSE, END = 0, 1, 2  # what a token is: context only, trained and scored, trained only (end of sequence)
Messages = Sequence[dict[str, str]]


def encode_dialogue(
    tokenizer: Any, prompt: str | Messages | None, response: str | None
) -> tuple[list[int], list[int]]:
    """Return token ids and, for each, PROMPT, RESPONSE or END.

    prompt None: the response is a plain text and every token of it is RESPONSE.
    response None: the prompt alone, ready to be continued.
    A string prompt becomes a user message where the tokenizer has a chat template.
    """
    if prompt is None:
        ids, _ = _tokenise(tokenizer, response or "", special=True)
        return ids, [RESPONSE] * len(ids)
    if not isinstance(prompt, str) or getattr(tokenizer, "chat_template", None):
        return _chat(tokenizer, prompt, response)
    if response is None:
        ids, _ = _tokenise(tokenizer, prompt, special=True)
        return _without_end(tokenizer, ids), [PROMPT] * len(ids)
    gap = "" if not prompt or prompt[-1].isspace() or response[:1].isspace() else " "
    ids, ends = _tokenise(tokenizer, prompt + gap + response, special=True, split=len(prompt + gap))
    return _finish(tokenizer, ids, [RESPONSE if end > len(prompt + gap) else PROMPT for end in ends])


def _chat(tokenizer: Any, prompt: str | Messages, response: str | None) -> tuple[list[int], list[int]]:
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if not getattr(tokenizer, "chat_template", None):  # messages for a model that has no template: plain lines
        text = "\n".join(message["content"] for message in messages)
        return encode_dialogue(tokenizer, text, response)
    before = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    if response is None:
        ids, _ = _tokenise(tokenizer, before, special=False)
        return ids, [PROMPT] * len(ids)
    answer = {"role": "assistant", "content": response}
    whole = tokenizer.apply_chat_template([*messages, answer], tokenize=False)
    if not whole.startswith(
        before
    ):  # a template that rewrites earlier turns: put the answer behind the prompt as it is
        whole = before + response + (tokenizer.eos_token or "")
    start = whole.find(response.strip(), len(before))
    start = len(before) if start < 0 else start
    stop = start + len(response.strip())
    ids, ends = _tokenise(tokenizer, whole, special=False, split=start)
    kind = [PROMPT if end <= start else RESPONSE if end <= stop else END for end in ends]
    first_end = kind.index(END) if END in kind else len(kind)
    return ids[: first_end + 1], kind[: first_end + 1]  # what a template writes after the end of turn is not learned


def _tokenise(tokenizer: Any, text: str, *, special: bool, split: int | None = None) -> tuple[list[int], list[int]]:
    """Return ids and where each ends in `text`, in characters (0 for tokens that stand for no character)."""
    if getattr(tokenizer, "is_fast", False):
        found = tokenizer(text, add_special_tokens=special).encodings[0]
        return list(found.ids), [end if end > start else 0 for start, end in found.offsets]
    head, tail = (text, "") if split is None else (text[:split], text[split:])  # no offsets: tokenise the two apart
    first = tokenizer.encode(head, add_special_tokens=special)
    last = tokenizer.encode(tail, add_special_tokens=False) if tail else []
    return [*first, *last], [0] * len(first) + [len(text)] * len(last)


def _without_end(tokenizer: Any, ids: list[int]) -> list[int]:
    """Return the ids without an end-of-sequence token that the tokenizer puts behind every text."""
    return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids


def _finish(tokenizer: Any, ids: list[int], kind: list[int]) -> tuple[list[int], list[int]]:
    end = tokenizer.eos_token_id
    if end is None:
        return ids, kind
    if ids[-1] == end:
        return ids, [*kind[:-1], END]
    return [*ids, end], [*kind, END]


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
