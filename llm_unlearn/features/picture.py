"""The groups of a layer's units, told and drawn: who fires together, where the eigengap is, and what excites each group."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from llm_unlearn.concepts.groups import Groups, free
from llm_unlearn.concepts.states import bare, listening
from llm_unlearn.head import in_eval
from llm_unlearn.pixels import as_array
from llm_unlearn.tasks import Row, Task

SIDE, MARGIN, LINE, SHOWN = 480, 40, 22, 12  # pixels; groups in the picture
INK, FAINT, GAP = "#1d2733", "#8894a0", "#c2410c"
WORDS = 6  # a group's


@torch.no_grad()
def named_words(
    groups: Groups, model: nn.Module, task: Any, rows: Sequence[Row], batch_size: int = 64
) -> list[list[str]]:
    """Return each group's words: those at which its activation is highest on average, of words that come up three times."""
    total: dict[int, torch.Tensor] = defaultdict(lambda: torch.zeros(len(groups) + 1))
    examples, device = task.encode(list(rows)), next(model.parameters()).device
    with in_eval(model), listening(model, (groups.layer,)) as seen:
        for first in range(0, len(examples), batch_size):
            batch = {
                name: part.to(device) for name, part in task.collate(examples[first : first + batch_size]).items()
            }
            bare(model)(**task.inputs(batch))
            allowed = free(task, batch)
            words = next(iter(task.inputs(batch).values()))[allowed].tolist()
            for word, value in zip(words, groups.activation(seen[groups.layer])[allowed].cpu(), strict=True):
                total[word] += torch.cat([value, torch.ones(1)])
    often = {word: values[:-1] / values[-1] for word, values in total.items() if values[-1] >= 3}
    out = []
    for number in range(len(groups)):
        ranked = sorted(often, key=lambda word: -float(often[word][number]))[:WORDS]
        out.append([task.tokenizer.decode([word]).strip() or "_" for word in ranked])
    return out


def told(groups: Groups, words: Sequence[Sequence[str]] | None = None) -> str:
    """Return the groups as lines of text."""
    gap = f"eigengap after {len(groups)} of {len(groups.eigenvalues) - 1} eigenvalues"
    lines = [f"{groups.layer}: {len(groups)} groups of units that fire together ({gap})"]
    for number, size in enumerate(groups.sizes()):
        excited = (
            ", ".join(words[number]) if words else "rows " + ", ".join(str(row + 1) for row in groups.rows[number][:6])
        )
        lines.append(f"  group {number:>2}  {size:>3} units  most excited by {excited}")
    return "\n".join(
        [*lines, "choose with --group N [N ...], or --examples FILE (rows that show the feature and little else)"]
    )


def draw(path: Path, groups: Groups, rows: Sequence[Row], words: Sequence[Sequence[str]] | None = None) -> None:
    """Write a PNG: correlations sorted by group, sorted eigenvalues with the gap, and the groups with what excites them."""
    shown = min(len(groups), SHOWN)
    pictures = [] if words else _thumbnails(groups, rows, shown)
    height = max(SIDE + 2 * MARGIN, MARGIN + 40 + shown * (58 if pictures else LINE) + MARGIN)
    sheet = Image.new("RGB", (2 * SIDE + 3 * MARGIN + 420, height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    pen.text((MARGIN, 12), f"correlation of units, by group ({groups.layer})", fill=INK, font=font)
    sheet.paste(_heat(groups), (MARGIN, MARGIN))
    _eigenvalues(pen, font, groups, 2 * MARGIN + SIDE)
    left = 3 * MARGIN + 2 * SIDE - 120
    pen.text((left, 12), "groups, largest first, and what excites them", fill=INK, font=font)
    for number in range(shown):
        top = MARGIN + number * (58 if pictures else LINE)
        said = f"{number}: {groups.sizes()[number]} units  " + (", ".join(words[number]) if words else "")
        pen.text((left, top), said, fill=INK, font=font)
        for place, each in enumerate(pictures[number] if pictures else ()):
            sheet.paste(each, (left + 110 + place * 54, top))
    sheet.save(path)


def _heat(groups: Groups) -> Image.Image:
    """Return the correlations: blue below 0, white at 0, red above, with lines between groups."""
    order = groups.member.clamp(min=-1).argsort(stable=True)
    order = torch.cat([order[groups.member[order] >= 0], order[groups.member[order] < 0]])
    values = groups.correlation[order][:, order].numpy()
    red, blue = np.clip(values, 0, 1), np.clip(-values, 0, 1)
    colours = np.stack([1 - blue, 1 - red - blue, 1 - red], -1)
    image = Image.fromarray((255 * np.clip(colours, 0, 1)).astype(np.uint8)).resize(
        (SIDE, SIDE), Image.Resampling.NEAREST
    )
    pen, at = ImageDraw.Draw(image), 0
    for size in groups.sizes():
        at += size
        place = round(at * SIDE / len(values))
        pen.line([(place, 0), (place, SIDE)], fill=FAINT)
        pen.line([(0, place), (SIDE, place)], fill=FAINT)
    return image


def _eigenvalues(pen: ImageDraw.ImageDraw, font: Any, groups: Groups, left: int) -> None:
    values = groups.eigenvalues.tolist()
    wide, tall = SIDE - 160, SIDE - 60
    low, high = min(values), max(values)
    pen.text((left, 12), "sorted eigenvalues of the normalised Laplacian", fill=INK, font=font)
    for number, value in enumerate(values):
        x = left + 20 + number * wide / max(1, len(values) - 1)
        y = MARGIN + tall * (1 - (value - low) / max(high - low, 1e-9))
        pen.ellipse([x - 4, y - 4, x + 4, y + 4], fill=GAP if number in (len(groups) - 1, len(groups)) else INK)
    pen.text(
        (left, MARGIN + tall + 14),
        f"the chosen gap is between the two marked ones: {len(groups)} groups",
        fill=GAP,
        font=font,
    )
    pen.text((left, MARGIN + tall + 32), f"from {low:.2f} to {high:.2f}", fill=FAINT, font=font)


def _thumbnails(groups: Groups, rows: Sequence[Row], shown: int) -> list[list[Image.Image]]:
    """Return each group's most exciting pictures, small."""
    return [[_small(rows[row]) for row in groups.rows[number][:6]] for number in range(shown)]


def _small(row: Mapping[str, Any]) -> Image.Image:
    image = row["image"]
    if isinstance(image, Image.Image) or getattr(image, "dtype", None) == np.uint8:
        array = as_array(image, 3, 1)
    else:
        values = np.asarray(image, dtype=np.float32)
        values = (values - values.min()) / max(float(values.max() - values.min()), 1e-6)
        array = (255 * values).astype(np.uint8).transpose(1, 2, 0)
        array = array.repeat(3, -1) if array.shape[-1] == 1 else array
    return Image.fromarray(array).resize((50, 50))


def is_text(task: Task) -> bool:
    """Return whether the task reads words."""
    return getattr(task, "tokenizer", None) is not None
