"""The device and the number format in which this machine runs the networks fast."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from ..errors import UserError
from ..models.user_cache import read_table, write_table
from .cpu_kind import LIMITS

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
INT8 = "int8"
FORMATS = (*DTYPES, INT8)
"""The precisions that a run can have, by the names that a person gives them."""
AUTO, MEASURE = "auto", "measure"
CHOICES = (AUTO, *FORMATS, MEASURE)
GPUS = ("cuda", "xpu", "mps")
"""torch's names for the GPUs of NVIDIA and AMD, of Intel, and of Apple."""

LEAST_MEMORY = 1
"""GB of a card that a limit may leave; half of it is the driver's."""
CAPABILITIES = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
"""torch's tests for instructions that multiply bf16."""
MEASURED = "precision.json"
"""The table of what was measured, in the user's cache folder."""
TRIES = 60
"""Products of each format in a measurement, about a tenth of a second in all."""


@dataclass(frozen=True)
class Machine:
    """Where the networks run, and in which number format."""

    device: torch.device
    dtype: torch.dtype
    memory: int | None = None
    """The bytes of a card's memory that the program may take, its driver's included; None: what is free."""
    int8: bool = False
    """Whether the UNet multiplies in 8 bits; `dtype` is then the format of all the rest."""

    @property
    def precision(self) -> str:
        """The format by the name that a person gives it, one of FORMATS."""
        return INT8 if self.int8 else next(name for name, dtype in DTYPES.items() if dtype == self.dtype)

    @property
    def number(self) -> str:
        """The format in torch's words: 'bfloat16', 'int8 and bfloat16'."""
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{INT8} and {dtype}" if self.int8 else dtype


def choose_machine(device: str = "auto", precision: str = AUTO, memory: float | None = None) -> Machine:
    """Return the machine to run on; `precision` is one of CHOICES, `device` 'auto' or a name of torch's.

    `memory` is the most of a card's memory to take, in GB of 2^30 bytes, from LEAST_MEMORY on.

    The automatic format is on a GPU bf16 if that is native and fp16 otherwise, on a CPU bf16 if its matrix units
    multiply it and float32 otherwise. On a CPU it is measured once and remembered, so that the same work gives the
    same bits however busy the machine is; 'measure' measures it again. 'int8', which is never chosen by itself, has
    the automatic format beside it. Raises UserError for another precision, too little memory, a device that is not
    there, and for int8 where the processor has no instructions for it.
    """
    if memory is not None and not LEAST_MEMORY <= memory < float("inf"):
        raise UserError(f"{memory:g} GB of a card's memory are no limit to work with: give {LEAST_MEMORY} GB or more.")
    if precision not in CHOICES:
        raise UserError(f"Precision {precision!r} is not known: choose {', '.join(CHOICES[:-1])} or {CHOICES[-1]}.")
    if device == "auto":
        device = next((name for name in GPUS if torch.get_device_module(name).is_available()), "cpu")
    try:
        where = torch.device(device)
        torch.empty(1, device=where)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"This machine has no device {device!r}: choose auto, cpu, cuda, xpu or mps.") from error
    if precision == INT8:
        require_int8(where)
    dtype = DTYPES.get(precision) or _fast_format(where, again=precision == MEASURE)
    return Machine(where, dtype, None if memory is None else int(memory * 2**30), int8=precision == INT8)


def _fast_format(device: torch.device, *, again: bool) -> torch.dtype:
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16
    if device.type in ("mps", "xpu"):
        return torch.float16 if device.type == "mps" else torch.bfloat16
    return torch.bfloat16 if cpu_multiplies_bf16(again=again) else torch.float32


def require_int8(device: torch.device) -> None:
    """Raise UserError where a device does not multiply in 8 bits: it must be an x86 processor with AVX2 or more."""
    if device.type != "cpu":
        raise UserError(f"Precision int8 is for processors, not for {device.type}: choose auto, or the device cpu.")
    capable = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    if not capable or not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.onednn, "qlinear_pointwise"):
        raise UserError("Precision int8 needs an x86 processor with AVX2 and PyTorch with oneDNN: choose auto.")


def cpu_multiplies_bf16(*, again: bool = False) -> bool:
    """Tell whether bf16 matrix products are faster than float32 ones here: by capability, then by a measurement.

    Without the instructions a bf16 product is emulated, hundreds of times slower: it is not even tried. The measurement
    guards against builds of torch that do not use them. It is kept in the user's cache folder, for this CPU, its
    limits, and this build of torch; `again` replaces it.
    """
    if not any(getattr(torch.cpu, test, bool)() for test in CAPABILITIES):
        return False
    table, key = read_table(MEASURED), _key_of_this_machine()
    known = {name: value for name, value in table.items() if isinstance(value, bool)}
    if again or key not in known:
        known[key] = bf16_is_faster()
        write_table(MEASURED, known)
    return known[key]


def bf16_is_faster() -> bool:
    """Measure whether a bf16 product takes less time than the float32 one.

    On one thread, by turns, in pieces much shorter than the time slice of an operating system: among sixty there are
    some that no other program interrupted.
    """
    times: dict[torch.dtype, float] = {}
    with _one_thread():
        for _ in range(TRIES):
            for dtype in (torch.bfloat16, torch.float32):
                times[dtype] = min(product_seconds(dtype), times.get(dtype, float("inf")))
    return times[torch.bfloat16] < times[torch.float32]


def product_seconds(dtype: torch.dtype) -> float:
    """Return the seconds that a matrix product in this format takes, less than a millisecond."""
    a, b = _factors(dtype)
    start = time.perf_counter()
    torch.mm(a, b)
    return time.perf_counter() - start


@lru_cache(maxsize=2)
def _factors(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.ones(128, 256, dtype=dtype), torch.ones(256, 256, dtype=dtype)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _key_of_this_machine() -> str:
    """Return a hash that changes with the kind of CPU, what it is kept from, and the build of torch."""
    cpu = platform.processor() or platform.machine()
    with suppress(OSError):  # Linux knows the CPU's name and what it can do better
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
        about = ("model name", "cpu family", "model\t", "stepping", "flags", "Features")
        cpu = "\n".join(sorted({line for line in lines if line.startswith(about)}))
    limits = "".join(f"\n{name}={os.environ[name]}" for name in LIMITS if name in os.environ)
    about_this = f"{cpu}\n{torch.__version__}\n{torch.version.git_version}{limits}"
    return hashlib.sha256(about_this.encode()).hexdigest()[:16]
