"""The nodes: what ComfyUI shows, and calls."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ...settings import KNOBS, EditSettings
from .conditions import conditioned
from .edit_kind import kind_of
from .inputs import CONDITIONING, EDIT, GUIDER, input_types
from .pictures import fitted, fitted_mask

CATEGORY = "instruct-pix2pix"
ALIASES = ("instruct pix2pix", "instructpix2pix", "ip2p", "pix2pix", "edit image", "edit by instruction", "CosXL")


def _settings(instruction: str, values: dict[str, Any]) -> EditSettings:
    """Return the settings among a node's values. Raises UserError for one out of range."""
    known = {name: value for name, value in values.items() if name in KNOBS and name != "seed"}
    return EditSettings.from_mapping({"instruction": instruction, **known})


class EditNode:
    """One box: a picture and an instruction in, the edited picture out."""

    DESCRIPTION = (
        "Edits a picture by saying what to change, with an instruct-pix2pix checkpoint. Text CFG: higher changes more; "
        "Image CFG: higher changes less."
    )
    SEARCH_ALIASES = ALIASES
    CATEGORY = CATEGORY
    FUNCTION = "edit"
    RETURN_TYPES = ("IMAGE", "MASK")
    RETURN_NAMES = ("image", "map")
    OUTPUT_TOOLTIPS = (
        "The edited picture.",
        "Where the instruction means to change the picture: white; all white where that is not known.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """Return what is asked for."""
        sampler = import_module("comfy.samplers").KSampler
        return input_types(EDIT, sampler.SAMPLERS, sampler.SCHEDULERS)

    def edit(
        self,
        model: Any,
        clip: Any,
        vae: Any,
        image: Tensor,
        instruction: str,
        negative: str,
        steps: int,
        sampler_name: str,
        scheduler: str,
        seed: int,
        size: int,
        mask: Tensor | None = None,
        focus: str = "off",
        **values: Any,
    ) -> tuple[Tensor, Tensor]:
        """Image [B, H, W, 3] in 0..1 -> edited [B, h, w, 3] and the map [B, h, w]. Raises UserError."""
        from .guider import EditGuider  # needs ComfyUI
        from .sampling import sample

        suited = kind_of(model).suited
        settings = _settings(instruction, {**values, "negative": negative, "steps": steps})
        pictures = fitted(image, size or suited.size or 512)
        area = None if mask is None else fitted_mask(mask, pictures.plan)
        latent = vae.encode(pictures.pixels)
        positive, unsaid = conditioned(clip, instruction, negative, latent)
        guider = EditGuider(model, positive, unsaid, settings, mask=area, focus=focus, look=True)
        made = vae.decode(sample(guider, latent, sampler_name, scheduler, settings.steps, seed))
        region = guider.region()
        white = torch.ones(made.shape[:3])
        found = white if region is None else pictures.share(region.map)
        share = white if region is None else pictures.share(region.inside)
        if area is not None and focus != "mask":
            share = share * area
        if bool((share < 1).any()):
            made = pictures.kept(made, share)
        return pictures.undone(made), pictures.undone(found.expand(len(made), -1, -1))


class ConditioningNode:
    """The texts and the picture, for Edit Guider."""

    DESCRIPTION = "Encodes an instruction and the picture it is for, for Edit Guider."
    SEARCH_ALIASES = (*ALIASES, "InstructPixToPixConditioning")
    CATEGORY = CATEGORY
    FUNCTION = "encode"
    RETURN_TYPES = ("CONDITIONING", "CONDITIONING", "LATENT")
    RETURN_NAMES = ("positive", "negative", "latent")
    OUTPUT_TOOLTIPS = (
        "For Edit Guider's positive; ControlNet and the like go in between.",
        "For Edit Guider's negative.",
        "An empty latent of the picture's size, for the sampler: an edit starts from noise.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """Return what is asked for."""
        return input_types(CONDITIONING, (), ())

    def encode(self, clip: Any, vae: Any, image: Tensor, instruction: str, negative: str) -> tuple[Any, Any, Any]:
        """Image [B, H, W, 3] in 0..1 -> both texts with the picture's latent, and an empty latent. Raises UserError."""
        height, width = (side // 8 * 8 for side in image.shape[1:3])
        top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
        latent = vae.encode(image[:, top : top + height, left : left + width, :3])
        positive, unsaid = conditioned(clip, instruction, negative, latent)
        return positive, unsaid, {"samples": torch.zeros_like(latent)}


class GuiderNode:
    """The guidance of an edit, for SamplerCustomAdvanced."""

    DESCRIPTION = (
        "The guidance of an edit, for SamplerCustomAdvanced: Text CFG and Image CFG, with only the rows that a step "
        "needs, in one batch."
    )
    SEARCH_ALIASES = (*ALIASES, "DualCFGGuider", "dual cfg", "image cfg", "guider")
    CATEGORY = CATEGORY
    FUNCTION = "guide"
    RETURN_TYPES = ("GUIDER",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """Return what is asked for."""
        return input_types(GUIDER, (), ())

    def guide(
        self, model: Any, positive: Any, negative: Any, mask: Tensor | None = None, focus: str = "off", **values: Any
    ) -> tuple[Any]:
        """Return the guider. Raises UserError."""
        from .guider import EditGuider  # needs ComfyUI

        return (EditGuider(model, positive, negative, _settings("", values), mask=mask, focus=focus),)


NODE_CLASS_MAPPINGS = {EDIT: EditNode, CONDITIONING: ConditioningNode, GUIDER: GuiderNode}
NODE_DISPLAY_NAME_MAPPINGS = {EDIT: "Instruct Pix2Pix", CONDITIONING: "Edit Conditioning", GUIDER: "Edit Guider"}
