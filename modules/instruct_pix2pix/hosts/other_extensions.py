"""Extensions of others that have to be helped beside an edit, or cannot work there.

ControlNet in AUTOMATIC1111 (Mikubill's) knows no models that see a picture: it gives its networks what the UNet is
given, the picture too, and before each text it puts a mark by which it knows the negative ones. Some extensions take
one positive and one negative row for granted; an edit has up to three.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
STYLE_ALIGN = "StyleAlign Integrated"
"""The title of an extension of Forge's whose first argument switches it on."""
REFERENCE, ATTENTION_INJECTION = "Reference", "AttentionInjection"
"""How Forge, and AUTOMATIC1111's extension, call ControlNet's kinds that run the UNet on a reference picture."""


def require_able(p: Processing) -> None:
    """Raise UserError where an extension is switched on that cannot work with an edit."""
    for script in _scripts(p):
        if script.title() == STYLE_ALIGN and p.script_args[script.args_from]:
            raise UserError(f"{STYLE_ALIGN} does not work with a model that edits: switch it off.")
    for unit in _units(p):
        preprocessor: Any = getattr(unit, "preprocessor", None)
        kind = getattr(unit, "control_model_type", None)
        if REFERENCE in getattr(preprocessor, "tags", ()) or getattr(kind, "name", "") == ATTENTION_INJECTION:
            name = preprocessor["name"] if isinstance(preprocessor, Mapping) else preprocessor.name
            raise UserError(f"ControlNet's '{name}' does not work with a model that edits: switch it off.")


def show_latents(p: Processing, on_model: ExitStack) -> None:
    """Let the ControlNets of a job in AUTOMATIC1111 see the noisy latents alone, until `on_model` ends."""
    for unit in _units(p):
        network = getattr(unit, "control_model", None)
        if isinstance(network, torch.nn.Module):
            hook = network.register_forward_pre_hook(_latents, with_kwargs=True)
            on_model.callback(hook.remove)


def marked_same_length(texts: Sequence[Tensor]) -> list[Tensor]:
    """Repeat embeddings [B, T_k, C] to one common length; see `same_length`. Marks before them stay as they are."""
    marks = [text[:, :1] for text in texts]
    if len({text.shape[1] for text in texts}) == 1 or not all(bool((mark.abs() == MARK).all()) for mark in marks):
        return same_length(texts)
    repeated = same_length([text[:, 1:] for text in texts])
    return [torch.cat(pair, dim=1) for pair in zip(marks, repeated, strict=True)]


def _scripts(p: Processing) -> Sequence[Any]:
    """Return the scripts that a job calls; it has none where it was made by another program."""
    return getattr(getattr(p, "scripts", None), "alwayson_scripts", None) or ()


def _units(p: Processing) -> Iterator[Any]:
    """Yield ControlNet's units that are in use; those of Forge's have no model that is known here."""
    for script in _scripts(p):
        yield from getattr(getattr(script, "latest_network", None), "control_params", None) or ()
        yield from (getattr(script, "current_params", None) or {}).values()


def _latents(
    network: torch.nn.Module, args: tuple[Any, ...], given: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A hook before a network's call, which is given x [N, 8, h, w] by name."""
    x = given.get("x")
    return args, given if x is None else {**given, "x": x[:, :LATENT_CHANNELS]}
