"""The noise schedules against k-diffusion, diffusers and values worked out by hand."""

import math
import types
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from instruct_pix2pix.engine.sampling.names import SCHEDULE_NAMES, find_schedule
from instruct_pix2pix.engine.sampling.samplers import SAMPLERS
from instruct_pix2pix.engine.sampling.schedules import NoiseSchedule
from instruct_pix2pix.errors import UserError
from tests.helpers.k_diffusion_reference import k_diffusion
from tests.helpers.sigmas import get_sigmas

STEPS = [1, 2, 3, 4, 20, 31, 150]
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULE = NoiseSchedule()


def compvis_denoiser(monkeypatch: pytest.MonkeyPatch) -> Any:
    """k-diffusion's wrapper of an LDM model, with alphas as LDM has them: by float64, kept as float32."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float64) ** 2
    alphas_cumprod = torch.tensor(np.cumprod(1 - betas), dtype=torch.float32)
    return k_diffusion(monkeypatch, "external").CompVisDenoiser(types.SimpleNamespace(alphas_cumprod=alphas_cumprod))


def close(ours: Tensor, theirs: Tensor) -> bool:
    return torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


# The model's levels


def test_the_levels_are_those_of_stable_diffusion(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SCHEDULE.sigmas.shape == (1000,)
    assert SCHEDULE.sigmas.dtype == torch.float32
    assert bool((SCHEDULE.sigmas.diff() > 0).all())
    assert close(SCHEDULE.sigmas, compvis_denoiser(monkeypatch).sigmas)
    assert pytest.approx(0.0292, abs=1e-4) == SCHEDULE.sigma_min
    assert pytest.approx(14.6146, abs=1e-3) == SCHEDULE.sigma_max


def test_other_betas_of_a_model_config_are_honoured() -> None:
    schedule = NoiseSchedule(linear_start=0.0015, linear_end=0.0195, timesteps=10)
    alphas = np.cumprod(1 - np.linspace(0.0015**0.5, 0.0195**0.5, 10) ** 2)
    assert np.allclose(schedule.sigmas.numpy(), np.sqrt((1 - alphas) / alphas), rtol=1e-6)


def test_sigma_to_t_agrees_with_k_diffusion(monkeypatch: pytest.MonkeyPatch) -> None:
    sigma = torch.tensor([0.03, 0.1, 0.5, 1.0, 2.7, 14.0])
    theirs = compvis_denoiser(monkeypatch).sigma_to_t(sigma)
    assert torch.allclose(SCHEDULE.sigma_to_t(sigma), theirs, atol=0.02)


def test_t_to_sigma_agrees_with_k_diffusion(monkeypatch: pytest.MonkeyPatch) -> None:
    t = torch.tensor([0.0, 0.5, 1.0, 123.4, 500.0, 998.9, 999.0])
    assert close(SCHEDULE.t_to_sigma(t), compvis_denoiser(monkeypatch).t_to_sigma(t))


def test_sigma_and_t_lead_back_to_each_other() -> None:
    t = torch.tensor([0.0, 0.25, 1.0, 77.7, 500.5, 999.0])
    assert torch.allclose(SCHEDULE.sigma_to_t(SCHEDULE.t_to_sigma(t)), t, atol=0.01)


def test_each_level_is_its_own_timestep() -> None:
    assert torch.allclose(SCHEDULE.sigma_to_t(SCHEDULE.sigmas), torch.arange(1000.0), atol=0.01)


def test_shapes_are_kept_and_plain_numbers_accepted() -> None:
    assert SCHEDULE.sigma_to_t(1.0).shape == ()
    assert SCHEDULE.t_to_sigma(500).shape == ()
    assert SCHEDULE.sigma_to_t(torch.ones(2, 3)).shape == (2, 3)
    assert SCHEDULE.t_to_sigma(torch.ones(2, 3)).shape == (2, 3)


def test_levels_beyond_the_range_are_clamped_to_it() -> None:
    assert SCHEDULE.sigma_to_t(torch.tensor([0.0, 1e-3, 100.0])).tolist() == [0, 0, 999]
    ends = torch.tensor([SCHEDULE.sigma_min, SCHEDULE.sigma_max])
    assert torch.allclose(SCHEDULE.t_to_sigma(torch.tensor([-1.0, 5000.0])), ends)


# The lists of sigmas


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("schedule", SCHEDULE_NAMES)
@pytest.mark.parametrize("steps", STEPS)
def test_every_list_descends_from_the_noisiest_level_to_zero(sampler: str, schedule: str, steps: int) -> None:
    sigmas = get_sigmas(schedule, steps, SCHEDULE, sampler)
    assert sigmas.shape == (steps + 1,)
    assert sigmas.dtype == torch.float32
    assert sigmas.device.type == "cpu"
    assert float(sigmas[0]) == pytest.approx(SCHEDULE.sigma_max, rel=1e-5)
    assert float(sigmas[-1]) == 0
    assert bool((sigmas.diff() < 0).all())


@pytest.mark.parametrize("steps", STEPS)
def test_karras_is_that_of_k_diffusion(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = k_diffusion(monkeypatch, "sampling").get_sigmas_karras
    theirs = reference(steps, SCHEDULE.sigma_min, SCHEDULE.sigma_max)
    assert close(get_sigmas("Karras", steps, SCHEDULE, "Euler"), theirs)


@pytest.mark.parametrize("steps", STEPS)
def test_exponential_is_that_of_k_diffusion(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = k_diffusion(monkeypatch, "sampling").get_sigmas_exponential
    theirs = reference(steps, SCHEDULE.sigma_min, SCHEDULE.sigma_max)
    assert close(get_sigmas("Exponential", steps, SCHEDULE, "Euler"), theirs)


@pytest.mark.parametrize("steps", STEPS)
def test_uniform_is_that_of_k_diffusion(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = compvis_denoiser(monkeypatch).get_sigmas(steps)
    assert close(get_sigmas("Uniform", steps, SCHEDULE, "Euler"), theirs)


@pytest.mark.parametrize(
    ("schedule", "option"), [("Karras", "use_karras_sigmas"), ("Exponential", "use_exponential_sigmas")]
)
def test_karras_and_exponential_are_those_of_diffusers(schedule: str, option: str) -> None:
    diffusers = pytest.importorskip("diffusers")
    pytest.importorskip("scipy")
    scheduler = diffusers.EulerDiscreteScheduler(**BETAS, **{option: True})
    scheduler.set_timesteps(20)
    assert close(get_sigmas(schedule, 20, SCHEDULE, "Euler"), scheduler.sigmas)


@pytest.mark.parametrize("steps", [3, 9, 27, 37])  # they divide 999, where diffusers' rounding changes nothing
def test_sgm_uniform_is_the_spacing_of_diffusers_unipc(steps: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.UniPCMultistepScheduler(**BETAS, final_sigmas_type="zero")
    scheduler.set_timesteps(steps)
    assert close(get_sigmas("SGM Uniform", steps, SCHEDULE, "Euler"), scheduler.sigmas)


@pytest.mark.parametrize("steps", [1, 2, 4, 10, 20, 50])
def test_simple_is_the_trailing_spacing_of_diffusers(steps: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(**BETAS, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    alphas = scheduler.alphas_cumprod[scheduler.timesteps]
    theirs = torch.cat([((1 - alphas) / alphas).sqrt(), torch.zeros(1)])
    assert close(get_sigmas("Simple", steps, SCHEDULE, "Euler"), theirs)


def test_simple_rounds_as_automatic1111_does() -> None:
    # 19 * (1000 / 38) is 499.99..., so that entry is the 500th from the end and not the 501st
    assert float(get_sigmas("Simple", 38, SCHEDULE, "Euler")[19]) == float(SCHEDULE.sigmas[500])


@pytest.mark.parametrize(
    ("schedule", "timesteps"),
    [
        ("Uniform", [999, 666, 333, 0]),
        ("SGM Uniform", [999, 749.25, 499.5, 249.75]),
        ("Simple", [999, 749, 499, 249]),
    ],
)
def test_four_steps_fall_on_these_timesteps(schedule: str, timesteps: list[float]) -> None:
    sigmas = get_sigmas(schedule, 4, SCHEDULE, "Euler")[:-1]
    assert SCHEDULE.sigma_to_t(sigmas).tolist() == pytest.approx(timesteps, abs=0.01)


@pytest.mark.parametrize("sampler", ["DDIM", "UniPC", "LCM"])
def test_the_timestep_samplers_start_at_the_noisiest_level_with_even_strides(sampler: str) -> None:
    t = SCHEDULE.sigma_to_t(get_sigmas("Automatic", 4, SCHEDULE, sampler)[:-1])
    assert float(t[0]) == pytest.approx(999, abs=0.01)
    assert t.diff().tolist() == pytest.approx([-249.75] * 3, abs=0.02)


@pytest.mark.parametrize(
    ("sampler", "schedule"),
    [
        ("Euler a", "Uniform"),
        ("Euler", "Uniform"),
        ("LMS", "Uniform"),
        ("Heun", "Uniform"),
        ("DPM2", "Karras"),
        ("DPM++ 2M", "Karras"),
        ("DPM++ SDE", "Karras"),
        ("DPM++ 2M SDE", "Exponential"),
        ("DPM++ 3M SDE", "Exponential"),
    ],
)
def test_automatic_is_what_automatic1111_chooses_for_the_sampler(sampler: str, schedule: str) -> None:
    ours = get_sigmas("Automatic", 20, SCHEDULE, sampler)
    assert torch.equal(ours, get_sigmas(schedule, 20, SCHEDULE, sampler))


@pytest.mark.parametrize("sampler", ["DPM2", "DPM++ 3M SDE"])
def test_where_automatic1111_drops_the_last_level_so_do_we(sampler: str) -> None:
    one_longer = get_sigmas("Karras", 21, SCHEDULE, "Euler")
    expected = torch.cat([one_longer[:20], torch.zeros(1)])
    assert torch.equal(get_sigmas("Karras", 20, SCHEDULE, sampler), expected)


def test_a_schedule_in_the_name_of_the_sampler_is_used() -> None:
    karras = get_sigmas("Karras", 20, SCHEDULE, "Euler")
    assert torch.equal(get_sigmas("Automatic", 20, SCHEDULE, "Euler Karras"), karras)


def test_a_continuous_model_needs_only_its_range_and_its_timesteps() -> None:
    class Continuous:
        """t is ln(sigma) / 4, as an EDM model has it."""

        sigma_min, sigma_max = 0.002, 120.0
        sigmas = torch.logspace(math.log10(0.002), math.log10(120.0), 1000)

        def sigma_to_t(self, sigma: Tensor | float) -> Tensor:
            return torch.as_tensor(sigma).log() / 4

        def t_to_sigma(self, t: Tensor | float) -> Tensor:
            return (torch.as_tensor(t) * 4).exp()

    even_in_log = torch.logspace(math.log10(120.0), math.log10(0.002), 20)
    assert close(get_sigmas("Uniform", 20, Continuous(), "Euler")[:-1], even_in_log)
    for schedule in SCHEDULE_NAMES:
        sigmas = get_sigmas(schedule, 20, Continuous(), "Euler a")
        assert float(sigmas[0]) == pytest.approx(120, rel=1e-4)
        assert bool((sigmas.diff() < 0).all())


# Names and numbers


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("karras", "Karras"),
        ("SGM Uniform", "SGM Uniform"),
        ("sgm_uniform", "SGM Uniform"),
        ("SGMUniform", "SGM Uniform"),
        ("AUTOMATIC", "Automatic"),
        ("Normal", "Uniform"),
        ("Polyexponential", "Exponential"),
    ],
)
def test_finds_a_schedule_by_the_names_that_automatic1111_gives_it(written: str, name: str) -> None:
    assert find_schedule(written) == name


def test_an_unknown_schedule_is_answered_with_the_nearest_and_all_the_others() -> None:
    with pytest.raises(UserError, match=r"'Karas' \(did you mean 'Karras'\?\)") as raised:
        get_sigmas("Karas", 20, SCHEDULE, "Euler")
    assert all(name in str(raised.value) for name in SCHEDULE_NAMES)


@pytest.mark.parametrize("steps", [0, -1, 1000])
def test_a_number_of_steps_that_cannot_be_is_refused(steps: int) -> None:
    with pytest.raises(UserError, match=rf"Steps must be from 1 to 999, not {steps}"):
        get_sigmas("Uniform", steps, SCHEDULE, "Euler")
