"""A text without the words that tell a feature's value: in each one's place stands the mean embedding.

A word tells value k if rows with it have k more often than rows of the same target do: of those that would not have it by
guessing, (O - E) / (n - E) >= 1/2, and more than chance allows (Cochran, 1954; Mantel and Haenszel, 1959; a test a word and value):

    O = sum_y o_y    E = sum_y n_y r_y / N_y    V = sum_y n_y (N_y - n_y) r_y (N_y - r_y) / (N_y^2 (N_y - 1))    (O - E) / sqrt(V)

N_y rows have target y, n_y of them the word, r_y value k, o_y both; n is the sum of n_y.  A word that goes with the value only
because both go with the target tells nothing.  What takes several words together to tell is left as it is.
"""

from collections import defaultdict
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor, nn

from llm_unlearn.encoding import movable, words
from llm_unlearn.head import unwrapped
from llm_unlearn.tasks import Batch, Example, Task

LEVEL = 0.01  # chance that any word is taken to tell a value that goes with none
LEAST = 0.5  # of a word's rows that would not have its value by guessing


class Telling:
    """The words that tell a feature's value."""

    swaps = False  # what is left shows no value; a row keeps its own

    def __init__(self, tokenizer: Any, embeddings: nn.Module, tells: Tensor) -> None:
        """Take the model's word embeddings, and which words tell [V] bool."""
        self.tokenizer, self.tells = tokenizer, tells
        self.mean: Tensor = embeddings.weight.detach().mean(0)  # type: ignore[operator]

    def changed(self, part: Batch, values: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings [B, T, D] without these words, and the rows' values `own` [B]."""
        told = self.tells.to(values.device)[words(part)] & movable(self.tokenizer, part)
        return torch.where(told[..., None], self.mean.to(values), values), own


def telling_of(
    model: nn.Module, task: Task, examples: Sequence[Example], targets: Sequence[str], batch_size: int = 256
) -> Telling | None:
    """Return the words of texts that tell their column `annotation`; None where none does, and of pictures."""
    tokenizer = getattr(task, "tokenizer", None)
    if tokenizer is None:
        return None
    rows: list[list[int]] = []
    for start in range(0, len(examples), batch_size):
        batch = task.collate(examples[start : start + batch_size])
        said = torch.where(movable(tokenizer, batch), words(batch), -1)
        rows += [[word for word in row if word >= 0] for row in said.tolist()]
    found = telling(rows, [int(example["annotation"]) for example in examples], targets)
    embeddings: nn.Module = unwrapped(model).get_input_embeddings()  # type: ignore[operator]
    tells = torch.zeros(len(embeddings.weight), dtype=torch.bool)  # type: ignore[arg-type]
    tells[found] = True
    return Telling(tokenizer, embeddings, tells) if found else None


def telling(rows: Sequence[Sequence[int]], values: Sequence[int], targets: Sequence[str]) -> list[int]:
    """Return the words that tell a value; `rows` are the words of each."""
    every = sorted({word for row in rows for word in row})
    if not every:
        return []  # texts without a prompt: nothing stands before what is scored
    place = {word: number for number, word in enumerate(every)}
    shape = max(values) + 1, len(every)  # [K, V]
    both, usual, spread, those = (torch.zeros(shape, dtype=torch.double) for _ in range(4))
    by_target: dict[str, list[int]] = defaultdict(list)
    for number, target in enumerate(targets):
        by_target[target].append(number)
    for _, mine in sorted(by_target.items()):
        cells, sizes = torch.zeros(shape, dtype=torch.double), torch.zeros(shape[0], 1, dtype=torch.double)
        for number in mine:
            cells[values[number], [place[word] for word in set(rows[number])]] += 1
            sizes[values[number]] += 1
        said, total = cells.sum(0, keepdim=True), float(len(mine))
        both += cells
        those += said
        usual += said * sizes / total
        spread += said * (total - said) * sizes * (total - sizes) / (total**2 * max(total - 1, 1.0))
    above = both - usual
    sure = above > NormalDist().inv_cdf(1 - LEVEL / above.numel()) * spread.sqrt()
    tells = (sure & (above >= LEAST * (those - usual))).any(0)
    return [word for word, told in zip(every, tells.tolist(), strict=True) if told]
