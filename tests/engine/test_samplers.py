"""The samplers against k-diffusion and diffusers, against a Gaussian with a known answer, and by name."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from instruct_pix2pix.engine.sampling.names import SAMPLER_NAMES, SCHEDULE_NAMES
from instruct_pix2pix.engine.sampling.samplers import SAMPLERS, Noise, Sampler, find_sampler
from instruct_pix2pix.engine.sampling.schedules import NoiseSchedule
from instruct_pix2pix.errors import Interrupted, UserError
from tests.helpers.k_diffusion_reference import k_diffusion
from tests.helpers.sigmas import get_sigmas

SHAPE = (2, 4, 8, 8)
ONE_EVALUATION = [name for name, sampler in SAMPLERS.items() if sampler.evaluations == 1]
DETERMINISTIC = [name for name, sampler in SAMPLERS.items() if not sampler.uses_noise]
STOCHASTIC = [name for name, sampler in SAMPLERS.items() if sampler.uses_noise]

IN_K_DIFFUSION = {
    "Euler": "sample_euler",
    "Euler a": "sample_euler_ancestral",
    "Heun": "sample_heun",
    "DPM2": "sample_dpm_2",
    "DPM++ 2M": "sample_dpmpp_2m",
    "DPM++ SDE": "sample_dpmpp_sde",
    "DPM++ 2M SDE": "sample_dpmpp_2m_sde",
    "DPM++ 3M SDE": "sample_dpmpp_3m_sde",
    "LMS": "sample_lms",
    "DDIM": "sample_euler",  # the same step, in this space
}

SIGMAS = {
    "one step": [14.6, 0.0],
    "two steps": [14.6, 0.7, 0.0],
    "uneven steps": [14.6, 9.0, 7.7, 3.1, 2.4, 1.0, 0.43, 0.2, 0.029, 0.0],
    "from part way": [2.4, 1.0, 0.43, 0.2, 0.0],
    "down to some noise": [14.6, 7.7, 3.1, 1.0, 0.5],
}


def toy_model(x: Tensor, sigma: Tensor) -> Tensor:
    """A smooth, nonlinear denoiser that looks at each row's sigma, so that a wrong level shows."""
    sigma = sigma.view(-1, 1, 1, 1)
    return torch.tanh(x / (1 + sigma**2).sqrt() + 0.3 * torch.cos(sigma)) + 0.2 * torch.sin(x / (1 + sigma))


def start(sigma: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=dtype) * sigma


def seeded_noise(seed: int = 2, shape: tuple[int, ...] = SHAPE) -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda *_: torch.randn(shape, generator=generator)


def no_noise(sigma: float, sigma_next: float) -> Tensor:
    raise AssertionError("a deterministic sampler asked for noise")


def run(
    name: str, sigmas: list[float] | Tensor, x: Tensor | None = None, noise: Noise | None = None, **more: Any
) -> Tensor:
    sigmas = torch.as_tensor(sigmas)
    x = start(float(sigmas[0])) if x is None else x
    if noise is None:
        noise = seeded_noise() if SAMPLERS[name].uses_noise else no_noise
    return SAMPLERS[name](toy_model, x, sigmas, noise, **more)


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


# Against k-diffusion


