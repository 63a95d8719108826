"""The samplers: each walks a noisy latent down a list of sigmas, in one short function like its paper.

All work in the space x = image + sigma * noise, where a model is a function (x, sigma) -> denoised. There,
the straight line from x to the denoised estimate is at once the step of Euler, DDIM and DPM-Solver++(1), and
the higher orders of the latter only choose a better point to aim at. Coefficients are Python floats, so that
no step waits for the accelerator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .names import read_sampler

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(x [B, C, H, W], sigma [B] float32 on the CPU, whatever x is) -> denoised [B, C, H, W]."""

Noise = Callable[[float, float], Tensor]
"""(sigma, sigma_next) -> fresh standard normal noise like x, for the step between these two levels."""

Callback = Callable[[int, Tensor, Tensor], None]
"""(step from 0, x, denoised), once per step after its first evaluation. What it raises ends the sampling."""


def ignore(step: int, x: Tensor, denoised: Tensor) -> None:
    """A callback for those who want none."""


class SamplerFunction(Protocol):
    """What every function below is."""

    def __call__(
        self, model: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, callback: Callback = ignore
    ) -> Tensor:
        """Take x [B, C, H, W] from noise level sigmas[0] down to the last of sigmas [n + 1]; return it."""
        ...


def euler(model: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, callback: Callback = ignore) -> Tensor:
    """Euler's method on the probability flow ODE (Karras et al. 2022, arXiv 2206.00364, first order)."""
    for step, sigma, sigma_next in _steps(sigmas):
        denoised = _evaluate(model, x, sigma)
        callback(step, x, denoised)
        x = _toward(denoised, x, sigma, sigma_next)
    return x


def euler_ancestral(model: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, callback: Callback = ignore) -> Tensor:
    """Step below the next level with Euler's method, then climb back to it with new noise (k-diffusion)."""
    for step, sigma, sigma_next in _steps(sigmas):
        denoised = _evaluate(model, x, sigma)
        callback(step, x, denoised)
        sigma_down, sigma_up = _ancestral(sigma, sigma_next)
        x = _toward(denoised, x, sigma, sigma_down)
        if sigma_next > 0:
            x = x + sigma_up * noise(sigma, sigma_next)
    return x


def heun(model: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, callback: Callback = ignore) -> Tensor:
    """Heun's method: the mean of the slopes at both ends (Karras et al. 2022, arXiv 2206.00364, alg. 1)."""
    for step, sigma, sigma_next in _steps(sigmas):
        denoised = _evaluate(model, x, sigma)
        callback(step, x, denoised)
        if sigma_next == 0:
            return denoised
        slope = (x - denoised) / sigma
        x_end = x + slope * (sigma_next - sigma)
        slope_end = (x_end - _evaluate(model, x_end, sigma_next)) / sigma_next
        x = x + (slope + slope_end) / 2 * (sigma_next - sigma)
    return x


def dpm_2(model: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, callback: Callback = ignore) -> Tensor:
    """DPM-Solver-2: the slope in the middle, by log sigma (Lu et al. 2022, arXiv 2206.00927; k-diffusion)."""
    for step, sigma, sigma_next in _steps(sigmas):
        denoised = _evaluate(model, x, sigma)
        callback(step, x, denoised)
        if sigma_next == 0:
            return denoised
        sigma_mid = math.sqrt(sigma * sigma_next)
        x_mid = _toward(denoised, x, sigma, sigma_mid)
        slope_mid = (x_mid - _evaluate(model, x_mid, sigma_mid)) / sigma_mid
        x = x + slope_mid * (sigma_next - sigma)
    return x


def lms(model: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, callback: Callback = ignore) -> Tensor:
    """Linear multistep (Adams-Bashforth) on uneven sigmas: integrate a cubic through the last four slopes."""
    levels: list[float] = []  # newest first, as are the slopes
    slopes: list[Tensor] = []
    for step, sigma, sigma_next in _steps(sigmas):
        denoised = _evaluate(model, x, sigma)
        callback(step, x, denoised)
        levels = [sigma, *levels[:3]]
        slopes = [(x - denoised) / sigma, *slopes[:3]]
        weights = _lagrange_integrals(levels, sigma, sigma_next)
        x = x + sum(weight * slope for weight, slope in zip(weights, slopes, strict=True))
    return x


