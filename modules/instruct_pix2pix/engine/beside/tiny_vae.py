"""TAESD: a decoder of 1.2 million weights that shows nearly what the VAE's decoder of 50 million would.

Ollin Boer Bohan, github.com/madebyollin/taesd; one for the latents of SD1 and one for SDXL's. The layers are
numbered as in its file taesd_decoder.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import UserError
from ...models.weights_files import read_weights

WIDTH, CHANNELS, CELL = 64, 4, 8
"""Channels within, channels of a latent, pixels a cell of it."""
_PREFIXES = {"": 0, "taesd_decoder.": 0, "decoder.": 0, "decoder.layers.": 1}
"""What files have before the number of a layer, and how much less they count: diffusers leaves the first one out."""


class TinyBlock(nn.Module):
    """Three convolutions with a residual path."""

    def __init__(self) -> None:
        super().__init__()
        convs = [nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])

    def forward(self, x: Tensor) -> Tensor:
        """x [B, 64, h, w] -> the same."""
        return F.relu(self.conv(x) + x)


class SoftClamp(nn.Module):
    """Keep numbers within -3..3, smoothly."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return 3 * torch.tanh(x / 3)


class TinyDecoder(nn.Sequential):
    """Scaled latents [B, 4, h, w] -> pictures [B, 3, 8h, 8w], about -1..1."""

    def __init__(self) -> None:
        def level() -> list[nn.Module]:
            blocks = [TinyBlock() for _ in range(3)]
            return [*blocks, nn.Upsample(scale_factor=2), nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)]

        super().__init__(
            SoftClamp(),
            nn.Conv2d(CHANNELS, WIDTH, 3, padding=1),
            nn.ReLU(),
            *(layer for _ in range(3) for layer in level()),
            TinyBlock(),
            nn.Conv2d(WIDTH, 3, 3, padding=1),
        )

    def forward(self, input: Tensor) -> Tensor:
        """[B, 4, h, w] -> [B, 3, 8h, 8w]."""
        return super().forward(input) * 2 - 1


def load_tiny_decoder(path: Path, device: torch.device, dtype: torch.dtype) -> TinyDecoder:
    """Read a decoder of TAESD, from a file of its own, of both halves, or of diffusers. Raises UserError."""
    tensors = read_weights(path)
    with torch.device("meta"):
        decoder = TinyDecoder()
    shapes = {key: value.shape for key, value in decoder.state_dict().items()}
    for prefix, less in _PREFIXES.items():
        found = {key: tensors.get(prefix + _counted(key, less)) for key in shapes}
        fitting = {key: one for key, one in found.items() if one is not None and one.shape == shapes[key]}
        if len(fitting) == len(shapes):
            state = {key: value.to(device, dtype, copy=True) for key, value in fitting.items()}
            decoder.load_state_dict(state, assign=True)
            return decoder.eval().requires_grad_(False)
    raise UserError(f"'{path.name}' is not the decoder of a tiny VAE (TAESD): take taesd_decoder.safetensors.")


def _counted(key: str, less: int) -> str:
    number, _, rest = key.partition(".")
    return f"{int(number) - less}.{rest}"
