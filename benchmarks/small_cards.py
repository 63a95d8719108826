"""Counts what an edit holds on a card with a limit on its memory, on the meta device: no card is needed.

    python -m benchmarks.small_cards

The networks and their placement are the engine's own; the card is a stand-in whose tensors have sizes alone. Counted
are weights and what is computed, in fp16 with three rows; what the driver and its libraries take is left free beside
it, as the engine does (`free_memory.DRIVER`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from instruct_pix2pix.engine.free_memory import DRIVER
from instruct_pix2pix.engine.loading.config import CONFIGS, ModelConfig, load_config
from instruct_pix2pix.engine.networks.clip import PooledTextEncoder, TextEncoder
from instruct_pix2pix.engine.networks.unet import Condition, UNet
from instruct_pix2pix.engine.networks.vae import VAE
from instruct_pix2pix.engine.offload import Offloaded
from instruct_pix2pix.engine.placement import TEXT_WORK, unet_work, vae_work
from instruct_pix2pix.engine.precision import Machine
from tools.live_bytes import LiveBytes

META, DTYPE, ROWS = torch.device("meta"), torch.float16, 3
CASES = [("sd1", 512, 2), ("sd1", 512, 3), ("sd1", 768, 3), ("sdxl", 768, 4), ("sdxl", 768, 6), ("sdxl", 768, 8)]


@dataclass(frozen=True)
class Held:
    """Bytes on a card in the phases of one edit."""

    room: int
    """What the limit leaves for tensors."""
    peaks: dict[str, int]
    """By phase: the most tensors at once, weights included."""
    copied: int
    """Weights that are copied in at each step."""


def count(family: str, side: int, gigabytes: float) -> Held:
    """Run one edit's networks with a limit on a stand-in for a card, for a picture of this side in pixels."""
    config = load_config(CONFIGS / f"{family}.yaml")
    with META:
        unet, vae, *texts = (each.to(DTYPE).eval().requires_grad_(False) for each in _networks(config))
    room = int(gigabytes * 2**30) - DRIVER
    home = Offloaded(Machine(META, DTYPE, int(gigabytes * 2**30)), room)
    for network in (unet, vae, *texts):
        home.prepare(network)
    cells, size = side // config.vae.factor, DTYPE.itemsize
    rows_work, vae_bytes = unet_work(config, ROWS * cells**2, size), vae_work(config, side**2, size)
    weights = [p for network in (unet, vae, *texts) for p in network.parameters()]
    peaks: dict[str, int] = {}
    with torch.inference_mode(), LiveBytes(weights) as bytes_:

        def peak() -> int:
            most, bytes_.peak = bytes_.peak, bytes_.now
            return most

        with home.using(texts, TEXT_WORK):
            tokens = torch.zeros(1, 77, dtype=torch.int64, device=META)
            for text in texts:
                text(tokens)
        peaks["text"] = peak()
        with home.using([vae], vae_bytes):
            image = vae.moments(torch.empty(1, 3, side, side, dtype=DTYPE, device=META))[0]
        peaks["encode"] = peak()
        x = torch.empty(ROWS, 8, cells, cells, dtype=DTYPE, device=META).to(memory_format=torch.channels_last)
        channels = config.unet.adm_in_channels
        label = None if channels is None else torch.empty(1, channels, dtype=DTYPE, device=META)
        condition = Condition(torch.empty(ROWS, 77, config.unet.context_dim, dtype=DTYPE, device=META), label)
        t = torch.empty(1, device=META)
        for _ in range(2):
            with home.using([unet], rows_work):
                unet(x, t, condition)
        peaks["steps"] = peak()
        copied = home.copied_each_call(unet)
        with home.using([vae], vae_bytes):
            vae.decode(image)
        peaks["decode"] = peak()
    return Held(room, peaks, copied)


def _networks(config: ModelConfig) -> list[Any]:
    texts = [TextEncoder(config.text), *([PooledTextEncoder(config.text_2)] if config.text_2 else [])]
    return [UNet(config.unet), VAE(config.vae), *texts]


def main() -> None:
    """Print the table of docs/performance.md."""
    print("| model, pixels, limit | left for tensors | text | encoding | steps | decoding | copied in each step |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for family, side, gigabytes in CASES:
        held = count(family, side, gigabytes)
        numbers = [held.room, *held.peaks.values(), held.copied]
        print(f"| {family}, {side}, {gigabytes} GB | " + " | ".join(f"{n / 1e6:.0f}" for n in numbers) + " |")


if __name__ == "__main__":
    main()