def ddim(model: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, callback: Callback = ignore) -> Tensor:
    """DDIM with eta 0 (Song et al. 2020, arXiv 2010.02502, eq. 12): scale the predicted noise down.

    Both sides of eq. 12 are divided by sqrt(alpha), which turns its x into ours; it then equals Euler's step.
    """
    for step, sigma, sigma_next in _steps(sigmas):
        denoised = _evaluate(model, x, sigma)
        callback(step, x, denoised)
        predicted_noise = (x - denoised) / sigma
        x = denoised + sigma_next * predicted_noise
    return x


def lcm(model: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, callback: Callback = ignore) -> Tensor:
    """Multistep consistency sampling (Luo et al. 2023, arXiv 2310.04378): jump to the image, noise it again.

    The denoised estimate is taken as the consistency function. Luo's boundary scalings c_skip and c_out are
    within 1e-5 of 0 and 1 at every timestep from 19 up, too near to show.
    """
    for step, sigma, sigma_next in _steps(sigmas):
        denoised = _evaluate(model, x, sigma)
        callback(step, x, denoised)
        x = denoised
        if sigma_next > 0:
            x = x + sigma_next * noise(sigma, sigma_next)
    return x


def dpmpp_2m(model: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, callback: Callback = ignore) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, alg. 2): aim at an extrapolated estimate."""
    last, h_last = None, 0.0
    for step, sigma, sigma_next in _steps(sigmas):
        denoised = _evaluate(model, x, sigma)
        callback(step, x, denoised)
        if sigma_next == 0:
            return denoised
        h = math.log(sigma / sigma_next)
        ahead = denoised if last is None else denoised + (denoised - last) * (h / (2 * h_last))
        x = _toward(ahead, x, sigma, sigma_next)
        last, h_last = denoised, h
    return x


def dpmpp_sde(model: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, callback: Callback = ignore) -> Tensor:
    """Stochastic DPM-Solver++: an ancestral half step, then the whole one aimed from there (k-diffusion).

    The whole step's noise continues the half step's, as one Brownian path over sigma. After 20 steps towards
    a Gaussian its spread is then 1% too small; with independent noise it would be 13%.
    """
    for step, sigma, sigma_next in _steps(sigmas):
        denoised = _evaluate(model, x, sigma)
        callback(step, x, denoised)
        if sigma_next == 0:
            return denoised
        # Half the step, in log sigma
        sigma_mid = math.sqrt(sigma * sigma_next)
        sigma_down, sigma_up = _ancestral(sigma, sigma_mid)
        noise_mid = noise(sigma, sigma_mid)
        x_mid = _toward(denoised, x, sigma, sigma_down) + sigma_up * noise_mid
        denoised_mid = _evaluate(model, x_mid, sigma_mid)
        # The whole step
        sigma_down, sigma_up = _ancestral(sigma, sigma_next)
        share = (sigma - sigma_mid) / (sigma - sigma_next)
        path = math.sqrt(share) * noise_mid + math.sqrt(1 - share) * noise(sigma_mid, sigma_next)
        x = _toward(denoised_mid, x, sigma, sigma_down) + sigma_up * path
    return x


def dpmpp_2m_sde(model: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, callback: Callback = ignore) -> Tensor:
    """SDE-DPM-Solver++(2M), midpoint form (arXiv 2211.01095): the ancestral step, aimed as DPM++ 2M aims."""
    last, h_last = None, 0.0
    for step, sigma, sigma_next in _steps(sigmas):
        denoised = _evaluate(model, x, sigma)
        callback(step, x, denoised)
        if sigma_next == 0:
            return denoised
        h = math.log(sigma / sigma_next)
        ahead = denoised if last is None else denoised + (denoised - last) * (h / (2 * h_last))
        sigma_down, sigma_up = _ancestral(sigma, sigma_next)
        x = _toward(ahead, x, sigma, sigma_down) + sigma_up * noise(sigma, sigma_next)
        last, h_last = denoised, h
    return x


def dpmpp_3m_sde(model: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, callback: Callback = ignore) -> Tensor:
    """SDE-DPM-Solver++(3M), k-diffusion's extension of 2M: two derivatives of the estimate by lambda."""
    past: list[tuple[Tensor, float]] = []  # (denoised, log-sigma step taken from it), newest first
    for step, sigma, sigma_next in _steps(sigmas):
        denoised = _evaluate(model, x, sigma)
        callback(step, x, denoised)
        if sigma_next == 0:
            return denoised
        h = math.log(sigma / sigma_next)
        phi_2 = math.expm1(-2 * h) / (2 * h) + 1
        phi_3 = phi_2 / (2 * h) - 0.5
        sigma_down, sigma_up = _ancestral(sigma, sigma_next)
        x = _toward(denoised, x, sigma, sigma_down)
        if len(past) == 1:
            ((last, h_last),) = past
            x = x + phi_2 * (denoised - last) * (h / h_last)
        elif len(past) == 2:
            (last, h_last), (older, h_older) = past
            r_last, r_older = h_last / h, h_older / h
            slope_last, slope_older = (denoised - last) / r_last, (last - older) / r_older
            second = (slope_last - slope_older) / (r_last + r_older)
            first = slope_last + second * r_last
            x = x + phi_2 * first - phi_3 * second
        x = x + sigma_up * noise(sigma, sigma_next)
        past = [(denoised, h), *past[:1]]
    return x


