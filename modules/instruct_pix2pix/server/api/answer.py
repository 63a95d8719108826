"""An edit that has ended as an answer of the API."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

from PIL import Image

from ... import __version__
from ...images import encode_picture
from ...infotext import ORDER
from ...settings import KNOBS, EditSettings
from ..worker.edit_task import EditStatus, EditTask
from ..worker.task import Task, TaskState
from .schemas import Img2Img


def answer_of(body: Img2Img, task: EditTask, status: EditStatus, notes: list[str]) -> dict[str, Any]:
    """Return the answer to a request whose task has ended; `notes` say what of it had no effect."""
    pictures = [result.png for result in status.results] if body.send_images else []
    notes = [*notes, *status.notes]
    if status.unsaved:
        notes = [*notes, f"Not all pictures were saved. {status.unsaved}"]
    repeated = body.model_dump()
    if not body.include_init_images:
        repeated |= {"init_images": None, "mask": None}
    answer = {
        "images": [base64.b64encode(data).decode() for data in pictures],
        # Python's JSON reads NaN and infinity, which are not JSON
        "parameters": json.loads(json.dumps(repeated), parse_constant=lambda _: None),
        "info": json.dumps(_info(task, status, notes)),
    }
    if body.include_map:
        maps = [result.relevance for result in status.results]
        answer["maps"] = [None if one is None else grey_png(one) for one in maps]
    return answer


def _info(task: EditTask, status: EditStatus, notes: list[str]) -> dict[str, Any]:
    settings, results = task.settings, status.results
    seeds = [result.settings.seed for result in results]
    size = results[0].size if results else (None, None)
    if status.state is TaskState.FAILED:
        notes = [*notes, status.error]
    return {
        "prompt": settings.instruction,
        "all_prompts": [result.settings.instruction for result in results],
        "negative_prompt": settings.negative,
        "all_negative_prompts": [result.settings.negative for result in results],
        "seed": task.pictures[0].seed,
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
        "extra_generation_params": {"Image CFG scale": settings.image_cfg, **_of_our_own(settings)},
        "index_of_first_image": 0,
        "infotexts": [result.infotext for result in results],
        "styles": [],
        "job_timestamp": timestamp(task),
        "clip_skip": 1,
        "is_using_inpainting_conditioning": False,
        "version": __version__,
        "interrupted": status.interrupted,
        "kept": [round(result.kept, 4) for result in results],
        "notes": notes,
    }


def _of_our_own(settings: EditSettings) -> dict[str, Any]:
    """Return the settings that the web UI does not have, where they are not at their default, by infotext name."""
    chosen = {name: getattr(settings, name) for name, knob in KNOBS.items() if knob.infotext not in (None, *ORDER)}
    return {str(KNOBS[name].infotext): value for name, value in chosen.items() if value != KNOBS[name].default}


def grey_png(image: Image.Image) -> str:
    """Return a picture as a PNG in base64."""
    return base64.b64encode(encode_picture(image, "PNG")).decode()


def timestamp(task: Task[Any]) -> str:
    """Return when a task was submitted, as the web UI writes it: '20260131235959'."""
    return time.strftime("%Y%m%d%H%M%S", time.localtime(task.submitted_at))
