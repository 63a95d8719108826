"""Another VAE than the checkpoint's, and the tiny decoder of TAESD, against diffusers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from instruct_pix2pix.conditioning import Fit, fit
from instruct_pix2pix.engine.edit import edit
from instruct_pix2pix.engine.loading.loader import Networks
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.models.add_ons import AddOnFolders
from instruct_pix2pix.server.worker.preview import preview
from instruct_pix2pix.settings import EditSettings
from tools.reference_networks import CPU, TINY, random_model, randomized, vae_twin

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")

QUICK = EditSettings(instruction="make it winter", steps=1, seed=1, size="64", result_size="model")
LATENTS = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(1)) * 1.5


@pytest.fixture
def model(tmp_path: Path) -> EditModel:
    """A small model with random weights, in a folder of its own."""
    made = random_model(TINY)
    return EditModel(Networks(made.unet, made.vae, made.text, made.config), CPU, "", AddOnFolders([tmp_path]))


@pytest.fixture
def picture() -> Image.Image:
    numbers = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    return Image.fromarray(numbers)


def one(model: EditModel, picture: Image.Image, vae: str) -> np.ndarray:
    (edited,) = edit(model, picture, replace(QUICK, vae=vae))
    return np.asarray(edited.image).astype(int)


def state_of(vae: Any) -> dict[str, Tensor]:
    return {key: value.contiguous() for key, value in vae.state_dict().items()}


def put(file: Path, tensors: dict[str, Tensor]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file)


@pytest.mark.parametrize("layout", ["ldm", "as in a checkpoint", "diffusers"])
def test_a_vae_by_name_is_used_for_the_picture_and_for_the_result(model, tmp_path, picture, layout):
    other = random_model(TINY)
    randomized(other.vae, 9)
    expected = one(other, picture, "automatic")
    states = {"ldm": state_of(other.vae), "diffusers": state_of(vae_twin(other.vae))}
    states["as in a checkpoint"] = {f"first_stage_model.{key}": value for key, value in states["ldm"].items()}
    put(tmp_path / "VAE" / "Other.safetensors", states[layout])
    own = one(model, picture, "automatic")
    for name in ("Other", "other.safetensors"):
        assert np.abs(one(model, picture, name) - expected).max() <= 1
    assert np.array_equal(one(model, picture, "Automatic"), own) and np.array_equal(one(model, picture, "None"), own)
    assert np.abs(own - expected).max() > 20


def test_the_infotext_names_it(model, tmp_path, picture):
    put(tmp_path / "VAE" / "other.safetensors", state_of(model.vae))
    (edited,) = edit(model, picture, replace(QUICK, vae="other"))
    assert "VAE: other" in edited.infotext("demo", None)
    (edited,) = edit(model, picture, QUICK)
    assert "VAE" not in edited.infotext("demo", None)


def test_a_vae_that_is_not_there_or_does_not_fit_is_told(model, tmp_path, picture):
    with pytest.raises(UserError, match="There is no VAE 'other': put its file into"):
        one(model, picture, "other")
    put(tmp_path / "VAE" / "other.safetensors", {key: value[:1] for key, value in state_of(model.vae).items()})
    with pytest.raises(UserError, match=r"'other.safetensors' does not fit"):
        one(model, picture, "other")
    with pytest.raises(UserError, match=r"There is no VAE '\.\./other'"):
        one(model, picture, "../other")


# --- TAESD ---


@pytest.fixture(scope="module")
def tiny() -> Any:
    """diffusers' own, with random weights."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    return AutoencoderTiny().eval()


def layouts(tiny: Any) -> dict[str, dict[str, Tensor]]:
    """The file of taesd_decoder, of both halves, and of diffusers."""
    own = {key.removeprefix("decoder.layers."): v for key, v in tiny.state_dict().items() if key.startswith("decoder.")}
    taesd = {f"{int(key.split('.')[0]) + 1}.{key.split('.', 1)[1]}": value for key, value in own.items()}
    both = {f"taesd_decoder.{key}": value for key, value in taesd.items()} | {"taesd_encoder.0.bias": torch.ones(64)}
    return {"taesd": taesd, "both": both, "diffusers": dict(tiny.state_dict())}


@pytest.mark.parametrize("layout", ["taesd", "both", "diffusers"])
def test_the_tiny_decoder_is_that_of_diffusers(model, tmp_path, tiny, layout):
    put(tmp_path / "VAE-approx" / "taesd_decoder.safetensors", layouts(tiny)[layout])
    with torch.no_grad():
        theirs = tiny.decode(LATENTS).sample
    model.add_ons.put_on(replace(QUICK, vae="taesd"))
    assert float((model.decode(LATENTS) - theirs).abs().max()) < 1e-4
    model.add_ons.take_off()
    assert float((model.decode(LATENTS) - theirs).abs().max()) > 0.1


def test_large_pictures_go_through_it_in_tiles(model, tmp_path, tiny, monkeypatch):
    put(tmp_path / "VAE-approx" / "taesd_decoder.safetensors", layouts(tiny)["taesd"])
    model.add_ons.put_on(replace(QUICK, vae="taesd"))
    wide = torch.randn(1, 4, 24, 40, generator=torch.Generator().manual_seed(1))
    whole = model.decode(wide)
    monkeypatch.setattr("instruct_pix2pix.engine.model.TILE", 160)
    monkeypatch.setattr("instruct_pix2pix.engine.model.OVERLAP", 64)
    assert float((model.decode(wide) - whole).abs().mean()) < 0.02


def test_without_its_file_the_tiny_decoder_is_told_of(model, tmp_path, picture):
    with pytest.raises(UserError, match=r"no tiny VAE 'taesd_decoder': put its file into .*VAE-approx"):
        one(model, picture, "taesd")
    put(tmp_path / "VAE-approx" / "taesd_decoder.safetensors", {"x": torch.ones(1)})
    with pytest.raises(UserError, match="is not the decoder of a tiny VAE"):
        one(model, picture, "taesd")


def test_latents_of_another_scale_have_another_tiny_decoder(tmp_path, picture, tiny):
    made = random_model(replace(TINY, scale_factor=0.13025))
    model = EditModel(Networks(made.unet, made.vae, made.text, made.config), CPU, "", AddOnFolders([tmp_path]))
    put(tmp_path / "VAE-approx" / "taesd_decoder.safetensors", layouts(tiny)["taesd"])
    with pytest.raises(UserError, match="no tiny VAE 'taesdxl_decoder'"):
        one(model, picture, "taesd")
    put(tmp_path / "VAE-approx" / "taesdxl_decoder.safetensors", layouts(tiny)["taesd"])
    assert one(model, picture, "taesd").shape == (64, 64, 3)
    other = random_model(replace(TINY, scale_factor=0.4))
    with pytest.raises(UserError, match="no tiny VAE for the latents of this model"):
        one(other, picture, "taesd")


def test_previews_are_made_by_it_where_its_file_is(model, tmp_path, tiny):
    plan: Fit = fit(64, 48, 64, 8)
    before = np.asarray(preview(model, LATENTS[:1], plan)).astype(int)
    put(tmp_path / "VAE-approx" / "taesd_decoder.safetensors", layouts(tiny)["taesd"])
    with torch.no_grad():
        theirs = ((tiny.decode(LATENTS[:1]).sample / 2 + 0.5).clamp(0, 1) * 255).round()[0].permute(1, 2, 0).numpy()
    after = np.asarray(preview(model, LATENTS[:1], plan)).astype(int)
    assert after.shape == before.shape == theirs.shape and np.abs(after - before).mean() > 5
    assert np.abs(after - theirs).max() <= 1
