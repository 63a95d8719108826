"""What benchmarks give a model: rows of its UNet and a picture, the same in each run."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.networks.unet import Condition


def random_rows(model: EditModel, count: int, pixels: int) -> tuple[Tensor, Tensor, Condition]:
    """Return what the UNet is called with for `count` rows of pictures of `pixels` a side: x, timestep, texts."""
    generator = torch.Generator().manual_seed(0)
    cells, dtype, config = pixels // model.config.vae.factor, model.machine.dtype, model.config.unet
    x = torch.randn(count, config.in_channels, cells, cells, generator=generator).to(dtype)
    text = torch.randn(count, 77, config.context_dim, generator=generator).to(dtype)
    return x.to(memory_format=torch.channels_last), torch.tensor([500.0]), Condition(text)


def soft_picture(pixels: int) -> Image.Image:
    """Return a picture of coloured clouds, `pixels` a side."""
    numbers = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(numbers).resize((pixels, pixels), Image.Resampling.BICUBIC)
