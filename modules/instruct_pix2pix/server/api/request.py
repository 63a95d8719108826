"""A request of the API as the request for an edit that the worker takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ...engine.candidates import Search
from ...engine.edit import settings_here
from ...errors import UserError
from ...images import Picture
from ...prompts import network_notes
from ...settings import BEST_OF, STRENGTH, EditSettings, seed_notes
from ..budget import Budget
from ..pictures import SentPicture, decoded
from ..worker.edit_task import EditRequest
from .options import Options
from .schemas import Img2Img

# They change the picture in the web UI and do nothing here; who asks for them is told so.
WITHOUT_EFFECT = ("styles", "subseed_strength", "tiling", "restore_faces", "refiner_checkpoint", "s_churn")

OF_OUR_OWN = ("keep_rest", "keep_amount", "apg_eta", "apg_threshold", "apg_momentum", "no_text", "guidance", "vae")
"""Settings that the web UI does not have, under their own names."""


@contextmanager
def request_of(
    body: Img2Img, options: Options, outputs: Path, decoding: Budget
) -> Iterator[tuple[EditRequest, list[str]]]:
    """Give the request for an edit, and what of the body has no effect, a sentence each. Raises UserError.

    Its results are saved in `outputs` where the body asks for that. The worker resolves the settings. Its pictures have
    a share of the budget of pixels for the block, in which the worker takes them.
    """
    if body.script_name:
        raise UserError(f"There is no script {body.script_name[:60]!r} here: leave script_name out.")
    pictures = body.init_images or []
    if len(pictures) != 1:
        raise UserError(f"init_images holds {len(pictures)} pictures, but must hold one: the picture to edit.")
    if body.resize_mode not in (None, 0, 1, 2):
        raise UserError(f"resize_mode is {body.resize_mode}, but must be 0, 1 or 2: stretch, cut or fill up.")
    entry, settings, notes = options.with_changes(body.override_settings or {})
    settings, said = _settings_of(body, settings)
    notes += said
    notes += network_notes(settings.instruction, settings.negative)
    names = ", ".join(ascii(name[:60]) for name in body.alwayson_scripts or {})
    if names:
        notes.append(f"There are no scripts here: {names} had no effect.")
    notes += [f"{name} had no effect: there is no such thing here." for name in WITHOUT_EFFECT if getattr(body, name)]

    sent = [SentPicture.in_base64(pictures[0], "The picture", deep=True)]
    sent += [SentPicture.in_base64(body.mask, "The mask")] if body.mask else []
    with decoded(decoding, *sent) as (picture, *masks):
        mask, mask_notes = (masks[0].mask, masks[0].notes) if masks else (None, ())
        if mask is not None and body.inpainting_mask_invert:
            mask = ImageOps.invert(mask)
        if body.width is not None or body.height is not None:
            size = _size_of(body.width, body.height, picture.image.size)
            settings = replace(settings, size=f"{size[0]}x{size[1]}")  # checked before any picture is made that large
            picture, mask = _resized(picture, mask, size, body.resize_mode or 0)
        saved_in = outputs if body.save_images else None
        request = EditRequest(entry.path, picture, settings, mask, saved_in, _search_of(body), _asked(body))
        yield request, [*picture.notes, *mask_notes, *notes]


def _settings_of(body: Img2Img, base: EditSettings) -> tuple[EditSettings, list[str]]:
    """Return the settings of a body, and what a client should know about them, a sentence each.

    Those it leaves out are those of its infotext, or else of `base`.
    """
    notes: list[str] = []
    if body.infotext:
        base, left_out = settings_here(body.infotext)
        notes += left_out
    sized = body.width is not None or body.height is not None
    batch_size, batches = (1 if value is None else value for value in (body.batch_size, body.n_iter))
    given: dict[str, Any] = {
        "instruction": body.prompt or None,
        "negative": body.negative_prompt or None,
        "text_cfg": body.cfg_scale,
        "image_cfg": body.image_cfg_scale,
        "steps": body.steps,
        "sampler": body.sampler_name or body.sampler_index or None,
        "schedule": body.scheduler or None,
        "seed": None if body.infotext and "seed" not in body.model_fields_set else body.seed,
        "denoise": body.denoising_strength,
        "batch_size": batch_size,
        "zoom": body.inpaint_full_res if body.zoom is None and body.mask else body.zoom,
        "result_size": "model" if body.result_size is None and sized else body.result_size,
        **{name: getattr(body, name) for name in OF_OUR_OWN},
    }
    settings = replace(base, **{name: value for name, value in given.items() if value is not None})
    return replace(settings, count=batches * batch_size), notes + seed_notes(given["seed"])


def _search_of(body: Img2Img) -> Search:
    strength = None if body.strength in (None, "") else STRENGTH.check(body.strength)
    return Search(BEST_OF.check(BEST_OF.default if body.best_of is None else body.best_of), strength)


def _asked(body: Img2Img) -> frozenset[str]:
    """Return the settings that a body names."""
    keep_rest = body.keep_rest or body.infotext  # one that does not name it was made without
    named = {"text_cfg": body.cfg_scale, "image_cfg": body.image_cfg_scale, "keep_rest": keep_rest}
    return frozenset({*(body.override_settings or {}), *(name for name, value in named.items() if value is not None)})


def _size_of(width: int | None, height: int | None, whole: tuple[int, int]) -> tuple[int, int]:
    """Return both sides, the one left out so that the shape stays that of the `whole` picture."""
    if width is None:
        width = max(1, round((height or 0) * whole[0] / whole[1]))
    if height is None:
        height = max(1, round(width * whole[1] / whole[0]))
    return width, height


def _resized(
    picture: Picture, mask: Image.Image | None, size: tuple[int, int], mode: int
) -> tuple[Picture, Image.Image | None]:
    """Bring a picture and its mask to the shape of `size`, unless the middle is to be cut out, as the engine does."""
    whole = picture.image.size
    if mode == 1 or whole[0] * size[1] == whole[1] * size[0]:
        return picture, mask

    def bring(image: Image.Image) -> Image.Image:
        image = image if image.size == whole else image.resize(whole, Image.Resampling.BILINEAR)
        if mode == 0:
            return image.resize(size, Image.Resampling.LANCZOS)
        inside = ImageOps.contain(image, size, Image.Resampling.LANCZOS)
        left, top = (size[0] - inside.width) // 2, (size[1] - inside.height) // 2
        sides = [(top, size[1] - inside.height - top), (left, size[0] - inside.width - left), (0, 0)]
        pixels = np.asarray(inside)
        return Image.fromarray(np.pad(pixels, sides[: pixels.ndim], mode="edge"))

    alpha = None if picture.alpha is None else bring(picture.alpha)
    return replace(picture, image=bring(picture.image), alpha=alpha, deep=None), None if mask is None else bring(mask)
