"""Pictures to pixels where no image processor does it, and fast where one does no more than this.

transformers' processors without torchvision take half a millisecond a picture; 28 x 28 pictures take a hundredth of it here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from llm_unlearn.errors import DataError, RecipeError
from llm_unlearn.files import write_json

PLAIN = ("ViTImageProcessor", "ViTImageProcessorPil")  # resize, rescale, normalise and nothing else
BILINEAR = int(Image.Resampling.BILINEAR)
MODES = {1: "L", 3: "RGB"}
WIDE = 255  # a grey value above it is of a picture with 16 bits a pixel


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """Resize, scale to 0..1, subtract `mean`, divide by `std`: what ViT's processor does, for any number of channels."""

    channels: int | None = None  # 1 or 3; none: grey pictures keep one channel, all others have three
    size: tuple[int, int] | None = None  # height and width; none: as they are
    mean: tuple[float, ...] = ()  # one number, or one a channel, of pixels in 0..1; none: 0
    std: tuple[float, ...] = ()  # none: 1
    resample: int = BILINEAR

    def __post_init__(self) -> None:
        """Raise RecipeError for numbers that do not fit the channels."""
        for name, values in (("mean", self.mean), ("std", self.std)):
            if self.channels and len(values) not in (0, 1, self.channels):
                raise RecipeError(
                    f"image.{name} has {len(values)} numbers; this model's pictures have {self.channels} channels: give one "
                    "number, or one a channel."
                )
        if any(value <= 0 for value in self.std) or (self.size and min(self.size) < 1):
            raise RecipeError("image.std and image.size must be above 0.")

    def __call__(self, images: Sequence[Any], first: int = 1) -> Tensor:
        """Return pixels [B, C, H, W], fp32; raise DataError, naming the row, for what is no picture or of another size.

        `first` is the number of the first picture's row, for messages.
        """
        arrays = [self._array(image, row) for row, image in enumerate(images, first)]
        for row, array in enumerate(arrays, first):
            if array.shape != arrays[0].shape:
                raise DataError(
                    f"row {row}'s picture is {_said(array)} and row {first}'s {_said(arrays[0])}: a model takes one size; give "
                    "--image.size PIXELS to bring all to it."
                )
        pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float()  # [B, C, H, W]
        mean, std = (torch.tensor(values)[:, None, None] * 255 for values in (self.mean or (0.0,), self.std or (1.0,)))
        return pixels.sub_(mean).div_(std).contiguous()

    def _array(self, image: Any, row: int) -> np.ndarray[Any, Any]:
        """Return bytes [H, W, C] of the right size."""
        array = as_array(image, self.channels, row)
        if self.size is None or array.shape[:2] == self.size:
            return array
        picture = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
        resized = np.asarray(picture.resize(self.size[::-1], Image.Resampling(self.resample)))
        return resized if resized.ndim == 3 else resized[..., None]

    @classmethod
    def like(cls, processor: Any, channels: int | None) -> Self | None:
        """Return what does the same as a transformers processor; None where that does more than resize and normalise."""
        size = dict(getattr(processor, "size", None) or {})
        plain = type(processor).__name__ in PLAIN and getattr(processor, "do_rescale", False)
        if not plain or abs(processor.rescale_factor * 255 - 1) > 1e-6 or set(size) != {"height", "width"}:
            return None
        if getattr(processor, "do_center_crop", None) or getattr(processor, "do_pad", None):
            return None
        normal = processor.do_normalize
        return cls(
            channels=channels,
            size=(size["height"], size["width"]) if processor.do_resize else None,
            mean=tuple(processor.image_mean) if normal else (),
            std=tuple(processor.image_std) if normal else (),
            resample=int(processor.resample),
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write preprocessor_config.json, which transformers' AutoImageProcessor reads as a ViTImageProcessor."""
        every = self.channels or max(len(self.mean), len(self.std), 1)
        mean, std = (
            list(values * every if len(values) == 1 else values)
            for values in (self.mean or (0.0,), self.std or (1.0,))
        )
        height, width = self.size or (224, 224)
        content = {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": self.size is not None,
            "size": {"height": height, "width": width},
            "resample": self.resample,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": bool(self.mean or self.std),
            "image_mean": mean,
            "image_std": std,
        }
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_json(Path(folder) / "preprocessor_config.json", content)


def as_array(image: Any, channels: int | None, row: int) -> np.ndarray[Any, Any]:
    """Return a picture (PIL, or bytes [H, W], [H, W, C] or [C, H, W]) as bytes [H, W, C] with `channels`.

    Grey becomes three equal channels, colour its luminance; other modes become RGB.  Raises DataError for anything else.
    """
    if isinstance(image, Image.Image):
        return _bytes(_in_mode(image, channels))
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[0] in MODES and array.shape[2] not in MODES:
        array = array.transpose(1, 2, 0)
    if array.ndim == 2:
        array = array[..., None]
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] not in MODES or 0 in array.shape:
        raise DataError(
            f"row {row}: a picture must be a file's, or bytes (uint8) [height, width] or [height, width, 3]; "
            f"got {type(image).__name__} of {array.dtype} {list(array.shape)}."
        )
    if channels in (None, array.shape[2]):
        return array
    if channels == 3:
        return array.repeat(3, axis=2)
    return _bytes(_in_mode(Image.fromarray(array), channels))


def _in_mode(image: Image.Image, channels: int | None) -> Image.Image:
    image = eight_bits(image)
    mode = MODES.get(channels or (1 if image.mode == "L" else 3))
    if mode is None:
        raise DataError(f"this model reads pictures of {channels} channels; picture files give 1 or 3.")
    return image if image.mode == mode else image.convert(mode)


def eight_bits(image: Image.Image) -> Image.Image:
    """Return the picture as grey (L) or RGB; of 16 bits a pixel the upper 8 are kept (Pillow would cut them off at 255)."""
    if image.mode in ("L", "RGB"):
        return image
    if image.mode.startswith("I"):
        values = np.asarray(image, dtype=np.int64)
        return Image.fromarray((values >> 8 if values.max(initial=0) > WIDE else values).clip(0, 255).astype(np.uint8))
    return image.convert("L" if image.mode in ("1", "LA") else "RGB")


def _bytes(image: Image.Image) -> np.ndarray[Any, Any]:
    array = np.asarray(image)
    return array if array.ndim == 3 else array[..., None]


def _said(array: np.ndarray[Any, Any]) -> str:
    return " x ".join(map(str, array.shape))
