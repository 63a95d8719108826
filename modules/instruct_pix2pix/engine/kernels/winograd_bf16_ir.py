"""The kernel of `winograd_bf16`, written in LLVM's IR: a whole convolution, some of its tiles at a time.

The numbers of a few tiles, and their products with 64 channels of the result, stay in the second-level cache; sums stay
in registers, float32, until a product is whole. Inputs are read and results are written once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from .llvm import BF16, FLOATS, HALVES, I32, POINTER, WORDS, Value, cpu_has, ir, with_wide_vectors
from .winograd_ir import Rows, TileWriter

B_T: Rows = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
A_T: Rows = ((1, 1, 1, 0), (0, 1, -1, -1))

TILES = 48
"""Tiles at a time, a multiple of ROWS."""
ROWS, PANEL = 6, 64
"""Tiles and channels of the result whose sums are in registers at a time, 24 of the 32."""
PLANE = TILES * PANEL * 4 + 64
"""Bytes between the products of one cell of all tiles and the next's, whose lines lie in other sets of the cache."""


def can_compile() -> bool:
    """Tell whether this processor has all instructions that the kernel uses, as far as LLVM knows."""
    return cpu_has("avx512bf16", "avx512f", "avx512bw", "avx512dq", "avx512vl")


def compile_kernel() -> Callable[..., None]:
    """Return `convolve`."""
    return _ConvolutionWriter().compile()


def assembly() -> str:
    """Return the kernel as LLVM assembly, on any processor."""
    return _ConvolutionWriter().assembly()


def input_plane(row: int) -> int:
    """Bytes between one cell of all transformed tiles and the next, for cells of `row` bytes."""
    return TILES * row + 128


class _ConvolutionWriter(TileWriter):
    """A^T [U * (B^T d B)] A of input tiles d and transformed weights U, plus the bias and what else is to be added.

    convolve(x, weight, bias in float32, add or 0, y, zeros, scrap, room for 16 planes of inputs, for 16 of products,
    first tile, last, tiles down, across, h, w, bytes of a cell of x, of a plane of inputs, and of a cell of y, bytes
    of its channels before those to be computed, bytes up to the end of those)
    """

    side = 2

    def __init__(self) -> None:
        super().__init__("convolve", 9, 3)

    def assembly(self) -> str:
        b, (weight, inputs, products) = self.b, (self.pointers[i] for i in (1, 7, 8))
        _, begin, end = self.more
        with self.loop(self.last, TILES, self.first) as first:
            count = self.minimum(self.n(TILES), b.sub(self.last, first))
            with self.loop(count, 1) as t:
                self.transform_input(b.add(first, t), self.at(inputs, b.mul(t, self.row)))
            with self.loop(end, PANEL * 2, begin) as channels:
                panel = self.at(weight, b.mul(b.mul(channels, self.row), self.n(8)))
                with self.loop(self.n(16), 1) as cell:
                    by = self.at(panel, b.mul(b.mul(cell, self.row), self.n(PANEL)))
                    from_ = self.at(inputs, b.mul(cell, self.plane))
                    to = self.at(products, b.mul(cell, self.n(PLANE)))
                    with self.loop(count, ROWS) as t:
                        at = self.at(to, b.mul(t, self.n(PANEL * 4)))
                        self.multiply(self.at(from_, b.mul(t, self.row)), by, at)
                with self.loop(count, 1) as t:
                    from_ = self.at(products, b.mul(t, self.n(PANEL * 4)))
                    self.transform_output(b.add(first, t), from_, channels)
        b.ret_void()
        return with_wide_vectors(str(self.module))

    def transform_input(self, tile: Value, to: Value) -> None:
        x, zeros = self.pointers[0], self.pointers[5]
        b = self.b
        from_ = [[b.select(there, self.at(x, at), zeros) for there, at in line] for line in self.cells(tile, -1, 4)]
        with self.loop(self.row, 32) as at:
            half = [self.combine(B_T, [self.get_bf16(from_[i][j], at) for i in range(4)]) for j in range(4)]
            for i in range(4):
                for j, value in enumerate(self.combine(B_T, [half[k][i] for k in range(4)])):
                    self.put_bf16(value, to, b.add(at, b.mul(self.n(4 * i + j), self.plane)))

    def multiply(self, inputs: Value, weight: Value, to: Value) -> None:
        """The products of ROWS tiles with the weights of PANEL channels for one of the cells, float32 [ROWS, PANEL]."""
        b, vectors = self.b, PANEL // 16
        rows = [self.at(inputs, b.mul(self.row, self.n(i))) for i in range(ROWS)]

        def add(at: Value, sums: list[Value]) -> list[Value]:
            by = self.at(weight, b.mul(at, self.n(PANEL)))
            words = [b.load(self.at(by, self.n(64 * j)), typ=WORDS, align=64) for j in range(vectors)]
            pairs = [self.splat(b.load(self.at(row, at), typ=I32, align=4)) for row in rows]
            places = itertools.product(range(ROWS), range(vectors))
            return [self.add_bf16_products(sums[vectors * i + j], pairs[i], words[j]) for i, j in places]

        nothing = [ir.Constant(FLOATS, None)] * (ROWS * vectors)
        for number, total in enumerate(self.accumulate_in(self.row, 4, nothing, add)):
            b.store(total, self.at(to, self.n(64 * number)), align=64)

    def transform_output(self, tile: Value, products: Value, channels: Value) -> None:
        _, _, bias, add, y, zeros, scrap, *_ = self.pointers
        b = self.b
        adds = b.icmp_unsigned("!=", add, ir.Constant(POINTER, None))
        places = list(itertools.chain(*self.cells(tile, 0, 2, self.more[0])))
        plus = [b.select(b.and_(adds, there), self.at(add, place), zeros) for there, place in places]
        to = [b.select(there, self.at(y, place), scrap) for there, place in places]
        with self.loop(self.n(PANEL * 2), 32) as part:
            at, from_ = b.add(channels, part), self.at(products, b.mul(part, self.n(2)))
            numbers = [b.load(self.at(from_, self.n(PLANE * i)), typ=FLOATS, align=64) for i in range(16)]
            half = [self.combine(A_T, numbers[j::4]) for j in range(4)]
            biases = self.get(bias, b.mul(at, self.n(2)))
            for i in range(2):
                for j, value in enumerate(self.combine(A_T, [half[k][i] for k in range(4)])):
                    value = b.fadd(b.fadd(value, biases), self.get_bf16(plus[2 * i + j], at))
                    self.put_bf16(value, to[2 * i + j], at)

    def get_bf16(self, pointer: Value, offset: Value) -> Value:
        words = self.b.zext(self.b.load(self.at(pointer, offset), typ=HALVES, align=2), WORDS)
        return self.b.bitcast(self.b.shl(words, ir.Constant(WORDS, [16] * 16)), FLOATS)

    def put_bf16(self, value: Value, pointer: Value, offset: Value) -> None:
        rounded = self.call("llvm.x86.avx512bf16.cvtneps2bf16.512", BF16, value)
        self.b.store(rounded, self.at(pointer, offset), align=2)
