"""What the commands say where the demo is to edit a photograph."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from instruct_pix2pix.cli import main
from instruct_pix2pix.models.registry import DEMO

HOUSE = Path(__file__).parents[2] / "examples" / "house.png"
QUICK = ["--steps", "1", "--seed", "3"]
SAYS = "looks like a photograph, and the demo knows only drawn landscapes: "


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a photograph, and with the demo model as the only model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("instruct_pix2pix.cli.arguments.model_dirs", lambda extra=(): list(extra))
    Image.fromarray(data.chelsea()).resize((128, 85)).save("cat.png")
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """Return the lines on stderr that are about photographs."""
    assert main.main([*words, *QUICK]) == 0
    return [line for line in capsys.readouterr().err.splitlines() if "photograph" in line]


def test_a_photograph_in_front_of_the_demo_is_told_once_with_the_commands_that_help(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (line,) = said(capsys, "edit", "cat.png", "make it winter", "--count", "2", "-o", "a.png")
    assert line.startswith(f"cat.png {SAYS}") and "(2.1 GB)" in line
    assert "'download instruct-pix2pix-fp16'" in line and "'--model instruct-pix2pix'" in line


def test_nothing_is_said_of_a_drawn_picture_nor_of_the_demos_own_results(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["edit", str(HOUSE), "make it winter", "--steps", "20", "--seed", "3", "-o", "a.png"]
    assert main.main(words) == 0 and "photograph" not in capsys.readouterr().err
    assert said(capsys, "edit", "a.png", "make it night", "-o", "b.png") == []


def test_nothing_is_said_in_front_of_another_model_and_that_is_named_where_the_demo_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    for file in (DEMO, DEMO.with_suffix(".yaml")):
        shutil.copy(file, models / f"other{file.suffix}")
    edit = ["edit", "cat.png", "make it winter", "--models-dir", str(models)]
    assert said(capsys, *edit) == []
    (line,) = said(capsys, *edit, "--model", "demo")
    assert line == f"cat.png {SAYS}'--model other' edits with a model that was made for photographs."


def test_a_folder_is_told_once_and_not_where_nothing_is_left_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(HOUSE, folder / "a.png")
    assert said(capsys, "batch", "in", "drawn", "make it winter") == []
    for name in ("b.png", "c.png"):
        shutil.copy("cat.png", folder / name)
    batch = ["batch", "in", "out", "make it winter", "--json"]
    assert main.main([*batch, *QUICK]) == 0
    told = capsys.readouterr()
    assert [line for line in told.err.splitlines() if SAYS in line and line.startswith("b.png ")]
    assert told.err.count(SAYS) == 1
    assert {json.loads(line)["state"] for line in told.out.splitlines()} == {"done"}
    assert said(capsys, *batch) == []


def test_a_matrix_of_a_photograph_is_told_too(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["grid", "cat.png", "make it winter", "--text-cfg", "3:4:2", "--image-cfg", "1:2:2", "-o", "grid.png"]
    assert len(said(capsys, *words)) == 1 and np.asarray(Image.open("grid.png")).size
