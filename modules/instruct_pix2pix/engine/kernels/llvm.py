"""Kernels written in LLVM's intermediate representation (IR), which llvmlite compiles in memory for this processor."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import llvmlite.binding
import llvmlite.ir

binding: Any = llvmlite.binding  # it has no types of its own
ir: Any = llvmlite.ir
Engine = Type = Value = Any

I8, I16, I32, I64 = map(ir.IntType, (8, 16, 32, 64))
F32, POINTER, VOID = ir.FloatType(), ir.PointerType(), ir.VoidType()
FLOATS = ir.VectorType(F32, 16)
"""Sixteen float32 numbers: a cache line, and one vector of AVX-512 or two of AVX2."""
WORDS, HALVES = ir.VectorType(I32, 16), ir.VectorType(I16, 16)
"""Sixteen words of 32 bits, and of 16."""


class _BrainFloat(ir.types.Type):
    """The type bf16, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BrainFloat)

    def __hash__(self) -> int:
        return hash(_BrainFloat)


BF16 = ir.VectorType(_BrainFloat(), 16)
"""Sixteen bf16 numbers."""
WIDE = '"prefer-vector-width"="512" "min-legal-vector-width"="512"'


def with_wide_vectors(assembly: str) -> str:
    """Return a module whose function may use vectors of 512 bits: llvmlite has no API for these attributes."""
    return assembly.replace("\n{\n", f" {WIDE}\n{{\n", 1)


def cpu_has(*features: str) -> bool:
    """Tell whether this processor has all of these features, in LLVM's names."""
    known = binding.get_host_cpu_features()
    return all(known.get(name) for name in features)


def _compile(assembly: str) -> Engine:
    """Return the engine that holds the machine code of a module's functions; the code lives as long as the engine."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target, features = binding.Target.from_default_triple(), binding.get_host_cpu_features().flatten()
    machine = target.create_target_machine(cpu=binding.get_host_cpu_name(), features=features, opt=3)
    module = binding.parse_assembly(assembly)
    passes = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=2))
    passes.getModulePassManager().run(module, passes)
    engine = binding.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine


_CTYPES = {VOID: None, POINTER: ctypes.c_void_p, I32: ctypes.c_int32, I64: ctypes.c_int64, F32: ctypes.c_float}


class KernelWriter:
    """Writes one function in a module of its own, with the expressions that all kernels share."""

    def __init__(self, name: str, result: Type, arguments: list[Type]) -> None:
        self.module = ir.Module(name)
        self.function = ir.Function(self.module, ir.FunctionType(result, arguments), name)
        self.b = ir.IRBuilder(self.function.append_basic_block())

    def assembly(self) -> str:
        """Write the function and return the module as LLVM assembly. To be called once."""
        raise NotImplementedError

    def compile(self) -> Callable[..., Any]:
        """Write the function and return it for Python to call, with addresses and numbers. To be called once."""
        kind = self.function.ftype
        signature = ctypes.CFUNCTYPE(*(_CTYPES[one] for one in (kind.return_type, *kind.args)))
        engine = _compile(self.assembly())
        function = signature(engine.get_function_address(self.function.name))
        function.engine = engine  # pyright: ignore[reportAttributeAccessIssue] - the code lives as long as this
        return function

    def n(self, value: int) -> Value:
        """A 64-bit integer constant."""
        return ir.Constant(I64, value)

    def call(self, name: str, of: Type, *args: Value) -> Value:
        """Call an intrinsic of LLVM that returns the type `of`."""
        known = self.module.globals.get(name)
        return self.b.call(known or ir.Function(self.module, ir.FunctionType(of, [a.type for a in args]), name), args)

    def floats(self, value: float) -> Value:
        """Sixteen times the same float32 constant."""
        return ir.Constant(FLOATS, [value] * 16)

    def fma(self, x: Value, y: Value, z: Value) -> Value:
        """x * y + z of sixteen numbers each."""
        return self.call("llvm.fma.v16f32", FLOATS, x, y, z)

    def minimum(self, x: Value, y: Value) -> Value:
        """The smaller of two integers."""
        return self.b.select(self.b.icmp_signed("<", x, y), x, y)

    def buffer(self, size: int) -> Value:
        """A pointer to `size` bytes on the stack, aligned to a cache line."""
        pointer = self.b.alloca(I8, size)
        pointer.align, pointer.type = 64, POINTER
        return pointer

    def at(self, pointer: Value, offset: Value) -> Value:
        """The pointer plus `offset` bytes."""
        return self.b.gep(pointer, [offset], source_etype=I8)

    @contextmanager
    def loop(self, end: Value, step: int, first: Value | None = None) -> Iterator[Value]:
        """A loop whose counter runs from `first`, or 0, to below `end`; the body is written in the `with` block."""
        b = self.b
        before, head, body, done = b.block, *(b.append_basic_block() for _ in range(3))
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(I64)
        i.add_incoming(first or self.n(0), before)
        b.cbranch(b.icmp_signed("<", i, end), body, done)
        b.position_at_end(body)
        yield i
        i.add_incoming(b.add(i, self.n(step)), b.block)
        b.branch(head)
        b.position_at_end(done)

    def accumulate_in(
        self, end: Value, step: int, values: Sequence[Value], body: Callable[[Value, list[Value]], Sequence[Value]]
    ) -> list[Value]:
        """A loop as `loop` that carries values in registers: `body(counter, values)` returns the next ones."""
        b = self.b
        carried: list[Value] = []
        before = b.block
        head, inside, done = (b.append_basic_block() for _ in range(3))
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(I64)
        i.add_incoming(self.n(0), before)
        for value in values:
            carried.append(b.phi(value.type))
            carried[-1].add_incoming(value, before)
        b.cbranch(b.icmp_signed("<", i, end), inside, done)
        b.position_at_end(inside)
        for phi, value in zip(carried, body(i, carried), strict=True):
            phi.add_incoming(value, b.block)
        i.add_incoming(b.add(i, self.n(step)), b.block)
        b.branch(head)
        b.position_at_end(done)
        return carried

    def splat(self, value: Value) -> Value:
        """Sixteen times the same number."""
        vector = ir.Constant(ir.VectorType(value.type, 16), ir.Undefined)
        lanes = ir.Constant(WORDS, None)
        return self.b.shuffle_vector(self.b.insert_element(vector, value, ir.Constant(I32, 0)), vector, lanes)

    def add_bf16_products(self, total: Value, x: Value, y: Value) -> Value:
        """Add to sixteen sums the products of two pairs of bf16 numbers each; the pairs are 32-bit words."""
        return self.call("llvm.x86.avx512bf16.dpbf16ps.512", FLOATS, total, x, y)
