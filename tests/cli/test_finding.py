"""The best of several seeds, and scales that are found, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from instruct_pix2pix.cli.main import main
from instruct_pix2pix.images import read_infotext
from instruct_pix2pix.infotext import settings_from

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
