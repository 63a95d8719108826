"""Trains the demo model's autoencoder: on scenes, then on scenes of every style and on doodles."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from instruct_pix2pix.engine.loading.config import CONFIGS, load_config
from instruct_pix2pix.engine.networks.vae import VAE
from instruct_pix2pix.engine.precision import Machine
from tools.demo_model import scenes
from tools.demo_model.prefetch import Prefetcher
from tools.demo_model.training_loop import fit

DEMO = CONFIGS.parent / "demo" / "demo.safetensors"
CONFIG = load_config(DEMO.with_suffix(".yaml"))

FIRST_TRAINING_SEED = 10_000_000
"""Scenes with smaller seeds are never trained on: they are for evaluation."""

MIXED, FOR_DECODER = (3, 1, 4), (5, 1, 2)
"""Plain scenes, styled ones and doodles of eight pictures in a step with all of them."""


def pictures(seeds: Iterable[int], styled: float = 0.0, doodled: float = 0.0) -> np.ndarray:
    """Draw one picture a seed, after a random edit half of the time -> uint8 [N, 96, 96, 3].

    A part `styled` of them is in black and white or a sketch, and another part `doodled` shows nothing in particular.
    """
    drawn = []
    for seed in seeds:
        rng = random.Random(seed)
        scene = scenes.scene(seed)
        if rng.random() < 0.5:
            scene = rng.choice(scenes.edits(scene, rng)).after
        lot = rng.random()
        if lot < styled:
            scene = scenes.style_edit(scene, rng).after
        elif lot > 1 - doodled:
            drawn.append(doodle(rng))
            continue
        drawn.append(scenes.draw(scene))
    return np.stack(drawn)


def _plain_batch(step: int) -> np.ndarray:
    return pictures(range(FIRST_TRAINING_SEED + step * 16, FIRST_TRAINING_SEED + (step + 1) * 16))


def _mixed_batch(step: int, mix: tuple[int, int, int], times: int, sweep: int) -> np.ndarray:
    """Draw `times` so many pictures as `mix` says, plain ones first -> uint8 [N, 96, 96, 3]; others in each `sweep`."""
    plain, styled, doodled = (count * times for count in mix)
    first = sweep * FIRST_TRAINING_SEED + step * (plain + styled + doodled)
    seeds = range(first, first + plain + styled + doodled)
    return np.concatenate([
        pictures(seeds[:plain]),
        pictures(seeds[plain : plain + styled], styled=1),
        pictures(seeds[-doodled:], doodled=1),
    ])


def doodle(rng: random.Random) -> np.ndarray:
    """Draw discs, boxes and triangles of any colour on any ground -> uint8 [96, 96, 3]."""
    side = 4 * scenes.SIZE
    picture = Image.new("RGB", (side, side), _any_colour(rng))
    pen = ImageDraw.Draw(picture)
    for _ in range(rng.randrange(2, 9)):
        x, y, reach = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(0.06, 0.25) * side
        points = [(x + rng.uniform(-reach, reach), y + rng.uniform(-reach, reach)) for _ in range(3)]
        box, colour = (x - reach, y - reach, x + reach, y + reach), _any_colour(rng)
        draw = rng.choice(("disc", "box", "triangle"))
        if draw == "disc":
            pen.ellipse(box, fill=colour)
        elif draw == "box":
            pen.rectangle(box, fill=colour)
        else:
            pen.polygon(points, fill=colour)
    return np.asarray(picture.reduce(4))


def _any_colour(rng: random.Random) -> tuple[int, int, int]:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


def to_tensor(pixels: np.ndarray) -> Tensor:
    """Bytes [N, H, W, 3] -> float [N, 3, H, W] in -1..1."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


class _Norm(nn.GroupNorm):
    """The same norm by way of a layer norm, whose backward pass is quicker on CPUs."""

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        groups = x.reshape(len(x), self.num_groups, -1)
        y = F.layer_norm(groups, groups.shape[2:], eps=self.eps).view_as(x)
        weight, bias = (value.to(y.dtype).view(-1, 1, 1) for value in (self.weight, self.bias))
        return torch.addcmul(bias, y, weight)


def _trainable(vae: VAE) -> VAE:
    for module in vae.modules():
        if isinstance(module, nn.GroupNorm):
            module.__class__ = _Norm
    return vae.train().requires_grad_(True)


def _edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def train_vae(machine: Machine, runs: Path, steps: int) -> None:
    """Train the autoencoder on 64-pixel crops, the last tenth on whole pictures, and save it with its scale."""
    torch.manual_seed(0)
    vae = VAE(CONFIG.vae)
    with torch.no_grad():  # start almost without noise: the posterior's log-variance at about -9
        vae.quant_conv.weight[CONFIG.vae.z_channels :] *= 0.1
        assert vae.quant_conv.bias is not None
        vae.quant_conv.bias[CONFIG.vae.z_channels :] = -9.0
    _trainable(vae.to(machine.device))

    def loss_of(step: int) -> Tensor:
        whole = step >= steps * 0.9
        count = 8 if whole else 16
        x = to_tensor(drawn(step)[:count])
        generator = torch.Generator().manual_seed(step)
        if not whole:
            corners = (torch.randint(0, 5, (count, 2), generator=generator) * 8).tolist()
            x = torch.stack([p[:, i : i + 64, j : j + 64] for p, (i, j) in zip(x, corners, strict=True)])
        x = x.to(machine.device)
        with torch.autocast(machine.device.type, machine.dtype, enabled=machine.dtype != torch.float32):
            mean, logvar = vae.moments(x)
            noise = torch.randn(mean.shape, generator=generator).to(machine.device)
            y = vae.decode(mean + noise * (0.5 * logvar).exp()).float()
        mean, logvar = mean.float(), logvar.float()
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        return _difference(y, x) + 1e-5 * kl

    with Prefetcher(_plain_batch) as drawn:
        _fit("vae", vae, loss_of, machine, runs / "vae.safetensors", steps=steps, lr=1e-3)


