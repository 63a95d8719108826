"""In a real ComfyUI (`--comfy=PATH`): the nodes against the engine, beside other nodes, and on its page."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from instruct_pix2pix.conditioning import to_tensor
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.precision import choose_machine
from instruct_pix2pix.engine.sampling.noise import ImageNoise
from instruct_pix2pix.engine.sampling.samplers import SAMPLERS
from instruct_pix2pix.engine.sampling.schedules import get_sigmas
from instruct_pix2pix.guidance.cached import whole_steps
from instruct_pix2pix.guidance.dual import DualGuidance
from instruct_pix2pix.guidance.inputs import GuidanceInputs
from instruct_pix2pix.guidance.rows import Scales
from instruct_pix2pix.hosts.comfy.inputs import CONDITIONING, EDIT, GUIDER
from instruct_pix2pix.hosts.comfy.workflow import Workflow
from instruct_pix2pix.settings import EditSettings
from tests.hosts import checkpoints
from tests.hosts.checkpoints import CONTROLNET, COSXL, EDITS, NOISY, PLAIN, XL_EDITS
from tests.hosts.comfy import Comfy, EndedError
from tests.hosts.running import RefusedError, picture
from tools.comfy_templates import TEMPLATES

STEPS = 3
ASKED = EditSettings("make it snow", negative="rain", steps=STEPS, seed=1, size="64", sampler="Euler")
API = dict[str, Any]


def node_of(workflow: API, kind: str) -> str:
    return next(name for name, node in workflow.items() if node["class_type"] == kind)


def workflow_of(
    settings: EditSettings = ASKED,
    *,
    checkpoint: str = EDITS,
    image: str = "small.png",
    builder: bool = False,
    between: tuple[tuple[str, dict[str, Any]], ...] = (),
    **inputs: Any,
) -> API:
    """A workflow whose picture, and with the box whose map, the probe keeps; nodes `between` loader and ours.

    `inputs` are put into the node of ours that takes the scales.
    """
    made = Workflow(settings, image=image, checkpoint=f"{checkpoint}.safetensors", builder=builder).for_api()
    ours = node_of(made, GUIDER if builder else EDIT)
    source = made[ours]["inputs"]["model"]
    for number, (kind, values) in enumerate((*between, ("ProbeCount", {}))):
        made[f"between{number}"] = {"class_type": kind, "inputs": {**values, "model": source}}
        source = [f"between{number}", 0]
    for node in made.values():
        if node["class_type"] in (EDIT, GUIDER, "BasicScheduler"):
            node["inputs"]["model"] = source
    made[ours]["inputs"] |= inputs
    saved = node_of(made, "SaveImage")
    picture_of = made.pop(saved)["inputs"]["images"]
    made["keep"] = {"class_type": "ProbeKeep", "inputs": {"anything": picture_of, "name": "image"}}
    if not builder:
        made["map"] = {"class_type": "ProbeKeep", "inputs": {"anything": [ours, 1], "name": "map"}}
    return made


@lru_cache(maxsize=1)
def engine(name: str) -> EditModel:
    return EditModel.load(checkpoints.folder() / f"{name}.safetensors", choose_machine("cpu", "fp32"))


def by_the_engine(name: str, settings: EditSettings = ASKED, **options: Any) -> Tensor:
    """The same edit by the engine from the same noise: [1, 64, 64, 3] in 0..1."""
    model = engine(name)
    latent = model.encode_image(to_tensor(picture()))
    prompts, negative = model.encode_text(settings.instruction, settings.negative, settings.steps, settings.no_text)
    sigmas = get_sigmas("Uniform", settings.steps, model.levels, SAMPLERS["Euler"])
    given, scales = GuidanceInputs(prompts, negative, latent), Scales(settings.text_cfg, settings.image_cfg)
    noise = ImageNoise((settings.seed,), latent.shape[1:], latent.device)
    x = noise.draw() * (1 + float(sigmas[0]) ** 2) ** 0.5  # as ComfyUI begins: with the deviation of picture and noise
    made = SAMPLERS["Euler"](DualGuidance(model, given, scales, sigmas, **options), x, sigmas, noise)
    return (model.decode(made).movedim(1, -1) / 2 + 0.5).clamp(0, 1)


def rows_of(comfy: Comfy) -> list[int]:
    return [call["rows"] for call in comfy.calls() if "rows" in call]


@pytest.fixture(params=[EDITS, XL_EDITS, COSXL])
def name(comfy: Comfy, request: pytest.FixtureRequest) -> str:
    if request.param != EDITS and not comfy.xl:
        pytest.skip("--host-xl is not given")
    return request.param


# --- against the engine ---


@pytest.mark.parametrize("builder", [False, True], ids=["box", "guider"])
def test_the_picture_is_the_engines_for_the_same_noise(comfy: Comfy, name: str, builder: bool) -> None:
    comfy.run(workflow_of(checkpoint=name, builder=builder))
    assert rows_of(comfy) == [3] * STEPS  # in one batch
    expected = by_the_engine(name)
    made = comfy.kept("image")
    error = float((made - expected).abs().max())
    print(f"{name}, {'guider' if builder else 'box'}: {error:.1e}")
    assert error < 1e-3 and float(expected.std()) > 0.05


@pytest.mark.parametrize(("text", "image", "rows"), [(7.5, 1.0, 2), (1.5, 1.5, 2), (1.0, 1.0, 1), (3.0, 0.0, 3)])
def test_rows_of_no_weight_are_not_evaluated(comfy: Comfy, text: float, image: float, rows: int) -> None:
    settings = replace(ASKED, text_cfg=text, image_cfg=image)
    comfy.run(workflow_of(settings, keep_rest="off", builder=True))
    assert rows_of(comfy) == [rows] * STEPS
    torch.testing.assert_close(comfy.kept("image"), by_the_engine(EDITS, settings), atol=1e-3, rtol=0)


def test_a_blank_negative_prompt_is_that_of_the_models_training(comfy: Comfy, name: str) -> None:
    settings = replace(ASKED, negative="")
    comfy.run(workflow_of(settings, checkpoint=name))
    torch.testing.assert_close(comfy.kept("image"), by_the_engine(name, settings), atol=1e-3, rtol=0)


@pytest.mark.parametrize("no_text", ["empty", "zeros"])
def test_no_text_of_sdxl_is_the_engines(comfy: Comfy, no_text: str) -> None:
    if not comfy.xl:
        pytest.skip("--host-xl is not given")
    settings = replace(ASKED, negative="", no_text=no_text)
    comfy.run(workflow_of(settings, checkpoint=XL_EDITS))
    torch.testing.assert_close(comfy.kept("image"), by_the_engine(XL_EDITS, settings), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "options",
    [{"speed": "balanced"}, {"rescale": 0.7}, {"formula": "instruct-diffusion"}],
    ids=lambda one: next(iter(one)),
)
def test_a_setting_acts_as_in_the_engine(comfy: Comfy, options: dict[str, Any]) -> None:
    settings = replace(ASKED, steps=6)
    inputs = {{"formula": "guidance"}.get(name, name): value for name, value in options.items()}
    comfy.run(workflow_of(settings, **inputs))
    whole = whole_steps("balanced", 6) if "speed" in options else range(6)
    assert rows_of(comfy) == [3 if step in whole else 1 for step in range(6)]
    torch.testing.assert_close(comfy.kept("image"), by_the_engine(EDITS, settings, **options), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("name", "scale"), [(EDITS, 1.0), (NOISY, 1.0), (XL_EDITS, 1.0), (COSXL, 0.13025)])
def test_the_condition_is_the_mode_of_the_picture_as_the_model_was_trained_with_it(
    comfy: Comfy, name: str, scale: float
) -> None:
    """ComfyUI's own way too, which ours hands the latent to."""
    if name in (XL_EDITS, COSXL) and not comfy.xl:
        pytest.skip("--host-xl is not given")
    workflow = workflow_of(replace(ASKED, steps=1), checkpoint=name)
    loader, image = node_of(workflow, "CheckpointLoaderSimple"), node_of(workflow, "LoadImage")
    workflow["encoded"] = {"class_type": "VAEEncode", "inputs": {"pixels": [image, 0], "vae": [loader, 2]}}
    workflow["keep2"] = {"class_type": "ProbeKeep", "inputs": {"anything": ["encoded", 0], "name": "latent"}}
    comfy.run(workflow)
    mode = engine(name).encode_image(to_tensor(picture()))
    torch.testing.assert_close(comfy.kept("latent"), mode, atol=1e-3 * float(mode.abs().max()), rtol=0)
    [seen] = [call["pictures"] for call in comfy.calls() if "pictures" in call]
    mean = float(mode.abs().mean()) * scale
    assert sorted(seen) == pytest.approx([0.0, mean, mean], rel=1e-3)


