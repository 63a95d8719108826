"""The noise levels a model was trained on, and the lists of sigmas a sampler walks down.

sigma is the noise level in x = image + sigma * noise; t is the timestep that the network is told.
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ...errors import UserError
from .samplers import Sampler


class NoiseLevels(Protocol):
    """What a schedule needs to know of a model: its range of sigmas, and sigma <-> t."""

    @property
    def sigmas(self) -> Tensor:
        """A table [N] float32 of the model's levels, ascending (a continuous model gives a fine sample)."""
        ...

    @property
    def sigma_min(self) -> float:
        """The smallest level."""
        ...

    @property
    def sigma_max(self) -> float:
        """The largest level."""
        ...

    def sigma_to_t(self, sigma: Tensor | float) -> Tensor:
        """The timestep of each sigma, float32, of the same shape."""
        ...

    def t_to_sigma(self, t: Tensor | float) -> Tensor:
        """The sigma of each timestep, float32, of the same shape."""
        ...


class NoiseSchedule:
    """The discrete levels of a latent diffusion model: 'scaled linear' betas (arXiv 2112.10752), t in 0..N-1.

    Between two levels, log sigma is linear in t, as in k-diffusion's CompVisDenoiser without quantization. The network
    predicts the noise.
    """

    def __init__(self, linear_start: float = 0.00085, linear_end: float = 0.012, timesteps: int = 1000) -> None:
        """Build `timesteps` levels from the first and last beta of the model's config."""
        ends = math.sqrt(linear_start), math.sqrt(linear_end)
        betas = torch.linspace(*ends, timesteps, dtype=torch.float64, device="cpu") ** 2
        alphas_cumprod = torch.cumprod(1 - betas, dim=0)
        sigmas = ((1 - alphas_cumprod) / alphas_cumprod).sqrt()
        self.sigmas: Tensor = sigmas.float()
        self.log_sigmas: Tensor = sigmas.log().float()
        self.sigma_min = float(self.sigmas[0])
        self.sigma_max = float(self.sigmas[-1])

    def sigma_to_t(self, sigma: Tensor | float) -> Tensor:
        """The timestep of each sigma, float32, of its shape and on its device; clamped to 0..N-1."""
        log_sigma = torch.as_tensor(sigma, dtype=torch.float32).log()
        table = self.log_sigmas.to(log_sigma.device)
        low = (torch.searchsorted(table, log_sigma, right=True) - 1).clamp(0, len(table) - 2)
        weight = (log_sigma - table[low]) / (table[low + 1] - table[low])
        return low + weight.clamp(0, 1)

    def t_to_sigma(self, t: Tensor | float) -> Tensor:
        """The sigma of each timestep, float32, of its shape and on its device; t is clamped to 0..N-1."""
        t = torch.as_tensor(t, dtype=torch.float32)
        table = self.log_sigmas.to(t.device)
        t = t.clamp(0, len(table) - 1)
        low = t.long().clamp(max=len(table) - 2)
        return torch.lerp(table[low], table[low + 1], t - low).exp()

    def denoised(self, x: Tensor, predicted: Tensor, sigma: Tensor) -> Tensor:
        """The denoised latent [B, C, h, w] of x, from what the network predicts at sigma [] or [B, 1, 1, 1]."""
        return x - sigma * predicted

    def start(self, sigma: float) -> float:
        """The deviation of the noise that an edit begins with at this sigma."""
        return sigma

    def at_share(self, share: float) -> Tensor:
        """The sigma [] at this share, 0..1, of the timesteps, counted from the cleanest."""
        return self.t_to_sigma(share * len(self.sigmas))


