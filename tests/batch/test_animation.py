"""Animations come apart and together again: every frame whole, and shown for as long as before."""

import io

import numpy as np
import pytest
from PIL import Image, ImageSequence

from instruct_pix2pix.batch.animation import Frame, Timing, encode_animation, read_frames, read_header
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.images import read_infotext

COLOURS = ["red", "lime", "blue", "white"]
DURATIONS = [70, 200, 1300, 40]


def animation(fmt: str, frames: list[Image.Image], **more) -> bytes:
    data = io.BytesIO()
    frames[0].save(data, fmt, save_all=True, append_images=frames[1:], duration=DURATIONS[: len(frames)], **more)
    return data.getvalue()


def plain(colours: list[str] = COLOURS) -> list[Image.Image]:
    return [Image.new("RGB", (24, 16), colour) for colour in colours]


def keep(frame: Frame) -> Frame:
    return frame


def shown(data: bytes) -> list[tuple[int, tuple[int, ...]]]:
    """Return (milliseconds, colour of the middle) of each frame, as Pillow plays it."""
    found = []
    with Image.open(io.BytesIO(data)) as image:
        for frame in ImageSequence.Iterator(image):
            colour = frame.convert("RGBA").getpixel((12, 8))
            assert isinstance(colour, tuple)
            found.append((round(frame.info["duration"]), colour))
    return found


@pytest.mark.parametrize("fmt", ["GIF", "WEBP"])
def test_frames_and_timing_come_through(fmt: str) -> None:
    source = animation(fmt, plain(), loop=3)
    frames, timing = read_frames(source, keep)
    assert timing.durations == tuple(DURATIONS) and timing.loop == 3
    again = encode_animation([frame.image for frame in frames], fmt, timing, "hello\nSteps: 1")
    assert [time for time, _ in shown(again)] == DURATIONS
    for (_, was), (_, now) in zip(shown(source), shown(again), strict=True):
        assert np.abs(np.subtract(was, now)).max() <= 8
    with Image.open(io.BytesIO(again)) as image:
        assert image.info["loop"] == 3
    assert read_infotext(again) == "hello\nSteps: 1"
    assert read_header(again).infotext == "hello\nSteps: 1" and read_header(again).frames == 4


@pytest.mark.parametrize("fmt", ["GIF", "WEBP"])
def test_frames_that_are_alike_keep_the_whole_time(fmt: str) -> None:
    data = encode_animation(plain(["red", "red", "blue", "blue"]), fmt, Timing(tuple(DURATIONS), 0))
    assert sum(time for time, _ in shown(data)) == sum(DURATIONS)


def test_a_gif_that_plays_once_still_does() -> None:
    _, timing = read_frames(animation("GIF", plain()), keep)
    with Image.open(io.BytesIO(encode_animation(plain(), "GIF", timing))) as image:
        assert "loop" not in image.info


def test_frames_that_only_hold_what_changed_are_made_whole() -> None:
    first, second = Image.new("RGB", (24, 16), "red"), Image.new("RGB", (24, 16), "red")
    second.paste("blue", (0, 0, 4, 4))
    frames, _ = read_frames(animation("GIF", [first, second]), keep)
    assert frames[1].image.size == (24, 16)
    assert frames[1].image.getpixel((1, 1)) == (0, 0, 255) and frames[1].image.getpixel((20, 12)) == (255, 0, 0)


@pytest.mark.parametrize("fmt", ["GIF", "WEBP"])
def test_holes_stay_holes_in_every_frame(fmt: str) -> None:
    frames = []
    for place, colour in enumerate(COLOURS):
        frame = Image.new("RGBA", (24, 16), colour)
        frame.paste((0, 0, 0, 0), (6 * place, 0, 6 * place + 6, 16))
        frames.append(frame)
    read, timing = read_frames(animation(fmt, frames, disposal=2), keep)
    whole = []
    for one in read:
        assert one.alpha is not None
        image = one.image.copy()
        image.putalpha(one.alpha)
        whole.append(image)
    with Image.open(io.BytesIO(encode_animation(whole, fmt, timing))) as image:
        for place, frame in enumerate(ImageSequence.Iterator(image)):
            alpha = np.asarray(frame.convert("RGBA"))[..., 3]
            assert alpha[:, 6 * place : 6 * place + 6].max() == 0
            assert np.delete(alpha, np.s_[6 * place : 6 * place + 6], axis=1).min() == 255


def test_an_animation_cut_short_is_told_of() -> None:
    data = animation("WEBP", plain())
    with pytest.raises(UserError):
        read_frames(data[: len(data) // 2], keep)


def test_only_gif_and_webp_count_as_animations() -> None:
    assert read_header(animation("PNG", plain())).frames == 1
    assert read_header(animation("TIFF", plain())).frames == 1
    assert read_header(animation("GIF", plain()[:1])).frames == 1