# --- against ComfyUI's own nodes for these models ---


def by_its_own_nodes(workflow: API) -> API:
    """The same edit without a node of ours: what goes into which of three places is seen to by hand."""
    ours, guider = node_of(workflow, CONDITIONING), node_of(workflow, GUIDER)
    given, scales = workflow[ours]["inputs"], workflow[guider]["inputs"]
    for part in ("instruction", "negative"):
        workflow[part] = {"class_type": "CLIPTextEncode", "inputs": {"clip": given["clip"], "text": given[part]}}
    said, unsaid = ["instruction", 0], ["negative", 0]
    pictured = {"positive": said, "negative": unsaid, "vae": given["vae"], "pixels": given["image"]}
    workflow[ours] = {"class_type": "InstructPixToPixConditioning", "inputs": pictured}
    conditions = {"cond1": [ours, 0], "cond2": [ours, 1], "negative": unsaid}
    weights = {"cfg_conds": scales["text_cfg"], "cfg_cond2_negative": scales["image_cfg"], "style": "regular"}
    inputs = {"model": scales["model"], **conditions, **weights}
    workflow[guider] = {"class_type": "DualCFGGuider", "inputs": inputs}
    return workflow


def with_a_controlnet(workflow: API) -> API:
    """A ControlNet behind every condition."""
    guider = next(node for node in workflow.values() if node["class_type"] in (GUIDER, "DualCFGGuider"))["inputs"]
    loader = {"class_type": "ControlNetLoader", "inputs": {"control_net_name": f"{CONTROLNET}.safetensors"}}
    image = {"class_type": "LoadImage", "inputs": {"image": "example.png"}}
    workflow |= {"controlnet": loader, "hint": image}
    given = {"control_net": ["controlnet", 0], "image": ["hint", 0], "strength": 0.5}
    given |= {"start_percent": 0.0, "end_percent": 1.0}
    pairs = [("cond1", "cond2"), ("negative", "negative")] if "cond1" in guider else [("positive", "negative")]
    for positive, negative in pairs:
        node, both = f"control of {positive}", {"positive": guider[positive], "negative": guider[negative]}
        workflow[node] = {"class_type": "ControlNetApplyAdvanced", "inputs": {**both, **given}}
        guider |= {positive: [node, 0], negative: [node, 1]}
    return workflow


