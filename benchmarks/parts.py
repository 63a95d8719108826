"""Where an edit's time goes: operations and seconds of each kind of layer, against what matrix products reach."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from instruct_pix2pix.conditioning import to_tensor
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.networks import unet as unet_module
from instruct_pix2pix.engine.networks import vae as vae_module
from instruct_pix2pix.engine.precision import Machine


class Meter:
    """Floating-point operations, counted by hand from shapes, and seconds by kind of layer.

    A multiplication with its addition counts as two operations; norms, activations and copies count as none, and
    their time is what the whole takes beside the counted kinds.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.flops: dict[str, float] = defaultdict(float)
        self.seconds: dict[str, float] = defaultdict(float)

    def now(self) -> float:
        """Seconds, when all that was begun is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def on(self, network: nn.Module) -> Iterator[None]:
        """Measure the layers of a network."""
        handles = []
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                handles += [
                    module.register_forward_pre_hook(self._begin),
                    module.register_forward_hook(self._end, always_call=True),
                ]
        users: tuple[Any, ...] = (unet_module, vae_module)
        originals = {module: module.attention for module in users}
        for module in originals:
            module.attention = self._attention(originals[module])
        try:
            yield
        finally:
            for module, original in originals.items():
                module.attention = original
            for handle in handles:
                handle.remove()

    def _begin(self, module: nn.Module, inputs: Any) -> None:  # noqa: ANN401 - a layer's arguments
        self._began = self.now()

    def _end(self, module: Any, inputs: Any, output: Tensor) -> None:  # noqa: ANN401
        kind, inner = "linear layers", 0
        if isinstance(module, nn.Conv2d):
            kind = "convolutions"
            inner = module.in_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
            numbers = output.numel()
        else:
            inner = module.in_features
            numbers = output.numel() // output.shape[-1] * module.out_features  # of a gated layer twice its output
        self.seconds[kind] += self.now() - self._began
        self.flops[kind] += 2 * numbers * inner

    def _attention(self, attention: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def measured(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            began = self.now()
            out = attention(q, k, v)
            self.seconds["attention"] += self.now() - began
            self.flops["attention"] += 4 * q.numel() * k.shape[2]
            return out

        return measured


def matmul_peak(machine: Machine) -> float:
    """Return the most operations per second that products of square matrices reached, of some sizes and tries."""
    best = 0.0
    for n in (1024, 2048) if machine.device.type == "cpu" else (4096, 8192):
        a, b = (torch.randn(n, n).to(machine.device, machine.dtype) for _ in range(2))
        torch.mm(a, b)
        meter = Meter(machine.device)
        for _ in range(6):
            began = meter.now()
            torch.mm(a, b)
            best = max(best, 2 * n**3 / (meter.now() - began))
    return best


@torch.inference_mode()
def measure_parts(model: EditModel, picture: Image.Image) -> list[dict[str, Any]]:
    """Return GFLOP and seconds of each part of a three-row step, of the VAE's halves and of the text encoder.

    Each part runs once before it is measured.
    """
    device, found = model.machine.device, []
    latent = model.encode_image(to_tensor(picture))
    prompts, negative = model.encode_text("make it winter", "", 1)
    full, empty = prompts[0].at(0), negative.at(0)
    x = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0)).to(device)
    rows: dict[str, Any] = {
        "x": x.expand(2, -1, -1, -1),
        "sigma": torch.full((2,), 5.0),
        "condition": model.condition(torch.cat([full, empty, empty])),
        "image": torch.cat([latent, torch.zeros_like(latent)]),
        "entries": (0, 0, 1),
    }
    calls: list[tuple[str, nn.Module, Callable[[], object]]] = [
        ("UNet", model.unet, lambda: model(**rows)),
        ("VAE encoder", model.vae, lambda: model.encode_image(to_tensor(picture))),
        ("VAE decoder", model.vae, lambda: model.decode(x)),
        ("text encoder, twice", model.text, lambda: model.encode_text("make it autumn", "blurry", 1)),
    ]
    for name, network, call in calls:
        call()
        model.unet_graphs.forget()  # what is recorded runs no layer that could be measured
        meter = Meter(device)
        began = meter.now()
        with meter.on(network):
            call()
        whole = meter.now() - began
        if name == "UNet":
            kinds = [(kind, meter.flops[kind], meter.seconds[kind]) for kind in meter.flops]
            kinds.append(("norms, activations, copies", 0.0, whole - sum(meter.seconds.values())))
            found += [{"part": f"UNet, {k}", "gflop": flops / 1e9, "seconds": s} for k, flops, s in kinds]
        found.append({"part": f"{name} in all" if name == "UNet" else name,
                      "gflop": sum(meter.flops.values()) / 1e9, "seconds": whole})  # fmt: skip
    return found
