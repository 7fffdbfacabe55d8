"""Words and pixels taken out of rows: masked, replaced by a donor's, or covered by a patch of another picture."""

from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llm_unlearn.data.poison import WORD
from llm_unlearn.errors import DataError

Place = tuple[int, int]  # top and left of a patch, pixels
Where = Literal["localized", "centre", "random", "full"]
SHARES: dict[
    Where, float
] = {  # of a picture's side that a patch covers: the authors' 64, 96, 96 and 160 pixels of 224
    "localized": 64 / 224,
    "centre": 96 / 224,
    "random": 96 / 224,
    "full": 160 / 224,
}


def replace_words(text: str, words: Collection[str], others: Sequence[str]) -> str:
    """Return the text with every one of the words (in any case) replaced by the next of `others`, in turn.

    A word that occurs twice is replaced by the same one twice.
    """
    if not others:
        raise DataError("there are no words to put in the place of others: the donor's row says none of its class's.")
    chosen: dict[str, str] = {}

    def other(word: str) -> str:
        if word.lower() not in words:
            return word
        return chosen.setdefault(word.lower(), others[len(chosen) % len(others)])

    return WORD.sub(lambda found: other(found[0]), text)


def patch_side(height: int, width: int, share: float) -> int:
    """Return the side of a square patch, pixels: a share of the picture's shorter side, at least 1."""
    return max(1, round(share * min(height, width)))


def paste(picture: Tensor, donor: Tensor, at: Place, source: Place, side: int) -> Tensor:
    """Return a copy of the picture [C, H, W] with the donor's patch from `source` put `at`; what would stand outside is cut off.

    Raises DataError for a donor of another shape.
    """
    if picture.shape != donor.shape:
        raise DataError(
            f"a patch needs pictures of one shape: {list(picture.shape)} and its donor's {list(donor.shape)} differ."
        )
    patch = donor[:, source[0] : source[0] + side, source[1] : source[1] + side]
    out = picture.clone()
    room = out[:, at[0] : at[0] + patch.shape[1], at[1] : at[1] + patch.shape[2]]
    room.copy_(patch[:, : room.shape[1], : room.shape[2]])
    return out


def hottest(heat: Tensor, side: int) -> list[Place]:
    """Return of each map [N, H, W] where the patch with the largest mean stands."""
    means = F.avg_pool2d(heat[:, None].float(), side, stride=1)[:, 0]  # [N, H - side + 1, W - side + 1]
    best = means.flatten(1).argmax(1)
    return [(int(place) // means.shape[2], int(place) % means.shape[2]) for place in best]


def centre(height: int, width: int, side: int) -> Place:
    """Return where a patch in the middle stands."""
    return (height - side) // 2, (width - side) // 2


def anywhere(height: int, width: int, side: int, draw: np.random.Generator) -> Place:
    """Return where a patch drawn evenly stands."""
    return int(draw.integers(height - side + 1)), int(draw.integers(width - side + 1))


def blanked(picture: Tensor, at: Place, side: int, value: Tensor | float = 0.0) -> Tensor:
    """Return a copy of the picture [C, H, W] with a square of one colour [C, 1, 1] (or value): the mask of pixels."""
    colour = torch.as_tensor(value, dtype=picture.dtype).expand_as(picture)
    return paste(picture, colour, at, (0, 0), side)
