"""What a classifier's forget rows rest on before and after: where the attribution of their class lies, as figures and as pictures.

mass = the share of a row's positive attribution that lies on what carried its class most before: its five first words, or the
hottest tenth of its pixels.  The figures name no row; words and pictures are kept only where records may be shown.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from llm_unlearn.concepts.attribution import TOLERANCE, Attribution, attribute, word_scores
from llm_unlearn.recipe import Recipe
from llm_unlearn.scores import CLASSIFIERS
from llm_unlearn.tasks import Example, Row, Task, Texts

ROWS, SHOWN = 24, 8  # forget rows that are attributed, and that are shown
BACKGROUND = 256  # kept pictures whose mean is the baseline
FIRST, HOTTEST = 5, 0.1  # words, and share of pixels
SIDE = 112  # pixels of a shown picture
Mass = dict[str, float]


class Explainer:
    """Attributes the same forget rows under every model of a run, where the method asks for it or records are shown."""

    def __init__(
        self, recipe: Recipe, task: Task, splits: Mapping[str, Sequence[Row]], background: Sequence[Row]
    ) -> None:
        """Take the measured rows, and kept ones whose mean picture is the baseline."""
        self.task, self.records = task, recipe.show_records
        self.wanted = recipe.task in CLASSIFIERS and (recipe.method.infers or recipe.show_records)
        self.rows, self.background = splits["forget"][:ROWS], background[:BACKGROUND]
        self.found: dict[str, list[Attribution]] = {}

    def note(self, name: str, model: nn.Module) -> None:
        """Keep what the rows' own class rests on under this model."""
        if self.wanted:
            kept = None if isinstance(self.task, Texts) else self.task.encode(list(self.background))
            self.found[name] = attribute(model, self.task, self._examples(), spared=1.0, background=kept)

    def _examples(self) -> list[Example]:
        return self.task.encode(list(self.rows))

    def report(self) -> dict[str, Any]:
        """Return the report's `attribution`: mean mass by model with n, with records the rows themselves; empty without."""
        if "before" not in self.found:
            return {}
        examples = self._examples()
        first = [_most(self._parts(*each)) for each in zip(examples, self.found["before"], strict=True)]
        mass, counts, differences = {}, {}, {}
        for name, found in self.found.items():
            shares = []
            for example, one, mine in zip(examples, found, first, strict=True):
                every = self._parts(example, one)
                if one.error <= TOLERANCE and every and mine:
                    shares.append(sum(every.get(part, 0.0) for part in mine))
            if shares:
                mass[name], counts[name] = float(np.mean(shares)), len(shares)
            differences[name] = float(np.mean([one.difference for one in found]))
        kind = "words" if isinstance(self.task, Texts) else "pixels"
        said: dict[str, Any] = {"on": kind, "mass": mass, "n": counts, "difference": differences}
        if self.records:
            shown = range(min(SHOWN, len(examples)))
            said["rows"] = [
                {name: self._shown(examples[i], each[i]) for name, each in self.found.items()} for i in shown
            ]
        return {"attribution": said}

    def _parts(self, example: Example, one: Attribution) -> Mass:
        """Return the share of the positive attribution by word, or by pixel's number; empty where nothing is positive."""
        if isinstance(self.task, Texts):
            return word_scores(self.task, example, one.tokens)
        heat = _positive(one)
        total = float(heat.sum())
        return {str(i): float(value) / total for i, value in enumerate(heat.flatten())} if total > 0 else {}

    def _shown(self, example: Example, one: Attribution) -> Any:
        """Return a text's pieces with their attribution, or a picture with its map over it."""
        if isinstance(self.task, Texts):
            text, spans = self.task.spelled(example)
            return [
                (text[start:stop], value)
                for (start, stop), value in zip(spans, one.tokens, strict=True)
                if stop > start
            ]
        pixels = self.task.continuous(nn.Module(), self.task.collate([example]))[1][0]
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
