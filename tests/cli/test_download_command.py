"""The command `download`, against a hub on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from instruct_pix2pix.cli import main
from instruct_pix2pix.models.known import KNOWN
from tests.helpers.hub import Hub, standing_in, weights


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with standing_in() as (found, address):
        monkeypatch.setenv("HF_ENDPOINT", address)
        yield found


def test_stdout_is_the_path_and_the_licence_is_told_before_what_comes(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = weights()
    hub.repos["stabilityai/cosxl"] = {"cosxl_edit.safetensors": content}
    assert main.main(["download", "cosxl-edit", "--models-dir", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert told.out == f"{tmp_path / 'cosxl_edit.safetensors'}\n"
    licence, file = told.err.index("Non-Commercial Research"), told.err.index("cosxl_edit.safetensors, 0.3 MB, SHA-256")
    assert licence < file


def test_a_lora_goes_into_the_folder_where_the_web_ui_has_them(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = KNOWN["lcm-lora"]
    hub.repos[known.repo] = {known.file: weights({"lora_unet_x.lora_down.weight": [4, 8]})}
    assert main.main(["download", "lcm-lora", "--models-dir", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert told.out == f"{tmp_path / 'Lora' / 'lcm-lora-sdv1-5.safetensors'}\n"
    assert "<lora:lcm-lora-sdv1-5:1>" in told.err and "sampler LCM" in told.err


def test_the_help_names_all_that_has_a_short_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(["download", "--help"])
    words = capsys.readouterr().out.replace(",", " ").replace(";", " ").split()
    assert set(KNOWN) <= set(words)
