"""How much memory is free, and how much the UNet's rows and the VAE's tiles need beside the weights."""

from __future__ import annotations

from pathlib import Path

import torch

from .precision import Machine

MEMINFO = Path("/proc/meminfo")
ROW = 20_000
"""The most numbers that SD1's UNet holds at once for each cell of one row's latent, rounded up from a measurement."""
PIXEL = 1_000
"""The same for each pixel that SD1's VAE decodes; 760 were measured for a picture of 512 pixels in float32."""
SPARE = 0.8
"""The part of the free memory to count on: other programs need memory, too."""
CARDS = ("cuda", "xpu")
"""torch's names for devices with memory of their own, of which it tells how much is free."""
DRIVER = 512 << 20
"""Bytes of a card's memory that a process takes beside its tensors: for the driver and the libraries."""
LEFT_OVER = 0.9
"""The part of what is free on a card to plan with where nobody set a limit."""


def available(device: torch.device) -> int | None:
    """Return the bytes of free memory on this device; None where the system does not tell."""
    if device.type in CARDS:
        card = torch.get_device_module(device)
        free, _ = card.mem_get_info(device)
        return free + card.memory_reserved(device) - card.memory_allocated(device)
    if device.type == "cpu" and MEMINFO.exists():
        for line in MEMINFO.read_text("utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def room_on_card(machine: Machine) -> int | None:
    """Return the bytes of a card that this process may have for its tensors, those that it has included.

    They follow from the machine's limit or else from what is free. None for a machine without a card, and where the
    system does not tell.
    """
    free = available(machine.device) if machine.device.type in CARDS else None
    if free is None:
        return None
    whole = free + torch.get_device_module(machine.device).memory_allocated(machine.device)
    return int(whole * LEFT_OVER) if machine.memory is None else min(whole, machine.memory - DRIVER)


def free_for(machine: Machine) -> int | None:
    """Return the bytes that are free for a use that may be put off, within the machine's limit; None: not known."""
    free = available(machine.device)
    if free is None or machine.memory is None or machine.device.type not in CARDS:
        return None if free is None else int(free * SPARE)
    held = torch.get_device_module(machine.device).memory_allocated(machine.device)
    return int(min(free * SPARE, machine.memory - DRIVER - held))


def is_room_for(numbers: float, dtype: torch.dtype, device: torch.device) -> bool:
    """Tell whether so many numbers of this format fit into free memory; true where that is not known."""
    free = available(device)
    return free is None or numbers * dtype.itemsize <= free * SPARE


def hold_to_limit(machine: Machine) -> None:
    """Let torch take no more of a card than the machine's limit: what it keeps for later goes back before that."""
    if machine.memory is None or machine.device.type not in CARDS:
        return
    card = torch.get_device_module(machine.device)
    _, total = card.mem_get_info(machine.device)
    share = (machine.memory - DRIVER) / total
    if share < 1:
        index = card.current_device() if machine.device.index is None else machine.device.index
        card.set_per_process_memory_fraction(share, index)