@pytest.mark.parametrize("controlled", [False, True], ids=["bare", "controlnet"])
def test_the_picture_is_that_of_its_own_nodes_with_a_controlnet_too(comfy: Comfy, controlled: bool) -> None:
    pictures = []
    for change in (by_its_own_nodes, lambda workflow: workflow):
        workflow = change(workflow_of(builder=True))
        comfy.run(with_a_controlnet(workflow) if controlled else workflow)
        pictures.append(comfy.kept("image"))
    rows = rows_of(comfy)
    assert rows == [3] * STEPS  # in one batch
    error = float((pictures[1] - pictures[0]).abs().max())
    print(f"{error:.1e}")
    assert error < 1e-3
    acts = float((pictures[1] - by_the_engine(EDITS)).abs().mean())
    assert (acts > 0.01) if controlled else (acts < 1e-3)


# --- what a person has ---


def test_a_picture_of_any_shape_comes_back_in_its_framing_with_its_map(comfy: Comfy) -> None:
    comfy.run(workflow_of(image="odd.png"))
    assert comfy.kept("image").shape == (1, 48, 64, 3)
    found = comfy.kept("map")
    assert found.shape == (1, 48, 64) and float(found.max()) > float(found.min()) >= 0


def test_what_is_kept_is_the_pictures_own(comfy: Comfy) -> None:
    comfy.run(workflow_of(replace(ASKED, steps=5, keep_rest="always", keep_amount=0.7)))
    source = torch.from_numpy(np.array(picture())).float()[None] / 255
    same = (comfy.kept("image") == source).all(dim=-1)
    assert 0.05 < float(same.float().mean()) < 0.99


