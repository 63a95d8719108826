"""Animated GIF and WebP pictures: their frames with their timing, and frames put together again."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from PIL import Image

from ..errors import UserError
from ..exif import ORIENTATION, UPRIGHT, exif_bytes, exif_of
from ..images import MOST_PIXELS, PARAMETERS, Source, read_as, texts_of
from ..pixels import on_white, to_rgb
from ..text import reason_of

ANIMATED = ("GIF", "WEBP")
MOST_FRAMES = 1000
"""Frames of one animation; all of them are in memory together, at the size at which they are edited."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class PictureHeader:
    """What is known of a picture before its pixels are decoded. Picklable."""

    size: tuple[int, int]
    """(width, height) in pixels, turned upright. For a rare file this differs once its pixels are decoded."""
    frames: int
    """More than 1 only for animations that can be edited as such."""
    infotext: str | None


@dataclass(frozen=True)
class Frame:
    """One frame, complete in itself."""

    image: Image.Image
    """RGB, transparency laid on white."""
    alpha: Image.Image | None
    """L; None for an opaque frame."""
    duration: int
    """Milliseconds."""


@dataclass(frozen=True)
class Timing:
    """The properties of an animation besides its frames."""

    durations: tuple[int, ...]
    loop: int | None
    """How many times it is shown, 0 for endless; None where the file does not say."""
    exif: bytes | None = None
    icc: bytes | None = None
    notes: tuple[str, ...] = ()
    """What a person should know about how the file was read, a sentence each."""


def read_header(source: Source) -> PictureHeader:
    """Read size, number of frames and infotext. Raises UserError for a file that is not a picture or is too large."""
    return read_as(source, _header, MOST_PIXELS)


def read_frames(source: Source, use: Callable[[Frame], Result]) -> tuple[list[Result], Timing]:
    """Apply `use` to every frame of a GIF or WebP, in order. Raises UserError as `open_picture` does."""

    def read(image: Image.Image, name: str, notes: tuple[str, ...]) -> tuple[list[Result], Timing]:
        count = getattr(image, "n_frames", 1)
        if count > MOST_FRAMES:
            raise UserError(f"{name} has {count} frames, but at most {MOST_FRAMES} are edited: cut it into parts.")
        results, durations, icc = [], [], None
        exif = exif_bytes(exif_of(image)) or None
        for number in range(count):
            image.seek(number)
            image.load()
            base, alpha = _opaque(image)
            rgb, icc = to_rgb(base, image.info.get("icc_profile"))
            frame = Frame(rgb if alpha is None else on_white(rgb, alpha), alpha, _duration(image))
            results.append(use(frame))
            durations.append(frame.duration)
        loop = image.info.get("loop")
        return results, Timing(tuple(durations), loop if isinstance(loop, int) else None, exif, icc, notes)

    return read_as(source, read, MOST_PIXELS)


def encode_animation(
    frames: Sequence[Image.Image], fmt: str, timing: Timing, infotext: str | None = None, *, quality: int = 95
) -> bytes:
    """Return the bytes of a GIF or WebP of these frames, RGB or RGBA, at their timing.

    The infotext goes where the web UI looks for it: the comment of a GIF, the EXIF UserComment of a WebP.
    """
    options: dict[str, Any] = {} if timing.loop is None else {"loop": timing.loop}
    if fmt == "GIF":
        frames = [_two_valued(frame) for frame in frames]
        if infotext:
            options["comment"] = infotext.encode("utf-8", "replace")
        if any(frame.mode == "RGBA" for frame in frames):
            options["disposal"] = 2  # or the frame before shows through
        durations = list(timing.durations)
    else:
        options |= {"quality": quality, "exif": exif_bytes(timing.exif, infotext), "icc_profile": timing.icc or b""}
        durations = [max(1, duration) for duration in timing.durations]
    data = io.BytesIO()
    try:
        first, *rest = frames
        first.save(data, fmt, save_all=True, append_images=rest, duration=durations, **options)
    except Exception as error:
        raise UserError(f"The animation cannot be put together ({reason_of(error)}): use fewer frames.") from error
    return data.getvalue()


def _header(image: Image.Image, *_: object) -> PictureHeader:
    frames = getattr(image, "n_frames", 1) if image.format in ANIMATED else 1
    exif = exif_of(image)
    width, height = image.size
    turned = image.format != "TIFF" and frames == 1  # Pillow turns a TIFF itself; animations are taken as they are
    if turned and exif.get(ORIENTATION) in UPRIGHT and exif[ORIENTATION] >= 5:
        width, height = height, width
    return PictureHeader((width, height), frames, texts_of(image).get(PARAMETERS))


def _opaque(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return the frame as RGB, and its alpha (L) unless it is opaque."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        alpha = rgba.getchannel("A")
        return rgba.convert("RGB"), None if alpha.getextrema() == (255, 255) else alpha
    return image.convert("RGB"), None


def _duration(image: Image.Image) -> int:
    value = image.info.get("duration", 0)
    return round(value) if isinstance(value, (int, float)) and 0 <= value < 1e7 else 0


def _two_valued(frame: Image.Image) -> Image.Image:
    """Make each pixel opaque or transparent: a GIF has nothing between."""
    if frame.mode != "RGBA":
        return frame
    frame = frame.copy()
    solid = [0] * 128 + [255] * 128
    frame.putalpha(frame.getchannel("A").point(solid))
    return frame
