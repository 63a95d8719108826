"""A host's objects as the extension sees them: the processing object `p`, its sampler, and the sampler's denoiser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

SubPrompts = Sequence[Sequence[tuple[int, float]]]
"""For each picture of a batch: index among the denoiser's rows, and weight, of each sub-prompt of its AND."""

Combine = Callable[[Tensor, SubPrompts, Any, float], Tensor]
"""Rows [N + B, 4, h, w], the sub-prompts, the conditioning of the negative prompt, the CFG scale -> [B, 4, h, w]."""


class Processing(Protocol):
    """One job of a host: what was asked for, and its state while it runs.

    All hosts have these. What only some have is read by its name: a job of txt2img has no `image_mask`, and a host
    without refiners no `refiner_checkpoint`. Our own attributes begin with `instruct_pix2pix`.
    """

    sd_model: Any
    """The loaded checkpoint, of a class of the host's."""
    sampler: HostSampler
    """Made for each batch; None before the first."""
    cfg_scale: float
    image_cfg_scale: float | None
    """None when not given. With a value hosts guide an edit model in their own way."""
    denoising_strength: float
    inpainting_fill: int
    """Masked content: 1 is 'original'."""
    refiner_checkpoint: str | None
    refiner_checkpoint_info: Any
    refiner_switch_at: float | None
    seeds: list[int]
    """Of the batch at hand, as are the two that follow."""
    prompts: list[str]
    negative_prompts: list[str]
    uc: Any
    """What `setup_conds` makes of the negative prompt; None where the host leaves it out."""
    extra_generation_params: dict[str, Any]
    """What goes into the infotext."""
    script_args: Sequence[Any]
    """Those of all scripts, one after the other."""

    def comment(self, text: str) -> None:
        """Show a sentence beside the result."""
        ...

    def setup_conds(self) -> None:
        """Encode the prompts, at the `cfg_scale` that is set."""
        ...

    # The methods that we put functions of our own before:

    def init(self, *args: Any, **kwargs: Any) -> None:
        """Begin a job: load the picture and encode it."""
        ...

    def sample(self, *args: Any, **kwargs: Any) -> Any:
        """Make the latents of a batch."""
        ...

    def img2img_image_conditioning(self, source: Tensor, latent: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Picture [B, 3, H, W] in -1..1 and its latent -> what the UNet sees of the picture besides its noisy latent.

        For an edit model: the picture's latent, [B, 4, h, w], like the latent.
        """
        ...


class HostSampler(Protocol):
    """What takes the steps of a sampling; those that work in timesteps have `get_timesteps` instead of `get_sigmas`."""

    model_wrap_cfg: CFGDenoiser
    model_wrap: Any
    """The denoiser's `inner_model`."""
    sampler_extra_args: dict[str, Any]
    """What the sampling hands to each step: 'cond' has `batch`, for each picture the sub-prompts of its AND."""
    s_min_uncond: float
    """The sigma under which a step may leave CFG out."""

    def get_sigmas(self, p: Processing, steps: int) -> Tensor:
        """Return the noise levels [steps + 1], falling to 0."""
        ...


class CFGDenoiser(Protocol):
    """The host's module that applies CFG: made for a sampling, called at every step."""

    p: Processing
    sampler: HostSampler
    init_latent: Tensor
    """[B, 4, h, w]"""
    step: int
    total_steps: int
    cond_scale_miltiplier: float  # sic
    mask_before_denoising: bool
    """True with the samplers that work in timesteps: their rows are predicted noise, not denoised latents."""
    combine_denoised: Combine
    alphas: Tensor
    """With those samplers of AUTOMATIC1111 and reForge: cumulative alphas of the model's timesteps."""
    model_wrap: Any
    """The host's model as the sampler has it, with its noise levels; made by `inner_model` where it is None."""
    forward: Callable[..., Tensor]
    instruct_pix2pix: Any
    """Ours, in a job of ours."""

    @property
    def inner_model(self) -> Any:
        """The model with its noise levels."""
        ...


class CFGDenoiserParams(Protocol):
    """What the host hands to a callback before a step, which may replace it.

    N rows of all sub-prompts, picture by picture, then B of the negative prompt; in Forge B rows and no more, as its
    conditions are joined later.
    """

    denoiser: CFGDenoiser
    x: Tensor
    """[N + B, 4, h, w]"""
    sigma: Tensor
    """[N + B]: sigma, or the timestep."""
    image_cond: Tensor
    """[N + B, 4, h, w]: the picture's latent."""
    text_cond: Any
    """[N, T, C], or SDXL's mapping of such."""
    text_uncond: Any
    """[B, T, C], or SDXL's mapping of such."""
