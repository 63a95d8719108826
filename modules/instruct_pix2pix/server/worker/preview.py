"""A picture of an unfinished edit, cheap enough to be made after every step."""

from __future__ import annotations

import math

import torch
from PIL import Image
from torch import Tensor

from ...conditioning import Fit, to_images
from ...engine.model import EditModel
from ...engine.networks.vae import VAEConfig

# Red, green and blue (-1..1) of each channel in SD1's latent space, as published in the thread 'Decoding latents to
# RGB without upscaling', discuss.huggingface.co/t/decoding-latents-to-rgb-without-upscaling/23204; and in SDXL's, as
# AUTOMATIC1111 has them.
SD1_RGB = ((0.298, 0.207, 0.208), (0.187, 0.286, 0.173), (-0.158, 0.189, 0.264), (-0.184, -0.271, -0.473))
SDXL_RGB = ((0.345, 0.417, 0.440), (-0.195, -0.029, 0.025), (0.107, 0.089, -0.016), (-0.373, -0.250, -0.209))
LATENT_RGB = {0.18215: SD1_RGB, 0.13025: SDXL_RGB}
"""By the scale of the latents."""

LONGEST_SIDE = 512
"""Pixels of a preview's longest side."""

MOST_CELL, MOST_SHEET = 128, 1 << 22
"""Pixels of the longest side of a picture in a sheet, and of the whole sheet."""

DECODED_TOGETHER = 16
"""Pictures that go through a decoder at once."""


def preview(model: EditModel, latents: Tensor, plan: Fit) -> Image.Image:
    """Return one RGB picture of scaled latents [B, 4, h, w]: the batch in rows, each picture in the input's framing.

    With the file of a tiny VAE it decodes them, shrunk to 32 cells. Without one the latents of SD1 and SDXL become
    colours by a linear map, one pixel a cell; other models have no such map and are small: their latents are shrunk too
    and go through the VAE. Raises UserError where `EditModel.decode` does, or where the file is not a tiny VAE.
    """
    columns = math.ceil(math.sqrt(len(latents)))
    return _in_rows(model, latents, plan, columns, min(LONGEST_SIDE, max(plan.size) * columns) / columns)


def sheet(model: EditModel, latents: Tensor, plan: Fit, columns: int) -> Image.Image:
    """Return the same with so many pictures a row, each of `MOST_CELL` pixels at most, all of `MOST_SHEET`."""
    longest = min(max(plan.size), MOST_CELL, math.sqrt(MOST_SHEET / len(latents)))
    return _in_rows(model, latents, plan, columns, longest)


@torch.inference_mode()
def _in_rows(model: EditModel, latents: Tensor, plan: Fit, columns: int, longest: float) -> Image.Image:
    width, height = (max(1, int(side * longest / max(plan.size))) for side in plan.size)
    whole = Image.new("RGB", (columns * width, math.ceil(len(latents) / columns) * height))
    small = (picture for part in latents.split(DECODED_TOGETHER) for picture in _small(model, part))
    for i, picture in enumerate(small):
        shown = plan.undo(picture).resize((width, height), Image.Resampling.BILINEAR)
        whole.paste(shown, (i % columns * width, i // columns * height))
    return whole


def _small(model: EditModel, latents: Tensor) -> list[Image.Image]:
    config, tiny = model.config, model.add_ons.tiny_decoder
    factors = LATENT_RGB.get(round(config.scale_factor, 5)) if config.vae == VAEConfig() else None
    if tiny is None and factors is not None:
        return to_images(torch.einsum("bchw,cr->brhw", latents, latents.new_tensor(factors)))
    return to_images(model.decode_small(latents))
