"""The settings in a picture, the server itself, and empty lists of what it does not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter

from ...engine.process_memory import cuda, ram
from ...images import PARAMETERS, Picture
from ...infotext import parse
from ..budget import Budget
from ..pictures import SentPicture, decoded
from .schemas import PngInfo

EMPTY_LISTS = (
    "upscalers",
    "latent-upscale-modes",
    "sd-vae",
    "loras",
    "hypernetworks",
    "face-restorers",
    "realesrgan-models",
    "prompt-styles",
    "script-info",
    "extensions",
)
"""Clients ask for these lists when they start; this program has nothing to put on them."""


def info_routes(flags: Mapping[str, object], decoding: Budget) -> APIRouter:
    """Return the routes; `flags` say how the server was started, `decoding` is the budget of pixels."""
    router = APIRouter()

    @router.post("/sdapi/v1/png-info")
    def read_png_info(body: PngInfo) -> dict[str, Any]:
        """Read the settings that a picture carries: as text, and taken apart."""
        with decoded(decoding, SentPicture.in_base64(body.image, "The picture")) as (picture,):
            return _png_info(picture)

    @router.get("/sdapi/v1/memory")
    def memory() -> dict[str, Any]:
        """Bytes of main memory and of CUDA's."""
        return {"ram": ram(), "cuda": cuda()}

    @router.get("/sdapi/v1/cmd-flags")
    def cmd_flags() -> dict[str, object]:
        """How the server was started, without what is secret."""
        return dict(flags)

    @router.get("/sdapi/v1/scripts")
    def scripts() -> dict[str, list[str]]:
        """None: scripts are programs of the web UI."""
        return {"txt2img": [], "img2img": []}

    @router.get("/sdapi/v1/embeddings")
    def embeddings() -> dict[str, dict[str, Any]]:
        """None."""
        return {"loaded": {}, "skipped": {}}

    def nothing() -> list[Any]:
        """Return an empty list: this program has none of them."""
        return []

    for name in EMPTY_LISTS:
        router.add_api_route(f"/sdapi/v1/{name}", nothing, methods=["GET"], name=name)
    return router


def _png_info(picture: Picture) -> dict[str, Any]:
    """Return the settings that a picture carries, as text and taken apart, and its other texts."""
    text = picture.infotext or ""
    parameters: dict[str, Any] = {}
    if text:
        read = parse(text)
        parameters = {"Prompt": read.instruction, "Negative prompt": read.negative, **read.fields}
        width, _, height = read.fields.get("Size", "").partition("x")
        if width.isdigit() and height.isdigit():
            parameters |= {"Size-1": int(width), "Size-2": int(height)}
    items = {key: value for key, value in picture.info.items() if key != PARAMETERS}
    return {"info": text, "items": items, "parameters": parameters}
