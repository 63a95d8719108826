"""The kernels of `int8`, written in LLVM's IR: the ranges of rows, their numbers in 8 bits, products made floats again.

All walk over rows of numbers, sixteen at a time; how many a row has is a multiple of that.
"""

from __future__ import annotations

from .llvm import F32, FLOATS, HALVES, I8, I64, POINTER, VOID, WORDS, KernelWriter, Value, cpu_has, ir

STEP = 16
BYTES = ir.VectorType(I8, STEP)


def can_compile() -> bool:
    """Tell whether this processor multiplies and adds eight numbers or more at once."""
    return cpu_has("avx2", "fma")


class _RowWriter(KernelWriter):
    """What the kernels share: arguments, the loop over rows, numbers that are float32 or, `half`, bf16 in memory."""

    def __init__(self, name: str, pointers: int, *, half: bool) -> None:
        super().__init__(name, VOID, [*[POINTER] * pointers, *[I64] * 3])
        arguments = list(self.function.args)
        self.pointers = arguments[:pointers]
        self.first, self.last, self.numbers = arguments[pointers:]
        self.half = half
        self.width = 2 if half else 4
        """Bytes of a number."""

    def assembly(self) -> str:
        with self.loop(self.last, 1, self.first) as row:
            self.row(row)
        self.b.ret_void()
        return str(self.module)

    def row(self, row: Value) -> None:
        raise NotImplementedError

    def begin(self, pointer: Value, row: Value, width: int) -> Value:
        """A pointer to a row of numbers of this width."""
        return self.at(pointer, self.b.mul(row, self.b.mul(self.numbers, self.n(width))))

    def one(self, pointer: Value, row: Value) -> Value:
        """The float32 number of a row."""
        return self.b.load(self.at(pointer, self.b.mul(row, self.n(4))), typ=F32, align=4)

    def put_one(self, value: Value, pointer: Value, row: Value) -> None:
        self.b.store(value, self.at(pointer, self.b.mul(row, self.n(4))), align=4)

    def floats_at(self, pointer: Value, i: Value) -> Value:
        """Sixteen float32 numbers from number i on."""
        return self.b.load(self.at(pointer, self.b.mul(i, self.n(4))), typ=FLOATS, align=4)

    def get(self, pointer: Value, i: Value) -> Value:
        """Sixteen numbers in the format of the pictures, from number i on."""
        if not self.half:
            return self.floats_at(pointer, i)
        b = self.b
        bits = b.zext(b.load(self.at(pointer, b.mul(i, self.n(2))), typ=HALVES, align=2), WORDS)
        return b.bitcast(b.shl(bits, self.ints(16)), FLOATS)

    def put(self, value: Value, pointer: Value, i: Value) -> None:
        """Write sixteen numbers in the format of the pictures, rounded to the nearest, ties to even."""
        b = self.b
        if self.half:
            bits = b.bitcast(value, WORDS)
            odd = b.and_(b.lshr(bits, self.ints(16)), self.ints(1))
            value = b.trunc(b.lshr(b.add(bits, b.add(odd, self.ints(0x7FFF))), self.ints(16)), HALVES)
        b.store(value, self.at(pointer, b.mul(i, self.n(self.width))), align=self.width)

    def ints(self, value: int) -> Value:
        return ir.Constant(WORDS, [value] * STEP)

    def slot(self, value: float) -> Value:
        """A vector in memory, which the compiler turns into a register."""
        with self.b.goto_entry_block():
            pointer = self.b.alloca(FLOATS)
            pointer.align, pointer.type = 64, POINTER
        self.b.store(self.floats(value), pointer, align=64)
        return pointer

    def least(self, x: Value, y: Value) -> Value:
        """The smaller of two vectors' numbers, y where x is no number."""
        return self.b.select(self.b.fcmp_ordered("<", x, y), x, y)

    def most(self, x: Value, y: Value) -> Value:
        """The larger of two vectors' numbers, y where x is no number."""
        return self.b.select(self.b.fcmp_ordered(">", x, y), x, y)


