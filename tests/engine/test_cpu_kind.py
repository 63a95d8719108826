"""Which kind of processor this is: by its instructions, and by the limits that are set for torch and oneDNN."""

from __future__ import annotations

import pytest
import torch

from instruct_pix2pix.engine import cpu_kind as kinds


@pytest.mark.parametrize(
    ("capability", "bf16", "amx", "limits", "kind"),
    [
        ("AVX512", True, True, {}, "AMX"),
        ("AVX512", True, False, {}, "AVX-512 bf16"),
        ("AVX512", False, False, {}, "AVX-512"),
        ("AVX2", False, False, {}, "AVX2"),
        ("AVX512", True, True, {"ONEDNN_MAX_CPU_ISA": "AVX2"}, "AVX2"),
        ("AVX2", True, False, {"ATEN_CPU_CAPABILITY": "avx2"}, "AVX2"),
        ("DEFAULT", False, False, {}, "another kind"),
    ],
)
def test_a_kind_is_told_by_what_the_processor_can_and_may_do(monkeypatch, capability, bf16, amx, limits, kind):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    for name in ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in limits.items():
        monkeypatch.setenv(name, value)
    assert kinds.cpu_kind() == kind
    assert kind in kinds.expectation(kind)


def test_what_to_expect_is_told_in_seconds_where_it_was_measured():
    assert "5.3 s for a step of three rows" in kinds.expectation(kinds.AVX512_BF16)
    assert "not known" in kinds.expectation(kinds.OTHER)
