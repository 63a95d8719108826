"""How much memory is free, and how much the UNet's rows and the VAE's tiles need beside the weights."""

from __future__ import annotations

from pathlib import Path

import torch

MEMINFO = Path("/proc/meminfo")
ROW = 20_000
"""The most numbers that SD1's UNet holds at once for each cell of one row's latent, rounded up from a measurement."""
PIXEL = 1_000
"""The same for each pixel that SD1's VAE decodes; 760 were measured for a picture of 512 pixels in float32."""
SPARE = 0.8
"""The part of the free memory to count on: other programs need memory, too."""


def available(device: torch.device) -> int | None:
    """Return the bytes of free memory on this device; None where the system does not tell."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "cpu" and MEMINFO.exists():
        for line in MEMINFO.read_text("utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def is_room_for(numbers: float, dtype: torch.dtype, device: torch.device) -> bool:
    """Tell whether so many numbers of this format fit into free memory; true where that is not known."""
    free = available(device)
    return free is None or numbers * dtype.itemsize <= free * SPARE
