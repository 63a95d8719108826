"""The two kernels of `winograd`, written in LLVM's IR.

`transform_input` turns tiles of 6x6 cells into 36 numbers each, `transform_output` turns 36 products each into tiles of
4x4 cells. Both hold sixteen channels at a time, so that whole cache lines are read and written; where a tile reaches
beyond the picture they read zeros and write to memory that is never read.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from .llvm import FLOATS, I64, POINTER, VOID, KernelWriter, Value, cpu_has, ir

Rows = Sequence[Sequence[float]]

B_T: Rows = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
A_T: Rows = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)
STEP = 16 * 4
"""Bytes of sixteen channels."""


def can_compile() -> bool:
    """Tell whether this processor multiplies and adds eight numbers or more at once."""
    return cpu_has("avx2", "fma")


def compile_kernels() -> tuple[Callable[..., None], Callable[..., None]]:
    """Return `transform_input` and `transform_output`."""
    return _InputTransform().compile(), _OutputTransform().compile()


def assemblies() -> tuple[str, str]:
    """Return both kernels as LLVM assembly, on any processor."""
    return _InputTransform().assembly(), _OutputTransform().assembly()


class TileWriter(KernelWriter):
    """What the kernels share: pointers to cells, some of them outside the picture, and small matrix products."""

    side: int = 4
    """Cells of an output tile, down and across."""

    def __init__(self, name: str, pointers: int, more: int = 0) -> None:
        super().__init__(name, VOID, [*[POINTER] * pointers, *[I64] * (8 + more)])
        arguments = list(self.function.args)
        for argument in arguments[:pointers]:
            argument.add_attribute("noalias")
        self.pointers, numbers = arguments[:pointers], arguments[pointers:]
        self.first, self.last, self.down, self.across, self.h, self.w, self.row, self.plane, *self.more = numbers

    def assembly(self) -> str:
        """Write the loop over tiles and return the module as LLVM assembly. To be called once."""
        with self.loop(self.last, 1, self.first) as tile:
            self.tile(tile)
        self.b.ret_void()
        return str(self.module)

    def tile(self, tile: Value) -> None:
        """Write what is done with one tile."""
        raise NotImplementedError

    def cells(self, tile: Value, begin: int, size: int, row: Value | None = None) -> list[list[tuple[Value, Value]]]:
        """Return, for size x size cells of a tile from `begin` on, whether each lies inside and its offset in bytes.

        `row`: the bytes of a cell, if not those of the input.
        """
        b = self.b
        row = self.row if row is None else row
        rest, x = b.sdiv(tile, self.across), b.mul(b.srem(tile, self.across), self.n(self.side))
        picture, y = b.sdiv(rest, self.down), b.mul(b.srem(rest, self.down), self.n(self.side))
        top = b.mul(picture, self.h)

        def places(at: Value, end: Value) -> list[tuple[Value, Value]]:
            each = (b.add(at, self.n(begin + i)) for i in range(size))
            return [(b.icmp_unsigned("<", place, end), place) for place in each]

        found = []
        for inside_y, cell_y in places(y, self.h):
            line = b.mul(b.add(top, cell_y), self.w)
            found.append(
                [
                    (b.and_(inside_y, inside_x), b.mul(b.add(line, cell_x), row))
                    for inside_x, cell_x in places(x, self.w)
                ]
            )
        return found

    def combine(self, rows: Rows, values: Sequence[Value]) -> list[Value]:
        """The product of a small matrix with a column of vectors."""
        return [self.sum([(c, v) for c, v in zip(row, values, strict=True) if c]) for row in rows]

    def sum(self, terms: Sequence[tuple[float, Value]]) -> Value:
        """The sum of factors times vectors, with as few instructions as it takes."""
        b, total = self.b, None
        for factor, value in sorted(terms, key=lambda term: abs(term[0]) != 1 or term[0] < 0):
            if total is None:
                total = value if factor == 1 else b.fmul(value, self.floats(factor))
            elif abs(factor) == 1:
                total = b.fadd(total, value) if factor > 0 else b.fsub(total, value)
            else:
                total = self.fma(value, self.floats(factor), total)
        return total

    def get(self, pointer: Value, offset: Value) -> Value:
        """Sixteen float32 numbers."""
        return self.b.load(self.at(pointer, offset), typ=FLOATS, align=16)

    def put(self, value: Value, pointer: Value, offset: Value) -> None:
        """Store sixteen float32 numbers."""
        self.b.store(value, self.at(pointer, offset), align=16)


class _InputTransform(TileWriter):
    """B^T d B of input tiles d.

    transform_input(out, x, zeros, first tile, last, tiles down, across, h, w, bytes of a cell, bytes of one cell of all
    tiles)
    """

    def __init__(self) -> None:
        super().__init__("transform_input", 3)

    def tile(self, tile: Value) -> None:
        out, x, zeros = self.pointers
        b = self.b
        cells = self.cells(tile, -1, 6)
        from_ = [[b.select(there, self.at(x, place), zeros) for there, place in line] for line in cells]
        to = self.at(out, b.mul(b.sub(tile, self.first), self.row))
        with self.loop(self.row, STEP) as at:
            half = [self.combine(B_T, [self.get(from_[i][j], at) for i in range(6)]) for j in range(6)]
            for i in range(6):
                for j, value in enumerate(self.combine(B_T, [half[k][i] for k in range(6)])):
                    self.put(value, to, b.add(at, b.mul(self.n(6 * i + j), self.plane)))


class _OutputTransform(TileWriter):
    """A^T m A of the products m, plus the bias and what else is to be added.

    transform_output(products, bias, add or 0, zeros, y, scrap, first tile, last, and so on as `transform_input`)
    """

    def __init__(self) -> None:
        super().__init__("transform_output", 6)

    def tile(self, tile: Value) -> None:
        products, bias, add, zeros, y, scrap = self.pointers
        b = self.b
        adds = b.icmp_unsigned("!=", add, ir.Constant(POINTER, None))
        places = list(itertools.chain(*self.cells(tile, 0, 4)))
        plus = [b.select(b.and_(adds, there), self.at(add, place), zeros) for there, place in places]
        to = [b.select(there, self.at(y, place), scrap) for there, place in places]
        from_ = self.at(products, b.mul(b.sub(tile, self.first), self.row))
        with self.loop(self.row, STEP) as at:
            numbers = [self.get(from_, b.add(at, b.mul(self.n(i), self.plane))) for i in range(36)]
            half = [self.combine(A_T, numbers[j::6]) for j in range(6)]
            biases = self.get(bias, at)
            for i in range(4):
                for j, value in enumerate(self.combine(A_T, [half[k][i] for k in range(6)])):
                    value = b.fadd(b.fadd(value, biases), self.get(plus[4 * i + j], at))
                    self.put(value, to[4 * i + j], at)
