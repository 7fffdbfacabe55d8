"""From models to figures: one forward pass per (model, split), then arithmetic on its per-row records.

Several processes: `measure` must be called by every one of them.  Each does its share of the batches and of the
generation, the results are gathered, and every process returns all of them.

A row's answer, paraphrase and wrong answers each bring their prompt along.  Computing it once for all of them was tried: the
pass took 1.0 to 1.25 times less processor time, and a trained model's log-probabilities moved by 1.3e-5.
"""

import zlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from llm_unlearn.errors import NotFinite
from llm_unlearn.measuring import cache
from llm_unlearn.measuring.activations import HeadInput
from llm_unlearn.measuring.figures import Assessment, Figure, assess, figures
from llm_unlearn.measuring.gradients import gradient_norm
from llm_unlearn.measuring.passed import Passed, by_example, of_classes
from llm_unlearn.processes import bar, gathered, place
from llm_unlearn.scores import CLASSIFIERS, ModelScores, Scores, row_means
from llm_unlearn.tasks import Example, Row, Task

__all__ = ["Assessment", "Evaluation", "Figure", "assess", "figures", "measure"]

GENERATE_ON = ("forget", "retain", "neighbour", "general")
LOGITS_PER_BATCH = 2**27  # padded positions times words: 0.5 GB in fp32


@dataclass(frozen=True, kw_only=True)
class Options:
    """How models are measured."""

    generate_on: Collection[str] = GENERATE_ON  # splits that also get greedy answers, where all rows have a prompt
    batch_size: int = 64  # rows in one forward pass
    max_new_tokens: int | None = None  # of a greedy answer; None: the longest true answer and 4 more, at most 256
    grad_norm: bool = False  # each row's gradient norm, by a forward and a backward pass a row: slow
    activations: bool = False  # what goes into a classifier's head, for the activation distance
    progress: bool = True  # a bar on the main process


class Evaluation:
    """Makes and keeps each model's scores: one forward pass per (model, split), however many figures ask."""

    def __init__(
        self, task: Task, splits: Mapping[str, Sequence[Row]], *, cache: str | Path | None = None, **options: Any
    ) -> None:
        """Keep what to measure; `options` are the fields of Options.

        `cache` is a folder in which scores are kept for other runs too, by fingerprint: it holds answers, so keep it private.
        """
        self.task, self.splits, self.options = task, splits, Options(**options)
        self.folder = None if cache is None else Path(cache)
        self._cache: dict[str, dict[str, Scores]] = {}
        self._digests: dict[str, str] = {}

    def put(self, name: str, scores: ModelScores) -> None:
        """Keep scores that were measured earlier (`Scores.from_json`) as those of model `name`."""
        self._cache[name] = dict(scores)

    def kept(self, name: str) -> dict[str, Scores] | None:
        """Return the scores kept under `name`, or None where that model was not measured."""
        return self._cache.get(name)

    def scores(self, name: str, model: nn.Module, *, keep: bool = True) -> dict[str, Scores]:
        """Return the scores of `model`, measured once and kept under `name` ("before", "after", "gold").

        Without `keep` they don't go into the folder of the cache: for models that no other run will meet.
        """
        kept = self._cache.setdefault(name, {})
        missing = {name: rows for name, rows in self.splits.items() if self._lacks(kept.get(name))}
        if self.folder is None or not keep:
            kept.update(_measure(model, self.task, missing, self.options, name))
        else:
            kept.update(self._cached(self.folder, name, model, missing))
        return {split: kept[split] for split in self.splits if split in kept}

    def digest(self, name: str, model: nn.Module) -> str:
        """Return what tells `model` from any other, worked out once for each name."""
        if name not in self._digests:
            self._digests[name] = cache.of_model(model)
        return self._digests[name]

    def _lacks(self, kept: Scores | None) -> bool:
        """Whether a split is still to be measured; hidden states are not always stored."""
        return kept is None or (self.options.activations and kept.hidden is None)

    def _cached(
        self, folder: Path, name: str, model: nn.Module, splits: Mapping[str, Sequence[Row]]
    ) -> dict[str, Scores]:
        """Return the scores from the cache, those that are not in it measured and put there."""
        digest, out = self.digest(name, model), {}
        for split, rows in splits.items():
            if not len(rows):
                continue
            generated = split in self.options.generate_on, self.options.max_new_tokens
            asked = {"generate": generated, "grad_norm": self.options.grad_norm}
            asked |= {"activations": True} if self.options.activations else {}
            path = cache.place(folder, split, digest, cache.of_rows(self.task, rows), asked)
            if self._lacks(found := cache.get(path)):
                fresh = _measure(model, self.task, {split: rows}, self.options, name)[split]
                cache.put(path, fresh)
                found = cache.get(path) or fresh  # as it was stored, so that a second run has the same numbers
                found = found if found.hidden else replace(found, hidden=fresh.hidden)
            if found is not None:
                out[split] = found
        return out


