"""Our merges beside those of AUTOMATIC1111's own merger, run for real: `pytest tests/hosts --host a1111=PATH`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

from instruct_pix2pix.models.merge import Merge, merge
from instruct_pix2pix.models.stored_model import stored_file
from tests.helpers.to_merge import write_models

PROGRAM = Path(__file__).with_name("merge_in_a1111.py").resolve()
THREE = {"a": "edit", "b": "style", "c": "base"}
JOBS: dict[str, dict[str, Any]] = {
    "added": {**THREE, "method": "Add difference", "multiplier": 1.0, "half": False},
    "weaker": {**THREE, "method": "Add difference", "multiplier": 0.35, "half": False},
    "rounded": {**THREE, "method": "Add difference", "multiplier": 0.35, "half": True},
    "mixed": {"a": "edit", "b": "style", "method": "Weighted sum", "multiplier": 0.3, "half": False},
    "halves": {**{k: f"{v}16" for k, v in THREE.items()}, "method": "Add difference", "multiplier": 0.7, "half": False},
}


class Merged(NamedTuple):
    """Where the merges of both programs lie, and what A1111 shows of every checkpoint."""

    ours: dict[str, Path]
    theirs: dict[str, Path]
    shown: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def merged(request, tmp_path_factory) -> Merged:
    given = request.config.getoption("--host", default=None) or []
    found = [one.removeprefix("a1111=") for one in given if one.startswith("a1111=")]
    if not found:
        pytest.skip("AUTOMATIC1111 is not given: --host a1111=PATH")
    path, _, python = found[0].partition(",")
    models, data = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("data")
    paths = write_models(models)
    for name, file in paths.items():
        halves = {k: v.half() if v.is_floating_point() else v for k, v in load_file(file).items()}
        save_file(halves, models / f"{name}16.safetensors")
    ours = {name: _ours(job, models, models / f"ours-{name}.safetensors") for name, job in JOBS.items()}
    answer = data / "answer.json"
    asked = {"data": str(data), "checkpoints": str(models), "answer": str(answer), "jobs": JOBS}
    (data / "jobs.json").write_text(json.dumps(asked), encoding="utf-8")
    interpreter = python or Path(path, "venv", "bin", "python").absolute()
    subprocess.run(
        [str(interpreter), str(PROGRAM), str(data / "jobs.json")],
        cwd=path,
        check=True,
        timeout=900,
        env={**os.environ, "PYTHONPATH": "", "GIT_PYTHON_REFRESH": "quiet"},
    )
    answered = json.loads(answer.read_text(encoding="utf-8"))
    return Merged(ours, {name: Path(file) for name, file in answered["files"].items()}, answered["shown"])


def _ours(job: dict[str, Any], models: Path, out: Path) -> Path:
    files = [models / f"{job[which]}.safetensors" for which in ("a", "b", "c") if which in job]
    asked = Merge(job["multiplier"], "fp16" if job["half"] else None)
    return merge([stored_file(file) for file in files], out, asked, lambda *_: None)[0]


@pytest.mark.parametrize("name", JOBS)
def test_both_programs_merge_to_the_same_numbers(merged, name):
    ours, theirs = load_file(merged.ours[name]), load_file(merged.theirs[name])
    assert ours.keys() == theirs.keys()
    farthest = max((ours[key].double() - theirs[key].double()).abs().max().item() for key in ours)
    largest = max(value.double().abs().max().item() for value in theirs.values() if value.is_floating_point())
    # of half-precision files A1111 rounds what it computes three times, this program once
    assert farthest <= (1.5 * torch.finfo(torch.float16).eps * largest if name == "halves" else 0)


def test_a1111_shows_our_recipe_as_its_own(merged):
    for name in JOBS:
        ours, theirs = merged.shown[merged.ours[name].name], merged.shown[merged.theirs[name].name]
        assert ours["sd_merge_models"] == theirs["sd_merge_models"]
        own = {"type", "custom_name", "discard_weights", "primary_model_hash", "secondary_model_hash"}
        for key, value in theirs["sd_merge_recipe"].items():
            if key not in own | {"tertiary_model_hash"}:  # A1111 writes null where it has not hashed a file before
                assert ours["sd_merge_recipe"][key] == value, key
