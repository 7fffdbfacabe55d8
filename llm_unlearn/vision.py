"""Any image classifier as a Hugging Face one: pixels [B, C, H, W] in, an object with `.logits` [B, K] out.

    model = bridge(MyNet().eval())          # transformers and timm models too
    model = attach(model, Lora())           # linear and convolution layers under LoRA, the head in full
    model.save_pretrained("adapter")        # and back: PeftModel.from_pretrained(bridge(MyNet()), "adapter")

Models of transformers (ViT, ConvNeXt, ResNet, timm's through TimmWrapperForImageClassification) are such already.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from llm_unlearn.errors import DataError, TaskError
from llm_unlearn.files import write_json
from llm_unlearn.pixels import Pixels, as_array

WEIGHTS = "model.safetensors"
TOGETHER = 1024  # pictures encoded at a time, so that no second copy of all pixels is held
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class VisionBridge(nn.Module):
    """A plain module from pixels to logits (or to an object with `.logits`) that is called as transformers' models are."""

    main_input_name = "pixel_values"

    def __init__(self, net: nn.Module, *, classes: int | None = None, stages: Sequence[str] | None = None) -> None:
        """Take the module as it is.

        `classes` K: the width of its logits; read from its last layer where not given.  `stages`: names of the modules
        whose outputs are its hidden states; its outermost blocks where not given.  Raises TaskError where neither is found.
        """
        super().__init__()
        self.net = net
        said: dict[str, Any] = {"num_labels": classes or _classes(net), "num_channels": _channels(net)}
        self.config = PreTrainedConfig(architectures=[type(net).__name__], **said)
        self.stages = _stages(net) if stages is None else _named(net, stages)

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, output_hidden_states: bool = False
    ) -> ImageClassifierOutputWithNoAttention:
        """Return logits [B, K], with `labels` the mean loss, and where asked for each stage's output, in order."""
        states: list[Tensor] = []
        hooks = []
        if output_hidden_states:
            modules = [self.net.get_submodule(name) for name in self.stages]
            hooks = [
                each.register_forward_hook(lambda module, given, out: states.append(_first(out))) for each in modules
            ]
        try:
            out = self.net(pixel_values.to(next(self.net.parameters()).dtype))
        finally:
            for hook in hooks:
                hook.remove()
        logits = self._checked(out, len(pixel_values))
        loss = None
        if labels is not None:
            measure = F.binary_cross_entropy_with_logits if labels.is_floating_point() else F.cross_entropy
            loss = measure(logits.float(), labels)
        return ImageClassifierOutputWithNoAttention(
            loss=loss, logits=logits, hidden_states=tuple(states) if output_hidden_states else None
        )

    def _checked(self, out: Any, rows: int) -> Tensor:
        """Return the logits; raise TaskError where they are not [B, K]."""
        logits = getattr(out, "logits", out)
        wanted = (rows, self.config.num_labels)
        if isinstance(logits, Tensor) and tuple(logits.shape) == wanted:
            return logits
        got = list(logits.shape) if isinstance(logits, Tensor) else type(out).__name__
        raise TaskError(
            f"{type(self.net).__name__} gives {got} for {rows} pictures, where logits {list(wanted)} [pictures, classes] are "
            "needed: return the logits, or an object with .logits; where K is another: VisionBridge(net, classes=K)."
        )

    @property
    def last_stage(self) -> nn.Module:
        """The last of the model's own blocks: of the last stage, where that is a row of blocks, its last one."""
        stage = self.net.get_submodule(self.stages[-1])
        return stage[-1] if isinstance(stage, nn.Sequential) and isinstance(stage[-1], nn.Module) else stage

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:
        """Write the module's weights and buffers under its own names (model.safetensors), and a config.json beside them."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in self.net.state_dict().items()}
        save_file(state, place / WEIGHTS, metadata={"format": "pt"})
        write_json(
            place / "config.json",
            {
                "architectures": [type(self).__name__],
                "net": type(self.net).__name__,
                "num_labels": self.config.num_labels,
                "num_channels": self.config.num_channels,
            },
        )

    def load(self, weights: str | Path) -> "VisionBridge":
        """Take the weights of a safetensors file, or of the one in a folder that `save_pretrained` wrote; return the bridge.

        Raises DataError for what is missing, is no safetensors, or does not fit, naming the first tensor that does not.
        """
        path = Path(weights).expanduser()
        state = read_weights(path / WEIGHTS if path.is_dir() else path)
        own = self.net.state_dict()
        for name in own:  # older files do not count batches, and only an average over all of them would need it
            if name.endswith("num_batches_tracked"):
                state.setdefault(name, own[name])
        for name in [*own, *state]:
            what = _misfit(own.get(name), state.get(name))
            if what:
                raise DataError(
                    f"{path.name} does not fit {type(self.net).__name__}: {name} {what}; give weights of the same build."
                )
        self.net.load_state_dict(state)
        return self


def bridge(model: nn.Module, *, classes: int | None = None, stages: Sequence[str] | None = None) -> nn.Module:
    """Return an image classifier that is called as transformers' models are: itself where it is one, else a VisionBridge."""
    return model if reads_pixels(model) else VisionBridge(model, classes=classes, stages=stages)


def reads_pixels(model: nn.Module) -> bool:
    """Return whether the model is an image classifier as transformers has them, or a bridged one."""
    return getattr(model, "main_input_name", None) == "pixel_values"


