"""In each real host: SDXL checkpoints that edit, in the manner of SDXL ip2p and of CosXL-Edit. With `--host-xl`."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from instruct_pix2pix.engine.networks.vae import VAE, VAEConfig
from instruct_pix2pix.engine.sampling.samplers import find_sampler
from instruct_pix2pix.engine.sampling.schedules import ContinuousSchedule, get_sigmas
from tests.hosts import checkpoints
from tests.hosts.checkpoints import COSXL, EDITS, PLAIN, XL_EDITS
from tests.hosts.conftest import Record
from tests.hosts.running import Host, RefusedError, encoded, picture
from tests.hosts.test_host_edits import try_samplers
from tests.hosts.test_host_formula import PROMPTS, probed

LOW, HIGH = checkpoints.SIGMAS.values()
CASES = [
    ("no negative", 7.5, 1.5),
    ("long, AND, batch 2", 7.5, 1.5),
    ("negative", 1.0, 0.5),
    ("no negative", 1.0, 1.5),
]
WORST: dict[tuple[str, str], float] = {}


@pytest.fixture
def xl(host: Host) -> Host:
    """The host with SDXL checkpoints, and nothing left over in the probe's file."""
    if not host.xl:
        pytest.skip("--host-xl is not given")
    host.records()
    return host


def asked(name: str, text: float, image: float, **more: object) -> dict[str, Any]:
    return probed(text, image, cosxl=name == COSXL, **more)


def told(**what: object) -> dict[str, Any]:
    return {"alwayson_scripts": {"Probe": {"args": [json.dumps(what)]}}}


@pytest.mark.parametrize(("prompt", "text", "image"), CASES)
@pytest.mark.parametrize("name", [XL_EDITS, COSXL])  # the last, as another checkpoint takes its time
def test_every_step_is_the_dual_guidance_of_separate_calls_of_the_network(
    xl: Host, record: Record, name: str, prompt: str, text: float, image: float
) -> None:
    xl.select(name)
    answer = xl.job(**PROMPTS[prompt][0], **asked(name, text, image))
    steps = xl.records()
    assert [step["step"] for step in steps] == [0, 1]
    error = max(step["error"] for step in steps)
    WORST[xl.name, name] = max(error, WORST.get((xl.name, name), 0.0))
    record(f"formula error, {name}", WORST[xl.name, name])
    assert error <= 1e-4
    assert np.asarray(answer.picture).std() > 1
    assert f"Image CFG scale: {image}" in answer.infotext


@pytest.mark.parametrize("name", [XL_EDITS, COSXL])
@pytest.mark.parametrize("settings", [{"no_text": "zeros"}, {"guidance": "instruct-diffusion"}])
def test_no_text_may_be_zeros_and_the_guidance_instruct_diffusions(
    xl: Host, record: Record, name: str, settings: dict[str, str]
) -> None:
    xl.select(name)
    job = asked(name, 7.5, 1.5, **settings)
    job["alwayson_scripts"]["Instruct Pix2Pix"] = {"args": [settings]}
    xl.job(batch_size=2, **job)
    error = max(step["error"] for step in xl.records())
    record(f"formula error, {name}, {' '.join(settings.values())}", error)
    assert error <= 1e-4


@pytest.mark.parametrize(("name", "scale"), [(XL_EDITS, 1.0), (COSXL, 0.13025)])
def test_the_condition_is_the_mode_of_the_picture_as_the_model_was_trained_with_it(
    xl: Host, name: str, scale: float
) -> None:
    xl.select(name)
    xl.job(init_images=[encoded(picture())], **asked(name, 7.5, 1.5))
    seen = xl.records()[0]
    vae, prefix = VAE(VAEConfig()).float(), "first_stage_model."
    with safe_open(checkpoints.folder() / f"{name}.safetensors", "pt") as file:
        vae.load_state_dict({key: file.get_tensor(prefix + key).float() for key in vae.state_dict()})
    pixels = torch.from_numpy(np.array(picture())).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        mode = vae.moments(pixels)[0] * scale
    got = torch.tensor(seen["image_cond"]).reshape(mode.shape)
    assert float((got - mode).abs().max() / mode.abs().max()) < 1e-3


@pytest.mark.parametrize("schedule", ["Automatic", "Karras", "SGM Uniform", "Simple"])
def test_the_noise_levels_are_those_that_the_file_of_cosxl_names(xl: Host, schedule: str) -> None:
    xl.select(COSXL)
    xl.job(steps=4, sampler_name="Euler", scheduler=schedule, **asked(COSXL, 7.5, 1.5))
    seen = [step["sigma"] for step in xl.records()]
    expected = get_sigmas(schedule, 4, ContinuousSchedule(LOW, HIGH), find_sampler("Euler")[0])
    assert seen == pytest.approx(expected[:-1].tolist(), rel=2e-3)


def test_an_edit_starts_from_noise_alone(xl: Host) -> None:
    """CosXL's from noise with the deviation of noise and picture together, the others' as SD1's does."""
    starts = []
    for name in (EDITS, XL_EDITS, COSXL):
        xl.select(name)
        xl.job(sampler_name="Euler", scheduler="Karras", **asked(name, 7.5, 1.5))
        first = xl.records()[0]
        level = (first["sigma"] ** 2 + 1) ** 0.5 if name == COSXL else first["sigma"]
        starts.append(np.array(first["x"]) / level)
    assert np.abs(starts[1] - starts[0]).max() < 1e-3
    assert np.abs(starts[2] - starts[0]).max() < 1e-3


def test_every_sampler_gives_a_picture_at_the_levels_of_cosxl(xl: Host, record: Record) -> None:
    names, failed, native = try_samplers(xl, COSXL, "ODE")  # which choose their own number of steps
    record("CosXL, samplers", len(names))
    record("CosXL, samplers that fail on a plain checkpoint too", sorted(native))
    assert failed == {}


@pytest.mark.parametrize(("name", "ends"), [(XL_EDITS, "well"), (COSXL, "well"), (COSXL, "in an error")])
def test_nothing_is_left_on_the_model_when_a_job_has_ended(xl: Host, name: str, ends: str) -> None:
    xl.select(PLAIN)
    before = xl.job(denoising_strength=0.9).picture
    xl.select(name)
    if ends == "well":
        xl.job()
    else:
        with pytest.raises(RefusedError):
            xl.job(**told(fail="step"))
    xl.job(sampler_name="DDIM", steps=4)
    xl.records()
    xl.job(**told(look=True))
    assert xl.records()[-1]["on_model"] == []
    xl.select(PLAIN)
    after = xl.job(denoising_strength=0.9).picture
    assert np.abs(np.asarray(after, dtype=int) - np.asarray(before, dtype=int)).max() <= 1


def test_automatic1111_builds_8_channels_for_a_file_without_a_yaml(xl: Host) -> None:
    """The config is that of the full size, in which the reduced file cannot be loaded: its choice is what is seen."""
    if xl.name != "a1111":
        pytest.skip("the others read the sizes of a network from its weights")
    bare = xl.data / "models" / "Stable-diffusion" / "bare.safetensors"
    bare.symlink_to((checkpoints.folder() / f"{XL_EDITS}.safetensors").resolve())
    try:
        xl.post("refresh-checkpoints")
        with contextlib.suppress(RefusedError):
            xl.select("bare")
        assert "data/configs/a1111-sdxl.yaml" in xl.log.read_text(encoding="utf-8", errors="replace")
    finally:
        bare.unlink()
        xl.post("refresh-checkpoints")
        xl.select(PLAIN)
