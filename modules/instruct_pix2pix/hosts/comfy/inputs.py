"""What the nodes ask for: each input once, in the order of a node, with the words of `settings`.

Needs nothing of ComfyUI's, so that a workflow can be written without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ...settings import FOCUS, KNOBS, LONGEST_SIDE, Knob

EDIT, CONDITIONING, GUIDER = "InstructPix2PixEdit", "InstructPix2PixConditioning", "InstructPix2PixGuider"
"""The nodes, by the names that workflows know them by."""

DEFAULT_SAMPLER, DEFAULT_SCHEDULER = "euler_ancestral", "normal"

Input = tuple[Any, dict[str, Any]]
"""ComfyUI's: a type, or the names to choose from, and what is told of it."""


def _knob(knob: Knob, **more: Any) -> Input:
    told = {"default": knob.default, "tooltip": knob.help, "display_name": knob.label, **more}
    if knob.choices is not None:
        return list(knob.choices), told
    kind = "INT" if isinstance(knob.default, int) else "FLOAT"
    return kind, {**told, "min": knob.minimum, "max": knob.maximum, "step": knob.step}


def _text(knob: Knob, name: str, **more: Any) -> Input:
    told = {"default": "", "multiline": True, "placeholder": name, "tooltip": knob.help, "display_name": knob.label}
    return "STRING", {**told, **more}


def _socket(kind: str, tooltip: str) -> Input:
    return kind, {"tooltip": tooltip}


MODEL = _socket("MODEL", "An instruct-pix2pix checkpoint, SDXL ip2p or CosXL-Edit: a plain one cannot edit.")
MASK = _socket("MASK", "White is edited, black stays as it is.")
INSTRUCTION = _text(KNOBS["instruction"], "what to change, for example: make it winter", dynamicPrompts=True)
NEGATIVE = _text(KNOBS["negative"], "negative prompt: what the result should not look like")

_GUIDANCE = {
    "speed": _knob(KNOBS["speed"], advanced=True),
    "rescale": _knob(KNOBS["rescale"], advanced=True),
    "apg_eta": _knob(KNOBS["apg_eta"], advanced=True),
    "apg_threshold": _knob(KNOBS["apg_threshold"], advanced=True),
    "apg_momentum": _knob(KNOBS["apg_momentum"], advanced=True),
    "keep_amount": _knob(KNOBS["keep_amount"], advanced=True),
    "focus": _knob(FOCUS, advanced=True),
    "no_text": _knob(KNOBS["no_text"], advanced=True),
    "guidance": _knob(KNOBS["guidance"], advanced=True),
}
"""How the guidance acts, where both nodes have it."""

SAMPLERS, SCHEDULERS = "samplers", "schedulers"
"""Stand for ComfyUI's own names."""

REQUIRED: Mapping[str, Mapping[str, Input]] = MappingProxyType(
    {
        EDIT: {
            "model": MODEL,
            "clip": _socket("CLIP", "The same checkpoint's text encoder."),
            "vae": _socket("VAE", "The same checkpoint's VAE, or another one for such models."),
            "image": _socket("IMAGE", "The picture to edit, of any size; of several each is edited."),
            "instruction": INSTRUCTION,
            "negative": NEGATIVE,
            "text_cfg": _knob(KNOBS["text_cfg"]),
            "image_cfg": _knob(KNOBS["image_cfg"]),
            "steps": _knob(KNOBS["steps"]),
            "sampler_name": (SAMPLERS, {"default": DEFAULT_SAMPLER, "tooltip": KNOBS["sampler"].help}),
            "scheduler": (SCHEDULERS, {"default": DEFAULT_SCHEDULER, "tooltip": "How the noise levels are spaced."}),
            "seed": (
                "INT",
                {
                    "default": 0,
                    "min": 0,
                    "max": 2**64 - 1,
                    "control_after_generate": True,
                    "tooltip": "The same seed gives the same edit; each further picture has the next seed.",
                },
            ),
            "keep_rest": _knob(KNOBS["keep_rest"]),
            "size": (
                "INT",
                {
                    "default": 0,
                    "min": 0,
                    "max": LONGEST_SIDE,
                    "step": 8,
                    "tooltip": (
                        "The longest side at which the edit is made, in pixels; 0 is what suits the model: 512, with "
                        "SDXL ip2p 768, with CosXL-Edit 1024."
                    ),
                },
            ),
        },
        CONDITIONING: {
            "clip": _socket("CLIP", "The checkpoint's text encoder."),
            "vae": _socket("VAE", "The checkpoint's VAE."),
            "image": _socket("IMAGE", "The picture to edit, at the size of the edit: about 512 pixels with SD1."),
            "instruction": INSTRUCTION,
            "negative": NEGATIVE,
        },
        GUIDER: {
            "model": MODEL,
            "positive": _socket("CONDITIONING", "Edit Conditioning's positive: the instruction and the picture."),
            "negative": _socket("CONDITIONING", "Edit Conditioning's negative."),
            "text_cfg": _knob(KNOBS["text_cfg"]),
            "image_cfg": _knob(KNOBS["image_cfg"]),
            "keep_rest": _knob(KNOBS["keep_rest"]),
        },
    }
)
"""The inputs of each node that have to be there, by name."""

OPTIONAL: Mapping[str, Mapping[str, Input]] = MappingProxyType(
    {EDIT: {"mask": MASK, **_GUIDANCE}, CONDITIONING: {}, GUIDER: {"mask": MASK, **_GUIDANCE}}
)
"""Those that may be left out."""


def input_types(node: str, samplers: Sequence[str], schedulers: Sequence[str]) -> dict[str, dict[str, Input]]:
    """Return a node's inputs as ComfyUI asks for them, with the names that it has for samplers and schedulers."""
    names = {SAMPLERS: list(samplers), SCHEDULERS: list(schedulers)}

    def shown(inputs: Mapping[str, Input]) -> dict[str, Input]:
        return {
            name: (names[kind] if isinstance(kind, str) and kind in names else kind, told)
            for name, (kind, told) in inputs.items()
        }

    return {"required": shown(REQUIRED[node]), "optional": shown(OPTIONAL[node])}


def is_widget(kind: Any) -> bool:
    """Whether an input of this type is a field in the node, and no socket alone."""
    return isinstance(kind, list) or kind in ("INT", "FLOAT", "STRING", SAMPLERS, SCHEDULERS)
