"""The comparison with other programs: the same edit by all, and one sentence where one of them is missing."""

from __future__ import annotations

import importlib.util
import json

import pytest

from benchmarks import openvino_peer, peers, turns
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.models.registry import DEMO

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
NAMES = ["ours", "diffusers-bf16", "diffusers-bf16-compiled", "openvino-bf16", "openvino-int8"]


def compared(capsys, tmp_path, ways, more=""):
    """Return the report of one round at 64 pixels, in float32."""
    words = "--only steps --no-compile --precision fp32 --device cpu --size 64 --steps 4 --rounds 1 --json"
    where = ["--model", str(DEMO), "--cache", str(tmp_path)]
    assert peers.main([*where, "--ways", ways, *words.split(), *more.split()]) == 0
    return json.loads(capsys.readouterr().out)


def without(monkeypatch, *missing):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else found(name))


def test_both_make_the_same_edit_of_one_checkpoint(capsys, tmp_path):
    pytest.importorskip("diffusers")
    report = compared(capsys, tmp_path, "diffusers", "--rows 3,2,1")
    assert [case["our_rows"] for case in report["cases"]] == [3, 2, 1] and report["left_out"] == []
    for case in report["cases"]:
        assert [way["name"] for way in case["ways"]] == ["ours", "diffusers-fp32", "diffusers-fp32-channels-last"]
        for way in case["ways"]:
            assert way["difference"] < 1e-3 and way["measured_steps"] == 3 and way["step"] > 0


def test_openvino_makes_the_same_edit_by_a_network_that_is_converted_once(capsys, tmp_path):
    for package in ("diffusers", "openvino"):
        pytest.importorskip(package)
    compared(capsys, tmp_path, "openvino-fp32", "--rows 1")
    (file,) = tmp_path.glob("*/unet.xml")
    written = file.stat().st_mtime_ns
    report = compared(capsys, tmp_path, "openvino-fp32", "--rows 3,1")
    assert file.stat().st_mtime_ns == written
    for case in report["cases"]:
        assert [way["name"] for way in case["ways"]] == ["ours", "openvino-fp32"]
        assert case["ways"][1]["difference"] < 1e-3


def test_what_is_not_installed_is_left_out_with_a_sentence(capsys, tmp_path, monkeypatch):
    pytest.importorskip("diffusers")
    without(monkeypatch, "openvino", "stable_diffusion_cpp")
    report = compared(capsys, tmp_path, "openvino,sdcpp-q8_0", "--rows 1")
    assert [way["name"] for way in report["cases"][0]["ways"]] == ["ours"]
    fp32, int8, sdcpp = report["left_out"]
    assert fp32.startswith("openvino-fp32 is left out: openvino is not installed") and "openvino-int8" in int8
    assert "stable-diffusion-cpp-python" in sdcpp and "requirements-peers.txt" in sdcpp
    assert all(sentence in peers.table(report) for sentence in report["left_out"])


def test_nncf_is_asked_for_only_by_eight_bits(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nncf" else object())
    machine = peers.choose_machine("cpu", "fp32")
    assert openvino_peer.why_not("openvino-fp32", machine, 512) is None
    assert "nncf" in (openvino_peer.why_not("openvino-int8", machine, 512) or "")
    assert "multiples of 64" in (openvino_peer.why_not("openvino-fp32", machine, 520) or "")


def test_a_word_chooses_one_way_or_all_whose_names_begin_with_it():
    assert turns.chosen(NAMES, []) == NAMES
    assert turns.chosen(NAMES, ["openvino"]) == ["ours", "openvino-bf16", "openvino-int8"]
    assert turns.chosen(NAMES, ["openvino-int8", "diffusers-bf16"]) == ["ours", "diffusers-bf16", "openvino-int8"]
    with pytest.raises(UserError, match="no way 'openvin'"):
        turns.chosen(NAMES, ["openvin"])


def test_ways_take_turns_and_are_told_by_ratios_of_medians():
    order = []

    def way(name, seconds):
        def run(scales):
            order.append(name)
            return turns.Run(list(next(seconds)), 10.0, None)

        return turns.Way(name, run)

    ours = way("ours", iter([(9.0, 1.0), (1.0, 1.0), (5.0, 1.0)]))  # the first packs weights, one was disturbed
    other = way("other", iter([(9.0, 2.0), (2.0, 2.0), (2.0, 7.0)]))
    case = turns.measure_case([ours, other], (7.5, 1.5), 3)
    assert order == ["ours", "other"] * 3
    assert [w["step"] for w in case["ways"]] == [1.0, 2.0] and case["ways"][1]["ours_times_as_fast"] == 2.0
    assert case["ways"][1]["first_step"] == 9.0 and case["ways"][1]["difference"] is None


def test_it_says_in_one_sentence_what_to_install(monkeypatch, capsys):
    without(monkeypatch, "diffusers")
    assert peers.main([]) == 1
    error = capsys.readouterr().err
    assert "diffusers" in error and "requirements-dev.txt" in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("rows", ["4", "3 2", "", "3,,x"])
def test_rows_are_a_list_of_1_2_and_3(rows, capsys):
    with pytest.raises(SystemExit):
        peers.main(["--rows", rows])
    assert "--rows" in capsys.readouterr().err
