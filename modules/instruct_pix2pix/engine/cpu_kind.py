"""Which kind of processor this is, by the instructions that decide how fast networks run, and what to expect of it."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

AMX, AVX512_BF16, AVX512, AVX2, OTHER = "AMX", "AVX-512 bf16", "AVX-512", "AVX2", "another kind"
"""The kinds, the fastest first. The first two multiply bf16, the others run in float32."""

LIMITS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
"""The variables by which oneDNN and torch are kept from newer instructions."""


@dataclass(frozen=True)
class Expected:
    """What a full-size SD1 model took on two cores of a kind, at 512 pixels (docs/performance.md)."""

    precision: str
    """The format that `--precision auto` chooses there: 'bf16' or 'fp32'."""
    step: float
    """Seconds of a step of three rows."""


EXPECTED = {
    AMX: Expected("bf16", 1.6),
    AVX512_BF16: Expected("bf16", 5.3),
    AVX512: Expected("fp32", 9.8),
    AVX2: Expected("fp32", 10.3),
}


def cpu_kind() -> str:
    """Return one of AMX, AVX512_BF16, AVX512, AVX2 and OTHER.

    One that is kept from newer instructions (LIMITS) counts as one without them.
    """
    limits = [os.environ.get(name, "") for name in LIMITS]
    capability = torch.backends.cpu.get_cpu_capability()
    if capability == "AVX512" and not any(limit.upper().startswith("AVX2") for limit in limits):
        if torch.cpu._is_amx_tile_supported():
            return AMX
        return AVX512_BF16 if torch.cpu._is_avx512_bf16_supported() else AVX512
    return AVX2 if capability in ("AVX512", "AVX2") else OTHER


def expectation(kind: str) -> str:
    """Return a sentence: what a full-size model takes on a processor of this kind."""
    if kind not in EXPECTED:
        return f"This processor is of {OTHER} than those that were measured: what to expect is not known."
    expected = EXPECTED[kind]
    return (
        f"This processor is of the kind '{kind}': on two cores of one, a full-size SD1 model takes {expected.step:g} s "
        f"for a step of three rows at 512 pixels in {expected.precision}, {expected.step / 3:.1f} s for one row."
    )