class ContinuousSchedule:
    """The levels of CosXL: any sigma in a range, t = ln(sigma) / 4, and a network that predicts v.

    Karras et al. 2022 (arXiv 2206.00364, table 1) with a data deviation of 1, and v as in Salimans and Ho 2022 (arXiv
    2202.00512).
    """

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 120.0) -> None:
        """Take the ends of the range."""
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.sigmas: Tensor = _exponential(1000, self).flip(0).float()

    def sigma_to_t(self, sigma: Tensor | float) -> Tensor:
        """The timestep of each sigma, float32, of its shape and on its device."""
        return torch.as_tensor(sigma, dtype=torch.float32).log() / 4

    def t_to_sigma(self, t: Tensor | float) -> Tensor:
        """The sigma of each timestep, float32, of its shape and on its device."""
        return (torch.as_tensor(t, dtype=torch.float32) * 4).exp()

    def denoised(self, x: Tensor, predicted: Tensor, sigma: Tensor) -> Tensor:
        """As NoiseSchedule.denoised."""
        return x / (sigma**2 + 1) - predicted * (sigma / (sigma**2 + 1).sqrt())

    def start(self, sigma: float) -> float:
        """As NoiseSchedule.start: with the deviation 1 of the data, of which nothing is known yet."""
        return math.sqrt(sigma**2 + 1)

    def at_share(self, share: float) -> Tensor:
        """The sigma [] of Stable Diffusion at this share: a picture is then as deep in noise as there."""
        return NoiseSchedule().at_share(share)


def _uniform(n: int, levels: NoiseLevels) -> Tensor:
    """n timesteps evenly from the first level to the last (k-diffusion's own choice)."""
    return levels.t_to_sigma(_timesteps(n, levels))


def _sgm_uniform(n: int, levels: NoiseLevels) -> Tensor:
    """n even strides of t, each evaluated at its noisy end: no step is spent on the cleanest level.

    Also called 'trailing' (Lin et al. 2023, arXiv 2305.08891, table 2).
    """
    return levels.t_to_sigma(_timesteps(n + 1, levels)[:-1])


def _simple(n: int, levels: NoiseLevels) -> Tensor:
    """Every (N/n)th entry of the table, from its end (AUTOMATIC1111, down to its rounding of i * (N/n))."""
    stride = len(levels.sigmas) / n
    return levels.sigmas[[-1 - int(i * stride) for i in range(n)]]


def _karras(n: int, levels: NoiseLevels, rho: float = 7.0) -> Tensor:
    """Even in sigma ** (1 / rho) (Karras et al. 2022, arXiv 2206.00364, eq. 5)."""
    return _linspace(levels.sigma_max ** (1 / rho), levels.sigma_min ** (1 / rho), n) ** rho


def _exponential(n: int, levels: NoiseLevels) -> Tensor:
    """Even in log sigma."""
    return _linspace(math.log(levels.sigma_max), math.log(levels.sigma_min), n).exp()


def _timesteps(n: int, levels: NoiseLevels) -> Tensor:
    """n timesteps [n] float32, evenly from the noisiest to the cleanest."""
    first, last = levels.sigma_to_t(levels.sigma_max), levels.sigma_to_t(levels.sigma_min)
    return _linspace(float(first), float(last), n).float()


def _linspace(start: float, end: float, n: int) -> Tensor:
    return torch.linspace(start, end, n, dtype=torch.float64, device="cpu")


_SCHEDULES: dict[str, Callable[[int, NoiseLevels], Tensor]] = {
    "Uniform": _uniform,
    "Karras": _karras,
    "Exponential": _exponential,
    "SGM Uniform": _sgm_uniform,
    "Simple": _simple,
}
"""Every schedule by its name, in the order of `names.SCHEDULE_NAMES`, but for 'Automatic'."""


def get_sigmas(schedule: str, steps: int, levels: NoiseLevels, sampler: Sampler) -> Tensor:
    """The sigmas [steps + 1] of a sampling, float32 on the CPU: from the noisiest level, descending, to 0.

    `schedule` is one of SCHEDULE_NAMES; 'Automatic' is the sampler's own default. Raises UserError for a number of
    steps that the model has no levels for.
    """
    most = len(levels.sigmas) - 1
    if not 1 <= steps <= most:
        raise UserError(f"Steps must be from 1 to {most}, not {steps}.")
    spaced = _SCHEDULES[sampler.default_schedule if schedule == "Automatic" else schedule]
    sigmas = spaced(steps + sampler.discards_penultimate, levels)[:steps]
    return torch.cat([sigmas.float(), torch.zeros(1, device="cpu")])
