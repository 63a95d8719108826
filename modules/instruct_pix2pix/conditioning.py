"""A picture as the model takes it: fitted to a size that it can compute, and the fit undone afterwards.

A picture is scaled as a whole, then its sides are filled up to the next multiple by repeating the edge; undoing the
fit crops that away again. Only a size of another shape cuts anything off, and nothing is ever squeezed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor  # who only plans need not wait for it


@dataclass(frozen=True)
class Fit:
    """How a picture is fitted to the model; all sizes in pixels as (width, height)."""

    whole: tuple[int, int]
    """The picture's own size."""
    crop: tuple[int, int, int, int]
    """The part of the picture that is used, as PIL's box."""
    size: tuple[int, int]
    """The size at which that part is edited, and of the result."""
    padded: tuple[int, int]
    """The size the model sees: `size` filled up to multiples."""

    @property
    def own(self) -> tuple[int, int]:
        """The size of the part that is used, in the picture itself."""
        left, top, right, bottom = self.crop
        return right - left, bottom - top

    def apply(self, image: Image.Image) -> Image.Image:
        """Return the picture as the model sees it; any mode, the result has `padded` size."""
        shrunk = image.resize(self.size, Image.Resampling.LANCZOS, box=self.crop)
        (width, height), (full_width, full_height) = self.size, self.padded
        pixels = np.asarray(shrunk)
        sides = [(0, full_height - height), (0, full_width - width)]
        return Image.fromarray(np.pad(pixels, [*sides, (0, 0)][: pixels.ndim], mode="edge"))

    def framed(self, image: Image.Image) -> Image.Image:
        """Return the picture, of any mode, at the size and framing of its edits."""
        return self.undo(self.apply(image))

    def undo(self, image: Image.Image) -> Image.Image:
        """Return the edited part of a picture of `padded` size, or of a smaller copy: in the input's framing."""
        width, height = (round(a * b / c) for a, b, c in zip(image.size, self.size, self.padded, strict=True))
        return image.crop((0, 0, max(1, width), max(1, height)))


def fit(width: int, height: int, target: int | tuple[int, int], multiple: int) -> Fit:
    """Return how to fit a picture of this size.

    `target` is the longest side wanted, or (width, height), which takes the middle of a picture of another shape;
    the model's sides must be multiples of `multiple`. Computed in integers: the float rounding of the authors' app
    sometimes loses a multiple.
    """
    if isinstance(target, tuple):
        size = target
        part = (min(width, _ratio(height, size[0], size[1])), min(height, _ratio(width, size[1], size[0])))
        left, top = (width - part[0]) // 2, (height - part[1]) // 2
        crop = (left, top, left + part[0], top + part[1])
    else:
        longest = max(width, height)
        size = (_ratio(width, target, longest), _ratio(height, target, longest))
        crop = (0, 0, width, height)
    padded = (-(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple)
    return Fit((width, height), crop, size, padded)


def _ratio(value: int, numerator: int, denominator: int) -> int:
    """Return value * numerator / denominator, rounded half up, at least 1."""
    return max(1, (2 * value * numerator + denominator) // (2 * denominator))


def to_tensor(image: Image.Image) -> Tensor:
    """Turn an RGB picture into float32 [1, 3, H, W] in -1..1."""
    import torch

    pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1


def to_images(pictures: Tensor) -> list[Image.Image]:
    """Turn float [B, 3, H, W] in -1..1 into RGB pictures, rounded and clipped to 8 bits."""
    pixels = ((pictures.float() + 1) * 127.5).round().clamp(0, 255).byte()
    return [Image.fromarray(one.permute(1, 2, 0).cpu().numpy()) for one in pixels]


def join(x: Tensor, image: Tensor) -> Tensor:
    """Join the noisy latent and the picture's latent, both [N, 4, h, w], to the UNet's input [N, 8, h, w]."""
    import torch

    return torch.cat([x, image.to(x)], dim=1)
