"""A remover: a gate on the input that takes a feature out of it, and the adversary that says whether any is left.

Of texts a gate a word, x~ = m x + (1 - m) mean embedding; of pictures a gate a pixel, x~ = m x.  The adversary reads x~ and
predicts the annotation; its gradient comes back to the gate reversed, and only from rows that it still tells better than by
guessing: pushed further, it would be told the wrong value, which is a feature too.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_unlearn.adversary import reversed_gradient
from llm_unlearn.head import unwrapped
from llm_unlearn.tasks import Batch, Task

MOST = 6.0  # logit of a gate
OPEN = 3.0  # the gate's last bias: it begins nearly open, sigmoid(3) = 0.95 (the authors')


class TokenGate(nn.Module):
    """m [B, T, 1] = sigmoid(w MLP(LN(e)) + 3)."""

    def __init__(self, mean: Tensor, hidden: int = 64) -> None:
        """Take the mean embedding [D], which stands in for a removed word."""
        super().__init__()
        self.register_buffer("mean", mean.detach().float().clone())
        width = len(mean)
        self.net = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, 1))
        _nearly_open(self.net[-1])

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gated embeddings [B, T, D] and the gate."""
        gate = _gate(self.net(values.float()))
        mean: Tensor = self.get_buffer("mean")
        return (gate * values + (1 - gate) * mean).to(values.dtype), gate


class PixelGate(nn.Module):
    """m [B, 1, height, width] by three small convolutions. Differs from the paper: a U-Net of 64 channels, 5 levels."""

    def __init__(self, channels: int, hidden: int = 16) -> None:
        """Make the convolutions."""
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(channels, hidden, 3, padding=1), nn.GELU(), nn.Conv2d(hidden, hidden, 3, padding=1), nn.GELU(),
            nn.Conv2d(hidden, 1, 3, padding=1),
        )  # fmt: skip
        _nearly_open(self.net[-1])

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gated pixels [B, C, height, width] and the gate."""
        gate = _gate(self.net(values.float()))
        return (gate * values).to(values.dtype), gate


def _gate(logit: Tensor) -> Tensor:
    """Return the sigmoid of logits that are held within 6: a gate that saturates would never move again."""
    return torch.sigmoid(MOST * torch.tanh(logit / MOST))


def _nearly_open(last: nn.Module) -> None:
    nn.init.normal_(last.weight, std=0.02)  # type: ignore[arg-type]
    nn.init.constant_(last.bias, OPEN)  # type: ignore[arg-type]


class WordsAdversary(nn.Module):
    """Logits [B, K] from the mean over words of a small network of each."""

    def __init__(self, width: int, classes: int, hidden: int = 64) -> None:
        """Make the network."""
        super().__init__()
        self.each = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU())
        self.last = nn.Linear(hidden, classes)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """Return the logits; `mask` [B, T] is 1 where there is a word."""
        weight = mask.float()[..., None]
        out: Tensor = self.last((self.each(values.float()) * weight).sum(1) / weight.sum(1).clamp(min=1))
        return out


class PixelsAdversary(nn.Module):
    """Logits [B, K] from the mean over the picture of a small convolutional network."""

    def __init__(self, channels: int, classes: int, hidden: int = 32) -> None:
        """Make the network."""
        super().__init__()
        self.each = nn.Sequential(
            nn.Conv2d(channels, hidden, 3, stride=2), nn.GELU(), nn.Conv2d(hidden, hidden, 3, stride=2), nn.GELU()
        )
        self.last = nn.Linear(hidden, classes)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        """Return the logits."""
        out: Tensor = self.last(self.each(values.float()).mean((2, 3)))
        return out


class Remover(nn.Module):
    """Gate and adversary of one feature with K values."""

    def __init__(self, gate: nn.Module, adversary: nn.Module) -> None:
        """Take the two parts."""
        super().__init__()
        self.gate, self.adversary = gate, adversary

    def restart(self, seed: int) -> None:
        """Draw the adversary's weights anew: one that lost track of the gate does not find its way back."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for module in self.adversary.modules():
                if isinstance(module, nn.Linear | nn.Conv2d | nn.LayerNorm):
                    module.reset_parameters()

    def forward(self, values: Tensor, mask: Tensor, wanted: Tensor, strength: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return x~, the gate, and the adversary's loss [B] on the values `wanted` [B], nats.

        The adversary learns from every row; what the gate is told ends where a row's loss reaches log K.
        """
        gated, gate = self.gate(values)
        known = F.cross_entropy(self.adversary(gated.detach(), mask), wanted, reduction="none")
        told = (known.detach() < _by_guessing(self.adversary)).reshape(-1, *[1] * (values.dim() - 1))
        heard = torch.where(told, reversed_gradient(gated, strength), gated.detach())
        return gated, gate, F.cross_entropy(self.adversary(heard, mask), wanted, reduction="none")


def _by_guessing(adversary: nn.Module) -> Tensor:
    """Return log K, nats."""
    return torch.tensor(float(adversary.last.out_features)).log()  # type: ignore[union-attr, arg-type]


def new_remover(model: nn.Module, task: Task, batch: Batch, classes: int, *, seed: int) -> Remover:
    """Return a fresh remover for the model's inputs, of which `batch` is an example; its weights are drawn from the seed."""
    device = next(model.parameters()).device
    on = {name: tensor.to(device) for name, tensor in batch.items()}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        _, values = task.continuous(model, on)
        if values.dim() == 3:
            table = unwrapped(model).get_input_embeddings().weight  # type: ignore[operator]
            made = Remover(TokenGate(table.mean(0)), WordsAdversary(values.shape[-1], classes))
        else:
            made = Remover(PixelGate(values.shape[1]), PixelsAdversary(values.shape[1], classes))
    return made.to(device)


def mask_of(batch: Batch, values: Tensor) -> Tensor:
    """Return where there are words [B, T]; of pictures ones [B, 1]."""
    found = batch.get("attention_mask")
    return values.new_ones(len(values), 1) if found is None else found