@pytest.mark.parametrize("levels", SIGMAS)
@pytest.mark.parametrize("name", IN_K_DIFFUSION)
def test_gives_what_k_diffusion_gives(name: str, levels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if levels == "one step" and name in ("DPM++ 2M SDE", "DPM++ 3M SDE"):
        pytest.skip("k-diffusion fails on a single step of this one")
    sampling = k_diffusion(monkeypatch, "sampling")
    sigmas = torch.tensor(SIGMAS[levels])
    x = start(float(sigmas[0]))

    def brownian() -> Noise:
        """One random path over sigma, the same at each call: k-diffusion's own source of noise."""
        return sampling.BrownianTreeNoiseSampler(x, 0.01, 15.0, seed=2)

    more = {"noise_sampler": brownian()} if SAMPLERS[name].uses_noise else {}
    # In float64, for in float32 it reads the path, which is rough, at rounded sigmas
    sample = getattr(sampling, IN_K_DIFFUSION[name])
    theirs = sample(toy_model, x.double(), sigmas.double(), disable=True, **more)
    ours = run(name, sigmas, noise=brownian() if SAMPLERS[name].uses_noise else None)
    assert relative_difference(ours, theirs) < 1e-4


def test_calls_back_with_the_step_the_latent_and_the_estimate_that_k_diffusion_reports(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampling = k_diffusion(monkeypatch, "sampling")
    sigmas = torch.tensor(SIGMAS["uneven steps"])
    theirs: list[dict[str, Any]] = []
    ours: list[tuple[int, Tensor, Tensor]] = []
    sampling.sample_heun(toy_model, start(14.6), sigmas, disable=True, callback=theirs.append)
    run("Heun", sigmas, callback=lambda *report: ours.append(report))
    assert len(ours) == len(theirs) == 9
    for (step, x, denoised), report in zip(ours, theirs, strict=True):
        assert step == report["i"]
        assert relative_difference(x, report["x"]) < 1e-4
        assert relative_difference(denoised, report["denoised"]) < 1e-4


# Against diffusers, whose latents are ours divided by sqrt(1 + sigma**2)

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def run_diffusers(scheduler: Any, sigmas: Tensor, timesteps: Tensor, **more: Any) -> Tensor:
    """A diffusers pipeline's loop in float64 with the toy model, from the latent that `run` starts from."""
    x = start(float(sigmas[0]), torch.float64) / (1 + sigmas[0] ** 2).sqrt()
    for sigma, t in zip(sigmas[:-1], timesteps, strict=True):
        ours = x * (1 + sigma**2).sqrt()
        eps = (ours - toy_model(ours, sigma.repeat(len(x)))) / sigma
        x = scheduler.step(eps, t, x, **more).prev_sample
    return x


@pytest.mark.parametrize("steps", [1, 2, 4, 10, 20])
def test_ddim_gives_what_diffusers_gives(steps: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing")
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.set_timesteps(steps)
    alphas = scheduler.alphas_cumprod[scheduler.timesteps]
    sigmas = torch.cat([((1 - alphas) / alphas).sqrt(), torch.zeros(1)])
    theirs = run_diffusers(scheduler, sigmas, scheduler.timesteps)
    ours = run("DDIM", sigmas, start(float(sigmas[0]), torch.float64))
    assert relative_difference(ours, theirs) < 1e-4


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 9, 20])
def test_unipc_gives_what_diffusers_gives(steps: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.UniPCMultistepScheduler(
        **BETAS, solver_order=3, solver_type="bh2", lower_order_final=True, final_sigmas_type="zero"
    )
    scheduler.set_timesteps(steps)
    scheduler.sigmas = scheduler.sigmas.double()
    theirs = run_diffusers(scheduler, scheduler.sigmas, scheduler.timesteps)
    ours = run("UniPC", scheduler.sigmas, start(float(scheduler.sigmas[0]), torch.float64))
    assert relative_difference(ours, theirs) < 1e-4


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_lcm_gives_what_diffusers_gives(steps: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.LCMScheduler(**BETAS, clip_sample=False)
    scheduler.set_timesteps(steps)
    alphas = scheduler.alphas_cumprod.double()[scheduler.timesteps]
    sigmas = torch.cat([((1 - alphas) / alphas).sqrt(), torch.zeros(1)])
    theirs = run_diffusers(scheduler, sigmas, scheduler.timesteps, generator=torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(2)
    ours = run(
        "LCM",
        sigmas,
        start(float(sigmas[0]), torch.float64),
        noise=lambda *_: torch.randn(SHAPE, generator=generator, dtype=torch.float64),
    )
    assert relative_difference(ours, theirs) < 1e-4


# Against a Gaussian of standard deviation DEVIATION, whose best denoiser and whose answer are known

DEVIATION = 0.8


def gaussian_model(x: Tensor, sigma: Tensor) -> Tensor:
    variance = sigma.view(-1, 1, 1, 1) ** 2
    return x * (DEVIATION**2 / (DEVIATION**2 + variance))


def gaussian_error(name: str, steps: int) -> float:
    """How far the standard deviation ends from DEVIATION, relative (one number, as all is linear)."""
    sigmas = get_sigmas("Karras", steps, NoiseSchedule(), name).double()
    x = (sigmas[0] ** 2 + DEVIATION**2).sqrt().view(1, 1, 1, 1)
    return abs(float(SAMPLERS[name](gaussian_model, x, sigmas, no_noise)) / DEVIATION - 1)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_more_steps_come_ever_nearer_to_the_known_spread(name: str) -> None:
    errors = [gaussian_error(name, steps) for steps in (10, 20, 40, 80)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.03


@pytest.mark.parametrize("name", [name for name in DETERMINISTIC if name not in ("Euler", "DDIM")])
def test_a_higher_order_beats_euler_at_the_same_number_of_steps(name: str) -> None:
    assert gaussian_error(name, 20) < gaussian_error("Euler", 20) / 2


@pytest.mark.parametrize("name", STOCHASTIC)
def test_the_added_noise_leaves_the_known_spread(name: str) -> None:
    shape = (4, 4, 64, 64)
    sigmas = get_sigmas("Karras", 200, NoiseSchedule(), name)
    noise = seeded_noise(3, shape)
    x = noise() * (sigmas[0] ** 2 + DEVIATION**2).sqrt()
    if name == "LCM":
        # A consistency model jumps to the image of the whole trajectory, which keeps the spread
        def model(x: Tensor, sigma: Tensor) -> Tensor:
            return x * DEVIATION / (DEVIATION**2 + sigma.view(-1, 1, 1, 1) ** 2).sqrt()
    else:
        model = gaussian_model
    sampled = SAMPLERS[name](model, x, sigmas, noise)
    assert float(sampled.std()) == pytest.approx(DEVIATION, rel=0.02)
    assert float(sampled.mean()) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("name", ["DPM++ SDE", "DPM++ 2M SDE", "DPM++ 3M SDE"])
def test_the_higher_order_stochastic_samplers_keep_the_spread_in_twenty_steps(name: str) -> None:
    shape = (4, 4, 64, 64)
    sigmas = get_sigmas("Karras", 20, NoiseSchedule(), name)
    noise = seeded_noise(3, shape)
    x = noise() * (sigmas[0] ** 2 + DEVIATION**2).sqrt()
    sampled = SAMPLERS[name](gaussian_model, x, sigmas, noise)
    assert float(sampled.std()) == pytest.approx(DEVIATION, rel=0.05)


# What every sampler promises


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_picture_does_not_depend_on_its_batch(name: str) -> None:
    sigmas = SIGMAS["uneven steps"]
    together = run(name, sigmas)
    for row in range(SHAPE[0]):
        batch_noise = seeded_noise()
        alone = run(
            name,
            sigmas,
            start(sigmas[0])[row : row + 1],
            noise=lambda *_, row=row, batch_noise=batch_noise: batch_noise()[row : row + 1],
        )
        assert torch.allclose(alone, together[row : row + 1], atol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_calls_back_once_a_step_and_evaluates_as_often_as_it_says(name: str) -> None:
    steps: list[int] = []
    evaluations = 0

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        return toy_model(x, sigma)

    sigmas = torch.tensor(SIGMAS["uneven steps"])
    SAMPLERS[name](model, start(14.6), sigmas, seeded_noise(), lambda step, *_: steps.append(step))
    assert steps == list(range(9))
    assert evaluations == SAMPLERS[name].evaluations * 8 + 1


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_exception_from_the_callback_stops_after_that_step(name: str) -> None:
    def stop(step: int, x: Tensor, denoised: Tensor) -> None:
        seen.append(step)
        if step == 2:
            raise Interrupted

    seen: list[int] = []
    with pytest.raises(Interrupted):
        run(name, SIGMAS["uneven steps"], callback=stop)
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_last_step_ends_on_the_estimate_and_leaves_no_noise(name: str) -> None:
    reports: list[Tensor] = []
    sampled = run(name, SIGMAS["one step"], callback=lambda step, x, denoised: reports.append(denoised))
    assert torch.allclose(sampled, reports[0], atol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_half_precision_latent_keeps_its_type_and_the_exact_sigma(name: str) -> None:
    seen: list[Tensor] = []

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        assert sigma.dtype == torch.float32
        assert sigma.shape == (SHAPE[0],)
        seen.append(sigma)
        return (x / 2).to(x.dtype)

    x = start(14.6).bfloat16()
    noise = seeded_noise()
    sampled = SAMPLERS[name](model, x, torch.tensor([14.6, 1.0, 0.0]), lambda *_: noise().bfloat16())
    assert sampled.dtype == torch.bfloat16
    assert float(seen[0][0]) == pytest.approx(14.6, rel=1e-6)


@pytest.mark.parametrize("name", SAMPLERS)
def test_keeps_no_gradients(name: str) -> None:
    scale = torch.ones((), requires_grad=True)
    sigmas = torch.tensor(SIGMAS["two steps"])
    sampled = SAMPLERS[name](lambda x, sigma: toy_model(x, sigma) * scale, start(14.6), sigmas, seeded_noise())
    assert not sampled.requires_grad


@pytest.mark.parametrize("name", SAMPLERS)
def test_does_not_change_the_latent_it_is_given(name: str) -> None:
    x = start(14.6)
    run(name, SIGMAS["uneven steps"], x)
    assert torch.equal(x, start(14.6))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("schedule", SCHEDULE_NAMES)
@pytest.mark.parametrize("steps", [1, 2, 3, 20, 150])
def test_every_sampler_works_with_every_schedule(name: str, schedule: str, steps: int) -> None:
    sigmas = get_sigmas(schedule, steps, NoiseSchedule(), name)
    x = start(float(sigmas[0]))
    sampled = SAMPLERS[name](gaussian_model, x, sigmas, seeded_noise())
    assert bool(sampled.isfinite().all())
    if steps >= 20:  # in fewer, Heun's last short step overshoots
        assert float(sampled.abs().max()) < 8 * DEVIATION


# Names


@pytest.mark.parametrize(
    ("written", "sampler", "schedule"),
    [
        ("Euler a", "Euler a", None),
        ("EULER A", "Euler a", None),
        ("k_euler_a", "Euler a", None),
        ("k_euler_ancestral", "Euler a", None),
        ("euler", "Euler", None),
        ("k_lms", "LMS", None),
        ("k_heun", "Heun", None),
        ("k_dpm_2", "DPM2", None),
        ("k_dpmpp_2m", "DPM++ 2M", None),
        ("k_dpmpp_sde", "DPM++ SDE", None),
        ("k_dpmpp_2m_sde", "DPM++ 2M SDE", None),
        ("k_dpmpp_3m_sde", "DPM++ 3M SDE", None),
        ("ddim", "DDIM", None),
        ("unipc", "UniPC", None),
        ("k_lcm", "LCM", None),
        ("DPM++ 2M Karras", "DPM++ 2M", "Karras"),
        ("dpm++ sde karras", "DPM++ SDE", "Karras"),
        ("DPM++ 2M SDE Exponential", "DPM++ 2M SDE", "Exponential"),
        ("DPM++ 2M SGMUniform", "DPM++ 2M", "SGM Uniform"),
        ("LMS Karras", "LMS", "Karras"),
        ("k_dpmpp_2m_ka", "DPM++ 2M", "Karras"),
        ("k_dpmpp_2m_sde_exp", "DPM++ 2M SDE", "Exponential"),
    ],
)
def test_finds_a_sampler_by_the_names_that_automatic1111_has_given_it(
    written: str, sampler: str, schedule: str | None
) -> None:
    assert find_sampler(written) == (SAMPLERS[sampler], schedule)


def test_every_sampler_is_known_by_name_before_torch_is_imported() -> None:
    assert tuple(SAMPLERS) == SAMPLER_NAMES


@pytest.mark.parametrize("schedule", SCHEDULE_NAMES)
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=list(SAMPLERS))
def test_any_schedule_may_follow_any_sampler_in_a_name(sampler: Sampler, schedule: str) -> None:
    assert find_sampler(f"{sampler.name} {schedule}") == (sampler, schedule)


@pytest.mark.parametrize(
    ("written", "suggested"), [("Eular", "'Euler'"), ("DPM 2M", "'DPM++ 2M'"), ("dmp++ sde", "'DPM++ SDE'")]
)
def test_an_unknown_sampler_is_answered_with_the_nearest_and_all_the_others(written: str, suggested: str) -> None:
    with pytest.raises(UserError) as raised:
        find_sampler(written)
    message = str(raised.value)
    assert repr(written) in message
    assert f"did you mean {suggested}?" in message
    assert all(name in message for name in SAMPLERS)


@pytest.mark.parametrize("written", ["", "Karras", "k_", "x" * 100_000, "Euler a\nEuler", "PLMS"])
def test_nonsense_for_a_sampler_gives_one_short_line(written: str) -> None:
    with pytest.raises(UserError) as raised:
        find_sampler(written)
    assert len(str(raised.value)) < 300
    assert "\n" not in str(raised.value)
