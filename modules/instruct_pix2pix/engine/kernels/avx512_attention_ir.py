"""The kernel of `amx_attention_ir` for processors that multiply bf16 by AVX-512 and have no AMX.

All is the same but the two products: a pair of numbers of a key, or of a value for two keys, is broadcast and
multiplied with those of 32 queries, two vectors; as many sums run side by side as there are registers for.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from .amx_attention_ir import KEYS, QUERIES, AttentionWriter, packed_bytes
from .llvm import FLOATS, I32, WORDS, Value, cpu_has, ir

__all__ = ["KEYS", "QUERIES", "assembly", "can_compile", "compile_kernel", "packed_bytes"]

KEYS_AT_ONCE, ROWS_AT_ONCE = 8, 14
"""Keys whose scores are in registers at a time, and rows of values whose sums are, two registers for each."""


def can_compile() -> bool:
    """Tell whether this processor has all instructions that the kernel uses, as far as LLVM knows."""
    return cpu_has("avx512bf16", "avx512f", "avx512bw", "avx512dq", "avx512vl")


def compile_kernel(width: int) -> Callable[..., int]:
    """Return `attend` for heads of this width, an even number."""
    return _Avx512Writer(width).compile()


def assembly(width: int) -> str:
    """Return `attend` for heads of this width as LLVM assembly, on any processor."""
    return _Avx512Writer(width).assembly()


class _Avx512Writer(AttentionWriter):
    def begin(self) -> None:
        """There is nothing to configure."""

    def end(self) -> None:
        """There is nothing to release."""

    def score(self, k: Value, count: Value, words: Value, scores: Value) -> None:
        """Products of keys and queries, float32 [keys, 32]."""
        row = self.across * 64
        with self.loop(count, KEYS_AT_ONCE) as t:
            from_, to = self.at(k, self.b.mul(t, self.n(row))), self.at(scores, self.b.mul(t, self.n(128)))
            keys = [self.at(from_, self.n(i * row)) for i in range(KEYS_AT_ONCE)]

            def add(at: Value, sums: list[Value], keys: list[Value] = keys) -> list[Value]:
                return self.add_products(sums, keys, at, self.at(words, self.b.mul(at, self.n(32))))

            nothing = [ir.Constant(FLOATS, None)] * (2 * KEYS_AT_ONCE)
            for number, total in enumerate(self.accumulate_in(self.n(self.width * 2), 4, nothing, add)):
                self.put(total, to, number * 64)

    def accumulate(self, v: Value, count: Value, weights: Value, sums: Value) -> None:
        """Add values times weights to sums, float32 [c and a row for the ones, 32]."""
        b, rows = self.b, self.width + 1
        groups = -(-rows // ROWS_AT_ONCE)
        ends = [rows * i // groups for i in range(groups + 1)]
        for first, last in itertools.pairwise(ends):

            def add_keys(t: Value, sums: list[Value], first: int = first, last: int = last) -> list[Value]:
                from_ = self.at(v, b.mul(t, self.n(self.down * 32)))
                by = self.at(weights, b.mul(t, self.n(64)))
                values = [self.at(from_, self.n(row * 64)) for row in range(first, last)]

                def add(at: Value, sums: list[Value]) -> list[Value]:
                    return self.add_products(sums, values, at, self.at(by, b.mul(at, self.n(32))))

                return self.accumulate_in(self.n(64), 4, sums, add)

            before = [self.get(sums, row * 128 + x * 64) for row in range(first, last) for x in range(2)]
            for number, total in enumerate(self.accumulate_in(count, 32, before, add_keys)):
                self.put(total, sums, first * 128 + number * 64)

    def add_products(self, sums: list[Value], rows: list[Value], at: Value, words: Value) -> list[Value]:
        """Add to sums [rows, 32] the products of the pair at `at` in each row with the words of 32 queries."""
        by = [self.b.load(self.at(words, self.n(x * 64)), typ=WORDS, align=64) for x in range(2)]
        pairs = [self.splat(self.b.load(self.at(row, at), typ=I32, align=4)) for row in rows]
        places = itertools.product(range(len(rows)), range(2))
        return [self.add_bf16_products(sums[2 * i + x], pairs[i], by[x]) for i, x in places]
