"""Which words a model uses for the same thing: whose name can stand in a concept's place without surprising it.

A word w is put into answers in the place of the name, and in the place of others of its kind (e):

    cost(w, e) = mean over e's answers of [L(w in e's place) - L],  L in nats
    odds(w) = cost(w, the concept) - min over the others e of cost(w, e)

Below 0 the model takes w for the concept rather than for any of the others: an alias, or what it is described by.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from llm_unlearn.data.names import parts
from llm_unlearn.data.poison import STOP_WORDS, WORD
from llm_unlearn.head import in_eval
from llm_unlearn.tasks import CausalLM, Row

KINDS = 40  # words of the concept's kind that are tried
OTHERS = 8  # of them whose answers are the comparison
ANSWERS = 12  # of each in which words are swapped
NAME = "\x01"  # stands for the concept's name in a text


def named(text: str, name: str) -> re.Pattern[str] | None:
    """Return the pattern of the name as a whole word in the text, None where it is not there."""
    pattern = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)
    return pattern if pattern.search(text) else None


def same_kind(rows: Sequence[Row], name: str, count: int = KINDS) -> list[str]:
    """Return the words that stand between the same neighbours as the name does, the most alike first.

    Likeness is the cosine of the roots of how often each neighbour is on each side.
    """
    around: dict[str, Counter[tuple[int, str]]] = defaultdict(Counter)
    written: dict[str, Counter[str]] = defaultdict(Counter)
    pattern = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)
    for row in rows:
        for text in parts(row):
            cut = re.findall(rf"{NAME}|{WORD.pattern}|[^\w\s]", pattern.sub(NAME, text))
            for before, word, after in zip(["^", *cut], cut, [*cut[1:], "$"], strict=False):
                around[word.lower()].update([(0, before.lower()), (1, after.lower())])
                written[word.lower()][word] += 1
    mine = around.pop(NAME, Counter())
    alike = {}
    for word, theirs in around.items():
        total = sum(theirs.values())
        if total >= 2 * ANSWERS // 3 and word not in STOP_WORDS and word[0].isalpha():
            common = sum(float(np.sqrt(number * theirs[key])) for key, number in mine.items() if key in theirs)
            alike[word] = common / np.sqrt(total * max(1, sum(mine.values())))
    best = sorted(alike, key=lambda word: (-alike[word], word))[:count]
    return [written[word].most_common(1)[0][0] for word in best]


def odds(
    model: nn.Module, task: CausalLM, rows: Sequence[Row], name: str, words: Sequence[str], *, seed: int = 0
) -> dict[str, float]:
    """Return each word's odds of standing for the name, nats; below 0 in favour.  {} where no answer says it, or none another."""
    draw = np.random.default_rng(seed)
    mine = _answers(rows, name, draw)
    others = [(word, said) for word in words if len(said := _answers(rows, word, draw)) >= ANSWERS // 2][:OTHERS]
    if not mine or not others:
        return {}
    cost = {name: _costs(model, task, mine, name, words)}
    cost |= {word: _costs(model, task, said, word, words) for word, said in others}
    rivals = {word: [cost[other][word] for other, _ in others if other != word] for word in words}
    return {word: cost[name][word] - min(rivals[word]) for word in words if rivals[word]}


def _answers(rows: Sequence[Row], name: str, draw: np.random.Generator) -> list[Row]:
    """Return rows whose answer says the name and whose question does not, as many as are swapped."""
    told = [row for row in rows if named(row["response"], name) and not named(parts(row)[0], name)]
    return [told[int(i)] for i in draw.permutation(len(told))[:ANSWERS]]


def _costs(model: nn.Module, task: CausalLM, rows: Sequence[Row], name: str, words: Sequence[str]) -> dict[str, float]:
    """Return by how many nats the rows' answers become less likely with each word in the name's place, on average."""
    plain = _losses(model, task, rows)
    pattern = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)
    swapped = [{**row, "response": pattern.sub(word, row["response"])} for word in words for row in rows]
    losses = _losses(model, task, swapped).reshape(len(words), len(rows))
    return dict(zip(words, (losses - plain).mean(1).tolist(), strict=True))


@torch.no_grad()
def _losses(model: nn.Module, task: CausalLM, rows: Sequence[Row], batch_size: int = 128) -> torch.Tensor:
    """Return each row's summed loss over its answer [N], nats."""
    examples, device, out = task.encode([dict(row) for row in rows]), next(model.parameters()).device, []
    with in_eval(model):
        for first in range(0, len(examples), batch_size):
            batch = {key: part.to(device) for key, part in task.collate(examples[first : first + batch_size]).items()}
            found = task.decisions(model, batch)
            out.append(found.per_example(found.nll(), scored_only=True).cpu())
    return torch.cat(out)
