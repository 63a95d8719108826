"""A diffusers folder becomes one file in the LDM layout: the same model, for this program and for others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from instruct_pix2pix.engine.loading.config import load_config
from instruct_pix2pix.engine.loading.diffusers_keys import read_configs
from instruct_pix2pix.engine.loading.loader import load_networks
from instruct_pix2pix.engine.loading.single_file import as_single_file, is_usual
from instruct_pix2pix.engine.networks.unet import UNet
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.models.convert import Conversion, convert
from instruct_pix2pix.models.merge import DEFAULT_MULTIPLIER, WEIGHTED_SUM, Merge, merge
from tests.helpers.to_merge import FIRST
from tools.reference_networks import (
    CPU,
    SMALL_SDXL,
    TINY,
    diffusers_pipeline,
    diffusers_xl_pipeline,
    ldm_state,
    random_model,
    randomized,
    unet_twin,
)

pytest.importorskip("diffusers")

ATTENDING, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
VAE: dict[str, object] = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4}
CLIP: dict[str, object] = {"num_hidden_layers": 12, "num_attention_heads": 12, "hidden_size": 768, "vocab_size": 49408}
CLIP |= {"max_position_embeddings": 77}
HUB: dict[str, dict[str, dict[str, object]]] = {
    "sd1": {
        "unet": {
            "in_channels": 8,
            "out_channels": 4,
            "block_out_channels": [320, 640, 1280, 1280],
            "down_block_types": [ATTENDING, ATTENDING, ATTENDING, PLAIN],
            "layers_per_block": 2,
            "attention_head_dim": 8,
            "cross_attention_dim": 768,
        },
        "vae": VAE,
        "text_encoder": CLIP,
    },
    "sdxl": {
        "unet": {
            "in_channels": 8,
            "out_channels": 4,
            "block_out_channels": [320, 640, 1280],
            "down_block_types": [PLAIN, ATTENDING, ATTENDING],
            "layers_per_block": 2,
            "attention_head_dim": [5, 10, 20],
            "transformer_layers_per_block": [1, 2, 10],
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "projection_class_embeddings_input_dim": 2816,
        },
        "vae": {**VAE, "scaling_factor": 0.13025},
        "text_encoder": CLIP,
        "text_encoder_2": {
            **CLIP,
            "num_hidden_layers": 32,
            "num_attention_heads": 20,
            "hidden_size": 1280,
            "projection_dim": 1280,
            "hidden_act": "gelu",
        },
    },
}
"""What of the configs of runwayml/stable-diffusion-v1-5 and stabilityai/stable-diffusion-xl-base-1.0 is read."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("folder") / "model"
    diffusers_pipeline(random_model(TINY)).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def style(tmp_path_factory) -> Path:
    """A folder of a model of four channels, in shards."""
    path = tmp_path_factory.mktemp("style") / "style"
    diffusers_pipeline(random_model(TINY)).save_pretrained(path)
    (path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    unet_twin(randomized(UNet(replace(TINY.unet, in_channels=4)), 7)).save_pretrained(
        path / "unet", max_shard_size="500KB"
    )
    assert len([*path.glob("unet/*.safetensors")]) > 1
    return path


def written(path: Path, out: Path) -> Path:
    return convert(as_single_file(path), out, Conversion(), lambda *_: None)[0]


def test_a_folder_becomes_a_file_that_is_the_same_model(tmp_path, folder):
    out = written(folder, tmp_path / "one.safetensors")
    found = load_file(out)
    wanted = ldm_state(random_model(TINY))  # with the shapes of LDM, in which a 1x1 convolution is no matrix
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    theirs, ours = load_networks(folder, CPU)[1], load_networks(out, CPU)[1]
    assert all(torch.equal(a, b) for a, b in zip(ldm_state(theirs).values(), ldm_state(ours).values(), strict=True))
    assert replace(ours.config, size=512) == theirs.config


@pytest.mark.parametrize("cosxl", [None, (0.003, 100.0)], ids=["SDXL", "CosXL"])
def test_a_folder_of_sdxl_becomes_a_file_with_openclips_layout(tmp_path, cosxl):
    model = random_model(replace(SMALL_SDXL, cosxl=cosxl))
    diffusers_xl_pipeline(model).save_pretrained(tmp_path / "folder", max_shard_size="10MB")
    out = written(tmp_path / "folder", tmp_path / "one.safetensors")
    found, wanted = load_file(out), ldm_state(model)
    wanted = {name: value for name, value in wanted.items() if value.ndim}  # the scale of logits, which no edit needs
    levels = {f"edm_vpred.sigma_{end}" for end in ("min", "max")} if cosxl else set()
    assert found.keys() == wanted.keys() | levels
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    checkpoint, networks = load_networks(out, CPU)
    assert checkpoint.kind == ("instruct-pix2pix" if cosxl is None else "CosXL-Edit")
    assert networks.config.text_2 == SMALL_SDXL.text_2
    assert networks.config.cosxl == (pytest.approx(cosxl) if cosxl else None)


def test_a_style_of_sdxl_in_a_folder_is_merged_into_one_that_edits(tmp_path):
    """Of CosXL the result has the noise levels too."""
    model = random_model(replace(SMALL_SDXL, cosxl=(0.003, 100.0)))
    edit, style = tmp_path / "edit", tmp_path / "style"
    for path in (edit, style):
        diffusers_xl_pipeline(model).save_pretrained(path)
    unet_twin(randomized(UNet(replace(SMALL_SDXL.unet, in_channels=4)), 7)).save_pretrained(style / "unet")
    path, checkpoint, _ = merge([as_single_file(edit), as_single_file(style)], tmp_path / "a", Merge(), lambda *_: None)
    assert checkpoint.kind == "CosXL-Edit"
    a, b = load_file(written(edit, tmp_path / "edit.safetensors")), load_file(written(style, tmp_path / "b"))
    found = load_file(path)
    assert found["edm_vpred.sigma_max"] == 100
    name = "model.diffusion_model.out.2.weight"
    assert torch.allclose(found[name], a[name] + DEFAULT_MULTIPLIER[WEIGHTED_SUM] * (b[name] - a[name]), atol=1e-6)
    name = "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight"
    assert torch.allclose(found[name], a[name], atol=1e-6)


@pytest.mark.parametrize("change", [{}, {"attention_head_dim": 4}, {"layers_per_block": 1}])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_the_folders_of_the_hub_need_no_yaml_beside_their_file(tmp_path, family, change):
    """diffusers writes the same networks down in other words."""
    for part, told in HUB[family].items():
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps({**told, **(change if part == "unet" else {})}))
    assert is_usual(read_configs(tmp_path, in_channels=8)) == (not change)


