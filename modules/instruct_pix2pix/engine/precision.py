"""The device and the number format in which this machine runs the networks fast."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import torch

from ..errors import UserError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Machine:
    """Where the networks run, and in which number format."""

    device: torch.device
    dtype: torch.dtype


def choose_machine(device: str = "auto", precision: str = "auto") -> Machine:
    """Return the machine to run on; `precision` is 'auto' or one of `DTYPES`, `device` 'auto' or a name of torch's.

    The automatic format is on a GPU bf16 if that is native and fp16 otherwise, on a CPU bf16 if its matrix units
    multiply it and float32 otherwise. Raises UserError for another precision and for a device that is not there.
    """
    if precision != "auto" and precision not in DTYPES:
        raise UserError(f"Precision {precision!r} is not known: choose auto, {', '.join(DTYPES)}.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        where = torch.device(device)
        torch.empty(1, device=where)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"This machine has no device {device!r}: choose auto, cpu, cuda or mps.") from error
    if precision != "auto":
        return Machine(where, DTYPES[precision])
    if where.type == "cuda":
        return Machine(where, torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16)
    if where.type == "mps":
        return Machine(where, torch.float16)
    return Machine(where, torch.bfloat16 if cpu_multiplies_bf16() else torch.float32)


@lru_cache(maxsize=1)
def cpu_multiplies_bf16() -> bool:
    """Tell whether bf16 matrix products are faster than float32 ones here: by capability, then by a measurement.

    Without the instructions a bf16 product is emulated, hundreds of times slower. The measurement takes a tenth of a
    second and guards against builds of torch that do not use the instructions.
    """
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    if not any(getattr(torch.cpu, test, bool)() for test in tests):
        return False
    # In a thread that ends at once, and its OpenMP threads with it. Each thread of the program that uses torch has its
    # own; with more of them than cores, libgomp's threads sleep while they wait, and all is nearly twice as slow.
    with ThreadPoolExecutor(1) as other:
        return other.submit(lambda: product_seconds(torch.bfloat16) < product_seconds(torch.float32)).result()


def product_seconds(dtype: torch.dtype) -> float:
    """Return the least seconds that a matrix product in this format took, of those tried in a twentieth of a second."""
    a, b = torch.ones(256, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
    best, begin = float("inf"), time.perf_counter()
    while time.perf_counter() - begin < 0.05:  # long enough to find a quiet moment on a busy machine
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return best
