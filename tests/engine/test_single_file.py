"""A diffusers folder becomes one file in the LDM layout: the same model, for this program and for others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from instruct_pix2pix.engine.loading.config import load_config
from instruct_pix2pix.engine.loading.loader import load_networks
from instruct_pix2pix.engine.loading.single_file import as_single_file
from instruct_pix2pix.engine.networks.unet import UNet
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.models.convert import Conversion, convert
from instruct_pix2pix.models.merge import Merge, merge
from tests.helpers.to_merge import FIRST
from tools.reference_networks import (
    CPU,
    TINY,
    diffusers_pipeline,
    ldm_state,
    random_model,
    randomized,
    unet_twin,
)

pytest.importorskip("diffusers")


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
