"""Where LoRAs, embeddings and VAEs are looked for, and what their names mean."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from instruct_pix2pix.errors import UserError
from instruct_pix2pix.models.add_ons import EMBEDDING, LORA, TINY_VAE, VAE_FILE, AddOnFolders, file_hash, kohya_hash
from instruct_pix2pix.models.registry import DEMO


def write(path: Path, **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"x.lora_up.weight": torch.rand(2, 2)}, path, metadata or None)
    return path


@pytest.fixture
def webui(tmp_path: Path) -> Path:
    """A web GUI's folders, with a file of each kind."""
    below = ("Lora/a", "Lora/sub/b", "VAE/c", "VAE-approx/taesd_decoder")
    for name in (*(f"models/{name}" for name in below), "embeddings/d"):
        write(tmp_path / f"{name}.safetensors")
    return tmp_path


@pytest.mark.parametrize("checkpoint", ["models/x.safetensors", "models/Stable-diffusion/edit/x.safetensors"])
def test_the_folders_are_those_beside_the_checkpoint_as_a_web_gui_has_them(webui, checkpoint):
    folders = AddOnFolders.near(webui / checkpoint)
    assert list(folders.files(LORA)) == ["a", "sub/b"] and list(folders.files(EMBEDDING)) == ["d"]
    assert list(folders.files(VAE_FILE)) == ["c"] and list(folders.files(TINY_VAE)) == ["taesd_decoder"]


@pytest.mark.parametrize("told", ["models", "models/Stable-diffusion"])
def test_they_are_also_those_beside_every_folder_of_models_that_was_told(webui, told):
    folders = AddOnFolders.near(webui / "elsewhere" / "x.safetensors", [webui / told])
    assert list(folders.files(LORA)) == ["a", "sub/b"] and list(folders.files(EMBEDDING)) == ["d"]


def test_a_checkpoint_anywhere_may_have_them_beside_it(tmp_path):
    write(tmp_path / "Lora" / "a.safetensors")
    assert list(AddOnFolders.near(tmp_path / "x.safetensors").files(LORA)) == ["a"]


def test_without_a_checkpoint_the_programs_own_models_count():
    assert Path(__file__).parents[2] / "models" / "Lora" in AddOnFolders.near().folders(LORA)


def test_whoever_has_no_file_is_not_sent_to_the_folder_of_the_demo_model():
    with pytest.raises(UserError, match=r"There is no LoRA 'nope': put its file into models/Lora \(there are demo-lcm"):
        AddOnFolders.near(DEMO).find(LORA, "nope")


def test_a_name_is_a_stem_a_path_below_the_folder_or_the_name_of_its_training(webui):
    folders = AddOnFolders([webui / "models"])
    b = webui / "models" / "Lora" / "sub" / "b.safetensors"
    for name in ("b", "B", " b ", "b.safetensors", "sub/b", "SUB\\b"):
        assert folders.find(LORA, name) == b, name
    c = write(webui / "models" / "Lora" / "c.safetensors", ss_output_name="My Style")
    assert folders.find(LORA, "my style") == c
    write(webui / "models" / "Lora" / "none.v2.safetensors", ss_output_name="None")
    with pytest.raises(UserError, match="There is no LoRA 'none'"):
        folders.find(LORA, "none")
    assert folders.find(LORA, "none.v2").name == "none.v2.safetensors"


def test_a_name_that_two_files_have_is_told_and_a_stem_goes_before_an_alias(webui):
    folders = AddOnFolders([webui / "models"])
    write(webui / "models" / "Lora" / "z.safetensors", ss_output_name="a")
    assert folders.find(LORA, "a").stem == "a"
    write(webui / "models" / "Lora" / "other" / "b.safetensors")
    with pytest.raises(UserError, match="may be any of other/b, sub/b: write its folder too"):
        folders.find(LORA, "b")


@pytest.mark.parametrize("name", ["../secret", "../../secret", "sub/../../secret", "/etc/passwd", "", "a\0"])
def test_no_name_leads_out_of_the_folders(webui, name):
    write(webui / "models" / "secret.safetensors")
    write(webui / "secret.safetensors")
    for spelled in (name, str(webui / name)):
        with pytest.raises(UserError, match="There is no LoRA"):
            AddOnFolders([webui / "models"]).find(LORA, spelled)


def test_links_in_circles_end_and_links_to_files_are_followed(webui, tmp_path):
    (webui / "models" / "Lora" / "sub" / "round").symlink_to(webui / "models" / "Lora")
    (webui / "models" / "Lora" / "linked.safetensors").symlink_to(webui / "models" / "VAE" / "c.safetensors")
    assert list(AddOnFolders([webui / "models"]).files(LORA)) == ["a", "linked", "sub/b"]


def test_hashes_are_those_of_the_web_ui(tmp_path):
    path = write(tmp_path / "a.safetensors")
    data = path.read_bytes()
    assert kohya_hash(path) == hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()[:12]
    assert file_hash(path) == hashlib.sha256(data).hexdigest()[:12]
    told = hashlib.sha256(b"trained").hexdigest()
    assert kohya_hash(write(tmp_path / "b.safetensors", sshs_model_hash=told)) == told[:12]
    pickled = tmp_path / "c.pt"
    torch.save({"x.lora_up.weight": torch.rand(2, 2)}, pickled)
    assert kohya_hash(pickled) == file_hash(pickled)


def test_a_file_that_changed_has_another_hash(tmp_path):
    path = write(tmp_path / "a.safetensors")
    before = file_hash(path)
    path.write_bytes(path.read_bytes() + b"more")
    assert file_hash(path) != before
