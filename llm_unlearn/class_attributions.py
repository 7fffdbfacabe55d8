"""What a classifier's forget rows rest on before and after: where the attribution of their class lies, as figures and as pictures.

mass = the share of a row's positive attribution that lies on what carried its class most before: its five first words, or the
hottest tenth of its pixels.  The figures name no row; words and pictures are kept only where records may be shown.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from llm_unlearn.class_concepts import marked, sharing
from llm_unlearn.concepts.attribution import FEWEST, TOLERANCE, Attribution, attribute, word_scores
from llm_unlearn.loading import classes_of_model
from llm_unlearn.prepare import Prepared
from llm_unlearn.recipe import Recipe
from llm_unlearn.run import Splits
from llm_unlearn.scores import CLASSIFIERS
from llm_unlearn.tasks import Example, Row, Task, Texts

ROWS, SHOWN = 24, 8  # forget rows that are attributed, and that are shown
BACKGROUND = 256  # kept pictures whose mean is the baseline
FIRST, HOTTEST = 5, 0.1  # words, and share of pixels
SIDE = 112  # pixels of a shown picture
Mass = dict[str, float]


def with_attribution(prepared: Prepared, recipe: Recipe, rows: Sequence[Row]) -> Prepared:
    """Return the request with what attributes these rows, where a classifier's method asks for it or records are shown."""
    if recipe.task not in CLASSIFIERS or not (recipe.method.infers or recipe.show_records or recipe.explain):
        return prepared
    background = prepared.splits["retain"][:BACKGROUND]
    if recipe.task == "image_classifier" and len(background) < FEWEST:
        return prepared
    bank = getattr(recipe.method, "bank", None)
    known = classes_of_model(recipe)
    chart = Chart(prepared.splits, bank, {} if known is None else known.names) if bank or recipe.explain else None
    return replace(prepared, explanation=ClassAttribution(rows[:ROWS], background, chart))


@dataclass(frozen=True)
class Chart:
    """What a concept-by-class chart is made from."""

    splits: Splits
    bank: str | None  # folder; None: the classes are the concepts
    names: Mapping[int, str]  # of classes


class ClassAttribution:
    """Attributes the same forget rows under every model of a run."""

    entry: ClassVar[str] = "attribution"  # of the report
    donor: ClassVar[None] = None  # of a classifier's rows the method finds it, by the same rule as the chart

    def __init__(self, rows: Sequence[Row], background: Sequence[Row], chart: Chart | None = None) -> None:
        """Take the rows, kept ones whose mean picture is the baseline, and what a chart of concepts is made from."""
        self.rows, self.background, self.chart = rows, background, chart
        self.sharing: dict[str, Any] = {}
        self.found: dict[str, list[Attribution]] = {}
        self.task: Task | None = None

    def look(self, name: str, model: nn.Module, task: Task) -> None:
        """Keep what the rows' own class rests on under this model."""
        self.task = task
        if name == "before" and self.chart is not None:
            self.sharing = sharing(model, task, self.chart.splits, self.chart.bank, self.chart.names)
        kept = None if isinstance(task, Texts) else task.encode(list(self.background))
        self.found[name] = attribute(model, task, task.encode(list(self.rows)), spared=1.0, background=kept)

    def content(self, key: bytes, *, show: bool = False) -> dict[str, Any]:
        """Return the mean mass by model with n, and with `show` the rows themselves; empty where no model was looked at."""
        if self.task is None or "before" not in self.found:
            return {}
        task, examples = self.task, self.task.encode(list(self.rows))
        first = [_most(_parts(task, *each)) for each in zip(examples, self.found["before"], strict=True)]
        mass, counts, differences, nats = {}, {}, {}, {}
        for name, found in self.found.items():
            shares, weights = [], []
            for example, one, mine in zip(examples, found, first, strict=True):
                every = _parts(task, example, one)
                if one.error <= TOLERANCE and every and mine:
                    shares.append(sum(every.get(part, 0.0) for part in mine))
                    weights.append(shares[-1] * _total(one))
            if shares:
                mass[name], counts[name] = float(np.mean(shares)), len(shares)
                nats[name] = float(np.mean(weights))
            differences[name] = float(np.mean([one.difference for one in found]))
        kind = "words" if isinstance(task, Texts) else "pixels"
        said: dict[str, Any] = {"on": kind, "mass": mass, "nats": nats, "n": counts, "difference": differences}
        if self.sharing:
            said["sharing"] = self.sharing if show else marked(self.sharing, key)
        if show:
            shown = range(min(SHOWN, len(examples)))
            said["rows"] = [
                {name: _shown(task, examples[i], each[i]) for name, each in self.found.items()} for i in shown
            ]
        return said


def _parts(task: Task, example: Example, one: Attribution) -> Mass:
    """Return the share of the positive attribution by word, or by pixel's number; empty where nothing is positive."""
    if isinstance(task, Texts):
        return word_scores(task, example, one.tokens)
    heat = _positive(one)
    total = float(heat.sum())
    return {str(i): float(value) / total for i, value in enumerate(heat.flatten())} if total > 0 else {}


def _total(one: Attribution) -> float:
    """Return the sum of the positive attribution, nats."""
    return float(_positive(one).sum()) if one.pixels is not None else sum(max(value, 0.0) for value in one.tokens)


def _shown(task: Task, example: Example, one: Attribution) -> Any:
    """Return a text's pieces with their attribution, or a picture with its map over it."""
    if isinstance(task, Texts):
        text, spans = task.spelled(example)
        return [
            (text[start:stop], value) for (start, stop), value in zip(spans, one.tokens, strict=True) if stop > start
        ]
    pixels = task.continuous(nn.Module(), task.collate([example]))[1][0]
    return overlay(pixels, _positive(one))


def _positive(one: Attribution) -> Tensor:
    return torch.zeros(1, 1) if one.pixels is None else one.pixels.clamp(min=0)


def _most(parts: Mass) -> list[str]:
    """Return the words or pixels that carry most: five words, a tenth of the pixels."""
    count = FIRST if not all(part.isdecimal() for part in parts) else max(1, round(HOTTEST * len(parts)))
    return sorted(parts, key=lambda part: -parts[part])[:count]


def overlay(pixels: Tensor, heat: Tensor) -> str:
    """Return a picture [C, H, W], dimmed, with its map [H, W] in red over it, as a data URI of a PNG."""
    grey = pixels.float().mean(0).cpu()
    grey = (grey - grey.min()) / (grey.max() - grey.min()).clamp(min=1e-9)
    hot = (heat / heat.max().clamp(min=1e-9)).cpu()
    red = (0.45 * grey + 0.55 * hot).clamp(0, 1)
    rgb = torch.stack([red, 0.45 * grey * (1 - hot), 0.45 * grey * (1 - hot)], -1)
    picture = Image.fromarray((rgb.numpy() * 255).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    picture.save(kept := io.BytesIO(), format="PNG")
    return f"data:image/png;base64,{base64.b64encode(kept.getvalue()).decode()}"
