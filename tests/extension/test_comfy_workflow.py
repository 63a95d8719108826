"""Workflows for ComfyUI: written by command, and those that are shipped as templates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from instruct_pix2pix.cli.main import main
from instruct_pix2pix.engine.sampling.names import SAMPLER_NAMES, SCHEDULE_NAMES
from instruct_pix2pix.engine.sampling.samplers import SAMPLERS as OURS
from instruct_pix2pix.hosts.comfy.inputs import EDIT, GUIDER, OPTIONAL, REQUIRED, is_widget
from instruct_pix2pix.hosts.comfy.workflow import SAMPLERS, SCHEDULES, Workflow
from instruct_pix2pix.settings import EditSettings
from tools.comfy_templates import FOLDER, TEMPLATES, before_and_after, text_of


def written(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["workflow", *words]) == 0
    return json.loads(capsys.readouterr().out)


def of_kind(workflow: dict[str, Any], kind: str) -> dict[str, Any]:
    """The inputs of the only node of this kind, in the API's form."""
    [found] = [node["inputs"] for node in workflow.values() if node["class_type"] == kind]
    return found


def test_the_command_writes_the_edit_that_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    words = "photo.jpg INSTRUCTION --text-cfg 9 --steps 30 --seed 7 --keep-rest 0.4 --sampler k_dpmpp_2m_ka"
    more = "--speed fast --negative rain --checkpoint my-edit.safetensors --api"
    given = [word.replace("INSTRUCTION", "make it winter") for word in f"{words} {more}".split()]
    workflow = written(capsys, *given)
    box = of_kind(workflow, EDIT)
    asked = {"instruction": "make it winter", "text_cfg": 9.0, "image_cfg": 1.5, "steps": 30, "seed": 7}
    asked |= {"sampler_name": "dpmpp_2m", "scheduler": "karras", "speed": "fast", "negative": "rain"}
    asked |= {"keep_rest": "always", "keep_amount": 0.4, "size": 0}
    assert {name: box[name] for name in asked} == asked
    assert of_kind(workflow, "LoadImage") == {"image": "photo.jpg"}
    assert of_kind(workflow, "CheckpointLoaderSimple") == {"ckpt_name": "my-edit.safetensors"}


def test_with_the_guider_the_same_values_go_to_comfyuis_own_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    workflow = written(
        capsys, "a.png", "make it night", "--guider", "--api", "--size", "640", "--seed", "7", "--image-cfg", "1.2"
    )
    assert of_kind(workflow, "RandomNoise") == {"noise_seed": 7}
    assert of_kind(workflow, "KSamplerSelect") == {"sampler_name": "euler_ancestral"}
    assert of_kind(workflow, "ImageScaleToMaxDimension")["largest_size"] == 640
    assert of_kind(workflow, GUIDER)["image_cfg"] == 1.2
    assert set(of_kind(workflow, "SamplerCustomAdvanced")) == {"noise", "guider", "sampler", "sigmas", "latent_image"}


@pytest.mark.parametrize("builder", [False, True])
@pytest.mark.parametrize("seed", [-1, 5])
def test_the_editors_form_is_the_apis_with_every_link_and_field_in_its_place(builder: bool, seed: int) -> None:
    workflow = Workflow(EditSettings("make it winter", seed=seed), builder=builder)
    asked, drawn = workflow.for_api(), workflow.for_editor()
    nodes = {str(node["id"]): node for node in drawn["nodes"]}
    assert set(nodes) == set(asked)
    links = {number: (str(source), slot, str(to), at, kind) for number, source, slot, to, at, kind in drawn["links"]}
    assert len(links) == drawn["last_link_id"]
    for name, node in nodes.items():
        inputs, fields = asked[name]["inputs"], list(node["widgets_values"])
        for socket in node["inputs"]:
            if socket["link"] is None:
                assert socket["name"] not in inputs
                continue
            source, slot, to, at, kind = links[socket["link"]]
            assert (to, node["inputs"][at]["name"]) == (name, socket["name"])
            assert inputs[socket["name"]] == [source, slot]
            output = nodes[source]["outputs"][slot]
            assert output["type"] == kind == socket["type"] and socket["link"] in output["links"]
        for value in (value for value in inputs.values() if not isinstance(value, list)):
            assert fields.pop(0) == value
            if fields and fields[0] in ("randomize", "fixed", "image"):
                assert fields.pop(0) in ("image", "randomize" if seed == -1 else "fixed")
        assert fields == []
    corners = [tuple(node["pos"]) for node in drawn["nodes"]]
    assert len(set(corners)) == len(corners)


@pytest.mark.parametrize("kind", [EDIT, GUIDER])
def test_a_workflow_names_every_field_of_our_nodes_in_their_order(kind: str) -> None:
    """The editor gives the values to the fields by their order."""
    workflow = Workflow(EditSettings("a"), builder=kind == GUIDER).for_api()
    fields = [name for name, (one, _) in {**REQUIRED[kind], **OPTIONAL[kind]}.items() if is_widget(one)]
    assert [name for name, value in of_kind(workflow, kind).items() if not isinstance(value, list)] == fields


def test_every_sampler_and_schedule_has_comfyuis_name_and_automatic_is_the_same() -> None:
    assert list(SAMPLERS) == list(SAMPLER_NAMES)
    assert {"Automatic", *SCHEDULES} == set(SCHEDULE_NAMES)
    assert {name: automatic for name, (_, automatic) in SAMPLERS.items()} == {
        name: sampler.default_schedule for name, sampler in OURS.items()
    }


def test_a_file_is_written_and_not_replaced_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "winter.json"
    assert main(["workflow", "a.png", "make it winter", "-o", str(out)]) == 0
    assert json.loads(out.read_text(encoding="utf-8"))["version"] == 0.4
    before = out.read_bytes()
    assert main(["workflow", "a.png", "make it night", "-o", str(out)]) == 1
    assert "is there already: --overwrite replaces it" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert main(["workflow", "a.png", "make it night", "-o", str(out), "--overwrite"]) == 0
    assert out.read_bytes() != before


def test_an_empty_instruction_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["workflow", "a.png", " "]) == 1
    assert "The instruction is empty" in capsys.readouterr().err


def test_the_templates_are_what_their_tool_writes() -> None:
    assert {file.stem for file in FOLDER.iterdir()} == set(TEMPLATES)
    for name, (workflow, example) in TEMPLATES.items():
        assert (FOLDER / f"{name}.json").read_text(encoding="utf-8") == text_of(workflow)
        picture = Image.open(FOLDER / f"{name}.jpg")
        assert picture.size == before_and_after(example).size
        assert (FOLDER / f"{name}.jpg").stat().st_size < 30_000