def measure(model: nn.Module, task: Task, splits: Mapping[str, Sequence[Row]], **options: Any) -> dict[str, Scores]:
    """Return the model's scores by split, in row order; an empty split is left out.

    `options` are the fields of Options.  A row's answer, paraphrase and wrong answers go through in one pass of batches
    sorted by length.  The training mode of every module is restored, weights are not touched.
    """
    return _measure(model, task, splits, Options(**options), "")


def _measure(
    model: nn.Module, task: Task, splits: Mapping[str, Sequence[Row]], options: Options, label: str
) -> dict[str, Scores]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    out = {}
    try:
        for split, rows in splits.items():
            if len(rows):
                title = " ".join(part for part in ("measure", label, split) if part) if options.progress else None
                scores = _teacher_forced(model, task, split, rows, options, title)
                scores = _with_answers(model, task, rows, scores, options, title)
                out[split] = _with_gradients(model, task, rows, scores, title) if options.grad_norm else scores
    finally:
        for module, training in modes:
            module.training = training
    _check_numbers(out, label)
    return out


def _check_numbers(scores: ModelScores, label: str) -> None:
    """Raise NotFinite where a row's log-probabilities are no numbers: left out of a mean they would hide a broken model."""
    bad = sum(bool(np.isnan(row).any()) for each in scores.values() for row in each.log_probs)
    if bad:
        raise NotFinite(
            f"the model{f' {label}' if label else ''} gives a loss that is not a number on {bad} of "
            f"{sum(map(len, scores.values()))} rows, so nothing can be measured: try --precision fp32; if that changes nothing, "
            "its weights are broken."
        )


def _teacher_forced(
    model: nn.Module, task: Task, split: str, rows: Sequence[Row], options: Options, title: str | None
) -> Scores:
    """Return the scores of a split without generations: one pass over answers, paraphrases and wrong answers."""
    said = [row for row in rows if row.get("paraphrase")]
    variants = [*rows, *({**row, "response": row["paraphrase"]} for row in said)]
    variants += [{**row, "response": wrong} for row in rows for wrong in row.get("wrong") or ()]
    passed = _forward(model, task, task.encode(variants), options, title, moments_of=len(rows))
    own, others = passed[: len(rows)], passed[len(rows) :]
    rest = iter([-float(row_means([each.log_probs])[0]) for each in others])
    paraphrase = np.array([next(rest) if row.get("paraphrase") else np.nan for row in rows])
    wrong = tuple(np.array([next(rest) for _ in row.get("wrong") or ()]) for row in rows)
    texts = tuple(str(row["response"]) for row in rows) if all("response" in row for row in rows) else None
    moments = all(len(each.means) == len(each.log_probs) for each in own)
    return Scores(
        split=split,
        ids=tuple(str(row.get("id", i)) for i, row in enumerate(rows)),
        kinds=tuple(str(row.get("kind", "")) for row in rows),
        facts=tuple(None if row.get("fact") is None else str(row["fact"]) for row in rows),
        log_probs=tuple(each.log_probs for each in own),
        hits=tuple(each.hits for each in own),
        paraphrase_loss=paraphrase if said else None,
        wrong_losses=wrong if any(len(each) for each in wrong) else None,
        answers=texts,
        log_prob_means=tuple(each.means for each in own) if moments else None,
        log_prob_deviations=tuple(each.deviations for each in own) if moments else None,
        zlib_bytes=None if texts is None else np.array([float(len(zlib.compress(text.encode()))) for text in texts]),
        **(of_classes(rows, own) if task.name in CLASSIFIERS else {}),
    )


