"""The comparison with diffusers: the same edit by both, and one sentence where diffusers is missing."""

from __future__ import annotations

import importlib.util
import json

import pytest

from benchmarks import peers
from instruct_pix2pix.models.registry import DEMO

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_both_make_the_same_edit_of_one_checkpoint(capsys):
    pytest.importorskip("diffusers")
    words = "--only steps --no-compile --precision fp32 --device cpu --size 64 --steps 4 --rounds 1 --rows 3 2 1 --json"
    assert peers.main(["--model", str(DEMO), *words.split()]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [case["our_rows"] for case in report["cases"]] == [3, 2, 1]
    for case in report["cases"]:
        assert [way["name"] for way in case["ways"]] == [
            "ours", "diffusers float32", "diffusers float32, channels-last"
        ]  # fmt: skip
        for way in case["ways"]:
            assert way["difference"] < 1e-3 and way["measured_steps"] == 3 and way["step"] > 0


def test_it_says_in_one_sentence_what_to_install(monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "diffusers" else found(name))
    assert peers.main([]) == 1
    error = capsys.readouterr().err
    assert "diffusers" in error and "requirements-dev.txt" in error and len(error.splitlines()) == 1