def test_a_lora_changes_the_picture_and_leaves_no_trace(comfy: Comfy) -> None:
    comfy.run(workflow_of())
    plain = comfy.kept("image")
    lora = ("LoraLoaderModelOnly", {"lora_name": "tiny.safetensors", "strength_model": 1.0})
    comfy.run(workflow_of(between=(lora,)))
    assert rows_of(comfy) == [3] * STEPS
    assert float((comfy.kept("image") - plain).abs().mean()) > 1e-3
    comfy.run(workflow_of(replace(ASKED, seed=1), focus="off", speed="balanced"))  # another job, not one from the cache
    comfy.run(workflow_of(replace(ASKED, instruction="make it snow ")))
    assert float((comfy.kept("image") - plain).abs().max()) < 1e-3


def test_another_pack_that_patches_the_unet_by_prompt_and_negative_prompt_works(comfy: Comfy) -> None:
    pictures = []
    for amount in (0.0, 3.0):
        comfy.run(workflow_of(between=(("ProbePatch", {"amount": amount}),)))
        calls = comfy.calls()
        assert {tuple(sorted(call["told"])) for call in calls if "told" in call} == {(0, 1, 1)}
        assert {tuple(sorted(call["patched"])) for call in calls if "patched" in call} == {(0.0, 0.0, amount)}
        pictures.append(comfy.kept("image"))
    assert float((pictures[1] - pictures[0]).abs().mean()) > 1e-3


def test_what_another_pack_adds_to_cfg_is_added(comfy: Comfy) -> None:
    comfy.run(workflow_of())
    plain = comfy.kept("image")
    comfy.run(workflow_of(between=(("ProbeAroundCFG", {"amount": 0.3}),)))
    seen = [call for call in comfy.calls() if "cfg" in call]
    assert [call["cfg"] for call in seen] == [7.5] * STEPS
    assert max(call["error"] for call in seen) < 1e-3  # a CFG of two rows that comes to the same
    assert float((comfy.kept("image") - plain).abs().mean()) > 1e-3


# --- each sampler and schedule of its own ---

UNBOUND = {"dpm_adaptive"}
"""They choose how many steps they take: on random weights hundreds."""


@pytest.mark.parametrize(("kind", "field"), [("KSamplerSelect", "sampler_name"), ("BasicScheduler", "scheduler")])
def test_each_one_that_it_lists_edits(comfy: Comfy, kind: str, field: str) -> None:
    listed = comfy.get(f"object_info/{kind}")[kind]["input"]["required"][field]
    names = set(listed[0] if isinstance(listed[0], list) else listed[1]["options"]) - UNBOUND
    failed = {}
    for name in sorted(names):
        try:
            comfy.run(workflow_of(replace(ASKED, steps=4), **{field: name}))
        except EndedError as error:
            failed[name] = error.sentence
        else:
            made = comfy.kept("image")
            if not made.isfinite().all() or float(made.std()) < 0.02:
                failed[name] = "no picture"
    print(f"{field}: {len(names) - len(failed)} of {len(names)}")
    assert failed == {}


# --- what is refused ---


@pytest.mark.parametrize("builder", [False, True], ids=["box", "guider"])
def test_a_plain_checkpoint_is_refused_with_a_sentence(comfy: Comfy, builder: bool) -> None:
    with pytest.raises(EndedError, match=r"This checkpoint cannot edit \(its UNet takes 4 channels, not 8\): load an"):
        comfy.run(workflow_of(checkpoint=PLAIN, builder=builder))


def test_conditionings_the_wrong_way_round_are_refused_with_a_sentence(comfy: Comfy) -> None:
    workflow = workflow_of(builder=True)
    said = node_of(workflow, CONDITIONING)
    workflow[node_of(workflow, GUIDER)]["inputs"] |= {"positive": [said, 1], "negative": [said, 0]}
    with pytest.raises(EndedError, match="Positive and negative are the wrong way round"):
        comfy.run(workflow)


def test_a_scale_out_of_range_is_refused_before_anything_runs(comfy: Comfy) -> None:
    with pytest.raises(RefusedError, match="bigger than max"):
        comfy.run(workflow_of(image_cfg=9.0))


def test_an_edit_that_is_interrupted_stops_and_the_next_one_works(comfy: Comfy) -> None:
    number = comfy.begin(workflow_of(replace(ASKED, steps=150)))
    while not any("rows" in call for call in comfy.calls()):
        pass
    comfy.post("interrupt")
    with pytest.raises(EndedError) as ended:
        comfy.end(number)
    assert ended.value.kind == "execution_interrupted"
    assert len(rows_of(comfy)) < 140
    comfy.run(workflow_of(replace(ASKED, seed=2)))
    assert comfy.kept("image").shape == (1, 64, 64, 3)


