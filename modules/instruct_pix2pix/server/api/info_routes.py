"""The settings in a picture, the server itself, and empty lists of what it does not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter

from ...engine.process_memory import cuda, ram
from ...images import PARAMETERS, read_texts
from ...infotext import parse
from ..pictures import bytes_of
from .schemas import PngInfo

EMPTY_LISTS = (
    "upscalers",
    "latent-upscale-modes",
    "hypernetworks",
    "face-restorers",
    "realesrgan-models",
    "prompt-styles",
    "script-info",
    "extensions",
)
"""Clients ask for these lists when they start; this program has nothing to put on them."""


def info_routes(flags: Mapping[str, object]) -> APIRouter:
    """Return the routes; `flags` say how the server was started."""
    router = APIRouter()

    @router.post("/sdapi/v1/png-info")
    def read_png_info(body: PngInfo) -> dict[str, Any]:
        """Read the settings that a picture carries: as text, and taken apart."""
        return _png_info(read_texts(bytes_of(body.image, "The picture")))

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

    def nothing() -> list[Any]:
        """Return an empty list: this program has none of them."""
        return []

    for name in EMPTY_LISTS:
        router.add_api_route(f"/sdapi/v1/{name}", nothing, methods=["GET"], name=name)
    return router


def _png_info(texts: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings in a picture's texts, as text and taken apart, and its other texts."""
    text = texts.get(PARAMETERS, "")
    parameters: dict[str, Any] = {}
    if text:
        read = parse(text)
        parameters = {"Prompt": read.instruction, "Negative prompt": read.negative, **read.fields}
        width, _, height = read.fields.get("Size", "").partition("x")
        if width.isdigit() and height.isdigit():
            parameters |= {"Size-1": int(width), "Size-2": int(height)}
    items = {key: value for key, value in texts.items() if key != PARAMETERS}
    return {"info": text, "items": items, "parameters": parameters}
