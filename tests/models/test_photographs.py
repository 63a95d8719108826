"""What is taken for a photograph: real ones in every state, and none of the demo's world, whatever was done to it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from PIL import Image, ImageFilter
from skimage import data

from instruct_pix2pix.conditioning import to_images
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.models.checkpoints import inspect
from instruct_pix2pix.models.known import KNOWN, PHOTO_MODEL
from instruct_pix2pix.models.photographs import a_few, is_photograph, model_for_photographs
from instruct_pix2pix.models.registry import DEMO, ModelEntry
from tools.demo_model import scenes
from tools.demo_model.autoencoder import to_tensor

Change = Callable[[Image.Image], Image.Image]

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "retina", "immunohistochemistry")


def jpeg(quality: int) -> Change:
    def change(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return change


def scaled(factor: float) -> Change:
    def change(image: Image.Image) -> Image.Image:
        width, height = (round(side * factor) for side in image.size)
        return image.resize((width, height), Image.Resampling.BICUBIC)

    return change


def noisy(image: Image.Image) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, 12, (image.height, image.width, 3))
    return Image.fromarray((np.asarray(image.convert("RGB")) + noise).clip(0, 255).astype(np.uint8))


@cache
def drawings() -> list[Image.Image]:
    """Some scenes with the outcome of one of the edits of each; all kinds of edits and all styles are among them."""
    return list(_drawn())


def _drawn() -> Iterator[Image.Image]:
    for seed in range(24):
        scene = scenes.scene(seed)
        edits = scenes.every_edit(scene, seed)
        after = edits[seed % len(edits)].after
        for shown in (scene, after, replace(scene, style=scenes.STYLES[seed % len(scenes.STYLES)])):
            yield Image.fromarray(scenes.draw(shown))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda image: image, id="as it is"),
        pytest.param(jpeg(75), id="jpeg 75"),
        pytest.param(jpeg(95), id="jpeg 95"),
        pytest.param(lambda image: jpeg(75)(scaled(2)(image)), id="twice as large, jpeg 75"),
        pytest.param(lambda image: jpeg(90)(scaled(4)(image)), id="four times as large, jpeg 90"),
    ],
)
def test_no_drawn_landscape_is_taken_for_a_photograph(change: Change) -> None:
    assert [number for number, image in enumerate(drawings()) if is_photograph(change(image))] == []


def test_nor_is_what_the_demo_makes_of_one(model: EditModel) -> None:
    pictures = drawings()[::4]
    latents = model.encode_image(to_tensor(np.stack([np.asarray(one) for one in pictures])))
    made = to_images(model.decode(latents * model.config.scale_factor))
    assert [number for number, image in enumerate(made) if is_photograph(image)] == []


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda image: image, id="as it is"),
        pytest.param(lambda image: jpeg(75)(image.reduce(2)), id="half as large, jpeg 75"),
        pytest.param(lambda image: image.resize((96, 96)), id="96 pixels"),
        pytest.param(lambda image: image.filter(ImageFilter.GaussianBlur(3)), id="blurred"),
        pytest.param(noisy, id="noisy"),
        pytest.param(lambda image: image.convert("L").convert("RGB"), id="grey"),
    ],
)
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_photograph_is_taken_for_one(name: str, change: Change) -> None:
    assert is_photograph(change(Image.fromarray(getattr(data, name)())))


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (300, 2), (64, 64)])
def test_an_empty_picture_of_any_shape_is_none(size: tuple[int, int]) -> None:
    assert not is_photograph(Image.new("RGB", size, "teal"))


@pytest.mark.parametrize(("many", "few"), [(0, []), (1, [0]), (3, [0, 1, 2]), (10, [0, 4, 8]), (1000, [0, 334, 668])])
def test_a_few_of_many_are_spread(many: int, few: list[int]) -> None:
    assert a_few(list(range(many))) == few


def test_the_model_for_photographs_is_never_the_demo() -> None:
    found = inspect(DEMO)
    demo = ModelEntry("demo", DEMO, found, None)
    broken = ModelEntry("a", DEMO.with_name("a.safetensors"), None, "It cannot be read.")
    other = ModelEntry("b", DEMO.with_name("b.safetensors"), found, None)
    name = KNOWN[PHOTO_MODEL].file.replace("*", "-")
    known = ModelEntry("c", DEMO.with_name(name), found, None)
    assert model_for_photographs([demo, broken]) is None
    assert model_for_photographs([broken, other, demo]) is other
    assert model_for_photographs([other, known, demo]) is known
