"""Which device, number format and memory layout this machine multiplies fast."""

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
    """Where the networks run and in what number format."""

    device: torch.device
    dtype: torch.dtype


def choose_machine(device: str = "auto", precision: str = "auto") -> Machine:
    """Return the device and the format for it; `precision` is 'auto' or one of `DTYPES`.

    On a GPU: bf16 where it is native, fp16 otherwise. On a CPU: bf16 where its matrix units take it, else float32.
    Raises UserError for a device that this machine does not have.
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
    """Tell whether bf16 matrix products beat float32 ones here: by capability, then by a measurement.

    Without the instructions a bf16 product is emulated and hundreds of times slower; the measurement, a
    tenth of a second, guards against builds of torch that do not use them.
    """
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    if not any(getattr(torch.cpu, test, bool)() for test in tests):
        return False
    # In a thread that ends at once, and OpenMP's threads with it: where these have more threads than there are cores,
    # because two threads of the program have used torch, libgomp's wait asleep, and all is nearly twice as slow.
    with ThreadPoolExecutor(1) as other:
        return other.submit(lambda: _seconds(torch.bfloat16) < _seconds(torch.float32)).result()


def _seconds(dtype: torch.dtype) -> float:
    a, b = torch.ones(256, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
    best, begin = float("inf"), time.perf_counter()
    while time.perf_counter() - begin < 0.05:  # long enough to find a quiet moment on a busy machine
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return best
