"""The best of several seeds, and scales that are found, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instruct_pix2pix.cli.main import main
from instruct_pix2pix.images import read_infotext
from instruct_pix2pix.infotext import settings_from
from instruct_pix2pix.sheet import MARK

EXAMPLE = Path(__file__).parents[2] / "examples" / "house.png"
QUICK = ["--steps", "5", "--size", "64", "--result-size", "model", "--precision", "fp32", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("words", [["--best-of", "3"], ["--strength", "strong"], ["--strength", "0.1"]])
def test_what_was_found_says_what_it_cost_and_is_made_again_by_its_infotext(words, capsys):
    asked = ["edit", str(EXAMPLE), "make it night", "-o", "found.png", "--seed", "7", *QUICK]
    assert main([*asked, *words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert 1 < told["cost"] < len(told["looked_at"])
    assert told["seed"] in {look["seed"] for look in told["looked_at"]}
    again, left_out = settings_from(read_infotext(Path("found.png")) or "")
    assert left_out == () and again.seed == told["seed"]
    scales = ["--text-cfg", str(again.text_cfg), "--image-cfg", str(again.image_cfg)]
    assert main([*asked[:4], "again.png", "--seed", str(again.seed), *QUICK, *scales]) == 0
    found, alone = (Image.open(name).convert("RGB") for name in ("found.png", "again.png"))
    assert max(abs(a - b) for a, b in zip(found.tobytes(), alone.tobytes(), strict=True)) <= 1


def test_each_of_several_results_is_the_best_of_its_own(capsys):
    words = ["edit", str(EXAMPLE), "make it night", "-o", "a.png", "--seed", "7", "--count", "2", "--best-of", "2"]
    assert main([*words, *QUICK]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert "best of 2, cost 1.4 edits" in first and "best of 2" in second
    seeds = [settings_from(read_infotext(Path(f"a-{k}.png")) or "")[0].seed for k in (1, 2)]
    assert seeds[0] in (7, 8) and seeds[1] in (9, 10)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--strength", "normal", "--text-cfg", "5"], "How much to change finds both scales itself"),
        (["--strength", "normal", "--randomize-cfg"], "How much to change finds both scales itself"),
        (["--strength", "normal", "--best-of", "4"], "cannot be combined"),
    ],
)
def test_what_cannot_be_combined_is_said_before_a_model_is_loaded(words, said, capsys):
    assert main(["edit", str(EXAMPLE), "make it night", "-o", "a.png", "--model", "missing", *words]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--best-of", "0"], ["--best-of", "65"], ["--strength", "1.5"], ["--strength", "x"]])
def test_values_out_of_range_are_bad_usage(words, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["edit", str(EXAMPLE), "make it night", *words])
    assert exit_.value.code == 2 and "choose" in capsys.readouterr().err


def test_each_variation_is_a_numbered_file_and_its_line_names_it(capsys):
    words = ["edit", str(EXAMPLE), "make it {night|winter}", "-o", "a.png", "--seed", "7", "--count", "2", *QUICK]
    assert main(words) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in said] == [
        "a-1.png  ('make it night'",
        "a-2.png  ('make it night'",
        "a-3.png  ('make it winter'",
        "a-4.png  ('make it winter'",
    ]
    made = [settings_from(read_infotext(Path(f"a-{n}.png")) or "")[0] for n in (1, 2, 3, 4)]
    assert [one.seed for one in made] == [7, 8, 7, 8]
    assert [one.instruction for one in made] == ["make it night"] * 2 + ["make it winter"] * 2
    assert main([*words, "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["instruction"] for each in told] == [one.instruction for one in made]


@pytest.mark.parametrize(
    ("given", "drawn"),
    [([], (True, True)), (["text"], (True, False)), (["image"], (False, True)), (["both"], (True, True))],
)
def test_either_scale_is_drawn_anew_on_request(given, drawn):
    """The words that may follow the switch are not taken for the next argument, nor that for one of them."""
    words = ["edit", str(EXAMPLE), "make it night", "-o", "a.png", "--seed", "7", "--text-cfg", "5", "--image-cfg", "1"]
    assert main([*words, "--randomize-cfg", *given, *QUICK]) == 0
    made, _ = settings_from(read_infotext(Path("a.png")) or "")
    assert (made.text_cfg != 5, made.image_cfg != 1) == drawn
    assert 4 <= made.text_cfg <= 6 and 0.8 <= made.image_cfg <= 1.2


def frames_in(sheet: Image.Image) -> int:
    """How many pictures have the frame of the one that went on."""
    green = (np.abs(np.asarray(sheet.convert("RGB"), int) - MARK).max(axis=2) < 8).astype(int)
    wide = green.sum(axis=1) >= 30  # a frame's upper and lower edge
    return int((np.diff(np.concatenate([[0], wide.astype(int)])) == 1).sum()) // 2


def test_the_contact_sheet_shows_the_input_the_results_and_what_was_looked_at(capsys):
    words = ["edit", str(EXAMPLE), "make it night", "-o", "a.png", "--seed", "7", "--count", "2", "--best-of", "3"]
    assert main([*words, *QUICK, "--contact-sheet", "tried.png", "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told[-1] == {"contact_sheet": "tried.png"} and len(told) == 3
    sheet = Image.open("tried.png")
    assert frames_in(sheet) == 2
    shown = np.asarray(sheet.convert("RGB"))
    across, down = sheet.width // 5, sheet.height // 2
    for row in (0, 1):
        result = np.asarray(Image.open(f"a-{row + 1}.png").convert("RGB"))
        cell = shown[row * down : (row + 1) * down, across : 2 * across]
        assert (cell[8 : 8 + result.shape[0], 8 : 8 + result.shape[1]] == result).all()


def test_without_a_search_each_result_stands_on_the_contact_sheet_once(capsys):
    words = ["edit", str(EXAMPLE), "make it {night|winter|sunset}", "-o", "a.png", "--seed", "7", *QUICK]
    assert main([*words, "--contact-sheet", "."]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "house-sheet.png"
    sheet = Image.open("house-sheet.png")
    shown = np.asarray(sheet.convert("RGB"))
    for place in (1, 2, 3):
        result = np.asarray(Image.open(f"a-{place}.png").convert("RGB"))
        left = place * sheet.width // 4 + 8
        assert (shown[8 : 8 + result.shape[0], left : left + result.shape[1]] == result).all()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--contact-sheet", "a.png"], "would overwrite the result a.png"),
        (["--contact-sheet", "sheet.gif"], "gif"),
        (["--contact-sheet", "b.png", "--count", "100", "--best-of", "4"], "too many for a contact sheet"),
        (["--contact-sheet", str(EXAMPLE)], "would overwrite the picture"),
    ],
)
def test_a_contact_sheet_that_cannot_be_written_is_told_of_before_any_edit(words, said, capsys):
    assert main(["edit", str(EXAMPLE), "make it night", "-o", "a.png", "--model", "missing", *words]) == 1
    assert said in capsys.readouterr().err and not Path("a.png").exists()
