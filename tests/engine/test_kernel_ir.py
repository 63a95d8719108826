"""The kernels that llvmlite compiles, as LLVM reads them: on any machine, whether or not it can run them."""

from __future__ import annotations

import pytest

binding = pytest.importorskip("llvmlite.binding")

from instruct_pix2pix.engine.kernels import (  # noqa: E402
    amx_attention_ir,
    avx512_attention_ir,
    int8_ir,
    winograd_bf16_ir,
    winograd_ir,
)

SAPPHIRE_RAPIDS, ZEN_4, HASWELL = "sapphirerapids", "znver4", "haswell"
"""The first processors with AMX, of AMD's with AVX-512 bf16, and with AVX2, in LLVM's names."""


def code_for(cpu: str, assembly: str) -> str:
    """Return what LLVM makes of a module for an x86 processor, if it is valid."""
    module = binding.parse_assembly(assembly)
    module.verify()
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    target = binding.Target.from_triple("x86_64-unknown-linux-gnu")
    return target.create_target_machine(cpu=cpu, opt=1).emit_assembly(module)


@pytest.mark.parametrize("width", [40, 80, 160, 64, 8, 34])  # SD1's heads, SDXL's, and widths that fill no tile
def test_the_attention_kernel_is_valid_and_multiplies_by_amx(width: int) -> None:
    code = code_for(SAPPHIRE_RAPIDS, amx_attention_ir.assembly(width))
    scores = 4 * -(-width // 32)  # four products for each 32 numbers of a head
    sums = 2 * -(-(width + 1) // 16)  # two for each 16 values, the row of ones among them
    assert code.count("tdpbf16ps") == scores + sums


@pytest.mark.parametrize("width", [40, 64, 34])
def test_without_amx_it_multiplies_by_avx_512(width: int) -> None:
    code = code_for(ZEN_4, avx512_attention_ir.assembly(width))
    scores, sums = 2 * 8, 2 * (width + 1)  # for eight keys, and for all values and the row of ones: 32 queries each
    assert code.count("vdpbf16ps") == scores + sums
    assert "tilezero" not in code


def test_winograds_convolution_in_bf16_is_valid_and_keeps_its_sums_in_registers() -> None:
    code = code_for(ZEN_4, winograd_bf16_ir.assembly())
    products = [line for line in code.splitlines() if "vdpbf16ps" in line]
    assert len(products) == 6 * 4
    assert len({line.split(",")[-1].strip() for line in products}) == 6 * 4


@pytest.mark.parametrize("number", [0, 1], ids=["input", "output"])
def test_winograds_transforms_are_valid_and_multiply_and_add_at_once(number: int) -> None:
    code = code_for(HASWELL, winograd_ir.assemblies()[number])
    assert "vfmadd" in code and "call" not in code


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", ["ranges", "quantize", "rescale"])
def test_the_kernels_of_bytes_are_valid_for_avx2(name: str, half: bool) -> None:
    for other in ("", "add", "multiply"):
        code = code_for(HASWELL, int8_ir.writer(name, half=half, other=other, largest=127).assembly())
        assert "vfmadd" in code or "vfnmadd" in code
        assert "call" not in code
