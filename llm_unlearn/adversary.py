"""Inputs that a model takes for something else (targeted projected gradient descent), and the reversal of gradients.

Madry et al., 2018, arXiv:1706.06083, with an L2 ball: from a random start inside the ball, each step goes a fixed length down
the gradient of the loss on the wanted label, back into the ball, and back into the range that an input can have.

    pixels      the ball's radius is given as a change per pixel, root mean square, in shares of the pixel's range
    embeddings  of words that are no special tokens (of a causal LM: of the prompt's); the radius is a share of their norm
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from llm_unlearn.encoding import movable
from llm_unlearn.errors import DataError, RecipeError
from llm_unlearn.head import in_eval
from llm_unlearn.other_answers import with_other_labels
from llm_unlearn.tasks import Batch, Example, Row, Task

TRAVEL = 2.5  # radii that all steps together can go: the founding papers' 100 steps of 0.1 in a ball of 4
TINY = 1e-12
WANTED, FEWEST, MOST, MOST_ROWS = 320, 4, 20, 256  # adversarial examples in all, and a row; rows they are made from


@dataclass(frozen=True, kw_only=True)
class Attack:
    """How adversarial examples are looked for."""

    examples: int | None = None  # tried a row; None: 320 / rows, 4 to 20. Differs from the paper: 20 to 300
    steps: int = 20  # Differs from the paper: 100
    pixel_radius: float = 0.045  # a pixel, of its range. Differs from the paper: 4.0 for 32 x 32 x 3 pixels, so 0.072
    word_radius: float = 0.4  # of the norm of a text's embeddings; at 0.1 a fifth of the attacks hit (toy texts)


@dataclass(frozen=True)
class Perturbed:
    """What was added to each example's continuous input, and whether the model then says the example's label."""

    deltas: list[Tensor]  # a row each: [channels, height, width] or [T, D]; fp16, on the CPU
    hits: Tensor  # [M] bool: every scored decision is the label that was aimed at

    @property
    def success(self) -> float:
        """Return the share of examples that the model takes for what they were aimed at."""
        return self.hits.double().mean().item()


def pgd(
    model: nn.Module,
    task: Task,
    examples: Sequence[Example],
    *,
    pixel_radius: float = 0.072,
    word_radius: float = 0.1,
    steps: int = 20,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> Perturbed:
    """Return changes of the inputs that make `model` (in eval mode) say the examples' own labels, those that are aimed at.

    One forward and one backward pass a step for a whole batch; no weight gets a gradient, and `requires_grad` and the training
    mode of every part are put back.  The same seed and batch size give the same changes.  What is returned is rounded to fp16, and so
    is what `hits` were counted on.  Raises DataError for an example without a word that may be changed.
    """
    deltas: list[Tensor] = [torch.empty(0)] * len(examples)
    hits = torch.zeros(len(examples), dtype=torch.bool)
    device = next(model.parameters()).device
    draw = torch.Generator().manual_seed(seed)
    order = sorted(range(len(examples)), key=lambda i: _length(examples[i]))  # like lengths share a batch
    bar = tqdm(total=len(order), unit="example", desc="adversarial", disable=None if progress else True)
    with bar, in_eval(model), weights_at_rest(model):
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            batch = {name: tensor.to(device) for name, tensor in task.collate([examples[i] for i in chosen]).items()}
            found = _attack(model, task, batch, pixel_radius, word_radius, steps, draw).half()
            said = _said(model, task, perturbed(model, task, batch, found)).cpu()
            for place, i in enumerate(chosen):
                own = (
                    _length(examples[i]) if found.dim() == 3 else found.shape[1]
                )  # words: without the batch's padding
                deltas[i], hits[i] = found[place, :own].cpu(), said[place]
            bar.update(len(chosen))
    return Perturbed(deltas, hits)


def perturbed(model: nn.Module, task: Task, batch: Batch, deltas: Tensor) -> Batch:
    """Return the batch with `deltas` [B, ...] added to its continuous input; of words those beyond the batch's own T are cut."""
    name, values = task.continuous(model, batch)
    return {**batch, name: values + fitted(deltas, values)}


def fitted(deltas: Tensor, values: Tensor) -> Tensor:
    """Return the deltas [B, ...] in the shape and type of `values`: padding is added or cut off along the words."""
    if deltas.shape[1] < values.shape[1]:
        deltas = torch.cat(
            [deltas, deltas.new_zeros(len(deltas), values.shape[1] - deltas.shape[1], *deltas.shape[2:])], 1
        )
    return deltas[:, : values.shape[1]].to(values)


def _attack(
    model: nn.Module,
    task: Task,
    batch: Batch,
    pixel_radius: float,
    word_radius: float,
    steps: int,
    draw: torch.Generator,
) -> Tensor:
    """Return what to add to the continuous input of each example [B, ...], fp32."""
    with torch.no_grad():
        name, clean = task.continuous(model, batch)
    clean = clean.detach().float()
    free, low, high = _room(task, batch, clean)
    unit = high - low if low is not None and high is not None else torch.ones_like(clean[:1])
    if low is None:
        radius = word_radius * _norm(clean * free)
    else:
        radius = torch.full_like(_norm(clean), pixel_radius * clean[0].numel() ** 0.5)
    noise = torch.randn(clean.shape, generator=draw).to(clean) * free
    start = torch.rand(len(clean), generator=draw).to(clean).reshape(radius.shape)
    delta = noise / _norm(noise).clamp(min=TINY) * radius * start  # in units of the range

    def inside(move: Tensor) -> Tensor:
        move = move * (radius / _norm(move).clamp(min=TINY)).clamp(max=1.0)
        if low is None or high is None:
            return move
        return (
            (clean + move * unit).clamp(low, high) - clean
        ) / unit  # towards an input that is inside: no longer move

    delta = inside(delta)
    for _ in range(steps):
        delta.requires_grad_()
        point = (clean + delta * unit).to(next(model.parameters()).dtype)
        decisions = task.decisions(model, {**batch, name: point})
        (slope,) = torch.autograd.grad(decisions.mean_nll().sum(), delta)
        slope = slope * free
        with torch.no_grad():
            delta = inside(delta - TRAVEL / steps * radius * slope / _norm(slope).clamp(min=TINY))
    return delta.detach() * unit