# --- on its page ---


def test_the_nodes_are_found_with_their_words(comfy: Comfy) -> None:
    for kind in (EDIT, CONDITIONING, GUIDER):
        told = comfy.get(f"object_info/{kind}")[kind]
        assert told["category"] == "instruct-pix2pix" and "ip2p" in told["search_aliases"]
        assert told["description"].endswith(".")
    box = comfy.get(f"object_info/{EDIT}")[EDIT]["input"]["required"]
    assert "euler_ancestral" in box["sampler_name"][0] and box["text_cfg"][1]["tooltip"]
    listed = comfy.get("api/workflow_templates")["instruct-pix2pix"]
    assert sorted(listed) == sorted(TEMPLATES)


@pytest.fixture
def frames() -> list[bytes | str]:
    """What the server sends to the page."""
    return []


@pytest.fixture
def page(comfy: Comfy, frames: list[bytes | str]) -> Iterator[Any]:
    """ComfyUI's page in Chromium."""
    from tools.browser import chromium

    with chromium() as browser:
        opened = browser.new_page(viewport={"width": 1500, "height": 900})
        heard = partial(list.append, frames)  # playwright takes no built-in function
        opened.on("websocket", lambda socket: socket.on("framereceived", heard))
        comfy.post("settings/Comfy.TutorialCompleted", True)  # pyright: ignore[reportArgumentType]
        opened.goto(comfy.url, timeout=300_000)
        opened.wait_for_function("() => window.app?.graph && window.LiteGraph", timeout=300_000)
        yield opened


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_opens_and_runs_with_progress_and_previews(
    comfy: Comfy, page: Any, frames: list[bytes | str], template: str, request: pytest.FixtureRequest
) -> None:
    drawn = page.evaluate(
        """async (name) => {
            const path = `/api/workflow_templates/instruct-pix2pix/${encodeURIComponent(name)}`
            const picture = await fetch(`${path}.jpg`)
            await app.loadGraphData(await (await fetch(`${path}.json`)).json())
            const nodes = app.graph.nodes ?? app.graph._nodes
            return [picture.ok, nodes.map((node) => [node.type, node.has_errors ?? false])]
        }""",
        template,
    )
    assert drawn[0]
    missing = {"CheckpointLoaderSimple", "LoadImage"}  # the files that it names are not here
    assert {kind for kind, wrong in drawn[1] if wrong} <= missing
    prompt = page.evaluate("async () => (await app.graphToPrompt()).output")
    expected = TEMPLATES[template][0].for_api()
    assert {name: node["class_type"] for name, node in prompt.items()} == {
        name: node["class_type"] for name, node in expected.items()
    }
    for name, node in expected.items():  # every field has the value that it was written with
        shown = {key: prompt[name]["inputs"][key] for key in node["inputs"]}
        assert json.loads(json.dumps(shown)) == json.loads(json.dumps(node["inputs"]))
    page.evaluate(
        """(values) => {
            for (const node of app.graph.nodes ?? app.graph._nodes)
                for (const field of node.widgets ?? [])
                    if (field.name in values) field.value = values[field.name]
        }""",
        {"ckpt_name": f"{EDITS}.safetensors", "steps": 4, "size": 64, "largest_size": 64, "image": "small.png"},
    )
    page.evaluate("() => app.queuePrompt(0)")
    for _ in itertools.takewhile(lambda _: not _ended(frames), range(600)):
        page.wait_for_timeout(500)
    told = [json.loads(frame) for frame in frames if isinstance(frame, str)]
    assert not [one for one in told if one["type"] == "execution_error"]
    steps = [one["data"]["value"] for one in told if one["type"] == "progress" and one["data"]["max"] == 4]
    assert steps == [1, 2, 3, 4]
    pictures = [frame for frame in frames if isinstance(frame, bytes)]
    assert len(pictures) >= 4 and all(b"\xff\xd8\xff" in one for one in pictures)
    page.wait_for_timeout(1500)
    folder = request.config.getoption("--host-pictures")
    if folder:
        page.screenshot(path=Path(folder) / f"{template}.png")


def _ended(frames: list[bytes | str]) -> bool:
    kinds = {json.loads(frame)["type"] for frame in frames if isinstance(frame, str)}
    return bool(kinds & {"execution_success", "execution_error", "execution_interrupted"})
