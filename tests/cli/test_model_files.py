"""`merge` and `convert` as a person meets them: a file, what it is, and the pictures that it makes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from instruct_pix2pix.cli import main
from instruct_pix2pix.models.registry import DEMO
from tests.helpers.merged import write_merged_demo
from tests.helpers.to_merge import write_models

EXAMPLE = Path(__file__).parents[2] / "examples" / "house.png"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Work in an empty folder, whose models/ is the only models folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("instruct_pix2pix.cli.arguments.model_dirs", lambda extra=(): [*extra, tmp_path / "models"])
    return tmp_path


def run(*words: object) -> int:
    return main.main([str(word) for word in words])


def picture(model: Path) -> bytes:
    words = ["--steps", "2", "--seed", "3", "--precision", "fp32", "--model", model]
    assert run("edit", EXAMPLE, "make it winter", "-o", f"{model.stem}.png", *words) == 0
    return Image.open(f"{model.stem}.png").tobytes()


def test_a_converted_model_makes_the_same_picture(capsys):
    torch.save({"state_dict": load_file(DEMO), "global_step": 1}, "demo2.ckpt")
    shutil.copy(DEMO.with_suffix(".yaml"), "demo2.yaml")
    assert run("convert", "demo2.ckpt", "again.safetensors") == 0
    told = capsys.readouterr()
    assert told.out == f"again.safetensors: instruct-pix2pix, context 160, 8 channels, {_size('again')}, float16\n"
    assert told.err == ""
    assert picture(Path("again.safetensors")) == picture(DEMO)
    assert run("convert", "again.safetensors", "wide.safetensors", "--precision", "fp32") == 0
    assert picture(Path("wide.safetensors")) == picture(DEMO)


def _size(stem: str) -> str:
    return f"{Path(f'{stem}.safetensors').stat().st_size / 1e6:.1f} MB"


def test_a_model_becomes_an_edit_model_in_one_command(elsewhere, capsys):
    write_models(elsewhere / "models")
    assert run("merge", "edit", "style", "base", "-o", "models/ours") == 0
    told = capsys.readouterr()
    assert told.out.startswith("models/ours.safetensors: instruct-pix2pix, context 24, 8 channels, ") and not told.err
    assert run("inspect", "models/ours.safetensors") == 0
    assert "It can edit pictures." in capsys.readouterr().out
    assert run("merge", "edit", "style", "-o", "mixed") == 0
    assert "edits less" in capsys.readouterr().err


def test_averages_of_another_model_are_left_out_and_said_so(elsewhere, capsys):
    write_merged_demo(elsewhere / "mixed.safetensors")
    assert run("convert", "mixed.safetensors", "out.safetensors") == 0
    assert "left out" in capsys.readouterr().err
    assert load_file("out.safetensors").keys() == load_file(DEMO).keys()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["merge", "edit", "nothing", "-o", "out"], "There is no model 'nothing'"),
        (["merge", "style", "edit", "-o", "out"], "name 'edit.safetensors' first"),
        (["merge", "edit", "style", "-o", "models/base"], "models/base.safetensors is there already: --overwrite"),
        (["convert", "edit", "models/edit", "--overwrite"], "choose another name"),
        (["convert", "text.ckpt", "out"], "is not a checkpoint"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(elsewhere, capsys, words, told):
    write_models(elsewhere / "models")
    Path("text.ckpt").write_text("hello")
    before = sorted(elsewhere.rglob("*"))
    assert run(*words) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and told in lines[0]
    assert sorted(elsewhere.rglob("*")) == before