@torch.no_grad()
def _forward(
    model: nn.Module, task: Task, examples: Sequence[Example], options: Options, title: str | None, *, moments_of: int
) -> list[Passed]:
    """Return what the pass says of each example, in order; every process does its share of the batches.

    The moments of log p are taken of the first `moments_of` examples.  (At 2k and at 50k words they cost less than the
    noise of the clock, 2 % of the pass, so nobody has to ask for them.)
    """
    rank, world = place()
    batches = _batches([_length(example) for example in examples], options.batch_size, _positions_per_batch(model))
    turns = -(-len(batches) // world)  # as many forward passes in every process: sharded models wait for each other
    device = next(model.parameters()).device
    done: dict[int, Passed] = {}

    def collated(chosen: Sequence[int]) -> dict[str, torch.Tensor]:
        return {name: column.to(device) for name, column in task.collate([examples[i] for i in chosen]).items()}

    heard = HeadInput(model, task, collated(batches[0][:2])) if options.activations else None
    with heard or nullcontext():
        for turn in bar(range(turns), title):
            number = turn * world + rank
            chosen = batches[min(number, len(batches) - 1)]
            decisions = task.decisions(model, collated(chosen), logits=True)
            own = torch.tensor([i < moments_of for i in chosen], device=device)
            if number < len(batches):
                hidden = None if heard is None else heard.pooled(decisions.logits)
                classified = task.name in CLASSIFIERS
                done.update(zip(chosen, by_example(decisions, own, classified, hidden), strict=True))
    for other in gathered(done):
        done.update(other)
    return [done[i] for i in range(len(examples))]


def _with_answers(
    model: nn.Module, task: Any, rows: Sequence[Row], scores: Scores, options: Options, title: str | None
) -> Scores:
    """Return the scores with the greedy answers, where they are asked for."""
    wanted = scores.split in options.generate_on and hasattr(task, "generate")
    if not wanted or any(row.get("prompt") is None for row in rows):
        return scores
    limit = options.max_new_tokens or answer_limit(scores)
    title = title and title.replace("measure", "generate", 1)
    answers = greedy_answers(model, task, rows, max_new_tokens=limit, batch_size=options.batch_size, title=title)
    return replace(scores, generated=answers)


def answer_limit(scores: Scores) -> int:
    """Return the tokens a greedy answer may have: those of the longest true answer and 4 more, at most 256."""
    return min(256, max(len(log_probs) for log_probs in scores.log_probs) + 4)


def greedy_answers(
    model: nn.Module, task: Any, rows: Sequence[Row], *, max_new_tokens: int, batch_size: int, title: str | None = None
) -> tuple[str, ...]:
    """Return the greedy answer to each row's prompt, in row order; every process calls it and does its share of the rows.

    `title` names the progress bar of the main process; None: no bar.
    """
    rank, world = place()
    order = sorted(range(len(rows)), key=lambda i: len(str(rows[i]["prompt"])))  # like lengths, little padding
    mine = order[rank::world]
    done: dict[int, str] = {}
    for start in bar(range(0, len(mine), batch_size), title):
        chosen = mine[start : start + batch_size]
        answers = task.generate(
            model, [rows[i] for i in chosen], max_new_tokens=max_new_tokens, batch_size=len(chosen)
        )
        done.update(zip(chosen, answers, strict=True))
    for other in gathered(done):
        done.update(other)
    return tuple(done[i] for i in range(len(rows)))


def _with_gradients(model: nn.Module, task: Task, rows: Sequence[Row], scores: Scores, title: str | None) -> Scores:
    """Return the scores with each row's gradient norm; every process does its share of the rows."""
    rank, world = place()
    examples = task.encode(rows)
    done: dict[int, float] = {}
    for i in bar(range(rank, len(rows), world), title and title.replace("measure", "gradients", 1)):
        done[i] = gradient_norm(model, task, examples[i])
    for other in gathered(done):
        done.update(other)
    return replace(scores, grad_norm=np.array([done[i] for i in range(len(rows))]))


def _length(example: Example) -> int:
    return max((len(value) for value in example.values() if isinstance(value, list)), default=1)


def _positions_per_batch(model: nn.Module) -> int:
    config = getattr(model, "config", None)
    words = getattr(getattr(config, "get_text_config", lambda: config)(), "vocab_size", None)
    return LOGITS_PER_BATCH // (words or 2**13)


def _batches(lengths: Sequence[int], batch_size: int, positions: int) -> list[list[int]]:
    """Return batches of row numbers, longest first, of at most `batch_size` rows and `positions` padded tokens."""
    batches: list[list[int]] = []
    widest = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        full = not batches or len(batches[-1]) >= batch_size or (len(batches[-1]) + 1) * widest > positions
        if full:
            batches.append([])
            widest = lengths[i]
        batches[-1].append(i)
    return batches