def unipc(model: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, callback: Callback = ignore) -> Tensor:
    """UniPC, multistep, order 3, B(h) = exp(h) - 1 (Zhao et al. 2023, arXiv 2302.04867), on the image.

    Each evaluation first corrects the step that led to it, then joins the history that predicts the next one.
    The order falls to 1 over the last steps, as the step to sigma 0 needs.
    """
    past: list[tuple[float, Tensor]] = []  # (sigma, denoised), newest first
    x_last = x
    count = len(sigmas) - 1
    for step, sigma, sigma_next in _steps(sigmas):
        denoised = _evaluate(model, x, sigma)
        callback(step, x, denoised)
        if sigma_next == 0:
            return denoised
        if past:
            x = _unipc_step(x_last, past, sigma, denoised)
        order = min(3, step + 1, count - step)
        past = [(sigma, denoised), *past][:order]
        x_last, x = x, _unipc_step(x, past, sigma_next)
    return x


def _steps(sigmas: Tensor) -> Iterator[tuple[int, float, float]]:
    """(step, sigma, sigma_next) for each step."""
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas.tolist())):
        yield step, sigma, sigma_next


def _evaluate(model: Denoiser, x: Tensor, sigma: float) -> Tensor:
    """Ask the model; in half precision sigma would blur the timestep, and on a GPU whoever reads it has to wait."""
    return model(x, torch.full([len(x)], sigma, dtype=torch.float32, device="cpu"))


