"""In each real host: a step's result against the dual guidance computed from one model call for each row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from instruct_pix2pix.engine.loading.loader import load_networks
from instruct_pix2pix.engine.precision import choose_machine
from instruct_pix2pix.guidance.cached import whole_steps
from tests.hosts import checkpoints
from tests.hosts.conftest import Record
from tests.hosts.running import Host, encoded, picture

LONG = "a quiet harbour at dusk with boats, " * 14  # more than one chunk of 75 tokens
ALL_SCALES = [(text, image) for text in (1.0, 7.5) for image in (0.5, 1.0, 1.5, 3.0)]
SOME_SCALES = [(7.5, 1.5), (1.0, 0.5)]
PROMPTS: dict[str, tuple[dict[str, Any], list[tuple[float, float]]]] = {
    "negative": ({"negative_prompt": "rain, fog"}, ALL_SCALES),
    "long, AND, batch 2": (
        {"prompt": f"{LONG} AND a red roof :0.5", "negative_prompt": "rain", "batch_size": 2},
        ALL_SCALES,
    ),
    "no negative": ({}, SOME_SCALES),
    "long": ({"prompt": LONG, "negative_prompt": "rain"}, SOME_SCALES),
    "long negative": ({"negative_prompt": LONG}, SOME_SCALES),
    "AND": ({"prompt": "make it snow AND a red roof :0.5", "negative_prompt": "rain"}, SOME_SCALES),
    "batch 2": ({"batch_size": 2, "negative_prompt": "rain"}, SOME_SCALES),
}
CASES = [(prompt, text, image) for prompt, (_, scales) in PROMPTS.items() for text, image in scales]
WORST: dict[tuple[str, str], float] = {}


def probed(text: float, image: float, **more: object) -> dict[str, Any]:
    asked = json.dumps({"text": text, "image": image, **more})
    return {"cfg_scale": text, "image_cfg_scale": image, "alwayson_scripts": {"Probe": {"args": [asked]}}}


@pytest.mark.parametrize(("prompt", "text", "image"), CASES)
def test_every_step_is_the_dual_guidance_of_separate_model_calls(
    editor: Host, record: Record, prompt: str, text: float, image: float
) -> None:
    editor.job(**PROMPTS[prompt][0], **probed(text, image))
    steps = editor.records()
    assert [step["step"] for step in steps] == [0, 1]
    error = max(step["error"] for step in steps)
    WORST[editor.name, prompt] = max(error, WORST.get((editor.name, prompt), 0.0))
    record(f"formula error, {prompt}", WORST[editor.name, prompt])
    assert error <= 1e-4


def test_guidance_rescale_pulls_the_deviation_of_the_noise_to_that_of_the_full_row(editor: Host) -> None:
    asked = probed(7.5, 1.5, rescale=0.7)
    asked["alwayson_scripts"]["Instruct Pix2Pix"] = {"args": [True, False, 0.7]}
    editor.job(**asked)
    assert max(step["error"] for step in editor.records()) <= 1e-4


@pytest.mark.parametrize("prompt", ["negative", "long, AND, batch 2"])
@pytest.mark.parametrize(("text", "image"), [(7.5, 1.5), (1.0, 1.5), (7.5, 0.5)])
def test_every_step_is_instruct_diffusions_guidance_where_that_is_chosen(
    editor: Host, record: Record, prompt: str, text: float, image: float
) -> None:
    asked = probed(text, image, guidance="instruct-diffusion")
    asked["alwayson_scripts"]["Instruct Pix2Pix"] = {"args": [{"guidance": "instruct-diffusion"}]}
    answer = editor.job(**PROMPTS[prompt][0], **asked)
    error = max(step["error"] for step in editor.records())
    case = "InstructDiffusion's"
    WORST[editor.name, case] = max(error, WORST.get((editor.name, case), 0.0))
    record(f"formula error, {case}", WORST[editor.name, case])
    assert error <= 1e-4
    assert "Guidance: instruct-diffusion" in answer.infotext


@pytest.mark.parametrize("speed", ["balanced", "fast"])
@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ 2M"])
def test_a_speed_evaluates_all_rows_at_some_steps_and_else_adds_their_pull_to_the_full_row(
    editor: Host, record: Record, speed: str, sampler: str
) -> None:
    whole = whole_steps(speed, 12)
    asked = probed(7.5, 1.5, whole=sorted(whole))
    asked["alwayson_scripts"]["Instruct Pix2Pix"] = {"args": [True, False, 0.0, speed]}
    answer = editor.job(steps=12, sampler_name=sampler, **asked)
    steps = editor.records()
    assert [step["rows"] for step in steps] == [3 if number in whole else 1 for number in range(12)]
    assert max(step["error"] for step in steps) <= 1e-4
    assert f"Speed: {speed}" in answer.infotext
    exact = editor.job(steps=12, sampler_name=sampler).picture
    error = np.square(np.asarray(answer.picture, dtype=np.float64) - np.asarray(exact)).mean()
    record(f"{speed} against exact, {sampler}: PSNR", float(10 * np.log10(255**2 / error)))  # of random weights


@pytest.mark.parametrize(
    ("text", "image", "prompt", "rows"),
    [
        (7.5, 1.5, "make it snow", 3),
        (7.5, 1.0, "make it snow", 2),
        (3.0, 3.0, "make it snow", 2),
        (1.0, 1.0, "make it snow", 1),
        (1.0, 1.5, "make it snow", 3),
        (7.5, 1.5, "make it snow AND a red roof :0.5", 4),
        (7.5, 1.0, "make it snow AND a red roof :0.5", 3),
        (2.0, 3.0, "make it snow AND a red roof :0.5", 3),  # the image-only row has weight s_I - 1.5 s_T
    ],
)
def test_only_rows_of_non_zero_weight_are_evaluated(
    editor: Host, text: float, image: float, prompt: str, rows: int
) -> None:
    editor.job(prompt=prompt, batch_size=2, **probed(text, image))
    assert [step["rows"] for step in editor.records()] == [2 * rows, 2 * rows]


def test_the_condition_is_the_mode_of_the_picture_unscaled(host: Host, tmp_path: Path) -> None:
    """Of a posterior with a wide spread, so that a sample of it would be far away."""
    host.select(checkpoints.NOISY)
    host.records()
    host.job(init_images=[encoded(picture())], **probed(7.5, 1.5))
    seen = host.records()[0]
    path = checkpoints.folder() / f"{checkpoints.NOISY}.safetensors"
    _, networks = load_networks(path, choose_machine("cpu", "fp32"))
    pixels = torch.from_numpy(np.array(picture())).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        mode, _ = networks.vae.moments(pixels)
    got = torch.tensor(seen["image_cond"]).reshape(mode.shape)
    assert float((got - mode).abs().max() / mode.abs().max()) < 1e-3
