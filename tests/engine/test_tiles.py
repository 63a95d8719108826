"""A large picture in tiles is the picture as a whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from instruct_pix2pix.conditioning import to_tensor
from instruct_pix2pix.engine import model as engine
from instruct_pix2pix.engine.edit import edit
from instruct_pix2pix.engine.tiles import in_tiles
from instruct_pix2pix.settings import EditSettings
from tools.demo_model import scenes


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def larger(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=8.0)


def smaller(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 8)


@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([(8, 2), (16, 8), (16, 0), (33, 5), (64, 63)]))
@settings(deadline=None)
def test_tiles_of_an_unchanged_picture_are_the_picture(height, width, sizes):
    x = noise(2, 3, height, width)
    tile, overlap = sizes
    assert torch.allclose(in_tiles(lambda part: part, x, tile=tile, overlap=overlap, scale=1), x, atol=1e-6)


@given(st.integers(1, 12), st.integers(1, 12))
@settings(deadline=None, max_examples=40)
def test_tiles_meet_in_the_right_place_when_the_function_changes_the_size(height, width):
    x = noise(1, 2, height, width)
    grown = in_tiles(larger, x, tile=4, overlap=2, scale=8)
    assert torch.allclose(grown, larger(x), atol=1e-6)
    shrunk = in_tiles(smaller, larger(x), tile=32, overlap=16, scale=1 / 8)
    assert torch.allclose(shrunk, x, atol=1e-5)


def test_no_part_is_larger_than_a_tile_and_a_small_picture_is_one_part():
    sizes: list[tuple[int, ...]] = []

    def watch(part: Tensor) -> Tensor:
        sizes.append(tuple(part.shape[-2:]))
        return part

    in_tiles(watch, noise(1, 1, 20, 50), tile=16, overlap=4, scale=1)
    assert sizes == [(16, 16)] * 8
    sizes.clear()
    in_tiles(watch, noise(1, 1, 16, 9), tile=16, overlap=4, scale=1)
    assert sizes == [(16, 9)]


def test_a_difference_between_tiles_becomes_a_ramp_and_not_an_edge():
    """The left tile comes out as 0 and the right one as 1: the step is spread over the whole overlap."""
    values = iter([0.0, 1.0])
    blended = in_tiles(lambda part: torch.full_like(part, next(values)), noise(1, 1, 4, 12), tile=8, overlap=4, scale=1)
    expected = torch.tensor([0, 0, 0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1])
    assert torch.allclose(blended[0, 0], expected.expand(4, 12), atol=1e-6)


def test_half_precision_tiles_are_blended_in_float32():
    blended = in_tiles(Tensor.half, noise(1, 3, 40, 40), tile=16, overlap=8, scale=1)
    assert blended.dtype == torch.float32
    assert torch.allclose(blended, noise(1, 3, 40, 40).half().float(), atol=1e-6)


# --- the demo model's autoencoder -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    """Return a drawn scene four times, as one picture of 192 pixels that is alike in all its parts."""
    drawn = np.asarray(scenes.draw(scenes.scene(910_000)), dtype=np.uint8)
    return Image.fromarray(np.tile(drawn, (2, 2, 1)))


@pytest.fixture
def small_tiles(monkeypatch, model):
    """Let tiles begin at 128 pixels; return the sizes that the encoder and the decoder are given."""
    monkeypatch.setattr(engine, "TILE", 128)
    monkeypatch.setattr(engine, "OVERLAP", 64)
    sizes: dict[str, list[tuple[int, ...]]] = {"encoder": [], "decoder": []}
    handles = [
        part.register_forward_hook(
            lambda module, inputs, output, name=name: sizes[name].append(tuple(inputs[0].shape[2:]))
        )
        for name, part in (("encoder", model.vae.encoder), ("decoder", model.vae.decoder))
    ]
    yield sizes
    for handle in handles:
        handle.remove()


def test_a_large_picture_in_tiles_is_near_the_whole_one(model, scene, request):
    latent = model.encode_image(to_tensor(scene))
    whole = model.decode(latent * model.config.scale_factor)
    sizes = request.getfixturevalue("small_tiles")
    latent_in_tiles = model.encode_image(to_tensor(scene))
    in_parts = model.decode(latent * model.config.scale_factor)
    assert sizes == {"encoder": [(128, 128)] * 4, "decoder": [(16, 16)] * 4}
    # attention and group norms see a tile and not the picture, so the two are near and not equal
    assert float((latent_in_tiles - latent).abs().mean() / latent.abs().mean()) < 0.1
    assert float((in_parts - whole).clamp(-1, 1).abs().mean()) < 0.08
    assert in_parts.shape == whole.shape


def test_an_edit_larger_than_a_tile_comes_out(model, scene, small_tiles):
    settings = EditSettings(instruction="make it winter", steps=1, seed=1, size="192")
    (edited,) = edit(model, scene, settings)
    assert edited.image.size == (192, 192)
    assert max(max(size) for size in small_tiles["encoder"]) == 128
    assert max(max(size) for size in small_tiles["decoder"]) == 16
