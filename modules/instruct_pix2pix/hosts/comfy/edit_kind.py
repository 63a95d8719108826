"""What a model of ComfyUI's is: whether it edits, and what suits it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...errors import UserError
from ...models.checkpoints import Suited, suited_of

SDXL_LABEL = 2816
"""The length of SDXL's label: a pooled text and six sizes."""


@dataclass(frozen=True)
class EditKind:
    """A model that edits, as ComfyUI has loaded it."""

    sdxl: bool
    cosxl: bool

    @property
    def suited(self) -> Suited:
        """The settings with which it edits well."""
        return suited_of("CosXL-Edit" if self.cosxl else "instruct-pix2pix", "sdxl" if self.sdxl else "sd1")


def kind_of(patcher: Any) -> EditKind:
    """Return what a MODEL of ComfyUI's is, by what it has become in memory. Raises UserError for one that cannot edit.

    ComfyUI itself knows SD1, SDXL ip2p and CosXL-Edit by their tensors; those models have a way of their own to take a
    picture.
    """
    model = patcher.model
    sizes = getattr(getattr(model, "model_config", None), "unet_config", {})
    if not hasattr(model, "process_ip2p_image_in"):
        channels = sizes.get("in_channels")
        seen = f" (its UNet takes {channels} channels, not 8)" if channels else ""
        raise UserError(
            f"This checkpoint cannot edit{seen}: load an instruct-pix2pix checkpoint, such as "
            "timbrooks/instruct-pix2pix or CosXL-Edit."
        )
    return EditKind(sizes.get("adm_in_channels") == SDXL_LABEL, model.model_type.name == "V_PREDICTION_EDM")
