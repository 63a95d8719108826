"""The kernel of `amx_attention`, written in LLVM's IR.

It takes 32 queries and 64 keys at a time. A tile of scores holds keys in its rows and queries in its lanes: then a
maximum over keys needs no step across lanes, two rows of exponentials make one row of an operand of the second product,
and a row of ones beside the values makes that product sum the exponentials, too. As in FlashAttention (Dao et al.,
arXiv 2205.14135) scores never leave the cache. But sums are not rescaled as maxima grow: the maximum of the first 64
keys is subtracted from all scores, and float32 reaches 2^127 from there. Where that is not enough the kernel says so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from .llvm import (
    F32,
    FLOATS,
    HALVES,
    I8,
    I16,
    I32,
    I64,
    POINTER,
    VOID,
    WORDS,
    KernelWriter,
    Type,
    Value,
    cpu_has,
    ir,
    with_wide_vectors,
)

KEYS = 64
"""Keys at a time: their scores and exponentials, 12 KB, stay in the first-level cache."""
QUERIES = 32
"""Queries at a time; the kernel takes no fewer."""

EXP2 = (0.99992524, 0.69583390, 0.22606605, 0.07802529)
"""Coefficients of the cubic that is nearest to 2^x for x in [0, 1], within 7.5e-5 of it; the constant first."""
MASK = ir.VectorType(ir.IntType(1), 16)
ALL_LANES = ir.Constant(MASK, [1] * 16)


def can_compile() -> bool:
    """Tell whether this processor has all instructions that the kernel uses, as far as LLVM knows."""
    return cpu_has("amx-bf16", "avx512f", "avx512bw", "avx512dq", "avx512vl")


def compile_kernel(width: int) -> Callable[..., int]:
    """Return `attend` for heads of this width, an even number."""
    return AttentionWriter(width).compile()


def assembly(width: int) -> str:
    """Return `attend` for heads of this width as LLVM assembly, on any processor."""
    return AttentionWriter(width).assembly()


def packed_bytes(width: int, keys: int) -> int:
    """Bytes into which the kernel packs the keys and values of one head, with room to align them to a cache line."""
    return 64 + -(-keys // 32) * 32 * (_tiles_across(width) * 64 + _tiles_down(width) * 32)


def _tiles_across(width: int) -> int:
    """Tiles that 16 keys take: each holds 32 numbers of a row."""
    return -(-width // 32)


def _tiles_down(width: int) -> int:
    """Tiles that the values of 32 keys take, with the row of ones: each holds 16 rows."""
    return -(-(width + 1) // 16)


class AttentionWriter(KernelWriter):
    """Writes the kernel for heads of one width; a call computes some of the queries of one head.

    attend(q, k, v, out, packed, queries, keys, bytes from row to row of q, k, v and out, factor that makes scores
    exponents of two) returns 0, or another number where a sum left float32's range.
    """

    def __init__(self, width: int) -> None:
        self.width, self.across, self.down = width, _tiles_across(width), _tiles_down(width)
        super().__init__("attend", I32, [*[POINTER] * 5, *[I64] * 6, F32])

    def assembly(self) -> str:
        """Write the function and return the module as LLVM assembly. To be called once."""
        b, width, across, down = self.b, self.width, self.across, self.down
        q, k, v, out, packed, queries, keys, q_row, k_row, v_row, out_row, factor = self.function.args
        scores, weights, sums = self.buffer(KEYS * 128), self.buffer(KEYS * 64), self.buffer(down * 16 * 128)
        words, shifts, overflow = self.buffer(across * 16 * 128), self.buffer(128), self.buffer(2)
        factors = self.splat(factor)
        padded = b.and_(b.add(keys, self.n(31)), self.n(-32))
        self.begin()
        b.store(ir.Constant(I16, 0), overflow)
        packed = b.inttoptr(b.and_(b.add(b.ptrtoint(packed, I64), self.n(63)), self.n(-64)), POINTER)
        packed_v = self.at(packed, b.mul(padded, self.n(across * 64)))
        self.pack_keys(k, k_row, keys, padded, packed)
        self.pack_values(v, v_row, keys, padded, packed_v)
        for row in range(width // 2 * 2, across * 32):
            self.put(self.zeros, words, row * 64)

        with self.loop(queries, QUERIES) as n:
            first = self.minimum(n, b.sub(queries, self.n(QUERIES)))  # the last ones may be done twice
            self.pack_queries(self.at(q, b.mul(first, q_row)), q_row, words)
            for row in range(down * 16 * 2):
                self.put(self.zeros, sums, row * 64)
            with self.loop(padded, KEYS) as t:
                count = self.minimum(self.n(KEYS), b.sub(padded, t))
                self.score(self.at(packed, b.mul(t, self.n(across * 64))), count, words, scores)
                with b.if_then(b.icmp_signed("==", t, self.n(0))):
                    self.find_shifts(scores, self.minimum(count, keys), factors, shifts)
                self.exponentials(scores, count, factors, shifts, weights)
                self.accumulate(self.at(packed_v, b.mul(t, self.n(down * 32))), count, weights, sums)
            self.finish(sums, self.at(out, b.mul(first, out_row)), out_row, overflow)

        self.end()
        b.ret(b.zext(b.load(overflow, typ=I16), I32))
        return with_wide_vectors(str(self.module))

    # --- packing ---

    def pack_keys(self, k: Value, row: Value, keys: Value, padded: Value, packed: Value) -> None:
        """[T, c] -> [T, 32 * tiles], padded with zeros."""
        with self.loop(padded, 1) as t:
            known, to = self.b.icmp_signed("<", t, keys), self.at(packed, self.b.mul(t, self.n(self.across * 64)))
            for tile in range(self.across):
                used = min(16, self.width // 2 - tile * 16)
                mask = self.b.select(known, ir.Constant(MASK, [i < used for i in range(16)]), ir.Constant(MASK, None))
                from_ = self.at(k, self.b.add(self.b.mul(t, row), self.n(tile * 64)))
                of = (from_, ir.Constant(I32, 4), mask, ir.Constant(WORDS, None))
                self.put(self.call("llvm.masked.load.v16i32.p0", WORDS, *of), to, tile * 64)

    def pack_values(self, v: Value, row: Value, keys: Value, padded: Value, packed: Value) -> None:
        """[T, c] -> [T / 32, c and then a row of ones and rows of zeros, 32]."""
        b, both = self.b, ir.Constant(ir.VectorType(I32, 32), list(range(32)))
        ones = ir.Constant(HALVES, [0x3F80] * 16)  # 1 in bf16
        with self.loop(padded, 32) as t:
            from_, to = self.at(v, b.mul(t, row)), self.at(packed, b.mul(t, self.n(self.down * 32)))
            lanes = [b.add(self.lanes(1), self.splat(b.trunc(b.add(t, self.n(x * 16)), I32))) for x in range(2)]
            known = [b.icmp_signed("<", lane, self.splat(b.trunc(keys, I32))) for lane in lanes]
            with self.loop(self.n(self.width // 2), 1) as word:
                at = self.at(to, b.mul(word, self.n(128)))
                rows = [self.at(from_, b.add(b.mul(word, self.n(4)), b.mul(row, self.n(x * 16)))) for x in range(2)]
                pair = [self.gather(WORDS, rows[x], row, known[x]) for x in range(2)]
                for half in range(2):
                    low = [b.trunc(b.lshr(words, self.all(16 * half)), HALVES) for words in pair]
                    self.put(b.shuffle_vector(*low, both), at, half * 64)
            for x in range(2):
                self.put(b.select(known[x], ones, ir.Constant(HALVES, None)), to, self.width * 64 + x * 32)
            for beyond in range(self.width + 1, self.down * 16):
                self.put(self.zeros, to, beyond * 64)

    def pack_queries(self, q: Value, row: Value, words: Value) -> None:
        """[32, c] -> [c / 2, 32, 2]."""
        b = self.b
        with self.loop(self.n(self.width // 2), 1) as word:
            for x in range(2):
                from_ = self.at(q, b.add(b.mul(word, self.n(4)), b.mul(row, self.n(x * 16))))
                self.put(self.gather(WORDS, from_, row, ALL_LANES), self.at(words, b.mul(word, self.n(128))), x * 64)

    # --- the computation ---

    def begin(self) -> None:
        """Configure the tiles: every one is 16 rows of 64 bytes."""
        shape = self.buffer(64)
        # palette, then bytes and rows of each
        every = bytearray([1, *[0] * 15, *[64, 0] * 8, *[0] * 16, *[16] * 8, *[0] * 8])
        self.b.store(ir.Constant(ir.ArrayType(I8, 64), every), shape)
        self.call("llvm.x86.ldtilecfg", VOID, shape)

    def end(self) -> None:
        """Release the tiles."""
        self.call("llvm.x86.tilerelease", VOID)

    def score(self, k: Value, count: Value, words: Value, scores: Value) -> None:
        """Products of keys and queries, float32 [keys, 32]."""
        row = self.across * 64
        with self.loop(count, 32) as t:
            from_, to = self.at(k, self.b.mul(t, self.n(row))), self.at(scores, self.b.mul(t, self.n(128)))
            for tile in range(4):
                self.tiles("tilezero", tile)
            for tile in range(self.across):
                for x in range(2):
                    self.move("loadd", 4 + x, from_, tile * 64 + x * 16 * row, row)
                    self.move("loadd", 6 + x, words, tile * 2048 + x * 64, 128)
                for y, x in itertools.product(range(2), range(2)):
                    self.tiles("tdpbf16ps", 2 * y + x, 4 + y, 6 + x)
            for y, x in itertools.product(range(2), range(2)):
                self.move("stored", 2 * y + x, to, y * 2048 + x * 64, 128)

    def find_shifts(self, scores: Value, count: Value, factors: Value, shifts: Value) -> None:
        """Write -factor * the maximum score of each query, [32]: exponents are relative to it."""
        for x in range(2):
            self.put(ir.Constant(FLOATS, [-math.inf] * 16), shifts, x * 64)
        with self.loop(count, 1) as t:
            for x in range(2):
                score = self.get(self.at(scores, self.b.mul(t, self.n(128))), x * 64)
                self.put(self.call("llvm.maxnum.v16f32", FLOATS, self.get(shifts, x * 64), score), shifts, x * 64)
        for x in range(2):
            self.put(self.b.fneg(self.b.fmul(self.get(shifts, x * 64), factors)), shifts, x * 64)

    def exponentials(self, scores: Value, count: Value, factors: Value, shifts: Value, weights: Value) -> None:
        """2^(factor * score + shift) in bf16, [keys / 2, 32, 2]; truncated, not rounded, and summed as such."""
        b, shift = self.b, [self.get(shifts, x * 64) for x in range(2)]
        with self.loop(count, 4) as t:
            from_, to = self.at(scores, b.mul(t, self.n(128))), self.at(weights, b.mul(t, self.n(64)))
            for row, x in itertools.product(range(2), range(2)):
                pair = (self.get(from_, (2 * row + y) * 128 + x * 64) for y in range(2))
                low, high = (b.bitcast(self.exp2(self.fma(score, factors, shift[x])), WORDS) for score in pair)
                merged = b.or_(b.lshr(low, self.all(16)), b.and_(high, self.all(-65536)))
                self.put(merged, to, row * 128 + x * 64)

    def accumulate(self, v: Value, count: Value, weights: Value, sums: Value) -> None:
        """Add values times weights to sums, float32 [c and a row for the ones, 32]."""
        for group in range(0, self.down, 2):
            rows = range(group, min(group + 2, self.down))
            tiles = [(2 * (y - group) + x, y * 2048 + x * 64) for y in rows for x in range(2)]
            for tile, at in tiles:
                self.move("loadd", tile, sums, at, 128)
            with self.loop(count, 32) as t:
                from_ = self.at(v, self.b.mul(t, self.n(self.down * 32)))
                by = self.at(weights, self.b.mul(t, self.n(64)))
                for x in range(2):
                    self.move("loadd", 6 + x, by, x * 64, 128)
                for y in rows:
                    self.move("loadd", 4 + y - group, from_, y * 1024, 64)
                    for x in range(2):
                        self.tiles("tdpbf16ps", 2 * (y - group) + x, 4 + y - group, 6 + x)
            for tile, at in tiles:
                self.move("stored", tile, sums, at, 128)

    def finish(self, sums: Value, out: Value, row: Value, overflow: Value) -> None:
        """Divide by the sums of the weights, transpose to [32, c], round to bf16."""
        b, total = self.b, self.width * 128
        for x in range(2):
            fits = b.fcmp_ordered("<", self.get(sums, total + x * 64), self.floats(3e38))
            b.store(b.or_(b.load(overflow, typ=I16), b.bitcast(b.not_(fits), I16)), overflow)
        with self.loop(self.n(QUERIES), 1) as n:
            from_, to = self.at(sums, b.mul(n, self.n(4))), self.at(out, b.mul(n, row))
            share = self.splat(b.fdiv(ir.Constant(F32, 1.0), b.load(self.at(from_, self.n(total)), typ=F32)))
            for first in range(0, self.width, 16):
                mean = b.fmul(self.gather(FLOATS, self.at(from_, self.n(first * 128)), self.n(128), ALL_LANES), share)
                bits = b.bitcast(mean, WORDS)
                even = b.and_(b.lshr(bits, self.all(16)), self.all(1))
                bits = b.lshr(b.add(bits, b.add(self.all(0x7FFF), even)), self.all(16))
                mask = ir.Constant(MASK, [first + i < self.width for i in range(16)])
                of = (b.trunc(bits, HALVES), self.at(to, self.n(first * 2)), ir.Constant(I32, 4), mask)
                self.call("llvm.masked.store.v16i16.p0", VOID, *of)

    # --- expressions ---

    def exp2(self, x: Value) -> Value:
        """2^x of sixteen numbers, with AVX-512: a cubic of x - floor(x), times 2^floor(x)."""
        every, now = ir.Constant(I16, -1), ir.Constant(I32, 4)
        rest = self.call("llvm.x86.avx512.mask.reduce.ps.512", FLOATS, x, ir.Constant(I32, 9), x, every, now)
        power = self.floats(EXP2[-1])
        for coefficient in EXP2[-2::-1]:
            power = self.fma(power, rest, self.floats(coefficient))
        return self.call("llvm.x86.avx512.mask.scalef.ps.512", FLOATS, power, x, power, every, now)

    def all(self, value: int) -> Value:
        """Sixteen times the same word."""
        return ir.Constant(WORDS, [value] * 16)

    def lanes(self, step: int) -> Value:
        """The words 0, step, 2 * step, ..."""
        return ir.Constant(WORDS, [step * i for i in range(16)])

    @property
    def zeros(self) -> Value:
        """Sixteen words of zero."""
        return ir.Constant(WORDS, None)

    def get(self, pointer: Value, offset: int) -> Value:
        """Sixteen float32 numbers at a multiple of 64 bytes."""
        return self.b.load(self.at(pointer, self.n(offset)), typ=FLOATS, align=64)

    def put(self, value: Value, pointer: Value, offset: int) -> None:
        """Store a vector at a multiple of 32 bytes."""
        self.b.store(value, self.at(pointer, self.n(offset)), align=32)

    def gather(self, of: Type, pointer: Value, row: Value, mask: Value) -> Value:
        """One 32-bit word of each of 16 rows; zeros where the mask is not set."""
        places = self.b.mul(self.lanes(1), self.splat(self.b.trunc(row, I32)))
        kind = "dpi" if of is WORDS else "dps"
        args = (ir.Constant(of, None), pointer, places, mask, ir.Constant(I32, 1))
        return self.call(f"llvm.x86.avx512.mask.gather.{kind}.512", of, *args)

    def tiles(self, what: str, *numbers: int) -> None:
        """An instruction on tile registers: set one to zeros, or add to it the product of two others."""
        self.call(f"llvm.x86.{what}", VOID, *(ir.Constant(I8, number) for number in numbers))

    def move(self, what: str, number: int, pointer: Value, offset: int, row: int) -> None:
        """Load a tile register from memory or store it there; `row`: bytes from row to row."""
        where = (self.at(pointer, self.n(offset)), self.n(row))
        self.call(f"llvm.x86.tile{what}64", VOID, ir.Constant(I8, number), *where)
