"""Plans what of a model's weights stays on a card with little memory: from sizes and a limit alone.

Weights that do not stay are copied in part by part while the parts before them compute: into two places in turns, one
of which is in use while the other is filled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .free_memory import PIXEL
from .loading.config import ModelConfig

CELL_NUMBERS = 12_000
"""Numbers to plan with for each cell of a row's latent on a card; of SD1's UNet 8,500 were counted, of SDXL's 6,300."""
TEXT_WORK = 64 << 20
"""Bytes that the text encoders need beside their weights; 3 MB were counted for 77 tokens."""
GRAIN = 2 << 20
"""Bytes in whole multiples of which torch takes large blocks of a card's memory."""


@dataclass(frozen=True)
class Placement:
    """What a network has on the card while it works."""

    stays: tuple[bool, ...]
    """Of each part of it, whether its weights stay."""
    slot: int
    """Bytes of each of the two places in which the others take turns; 0 where all stay."""

    def bytes(self, parts: Sequence[int], rest: int) -> int:
        """Return the bytes of weights on the card, `rest` being those of what is in no part."""
        return rest + 2 * self.slot + sum(size for size, stays in zip(parts, self.stays, strict=True) if stays)


def place(parts: Sequence[int], rest: int, room: int) -> Placement:
    """Place a network whose parts have these sizes, in the order in which they compute, into `room` bytes.

    Those that do not stay are spread evenly, so that each is copied in while others compute. The result is larger than
    `room` only where `least` is.
    """
    if rest + sum(parts) <= max(room, least(parts, rest)):
        return Placement((True,) * len(parts), 0)
    share = max(0, room - least(parts, rest)) / max(1, sum(parts))
    stays: list[bool] = []
    credit = 0.0
    for size in parts:
        credit += share * size
        stays.append(credit >= size)
        credit -= size if stays[-1] else 0
    return Placement(tuple(stays), max((size for size, kept in zip(parts, stays, strict=True) if not kept), default=0))


def least(parts: Sequence[int], rest: int) -> int:
    """Return the least bytes of weights with which a network works, none of its parts staying."""
    return rest + min(sum(parts), 2 * max(parts, default=0))


def whole_grains(size: int) -> int:
    """Return the bytes that a block of this size takes of a card's memory."""
    return -(-size // GRAIN) * GRAIN


def unet_work(config: ModelConfig, cells: int, itemsize: int, numbers: int = CELL_NUMBERS) -> int:
    """Return the bytes that the UNet needs beside its weights for so many cells of latents, all rows together.

    `numbers` are those for a cell of SD1's.
    """
    return int(numbers * cells * config.unet.model_channels / 320 * itemsize)


def vae_work(config: ModelConfig, pixels: int, itemsize: int) -> int:
    """Return the bytes that the VAE needs beside its weights for so many pixels at once."""
    return int(PIXEL * pixels * config.vae.ch / 128 * itemsize)


def usual_work(config: ModelConfig, itemsize: int) -> int:
    """Return the bytes that an edit needs beside the weights: for three rows at the model's size, and for decoding."""
    cells = (config.size // config.vae.factor) ** 2
    return max(unet_work(config, 3 * cells, itemsize), vae_work(config, config.size**2, itemsize))
