"""What an edit is conditioned on, in ComfyUI's terms: pairs of an embedding and options, with the picture among these.

The picture's latent goes where ComfyUI's own node for these models puts it, so that either node's output will do: the
mode of the VAE's posterior, unscaled. ComfyUI's VAE gives the mode, and its CosXL scales the latent by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...errors import UserError
from ...guidance.rows import Kind
from .edit_kind import EditKind

Conditioning = list[tuple[Tensor, dict[str, Any]]]
"""ComfyUI's: embeddings [1, T, C], each with options; several act together."""

PICTURE, POOLED = "concat_latent_image", "pooled_output"
"""Options of ComfyUI's: the picture's latent [B, 4, h, w], and the vector [1, P] that SDXL reads."""

PART, BLANK = "instruct_pix2pix_part", "instruct_pix2pix_blank"
"""Options of ours: which of the two texts it is, and whether the negative prompt was left blank."""
INSTRUCTION, NEGATIVE = "instruction", "negative"

FULL, IMAGE_ONLY, NULL, TEXT_ONLY = Kind(0, True), Kind(None, True), Kind(None, False), Kind(0, False)
NAMES: Mapping[Kind, str] = {FULL: "positive", IMAGE_ONLY: "negative", NULL: "null", TEXT_ONLY: "text_only"}
"""How the rows are called towards ComfyUI, which knows the first two names itself."""


def encode(clip: Any, text: str) -> Conditioning:
    """Encode a text in ComfyUI's own way. Raises UserError where the checkpoint had no text encoder."""
    if clip is None:
        raise UserError("There is no text encoder: connect CLIP from a checkpoint that holds one.")
    return [(states, dict(options)) for states, options in clip.encode_from_tokens_scheduled(clip.tokenize(text))]


def conditioned(clip: Any, instruction: str, negative: str, picture: Tensor) -> tuple[Conditioning, Conditioning]:
    """Return the instruction and the negative prompt, each with the picture's latent [B, 4, h, w], unscaled.

    Raises UserError for a blank instruction.
    """
    if not instruction.strip():
        raise UserError("The instruction is empty: say what to change, for example 'make it winter'.")
    said = {INSTRUCTION: instruction, NEGATIVE: negative}
    texts = {part: encode(clip, text) for part, text in said.items()}
    for part, found in texts.items():
        for _, options in found:
            options |= {PICTURE: picture, PART: part, BLANK: not said[part].strip()}
    return texts[INSTRUCTION], texts[NEGATIVE]


def picture_of(positive: Conditioning, negative: Conditioning) -> Tensor:
    """Return the picture's latent [B, 4, h, w], unscaled, that two inputs of a guider carry.

    Raises UserError where they carry none, and where they are the wrong way round.
    """
    parts = [{options.get(PART) for _, options in one} for one in (positive, negative)]
    if parts[0] == {NEGATIVE} or parts[1] == {INSTRUCTION}:
        raise UserError(
            "Positive and negative are the wrong way round: connect Edit Conditioning's positive to positive, and its "
            "negative to negative."
        )
    for _, options in positive:
        if options.get(PICTURE) is not None:
            return options[PICTURE]
    raise UserError("The positive input carries no picture: put Edit Conditioning before Edit Guider.")


def row_conditions(
    positive: Conditioning, negative: Conditioning, kind: EditKind, no_text: str
) -> dict[str, Conditioning]:
    """Return what each of the rows is shown, by `NAMES`. Raises UserError as `picture_of` does.

    'No text' is the negative prompt. Of a blank one with SDXL ip2p the pooled vector is the instruction's, as training
    dropped the instruction but not that vector; with `no_text` 'zeros' both are zeros, as diffusers has it.
    """
    picture = picture_of(positive, negative)
    pooled = next((options[POOLED] for _, options in positive if options.get(POOLED) is not None), None)
    unsaid = [_unsaid(states, options, kind, no_text, pooled) for states, options in negative]
    return {
        NAMES[FULL]: [(s, {**o, PICTURE: o.get(PICTURE, picture)}) for s, o in positive],
        NAMES[IMAGE_ONLY]: [(s, {**o, PICTURE: picture, "prompt_type": "negative"}) for s, o in unsaid],
        NAMES[NULL]: [(s, {**_without(o), "prompt_type": "negative"}) for s, o in unsaid],
        NAMES[TEXT_ONLY]: [(s, {**_without(o), "prompt_type": "positive"}) for s, o in positive],
    }


def _unsaid(
    states: Tensor, options: dict[str, Any], kind: EditKind, no_text: str, pooled: Tensor | None
) -> tuple[Tensor, dict[str, Any]]:
    if not kind.sdxl or not options.get(BLANK):
        return states, options
    if no_text == "zeros":
        own = options.get(POOLED)
        return torch.zeros_like(states), {**options, POOLED: None if own is None else torch.zeros_like(own)}
    return states, options if kind.cosxl else {**options, POOLED: pooled}


def _without(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != PICTURE}