def _room(task: Task, batch: Batch, clean: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return what may be changed (1 or 0, broadcastable to `clean`), and for pixels the least and the greatest value."""
    tokenizer = getattr(task, "tokenizer", None)
    if tokenizer is not None:
        free = movable(tokenizer, batch)  # [B, T]
        if not free.any(1).all():
            raise DataError(
                "adversarial examples change the words of a prompt (a classifier's of its text), and "
                f"{int((~free.any(1)).sum())} of {len(free)} rows have none: give rows with a prompt, or set method.keep=nothing."
            )
        return free[..., None].to(clean), None, None
    low, high = pixel_range(getattr(task, "processor", None), clean)
    return torch.ones_like(clean[:1, :1, :1, :1]), low, high


def pixel_range(processor: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return what black and white are to the model, [channels, 1, 1] each; without a processor that says it, the least and
    the greatest value of each channel of `pixels` [B, channels, height, width].
    """
    if processor is None or getattr(processor, "do_rescale", None) is False:
        low, high = pixels.amin((0, 2, 3)), pixels.amax((0, 2, 3))
        return low[:, None, None], torch.maximum(high, low + TINY)[:, None, None]
    channels = pixels.shape[1]
    normal = getattr(processor, "do_normalize", False)
    mean = torch.as_tensor(processor.image_mean if normal else 0.0).to(pixels).flatten().expand(channels)
    deviation = torch.as_tensor(processor.image_std if normal else 1.0).to(pixels).flatten().expand(channels)
    return ((0 - mean) / deviation)[:, None, None], ((1 - mean) / deviation)[:, None, None]


@torch.no_grad()
def _said(model: nn.Module, task: Task, batch: Batch) -> Tensor:
    """Return [B] bool: is every scored decision the label."""
    decisions = task.decisions(model, batch, logits=True)
    return decisions.per_example((~decisions.greedy_hit()).float(), scored_only=True) == 0


def _norm(values: Tensor) -> Tensor:
    """Return each example's L2 norm, [B, 1, ...]."""
    return values.flatten(1).norm(dim=1).reshape(-1, *[1] * (values.dim() - 1))


def _length(example: Example) -> int:
    return max((len(value) for value in example.values() if isinstance(value, list)), default=1)


@contextmanager
def weights_at_rest(model: nn.Module) -> Iterator[None]:
    """No weight asks for a gradient inside the block: a backward pass then stops at the inputs."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@dataclass(frozen=True)
class Anchors:
    """Adversarial examples that hit: what the model before said of inputs near rows that it is to say otherwise of."""

    examples: list[Example]  # rows with the labels that the model said, each with its `place` in the table
    table: Tensor  # [M, ...] what to add to their continuous inputs, fp16, on the CPU
    tried: int  # those that missed are left out: to train on them would teach the model something new

    def told(self) -> dict[str, float]:
        """Return how many there are, and which share of those tried they are."""
        return {"adversarial_examples": len(self.examples), "attack_success": len(self.examples) / self.tried}

    def join(self, model: nn.Module, task: Task, batch: Mapping[str, Batch], name: str) -> dict[str, Batch]:
        """Return the batch with the changes added in the stream `name`, and every stream's input as it enters the model."""
        out: dict[str, Batch] = {}
        for stream, part in batch.items():
            kind, values = task.continuous(model, part)
            if stream == name:
                values = values + fitted(self.table[part["place"].long().cpu()], values)
            out[stream] = {**part, kind: values}
        return out


def anchors(model: nn.Module, task: Task, rows: Sequence[Row], attack: Attack, seed: int = 0) -> Anchors:
    """Return the adversarial examples of the rows that hit other labels.

    Without `attack.examples`: about 320 in all, at least 4 and at most 20 a row, and of more than 256 rows as many drawn by the
    seed.  Raises RecipeError where none hits.
    """
    times, drawn = attack.examples, list(rows)
    if times is None:
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:MOST_ROWS].sort().values
        times, drawn = max(FEWEST, min(MOST, WANTED // len(rows))), [rows[i] for i in order.tolist()]
    aimed = task.encode(with_other_labels(model, task, drawn, times=times, seed=seed))
    how: dict[str, Any] = {"pixel_radius": attack.pixel_radius, "word_radius": attack.word_radius}
    found = pgd(model, task, aimed, steps=attack.steps, seed=seed, progress=True, **how)
    hits = found.hits.nonzero()[:, 0].tolist()
    if not hits:
        raise RecipeError(
            f"none of {len(aimed)} adversarial examples is taken for what it was aimed at: raise attack.word_radius (texts) or "
            "attack.pixel_radius (images), attack.steps or attack.examples, or set method.keep=nothing."
        )
    kept = [{**aimed[i], "place": float(place)} for place, i in enumerate(hits)]
    return Anchors(kept, pad_sequence([found.deltas[i] for i in hits], batch_first=True), len(aimed))


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * upstream[0], None


def reversed_gradient(values: Tensor, strength: float = 1.0) -> Tensor:
    """Return the values as they are; what comes back through them is multiplied by -strength (arXiv:1409.7495, eq. 4)."""
    out: Tensor = _Reversed.apply(values, strength)
    return out
