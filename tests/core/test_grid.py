"""The matrix over two scales: how its values are read, what it shows, and the command that makes it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instruct_pix2pix.cli.main import main
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.grid import around, cells, draw, values
from instruct_pix2pix.models.checkpoints import Suited
from instruct_pix2pix.settings import EditSettings

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3:12:4", (3, 6, 9, 12)),
        ("1:30:2", (1, 30)),
        ("12:3:4", (12, 9, 6, 3)),
        ("7.5", (7.5,)),
        (" 3, 7.5 ,12", (3, 7.5, 12)),
        ("3,3,4", (3, 4)),
    ],
)
def test_values_are_a_range_or_a_list(text: str, expected: tuple[float, ...]) -> None:
    assert values(text, "text_cfg") == expected


@pytest.mark.parametrize("text", ["", "a", "3:12", "3:12:1", "3:12:x", "0.5", "3:31:2", "1,nan", "1:30:25", "3:12:4:5"])
def test_values_that_cannot_be_are_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(UserError, match="Text CFG"):
        values(text, "text_cfg")


@pytest.mark.parametrize("suited", [Suited(), Suited(3.0, 1.5, 30, 768), Suited(7.0, 1.5, 20, 1024), Suited(1.0, 1.0)])
def test_five_values_of_each_scale_lie_around_those_that_suit_a_model(suited: Suited) -> None:
    text_cfg, image_cfg = around(suited.text_cfg, suited.image_cfg)
    texts, images = values(text_cfg, "text_cfg"), values(image_cfg, "image_cfg")
    assert len(texts) == len(images) == 5
    assert texts[0] <= suited.text_cfg < texts[-1] and images[2] == pytest.approx(suited.image_cfg, abs=0.01)


def test_every_cell_is_where_its_labels_say() -> None:
    colours = [[(10 * row, 20 * column, 200) for column in range(3)] for row in range(2)]
    asked = cells(EditSettings(), (3, 6, 9), (1, 2))
    places = {3: 0, 6: 1, 9: 2}
    pictures = [Image.new("RGB", (60, 40), colours[int(one.image_cfg) - 1][places[int(one.text_cfg)]]) for one in asked]
    sheet = np.asarray(draw(pictures, (3, 6, 9), (1, 2), Image.new("RGB", (60, 40), (255, 0, 0))))
    lefts, tops = set(), set()
    for row in range(2):
        for column in range(3):
            ys, xs = np.nonzero((sheet == colours[row][column]).all(axis=2))
            assert len(ys) == 60 * 40
            lefts.add((column, xs.min()))
            tops.add((row, ys.min()))
    assert [column for column, _ in sorted(lefts, key=lambda pair: pair[1])] == [0, 1, 2]
    assert [row for row, _ in sorted(tops, key=lambda pair: pair[1])] == [0, 1]
    corner = np.argwhere((sheet == (255, 0, 0)).all(axis=2))
    assert (corner.max(axis=0) < (min(top for _, top in tops), min(left for _, left in lefts))).all()


def test_the_command_makes_each_edit_as_edit_makes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "grid.png"
    words = ["--seed", "3", "--steps", "3", "--precision", "fp32"]
    scales = ["--text-cfg", "3:7.5:2", "--image-cfg", "1,1.5"]
    assert main(["grid", str(EXAMPLES / "house.png"), "make it winter", "-o", str(out), *scales, "--json", *words]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(cell["text_cfg"], cell["image_cfg"]) for cell in told[:-1]] == [(3, 1), (7.5, 1), (3, 1.5), (7.5, 1.5)]
    assert [cell["rows"] for cell in told[:-1]] == [6, 6, 9, 9]
    assert told[-1] == {"path": str(out), "seed": 3}
    sheet = Image.open(out)
    assert "X Values: \"3, 7.5\"" in sheet.info["parameters"]
    alone = tmp_path / "alone.png"
    main(["edit", str(EXAMPLES / "house.png"), "make it winter", "-o", str(alone), *words])
    cell = np.asarray(Image.open(alone).convert("RGB"), dtype=int)
    height, width = cell.shape[:2]
    right, bottom = sheet.width - 8, sheet.height - 8
    last = np.asarray(sheet.convert("RGB"), dtype=int)[bottom - height : bottom, right - width : right]
    assert np.abs(last - cell).max() <= 1


def test_a_wrong_value_is_refused_before_anything_is_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["grid", str(EXAMPLES / "house.png"), "make it winter", "-o", str(tmp_path / "grid.png")]
    assert main([*words, "--text-cfg", "3:99:4"]) == 1
    assert "Text CFG is 99" in capsys.readouterr().err
    assert not (tmp_path / "grid.png").exists()
