"""What the API takes and gives, in the shapes of the AUTOMATIC1111 web UI, and their way to an order and back."""

from __future__ import annotations

import base64
import binascii
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, Field

from ... import __version__
from ...engine.edit import resolved
from ...errors import UserError
from ...images import Picture, open_picture
from ...infotext import parse, settings_from
from ...models.catalog import Catalog
from ...models.registry import ModelEntry
from ...settings import KNOBS, EditSettings
from ..worker.edit_task import EditRequest, EditStatus, EditTask
from ..worker.task import Task, TaskState

MOST_PIXELS = 50_000_000
"""Pixels of a picture that comes over the network: three bytes of memory each."""

OPTION_KNOBS = (
    "text_cfg",
    "image_cfg",
    "steps",
    "sampler",
    "schedule",
    "rescale",
    "denoise",
    "size",
    "randomize_cfg",
    "speed",
)
"""The settings that are options too: what is taken where a request says nothing."""

# What changes the picture in the web UI and does nothing here, so that whoever asks for it is told.
WITHOUT_EFFECT = ("styles", "subseed_strength", "tiling", "restore_faces", "refiner_checkpoint", "s_churn")


class Img2Img(BaseModel):
    """A request for edits. What is left out, or null, is taken from the options (GET /sdapi/v1/options)."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    init_images: list[str] | None = Field(
        None, description="The picture to edit, one of them, in base64 with or without 'data:image/…;base64,'."
    )
    prompt: str | None = Field("", description="The instruction: what to change. A1111's prompt language applies.")
    negative_prompt: str | None = Field("", description=KNOBS["negative"].help)
    cfg_scale: float | None = Field(None, description=f"Text CFG, 1 to 30. {KNOBS['text_cfg'].help}")
    image_cfg_scale: float | None = Field(None, description=f"Image CFG, 0 to 5. {KNOBS['image_cfg'].help}")
    steps: int | None = Field(None, description=f"1 to 150. {KNOBS['steps'].help}")
    sampler_name: str | None = Field(None, description="A name from GET /sdapi/v1/samplers.")
    sampler_index: str | None = Field(None, description="The older name of sampler_name, which goes first.")
    scheduler: str | None = Field(None, description="A name or label from GET /sdapi/v1/schedulers.")
    seed: int | None = Field(-1, description="0 to 4294967295; -1 draws one. Each further picture takes the next.")
    batch_size: int | None = Field(1, description="Pictures computed together, 1 to 64.")
    n_iter: int | None = Field(1, description="How many batches.")
    width: int | None = Field(None, description="Without width and height, the picture's shape and the model's size.")
    height: int | None = Field(None, description="With only one of them, the other follows from the picture.")
    resize_mode: int | None = Field(
        0, description="How to meet width x height: 0 stretch, 1 cut the middle out, 2 fill the sides up."
    )
    denoising_strength: float | None = Field(None, description=KNOBS["denoise"].help + " Here 1 unless given.")
    mask: str | None = Field(None, description="A picture in base64: white is edited, black is kept.")
    inpainting_mask_invert: int | None = Field(0, description="1: black is edited, white is kept.")
    mask_blur: int | None = Field(None, description="Taken, without effect: the edge is always soft, inwards.")
    infotext: str | None = Field(
        None, description="Settings as text, in place of the options; what the request says itself goes first."
    )
    override_settings: dict[str, Any] | None = Field(
        None, description="For this request alone: sd_model_checkpoint, or another option."
    )
    override_settings_restore_afterwards: bool | None = Field(True, description="false: they become the options.")
    include_init_images: bool | None = Field(False, description="Whether 'parameters' repeats the pictures.")
    send_images: bool | None = Field(True, description="Whether the pictures are in the answer.")
    save_images: bool | None = Field(False, description="Whether they are saved in the server's outputs folder.")
    alwayson_scripts: dict[str, Any] | None = Field(None, description="Taken, without effect; 'info' says so.")
    script_name: str | None = Field(None, description="Refused unless empty: there are no scripts here.")
    script_args: list[Any] | None = Field(None, description="Of no meaning without scripts.")
    force_task_id: str | None = Field(
        None,
        pattern=r"^[\w()-]{1,64}$",
        description="A name for this request: 'current_task' of progress, and the task of interrupt and skip.",
    )
    styles: list[str] | None = Field(None, description="Taken, without effect; 'info' says so.")
    subseed_strength: float | None = Field(None, description="Taken, without effect; 'info' says so.")
    tiling: bool | None = Field(None, description="Taken, without effect; 'info' says so.")
    restore_faces: bool | None = Field(None, description="Taken, without effect; 'info' says so.")
    refiner_checkpoint: str | None = Field(None, description="Taken, without effect; 'info' says so.")
    s_churn: float | None = Field(None, description="Taken, without effect; 'info' says so.")


class Img2ImgAnswer(BaseModel):
    """The edits."""

    images: list[str] = Field(description="PNG in base64, each with its settings in it.")
    parameters: dict[str, Any] = Field(description="The request.")
    info: str = Field(description="JSON: seeds, prompts, infotexts, sizes; 'notes' says what had no effect.")


class PngInfo(BaseModel):
    """A picture whose settings are wanted."""

    image: str = Field(description="The picture in base64.")


class Options:
    """The checkpoint and the defaults that requests without their own take; shared by all clients."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalogue = catalog
        self._lock = threading.Lock()
        self._now: tuple[ModelEntry, EditSettings] = (catalog.default, EditSettings())

    def now(self) -> tuple[ModelEntry, EditSettings]:
        """The checkpoint and the settings, together as they were set."""
        with self._lock:
            return self._now

    def shown(self) -> dict[str, Any]:
        """Names and values for clients."""
        entry, defaults = self.now()
        values = {name: getattr(defaults, name) for name in OPTION_KNOBS}
        return {"sd_model_checkpoint": entry.name, **values}

    def with_changes(self, changes: Mapping[str, Any]) -> tuple[ModelEntry, EditSettings, list[str]]:
        """The options with these changes, and a note for each name that is none of ours. Raises UserError."""
        entry, defaults = self.now()
        name = changes.get("sd_model_checkpoint")
        if name is not None:
            entry = self._catalogue.find(str(name))
        known = {key: value for key, value in changes.items() if key in OPTION_KNOBS and value is not None}
        notes = [
            f"There is no option {key[:60]!r} here: it had no effect."
            for key in changes
            if key not in OPTION_KNOBS and key != "sd_model_checkpoint"
        ]
        return entry, resolved(replace(defaults, **known)), notes

    def change(self, changes: Mapping[str, Any]) -> None:
        """Take changes for all later requests, all or none. Names that are not ours are passed over."""
        entry, defaults, _ = self.with_changes(changes)
        with self._lock:
            self._now = (entry, defaults)