def _toward(denoised: Tensor, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """Move x at level sigma along the straight line to `denoised`, until level sigma_next."""
    return denoised + (x - denoised) * (sigma_next / sigma)


def _ancestral(sigma: float, sigma_next: float) -> tuple[float, float]:
    """(sigma_down, sigma_up): the level to step down to, and the noise that then leads up to sigma_next.

    The posterior of DDPM (arXiv 2010.02502, eq. 16 with eta 1): sigma_down**2 + sigma_up**2 == sigma_next**2.
    """
    sigma_down = sigma_next**2 / sigma
    return sigma_down, math.sqrt(sigma_next**2 - sigma_down**2)


def _lagrange_integrals(nodes: list[float], start: float, end: float) -> list[float]:
    """Integrals from start to end of the polynomials that are 1 at one node and 0 at the others."""
    points, weights = np.polynomial.legendre.leggauss(2)  # exact up to degree 3: four nodes
    half = (end - start) / 2
    points = start + half * (points + 1)
    return [float(half * np.sum(weights * math.prod((points - b) / (a - b) for b in nodes if b != a))) for a in nodes]


def _unipc_step(
    x: Tensor, past: list[tuple[float, Tensor]], sigma_next: float, denoised_next: Tensor | None = None
) -> Tensor:
    """UniP from past[0]'s level to sigma_next, or UniC where the estimate at sigma_next is known too.

    Both aim at the newest estimate plus a weighted sum of differences to the others. r is where each other
    estimate lies, in steps of h; the weights match the Taylor series of the exact solution.
    """
    (sigma, denoised), *older = past
    h = math.log(sigma / sigma_next)
    others = [(math.log(sigma / level) / h, estimate) for level, estimate in older]
    if denoised_next is not None:
        others.append((1.0, denoised_next))
    ahead = denoised
    for weight, (r, estimate) in zip(_unipc_weights([r for r, _ in others], h), others, strict=True):
        ahead = ahead + (estimate - denoised) * (weight / r)
    return _toward(ahead, x, sigma, sigma_next)


def _unipc_weights(r: list[float], h: float) -> list[float]:
    """Solve sum_j weight_j * r_j**(k - 1) = k! * phi_{k+1}(-h) / phi_1(-h) for k = 1 .. len(r)."""
    if len(r) == 1:
        return [0.5]  # the paper's choice: it spares the equation and keeps the order
    phi_1 = phi = -math.expm1(-h) / h
    b = []
    for k in range(1, len(r) + 1):
        phi = (1 / math.factorial(k) - phi) / h  # phi_{k+1}(-h)
        b.append(math.factorial(k) * phi / phi_1)
    return np.linalg.solve(np.vander(r, increasing=True).T, b).tolist() if r else []


@dataclass(frozen=True)
class Sampler:
    """A sampler as a person chooses it. Calling it runs `function` without gradients.

    `evaluations`: how often a step asks the model (the last step asks once). `default_schedule`: what the
    schedule 'Automatic' means. `uses_noise`: whether `noise` is called. `discards_penultimate`: whether the
    list of sigmas is made one longer and its smallest level dropped, as AUTOMATIC1111 does for this sampler.
    """

    name: str
    function: SamplerFunction
    evaluations: int = 1
    default_schedule: str = "Uniform"
    uses_noise: bool = False
    discards_penultimate: bool = False

    def __call__(
        self, model: Denoiser, x: Tensor, sigmas: Tensor, noise: Noise, callback: Callback = ignore
    ) -> Tensor:
        """Take x [B, C, H, W] from noise level sigmas[0] down to the last of sigmas [n + 1]; return it."""
        with torch.no_grad():
            return self.function(model, x, sigmas, noise, callback)


SAMPLERS: dict[str, Sampler] = {
    sampler.name: sampler
    for sampler in (
        Sampler("Euler a", euler_ancestral, uses_noise=True),
        Sampler("Euler", euler),
        Sampler("Heun", heun, evaluations=2),
        Sampler("DPM2", dpm_2, evaluations=2, default_schedule="Karras", discards_penultimate=True),
        Sampler("DPM++ 2M", dpmpp_2m, default_schedule="Karras"),
        Sampler("DPM++ SDE", dpmpp_sde, evaluations=2, default_schedule="Karras", uses_noise=True),
        Sampler("DPM++ 2M SDE", dpmpp_2m_sde, default_schedule="Exponential", uses_noise=True),
        Sampler(
            "DPM++ 3M SDE",
            dpmpp_3m_sde,
            default_schedule="Exponential",
            uses_noise=True,
            discards_penultimate=True,
        ),
        Sampler("LMS", lms),
        Sampler("DDIM", ddim, default_schedule="SGM Uniform"),
        Sampler("UniPC", unipc, default_schedule="SGM Uniform"),
        Sampler("LCM", lcm, default_schedule="SGM Uniform", uses_noise=True),
    )
}
"""Every sampler by its name, in the order of `names.SAMPLER_NAMES`."""

def find_sampler(name: str) -> tuple[Sampler, str | None]:
    """The sampler a name means, and the schedule in the name, if any: see `names.read_sampler`. Raises UserError."""
    own, schedule = read_sampler(name)
    return SAMPLERS[own], schedule
