"""ControlNet as an extension of AUTOMATIC1111 (Mikubill's), which knows no models that see a picture.

It gives its networks what the UNet is given, the picture too, and before each text it puts a mark by which it knows the
negative ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..guidance.rows import same_length
from .processing import Processing

LATENT_CHANNELS = 4
MARK = 1024.0
"""What a mark's numbers are, or their opposite."""


def show_latents(p: Processing, on_model: ExitStack) -> None:
    """Let the ControlNets of a job see the noisy latents alone, until `on_model` ends.

    Raises UserError for a kind that runs the UNet itself, on a reference picture without the one that is edited.
    """
    for unit in _units(p):
        if getattr(unit.control_model_type, "name", "") == "AttentionInjection":
            name = unit.preprocessor["name"]
            raise UserError(f"ControlNet's '{name}' does not work with a model that edits: switch it off.")
        if isinstance(unit.control_model, torch.nn.Module):
            hook = unit.control_model.register_forward_pre_hook(_latents, with_kwargs=True)
            on_model.callback(hook.remove)


def marked_same_length(texts: Sequence[Tensor]) -> list[Tensor]:
    """Repeat embeddings [B, T_k, C] to one common length; see `same_length`. Marks before them stay as they are."""
    marks = [text[:, :1] for text in texts]
    if len({text.shape[1] for text in texts}) == 1 or not all(bool((mark.abs() == MARK).all()) for mark in marks):
        return same_length(texts)
    repeated = same_length([text[:, 1:] for text in texts])
    return [torch.cat(pair, dim=1) for pair in zip(marks, repeated, strict=True)]


def _units(p: Processing) -> Iterator[Any]:
    for script in getattr(getattr(p, "scripts", None), "alwayson_scripts", None) or ():
        yield from getattr(getattr(script, "latest_network", None), "control_params", None) or ()


def _latents(
    network: torch.nn.Module, args: tuple[Any, ...], given: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A hook before a network's call, which is given x [N, 8, h, w] by name."""
    x = given.get("x")
    return args, given if x is None else {**given, "x": x[:, :LATENT_CHANNELS]}
