"""The two kernels of `winograd`, written as LLVM's assembly.

`spread` turns tiles of 6 by 6 cells into 36 numbers each, `gather` turns 36 products each into tiles of 4 by 4. Both
hold sixteen channels at a time, so that whole cache lines are read and written; where a tile reaches beyond the picture
they read zeros and write to a place that nobody reads.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from .llvm import FLOATS, I64, POINTER, VOID, Value, Writer, has, ir

Rows = Sequence[Sequence[float]]

SPREAD: Rows = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
GATHER: Rows = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)
STEP = 16 * 4


def can_compile() -> bool:
    """Whether this processor multiplies and adds eight numbers or more at once."""
    return has("avx2", "fma")


def kernels() -> tuple[Callable[..., None], Callable[..., None]]:
    """Return `spread` and `gather`."""
    return _Spread().compiled(), _Gather().compiled()


class _Tiles(Writer):
    """What both have: a walk over tiles, and pointers to cells of which some lie outside."""

    def __init__(self, name: str, pointers: int) -> None:
        super().__init__(name, VOID, [*[POINTER] * pointers, *[I64] * 8])
        arguments = list(self.function.args)
        for argument in arguments[:pointers]:
            argument.add_attribute("noalias")
        self.pointers = arguments[:pointers]
        self.first, self.last, self.down, self.across, self.h, self.w, self.row, self.plane = arguments[pointers:]

    def write(self) -> str:
        with self.loop(self.last, 1, self.first) as tile:
            self.tile(tile)
        self.b.ret_void()
        return str(self.module)

    def tile(self, tile: Value) -> None:
        raise NotImplementedError

    def cells(self, tile: Value, begin: int, size: int) -> list[list[tuple[Value, Value]]]:
        """For each cell of a tile, `size` from `begin` on: whether it lies inside, how many bytes from the start."""
        b = self.b
        rest, x = b.sdiv(tile, self.across), b.mul(b.srem(tile, self.across), self.n(4))
        picture, y = b.sdiv(rest, self.down), b.mul(b.srem(rest, self.down), self.n(4))
        top = b.mul(picture, self.h)

        def places(at: Value, end: Value) -> list[tuple[Value, Value]]:
            each = (b.add(at, self.n(begin + i)) for i in range(size))
            return [(b.icmp_unsigned("<", place, end), place) for place in each]

        found = []
        for inside_y, cell_y in places(y, self.h):
            line = b.mul(b.add(top, cell_y), self.w)
            found.append(
                [
                    (b.and_(inside_y, inside_x), b.mul(b.add(line, cell_x), self.row))
                    for inside_x, cell_x in places(x, self.w)
                ]
            )
        return found

    def combine(self, rows: Rows, values: Sequence[Value]) -> list[Value]:
        """The products of a small matrix with as many vectors."""
        return [self.sum([(c, v) for c, v in zip(row, values, strict=True) if c]) for row in rows]

    def sum(self, terms: Sequence[tuple[float, Value]]) -> Value:
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
        return self.b.load(self.at(pointer, offset), typ=FLOATS, align=16)

    def put(self, value: Value, pointer: Value, offset: Value) -> None:
        self.b.store(value, self.at(pointer, offset), align=16)


class _Spread(_Tiles):
    """spread(out, x, zeros, first tile, last, tiles down, across, h, w, bytes of a cell, bytes of all tiles' cells)."""

    def __init__(self) -> None:
        super().__init__("spread", 3)

    def tile(self, tile: Value) -> None:
        out, x, zeros = self.pointers
        b = self.b
        cells = self.cells(tile, -1, 6)
        from_ = [[b.select(there, self.at(x, place), zeros) for there, place in line] for line in cells]
        to = self.at(out, b.mul(b.sub(tile, self.first), self.row))
        with self.loop(self.row, STEP) as at:
            half = [self.combine(SPREAD, [self.get(from_[i][j], at) for i in range(6)]) for j in range(6)]
            for i in range(6):
                for j, value in enumerate(self.combine(SPREAD, [half[k][i] for k in range(6)])):
                    self.put(value, to, b.add(at, b.mul(self.n(6 * i + j), self.plane)))


class _Gather(_Tiles):
    """gather(products, bias, add or 0, zeros, y, lost, first tile, last, and on as `spread`)."""

    def __init__(self) -> None:
        super().__init__("gather", 6)

    def tile(self, tile: Value) -> None:
        products, bias, add, zeros, y, lost = self.pointers
        b = self.b
        has = b.icmp_unsigned("!=", add, ir.Constant(POINTER, None))
        places = list(itertools.chain(*self.cells(tile, 0, 4)))
        plus = [b.select(b.and_(has, there), self.at(add, place), zeros) for there, place in places]
        to = [b.select(there, self.at(y, place), lost) for there, place in places]
        from_ = self.at(products, b.mul(b.sub(tile, self.first), self.row))
        with self.loop(self.row, STEP) as at:
            found = [self.get(from_, b.add(at, b.mul(self.n(number), self.plane))) for number in range(36)]
            half = [self.combine(GATHER, found[j::6]) for j in range(6)]
            biases = self.get(bias, at)
            for i in range(4):
                for j, value in enumerate(self.combine(GATHER, [half[k][i] for k in range(6)])):
                    value = b.fadd(b.fadd(value, biases), self.get(plus[4 * i + j], at))
                    self.put(value, to[4 * i + j], at)