def train_styles(
    machine: Machine, runs: Path, steps: int, *, more: int | None = None, lr: float = 6e-4, times: int = 1
) -> None:
    """Go on with the autoencoder on pictures of every style and on doodles, and save it with its new scale.

    Eight pictures a step, or `times` so many. Latents of plain scenes are held near what they were, so that a UNet
    trained on those goes on from where it is.
    """
    vae, scale = load_vae(runs)
    vae.to(machine.device)
    known = deepcopy(vae)
    _trainable(vae)
    plain = MIXED[0] * times

    def loss_of(step: int) -> Tensor:
        x = to_tensor(drawn(step)).to(machine.device)
        generator = torch.Generator().manual_seed(step)
        with torch.autocast(machine.device.type, machine.dtype, enabled=machine.dtype != torch.float32):
            with torch.no_grad():
                before = known.moments(x[:plain])[0].float()
            mean, logvar = vae.moments(x)
            noise = torch.randn(mean.shape, generator=generator).to(machine.device)
            y = vae.decode(mean + noise * (0.5 * logvar).exp()).float()
        return _difference(y, x) + 0.03 * ((mean[:plain].float() - before) * scale).square().mean()

    with Prefetcher(partial(_mixed_batch, mix=MIXED, times=times, sweep=2)) as drawn:
        _fit("styles", vae, loss_of, machine, runs / "vae-styles.safetensors", steps=steps, lr=lr, more=more)


def train_decoder(
    machine: Machine, runs: Path, steps: int, *, more: int | None = None, lr: float = 6e-4, times: int = 1
) -> None:
    """Go on with the decoder alone, on the same pictures: latents stay, and with them what a UNet learnt of them."""
    vae, _ = load_vae(runs)
    _trainable(vae.to(machine.device))
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(False)

    def loss_of(step: int) -> Tensor:
        x = to_tensor(drawn(step)).to(machine.device)
        with torch.autocast(machine.device.type, machine.dtype, enabled=machine.dtype != torch.float32):
            with torch.no_grad():
                latents = vae.moments(x)[0]
            y = vae.decode(latents).float()
        return _difference(y, x)

    with Prefetcher(partial(_mixed_batch, mix=FOR_DECODER, times=times, sweep=3)) as drawn:
        _fit("decoder", vae, loss_of, machine, runs / "vae-styles.safetensors", steps=steps, lr=lr, more=more)


def _fit(
    name: str,
    vae: VAE,
    loss_of: Callable[[int], Tensor],
    machine: Machine,
    out: Path,
    *,
    steps: int,
    lr: float,
    more: int | None = None,
) -> None:
    """Train, keeping what is needed to go on beside `out`; write the averaged weights there, with their scale."""
    weights = fit(name, {"vae": vae}, loss_of, steps=steps, lr=lr, runs=out.parent, more=more)
    vae.load_state_dict({key.removeprefix("vae."): value for key, value in weights.items()})
    save_vae(vae, machine, out)


def _difference(y: Tensor, x: Tensor) -> Tensor:
    edges = sum(F.l1_loss(a, b) for a, b in zip(_edges(y), _edges(x), strict=True))
    # the square makes a wrong colour count more than many slightly wrong pixels of sky
    return F.l1_loss(y, x) + 5 * F.mse_loss(y, x) + edges


def save_vae(vae: VAE, machine: Machine, path: Path) -> None:
    """Write the autoencoder with its scale factor, and say how well it keeps pictures that it never saw.

    PSNR is the mean of the pictures', and that of the mean squared error over all of them.
    """
    with torch.no_grad():
        found, scale = [], 1.0
        for name, drawn in (
            ("plain scenes", pictures(range(64))),
            ("styles", pictures(range(64), styled=1)),
            ("shapes of any colour", pictures(range(64), doodled=1)),
        ):
            x = to_tensor(drawn).to(machine.device)
            latents = vae.moments(x)[0]
            errors = ((vae.decode(latents).clamp(-1, 1) - x) / 2).square().mean(dim=(1, 2, 3))
            each, all_of_them = -10 * errors.log10().mean(), -10 * errors.mean().log10()
            found.append(f"{name} {each:.2f} dB ({all_of_them:.2f})")
            if name == "plain scenes":
                scale = 1 / latents.std().item()
    print(f"vae: {', '.join(found)}; scale factor {scale:.5f}", flush=True)
    save_file(vae.state_dict(), path, metadata={"scale_factor": f"{scale:.5f}"})


def load_vae(runs: Path) -> tuple[VAE, float]:
    """Return the trained autoencoder and one over the deviation of its latents."""
    vae = VAE(CONFIG.vae).eval().requires_grad_(False)
    found = runs / "vae-styles.safetensors"
    if not found.exists():
        found = runs / "vae.safetensors"
    vae.load_state_dict(load_file(found))
    with safe_open(found, "pt") as file:
        return vae, float(file.metadata()["scale_factor"])