def test_a_folder_of_a_model_as_large_as_sd1_gets_no_config(tmp_path, folder, monkeypatch):
    """The config of SD1 is every program's first choice; one beside the file would only get in the way."""
    plain = tmp_path / "sd1.yaml"
    written(folder, tmp_path / "other.safetensors")
    (tmp_path / "other.yaml").rename(plain)
    monkeypatch.setattr("instruct_pix2pix.engine.loading.single_file.CONFIGS", tmp_path)
    assert as_single_file(folder).config is None
    assert load_config(plain) == load_networks(folder, CPU)[1].config


def test_a_style_in_a_folder_becomes_a_file_and_is_merged_from_either(tmp_path, folder, style):
    out = written(style, tmp_path / "style.safetensors")
    assert not out.with_suffix(".yaml").exists()
    state = load_file(out)
    assert state[FIRST].shape[1] == 4
    unet = randomized(UNet(replace(TINY.unet, in_channels=4)), 7).state_dict()
    assert all(torch.equal(state[f"model.diffusion_model.{key}"], value) for key, value in unet.items())
    files = [[written(folder, tmp_path / "edit.safetensors"), out], [folder, style]]
    names = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for paths, name in zip(files, names, strict=True):
        merge([as_single_file(path) for path in paths], name, Merge(), lambda *_: None)
    a, b = map(load_file, names)
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a[FIRST], load_file(files[0][0])[FIRST])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cross_attention_dim": 2048, "projection_class_embeddings_input_dim": 2816}, "not a complete"),
        ({"layers_per_block": 2}, "lacks the tensor"),
        ({"layers_per_block": 10**6}, "more layers"),
        ({"block_out_channels": [32] * 40, "down_block_types": ["D"] * 40}, "more layers"),
    ],
)
def test_a_folder_whose_config_does_not_fit_is_refused(tmp_path, folder, changes, words):
    copy = tmp_path / "copy"
    for file in folder.rglob("*.*"):
        if file.is_file():
            (copy / file.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (copy / file.relative_to(folder)).write_bytes(file.read_bytes())
    config = copy / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text("utf-8")), **changes}), "utf-8")
    with pytest.raises(UserError, match=words):
        as_single_file(copy)


def test_a_part_of_a_folder_is_no_model_to_convert(folder):
    with pytest.raises(UserError, match="name that folder"):
        as_single_file(folder / "unet")