def read_picture(text: str, what: str) -> Picture:
    """The picture in a base64 text, with or without the head of a data address. Raises UserError."""
    text = text.strip()
    if text.startswith(("http://", "https://")):
        raise UserError(f"{what} is an address, and nothing is fetched from one: send the picture itself in base64.")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{what} is not base64, or is cut short: send the whole picture again.") from error
    try:
        return open_picture(data, most_pixels=MOST_PIXELS)
    except UserError as error:
        raise UserError(str(error).replace("The picture", what, 1)) from error


def order_of(body: Img2Img, options: Options) -> tuple[EditRequest, list[str]]:
    """What a request asks for, and what of it has no effect, a sentence each. Raises UserError."""
    if body.script_name:
        raise UserError(f"There is no script {body.script_name[:60]!r} here: leave script_name out.")
    pictures = body.init_images or []
    if len(pictures) != 1:
        raise UserError(f"init_images holds {len(pictures)} pictures, but must hold one: the picture to edit.")
    if body.resize_mode not in (None, 0, 1, 2):
        raise UserError(f"resize_mode is {body.resize_mode}, but must be 0, 1 or 2: stretch, cut or fill up.")
    entry, settings, notes = options.with_changes(body.override_settings or {})
    settings = _settings_of(body, settings)
    names = ", ".join(ascii(name[:60]) for name in body.alwayson_scripts or {})
    if names:
        notes.append(f"There are no scripts here: {names} had no effect.")
    notes += [f"{name} had no effect: there is no such thing here." for name in WITHOUT_EFFECT if getattr(body, name)]

    picture = read_picture(pictures[0], "The picture")
    mask = _mask_of(read_picture(body.mask, "The mask")) if body.mask else None
    if mask is not None and body.inpainting_mask_invert:
        mask = ImageOps.invert(mask)
    if body.width is not None or body.height is not None:
        size = _size_of(body.width, body.height, picture.image.size)
        settings = replace(settings, size=f"{size[0]}x{size[1]}")  # checked before anything is made as large
        picture, mask = _resized(picture, mask, size, body.resize_mode or 0)
    return EditRequest(entry.path, picture, resolved(settings.require_instruction()), mask), [*picture.notes, *notes]