class _Ranges(_RowWriter):
    """ranges(x, lowest, highest, first row, last, numbers of a row)

    The least and the largest number of each row and zero; neither is a number where one in the row is infinite or none.
    """

    def __init__(self, *, half: bool) -> None:
        super().__init__("ranges", 3, half=half)

    def row(self, row: Value) -> None:
        b = self.b
        x, lowest, highest = self.pointers
        from_ = self.begin(x, row, self.width)
        slots = [self.slot(0) for _ in range(3)]
        with self.loop(self.numbers, STEP) as i:
            value = self.get(from_, i)
            low, high, none = (b.load(slot, typ=FLOATS, align=64) for slot in slots)
            results = (
                self.least(value, low),
                self.most(value, high),
                self.fma(value, self.floats(0), none),
            )
            for result, slot in zip(results, slots, strict=True):
                b.store(result, slot, align=64)
        low, high, none = (b.load(slot, typ=FLOATS, align=64) for slot in slots)
        least = self.call("llvm.vector.reduce.fmin.v16f32", F32, low)
        most = self.call("llvm.vector.reduce.fmax.v16f32", F32, high)
        add = self.call("llvm.vector.reduce.fadd.v16f32", F32, ir.Constant(F32, 0), none)
        self.put_one(b.fadd(least, add), lowest, row)
        self.put_one(b.fadd(most, add), highest, row)


class _Quantize(_RowWriter):
    """quantize(x, lowest, highest, offsets, q, scales, zeros, first row, last, numbers of a row)

    x = scale * (q - zero), q in 0..`largest`; row r is written to q + offsets[r].
    """

    def __init__(self, *, half: bool, largest: int) -> None:
        super().__init__("quantize", 7, half=half)
        self.largest = largest

    def row(self, row: Value) -> None:
        b = self.b
        x, lowest, highest, offsets, q, scales, zeros = self.pointers
        low, high = self.one(lowest, row), self.one(highest, row)
        scale = b.fdiv(b.fsub(high, low), ir.Constant(F32, self.largest))
        least = ir.Constant(F32, 2.0**-100)
        scale = b.select(b.fcmp_ordered("<", scale, least), least, scale)  # what is no number stays so
        factor = b.fdiv(ir.Constant(F32, 1), scale)
        zero = self.call("llvm.rint.f32", F32, b.fmul(b.fneg(low), factor))
        self.put_one(scale, scales, row)
        self.put_one(zero, zeros, row)
        from_ = self.begin(x, row, self.width)
        offset = b.load(self.at(offsets, b.mul(row, self.n(8))), typ=I64, align=8)
        to = self.at(q, offset)
        factors, shift = self.splat(factor), self.splat(b.fadd(zero, ir.Constant(F32, 0.5)))
        with self.loop(self.numbers, STEP) as i:
            value = self.fma(self.get(from_, i), factors, shift)
            value = self.least(self.most(value, self.floats(0)), self.floats(self.largest))
            b.store(b.trunc(b.fptosi(value, WORDS), BYTES), self.at(to, i), align=1)


class _Rescale(_RowWriter):
    """rescale(y, scales, zeros, sums, bias, other, out, first row, last, numbers of a row)

    (y - zero * sums) * scale + bias for products y, then plus or, `multiply`, times `other`; 0 for no other.
    """

    def __init__(self, *, half: bool, other: str) -> None:
        super().__init__("rescale", 7, half=half)
        self.other = other

    def row(self, row: Value) -> None:
        b = self.b
        y, scales, zeros, sums, bias, other, out = self.pointers
        scale, zero = self.splat(self.one(scales, row)), self.splat(b.fneg(self.one(zeros, row)))
        from_, beside, to = self.begin(y, row, 4), self.begin(other, row, self.width), self.begin(out, row, self.width)
        with self.loop(self.numbers, STEP) as i:
            value = self.fma(zero, self.floats_at(sums, i), self.floats_at(from_, i))
            value = self.fma(value, scale, self.floats_at(bias, i))
            if self.other:
                second = self.get(beside, i)
                value = b.fadd(value, second) if self.other == "add" else b.fmul(value, second)
            self.put(value, to, i)


def writer(name: str, *, half: bool, other: str = "", largest: int = 255) -> KernelWriter:
    """Return what writes a kernel: 'ranges', 'quantize' with the `largest` byte, or 'rescale'.

    `half` stands for bf16; `other` is '', 'add' or 'multiply', see 'rescale'.
    """
    if name == "rescale":
        return _Rescale(half=half, other=other)
    return _Ranges(half=half) if name == "ranges" else _Quantize(half=half, largest=largest)