def check_labels(rows: Sequence[Mapping[str, Any]], classes: int | None) -> None:
    """Raise DataError, naming the row, for a label that a model of so many classes does not have."""
    for number, row in enumerate(rows, start=1) if classes else ():
        label = row["label"]
        if isinstance(label, list):
            if len(label) != classes:
                raise DataError(f"row {number} has {len(label)} labels of 0 and 1; the model has {classes} classes.")
        elif not 0 <= label < (classes or 0):
            raise DataError(
                f"row {number} has class {label}; the model's {classes} classes are numbered 0 to {(classes or 0) - 1}."
            )


def encode_images(images: Sequence[Any], processor: Any, channels: int | None) -> list[Tensor]:
    """Return each picture's pixels [C, H, W], fp32, some pictures at a time; raise DataError for what cannot be used.

    Without a processor a picture is a float tensor already.
    """
    if processor is None:
        pixels = [torch.as_tensor(image, dtype=torch.float32) for image in images]
        if len({image.shape for image in pixels}) > 1:
            raise DataError(
                "the pictures have more than one shape, and there is no image processor to bring them to one."
            )
        return pixels
    out: list[Tensor] = []
    for first in range(0, len(images), TOGETHER):
        some = images[first : first + TOGETHER]
        if isinstance(processor, Pixels):
            out += processor(some, first + 1)
            continue
        pictures = [_picture(image, channels or 3, row) for row, image in enumerate(some, first + 1)]
        try:
            out += processor(pictures, return_tensors="pt")["pixel_values"]
        except ValueError as error:
            raise DataError(
                f"{type(processor).__name__} cannot bring these pictures to one shape: {str(error).split('.')[0][:150]}."
            ) from error
    return out


def _picture(image: Any, channels: int, row: int) -> Any:
    """Return a picture in the model's mode for transformers' processors; what is neither a picture nor bytes as it is."""
    if not isinstance(image, Image.Image) and getattr(image, "dtype", None) not in (np.uint8, torch.uint8):
        return image
    array = as_array(image, channels, row)
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def in_dtype(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the inputs with floating-point ones (pixels, embeddings) in the dtype of the model's first weights.

    transformers' ResNet and ConvNeXt in bf16 do not take fp32 pixels.
    """
    dtype = next((weight.dtype for weight in model.parameters() if weight.is_floating_point()), torch.float32)
    return {name: each.to(dtype) if each.is_floating_point() else each for name, each in inputs.items()}


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file; raise DataError for anything else (a pickle could run code)."""
    if not path.is_file():
        raise DataError(f"there is no weights file {path}: give a .safetensors file.")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise DataError(
            f"{path.name} is not a safetensors file ({str(error)[:80]}); write one with "
            "safetensors.torch.save_file(net.state_dict(), PATH). Pickled weights (.pt, .pth, .bin) are not read: they can run code."
        ) from error


def _misfit(own: Tensor | None, given: Tensor | None) -> str:
    """Return in what a tensor of the file differs from the module's of that name, "" where it fits."""
    if own is None:
        return "has no place in it"
    if given is None:
        return "is missing in the file"
    if own.shape != given.shape:
        return f"has shape {list(given.shape)} in the file and {list(own.shape)} in the module"
    return ""


def _first(out: Any) -> Tensor:
    found: Tensor = out[0] if isinstance(out, tuple | list) else out
    return found


def _layers(net: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[Any]:
    return [module for module in net.modules() if isinstance(module, kinds)]


def _classes(net: nn.Module) -> int:
    """Return the width of the module's logits as its last layer has it."""
    stated = getattr(net, "num_classes", None) or getattr(getattr(net, "config", None), "num_labels", None)
    if isinstance(stated, int):
        return stated
    if linear := _layers(net, (nn.Linear,)):
        return int(linear[-1].out_features)
    if convolutions := _layers(net, CONVOLUTIONS):
        return int(convolutions[-1].out_channels)
    raise TaskError(
        f"{type(net).__name__} has no linear or convolution layer: say its classes, VisionBridge(net, classes=K)."
    )


def _channels(net: nn.Module) -> int | None:
    """Return the channels of the pictures it reads; None where it has no convolution that would say it."""
    convolutions = _layers(net, CONVOLUTIONS)
    return int(convolutions[0].in_channels) if convolutions else None


def _named(net: nn.Module, names: Sequence[str]) -> tuple[str, ...]:
    have = {name for name, _ in net.named_modules() if name}
    if missing := [name for name in names if name not in have]:
        raise TaskError(f"{type(net).__name__} has no module {missing[0]!r} to take hidden states from.")
    return tuple(names)


def _stages(net: nn.Module, prefix: str = "", *, whole: bool = True) -> tuple[str, ...]:
    """Return the names of the outermost blocks with weights, the last layer left out; a lone container is looked into."""
    parts = [(name, part) for name, part in net.named_children() if next(part.parameters(), None) is not None]
    blocks = [(name, part) for name, part in parts if next(part.children(), None) is not None]
    if len(blocks) == 1:
        return _stages(blocks[0][1], f"{prefix}{blocks[0][0]}.", whole=whole and len(parts) == 1)
    chosen = blocks or (parts[:-1] if whole and len(parts) > 1 else parts)  # the last layer of the whole is its head
    if not chosen:
        raise TaskError(f"{type(net).__name__} has no module with weights to take hidden states from.")
    return tuple(f"{prefix}{name}" for name, _ in chosen)


def as_examples(pixels: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    """Return pictures [n, channels, height, width] that are pixels already, with their classes [n], as a task's examples."""
    return [{"pixel_values": picture, "labels": label} for picture, label in zip(pixels, labels.tolist(), strict=True)]