def _settings_of(body: Img2Img, base: EditSettings) -> EditSettings:
    if body.infotext:
        base = settings_from(body.infotext)[0]
    batch_size, batches = (1 if value is None else value for value in (body.batch_size, body.n_iter))
    given: dict[str, Any] = {
        "instruction": body.prompt or None,
        "negative": body.negative_prompt or None,
        "text_cfg": body.cfg_scale,
        "image_cfg": body.image_cfg_scale,
        "steps": body.steps,
        "sampler": body.sampler_name or body.sampler_index,
        "schedule": body.scheduler,
        "seed": None if body.infotext and "seed" not in body.model_fields_set else body.seed,
        "denoise": body.denoising_strength,
        "batch_size": batch_size,
    }
    settings = replace(base, **{name: value for name, value in given.items() if value is not None})
    return replace(settings, count=batches * batch_size)


def _mask_of(picture: Picture) -> Image.Image:
    """The grey mask; of a transparent picture the opaque part, as in the web UI."""
    return picture.image.convert("L") if picture.alpha is None else picture.alpha


def _size_of(width: int | None, height: int | None, whole: tuple[int, int]) -> tuple[int, int]:
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
    return replace(picture, image=bring(picture.image), alpha=alpha), None if mask is None else bring(mask)


def answer_of(body: Img2Img, job: EditTask, status: EditStatus, notes: list[str]) -> dict[str, Any]:
    """The answer to a request whose job has ended."""
    pictures = [result.png() for result in status.results] if body.send_images else []
    if status.unsaved:
        notes = [*notes, f"Not all pictures were saved. {status.unsaved}"]
    repeated = body.model_dump()
    if not body.include_init_images:
        repeated |= {"init_images": None, "mask": None}
    return {
        "images": [base64.b64encode(data).decode() for data in pictures],
        # NaN and infinity can be told to Python but are no JSON
        "parameters": json.loads(json.dumps(repeated), parse_constant=lambda _: None),
        "info": json.dumps(_info(job, status, notes)),
    }


def _info(job: EditTask, status: EditStatus, notes: list[str]) -> dict[str, Any]:
    settings, results = job.settings, status.results
    seeds = [result.settings.seed for result in results]
    size = results[0].image.size if results else (None, None)
    if status.state is TaskState.FAILED:
        notes = [*notes, status.error]
    return {
        "prompt": settings.instruction,
        "all_prompts": [result.settings.instruction for result in results],
        "negative_prompt": settings.negative,
        "all_negative_prompts": [result.settings.negative for result in results],
        "seed": job.seeds[0],
        "all_seeds": seeds,
        "subseed": -1,
        "all_subseeds": [-1 for _ in results],
        "subseed_strength": 0,
        "width": size[0],
        "height": size[1],
        "sampler_name": settings.sampler,
        "cfg_scale": settings.text_cfg,
        "image_cfg_scale": settings.image_cfg,
        "steps": settings.steps,
        "batch_size": settings.batch_size,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": status.model,
        "sd_model_hash": status.model_hash,
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": settings.denoise,
        "extra_generation_params": {"Image CFG scale": settings.image_cfg},
        "index_of_first_image": 0,
        "infotexts": [result.infotext for result in results],
        "styles": [],
        "job_timestamp": timestamp(job),
        "clip_skip": 1,
        "is_using_inpainting_conditioning": False,
        "version": __version__,
        "interrupted": status.interrupted,
        "notes": notes,
    }


def timestamp(turn: Task[Any]) -> str:
    """When a job came, as the web UI writes it: '20260131235959'."""
    return time.strftime("%Y%m%d%H%M%S", time.localtime(turn.submitted_at))


def png_info(picture: Picture) -> dict[str, Any]:
    """The settings that a picture carries, as text and taken apart."""
    text = picture.infotext or ""
    parameters: dict[str, Any] = {}
    if text:
        read = parse(text)
        parameters = {"Prompt": read.instruction, "Negative prompt": read.negative, **read.fields}
        width, _, height = read.fields.get("Size", "").partition("x")
        if width.isdigit() and height.isdigit():
            parameters |= {"Size-1": int(width), "Size-2": int(height)}
    items = {key: value for key, value in picture.info.items() if key != "parameters"}
    return {"info": text, "items": items, "parameters": parameters}
