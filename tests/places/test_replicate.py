"""Replicate: the written signature has every setting, cog reads it, and its server makes and refuses predictions."""

from __future__ import annotations

import ast
import base64
import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from PIL import Image

from instruct_pix2pix.errors import UserError
from instruct_pix2pix.settings import BEST_OF, KNOBS, STRENGTH

ROOT = Path(__file__).parents[2]
PLACE = ROOT / "deploy" / "replicate"
HOUSE = ROOT / "examples" / "house.png"
ALL = {**KNOBS, "best_of": BEST_OF, "strength": STRENGTH}


def loaded(name: str) -> ModuleType:
    """Return a file of the place as a module."""
    spec = spec_from_file_location(name, PLACE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def prediction() -> ModuleType:
    return loaded("prediction")


def signature() -> dict[str, dict[str, Any]]:
    """Return what the parameters of `run` are declared with, read as text, as cog does."""
    tree = ast.parse((PLACE / "predict.py").read_text(encoding="utf-8"))
    run = next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "run")
    found = {}
    for argument, default in zip(run.args.args[1:], run.args.defaults, strict=True):
        assert isinstance(default, ast.Call) and isinstance(default.func, ast.Name) and default.func.id == "Input"
        found[argument.arg] = {word.arg: ast.literal_eval(word.value) for word in default.keywords}
    return found


def test_the_signature_is_that_of_the_settings_as_they_are_now() -> None:
    written = (PLACE / "predict.py").read_text(encoding="utf-8")
    assert written == loaded("write_predict").source(), "run python deploy/replicate/write_predict.py"


def test_every_setting_is_an_input_with_its_help_its_range_and_its_choices() -> None:
    inputs = signature()
    assert set(ALL) < set(inputs)
    for name, knob in ALL.items():
        one = inputs[name]
        assert one["description"].startswith(knob.help)
        if not isinstance(knob.default, (str, bool)):
            assert one["ge"] == knob.minimum
            assert one["le"] <= (knob.maximum or 0)
        if knob.choices:
            assert one["choices"] == list(knob.choices)
        if name not in ("instruction", "text_cfg", "image_cfg", "steps"):
            assert one["default"] == knob.default
    assert inputs["count"]["le"] == 4
    assert "DPM++ 2M" in inputs["sampler"]["choices"]


def test_every_text_is_one_string_as_cogs_parser_wants_it() -> None:
    """`concatenated_string` loses its inner quotation marks there, and escapes stay as they are written."""
    lines = (PLACE / "predict.py").read_text(encoding="utf-8").splitlines()
    inputs = [line for line in lines if "= Input(" in line]
    assert len(inputs) == len(ALL) + 3
    assert not [line for line in inputs if "\\" in line or '" "' in line or "'''" in line]


def test_a_prediction_is_the_edit_of_the_command_line_bit_for_bit(prediction: ModuleType, tmp_path: Path) -> None:
    editor = prediction.Editor.load(tmp_path)
    values = {name: knob.default for name, knob in ALL.items()}
    values |= {"instruction": "make it winter", "steps": 2, "seed": 5, "count": 2, "text_cfg": None, "image_cfg": None}
    files = editor.edit(HOUSE, None, "png", values)
    assert [file.name for file in files] == ["1.png", "2.png"]
    command = [sys.executable, "-m", "instruct_pix2pix.cli.main", "edit", HOUSE, "make it winter"]
    command += ["-o", tmp_path / "o.png", "--model", "demo", "--steps", "2", "--seed", "5"]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT / "modules")})
    assert Image.open(files[0]).tobytes() == Image.open(tmp_path / "o.png").tobytes()
    assert "Seed: 6" in Image.open(files[1]).info["parameters"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"instruction": " "}, "The instruction is empty"),
        ({"instruction": "make it {a|b|c}", "count": 2}, "6 pictures are too many: ask for 4 at most"),
        ({"size": "10"}, "Size is '10'"),
        ({"strength": "wild"}, "How much to change is 'wild'"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(
    prediction: ModuleType, tmp_path: Path, values: dict[str, Any], said: str
) -> None:
    editor = prediction.Editor.load(tmp_path)
    with pytest.raises(UserError, match=said):
        editor.edit(HOUSE, None, "png", {**{n: k.default for n, k in ALL.items()}, "instruction": "a", **values})


# --- cog itself ---


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """cog's own HTTP server with the predictor, as it runs in the image, without one."""
    assert find_spec("cog") is not None, "pip install -r tests/places/requirements.txt"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PORT": str(port), "COG_PREDICT_TYPE_STUB": "predict.py:Runner"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-m", "cog.server.http", "--host", "127.0.0.1"]
    log = tmp_path_factory.mktemp("cog") / "log"
    where: dict[str, Any] = {"cwd": PLACE, "env": environment}
    with log.open("wb") as out, subprocess.Popen(command, **where, stdout=out, stderr=out) as process:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600, trust_env=False) as client:
                until = time.monotonic() + 600
                while time.monotonic() < until and process.poll() is None:
                    with suppress(httpx.HTTPError):
                        if client.get("/health-check").json()["status"] == "READY":
                            break
                    time.sleep(0.5)
                else:
                    raise AssertionError(log.read_text())
                yield client
        finally:
            process.terminate()


def asked(server: httpx.Client, **values: Any) -> dict[str, Any]:
    image = "data:image/png;base64," + base64.b64encode(HOUSE.read_bytes()).decode()
    answer = server.post("/predictions", json={"input": {"image": image, "instruction": "make it winter", **values}})
    return {"code": answer.status_code, **answer.json()}


@pytest.mark.places
def test_cogs_server_makes_up_to_four_pictures(server: httpx.Client) -> None:
    found = asked(server, steps=2, seed=5, count=4)
    assert found["status"] == "succeeded", found
    assert len(found["output"]) == 4
    first = Image.open(io.BytesIO(base64.b64decode(found["output"][0].partition(",")[2])))
    assert first.format == "PNG" and "Seed: 5" in first.info["parameters"]
    assert len(set(found["output"])) == 4


@pytest.mark.places
def test_cogs_server_tells_our_sentence(server: httpx.Client) -> None:
    found = asked(server, size="10")
    assert found["status"] == "failed"
    assert "Size is '10', but must be auto" in found["error"]


@pytest.mark.places
def test_cog_reads_types_ranges_and_choices_of_the_signature() -> None:
    assert find_spec("cog") is not None, "pip install -r tests/places/requirements.txt"
    sys.path.insert(0, str(PLACE))
    from cog._inspector import check_input, create_predictor  # pyright: ignore[reportMissingImports]

    inputs = create_predictor("predict", "Runner").inputs
    assert set(inputs) == set(signature())
    given = {"image": "data:,x", "instruction": "a"}
    assert check_input(inputs, given)["steps"] is None
    for wrong in ({"count": 5}, {"steps": 0}, {"sampler": "Eulr"}, {"image_cfg": -1.0}, {"seed": 2**32}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            check_input(inputs, {**given, **wrong})
