"""Configs that are made to keep a reader busy are refused at once: yaml beside a checkpoint, json in a folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from instruct_pix2pix.engine.loading.config import CONFIGS, MOST_CONFIG, load_config
from tests.helpers.programs import in_child

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")

TOLD = """
import json, resource, sys
from pathlib import Path
from instruct_pix2pix.batch.ray.worker import config_beside
from instruct_pix2pix.engine.loading.config import load_config
from instruct_pix2pix.engine.loading.diffusers_keys import read_configs
from instruct_pix2pix.errors import UserError
limit = 3_000_000_000  # torch alone takes a gigabyte of addresses
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
told = {}
for path in map(Path, sys.argv[1:]):
    try:
        (read_configs if path.is_dir() else load_config)(path)
        told[path.name] = ""
    except UserError as error:
        told[path.name] = str(error)
    config_beside(path.with_suffix(".safetensors"))
print(json.dumps(told))
"""


def told(*paths: Path) -> dict[str, str]:
    """Read all of them in a process of its own, where what never ends can be ended; return what is said of each."""
    return json.loads(in_child(TOLD, *paths, seconds=90))


def doubled(form: str, times: int = 40) -> str:
    """A yaml in which each of many lines holds the one before it ten times."""
    lines = ["a0: &a0 {x: 1}"]
    for number in range(1, times):
        aliases = ", ".join([f"*a{number - 1}"] * 10)
        lines.append(f"a{number}: &a{number} {form.format(aliases)}")
    return "\n".join(lines)


BOMBS = {
    "aliases": doubled("[{}]"),
    "merge keys": doubled("{{<<: [{}]}}"),
    "a list in itself": "a: &a [*a, *a]",
    "references in references": 'a: "' + "${" * (MOST_CONFIG // 2 - 10) + '"',
    "many references": 'a: "' + "${b}" * (MOST_CONFIG // 4 - 10) + '"',
    "brackets": "[" * (MOST_CONFIG - 10),
    "words": "a: [" + "x," * (MOST_CONFIG // 2 - 10) + "x]",
    "eight megabytes": "model:\n" + "  a: 1\n" * 1_000_000,
}


def test_a_yaml_that_unfolds_without_end_is_told(tmp_path):
    for name, text in BOMBS.items():
        (tmp_path / f"{name}.yaml").write_text(text, "utf-8")
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    with (tmp_path / "hole.yaml").open("wb") as file:
        file.truncate(10**11)
    for path in list(tmp_path.iterdir()):
        path.with_suffix(".safetensors").touch()
    files = [path for path in tmp_path.iterdir() if path.suffix == ".yaml" and not path.is_dir()]
    answers = told(*files, Path("/dev/zero"))
    assert len(answers) == len(BOMBS) + 3
    assert all("is not a model config that this program can read" in answer for answer in answers.values())
    assert all(len(answer) < 500 and answer.endswith(".") for answer in answers.values())


PARTS = ("unet", "vae", "text_encoder", "scheduler")


def folder_with(folder: Path, part: str) -> Path:
    """Make a diffusers folder whose configs are empty; return where that of `part`, which is not there, belongs."""
    files = {each: folder / each / ("scheduler_" * (each == "scheduler") + "config.json") for each in PARTS}
    for each, file in files.items():
        file.parent.mkdir(parents=True)
        if each != part:
            file.write_text("{}", "utf-8")
    return files[part]


def test_what_is_in_place_of_a_json_of_a_diffusers_folder_is_told(tmp_path):
    for part in PARTS:
        os.mkfifo(folder_with(tmp_path / f"{part} pipe", part))
        folder_with(tmp_path / f"{part} folder", part).mkdir()
        link = folder_with(tmp_path / f"{part} circle", part)
        link.symlink_to(link)
        folder_with(tmp_path / f"{part} brackets", part).write_text("[" * (MOST_CONFIG - 1), "utf-8")
        folder_with(tmp_path / f"{part} long", part).write_text('{"a": "' + "x" * MOST_CONFIG + '"}', "utf-8")
        with folder_with(tmp_path / f"{part} hole", part).open("wb") as file:
            file.truncate(10**11)
    answers = told(*tmp_path.iterdir())
    assert len(answers) == 6 * len(PARTS)
    assert all("not a complete diffusers folder" in answer and len(answer) < 500 for answer in answers.values())


def test_a_config_may_name_a_value_once_and_refer_to_it(tmp_path):
    text = (CONFIGS / "sd1.yaml").read_text("utf-8")
    assert text.count("in_channels: 8") == 1
    named = text.replace("in_channels: 8", "in_channels: &eight 8") + "\nother: *eight\n"
    (tmp_path / "a.yaml").write_text(named, "utf-8")
    assert load_config(tmp_path / "a.yaml") == load_config(CONFIGS / "sd1.yaml")
