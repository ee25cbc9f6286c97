"""Vector code that numba does not find by itself: sums over gathered rows, and tests of 32 values.

Written as LLVM instructions on vectors longer than any register, which LLVM cuts to the CPU's own
width, so that nothing here names an instruction set. Every sum has a fixed order. Arguments are
addresses: the callers of `kernels.select` and `kernels.packed` know the arrays.

A *packed* row of `WIDTH` numbers is `HALF` words of 32 bits: word j holds number j in bfloat16 in
its low half and number j + HALF in its high half, so that one shift and one mask unpack it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

WIDTH = 64
"""Numbers in a packed row: a slice of d_in."""
HALF = WIDTH // 2
PackedRows = NDArray[np.uint32]
"""[slices, rows, HALF]: matrices whose rows are packed a slice of WIDTH columns at a time."""

_F32, _I16, _I32, _I64 = ir.FloatType(), ir.IntType(16), ir.IntType(32), ir.IntType(64)
_WORDS, _FLOATS = ir.VectorType(_I32, HALF), ir.VectorType(_F32, HALF)
_SHORTS = ir.VectorType(_I16, 32)
_ROW_BYTES = 4 * HALF

Value = Any
Builder = Any


def _load(b: Builder, address: Value, kind: Any) -> Value:
    align = 2 if kind is _SHORTS else 4
    return b.load(b.inttoptr(address, kind.as_pointer()), align=align)


def _store(b: Builder, value: Value, address: Value) -> None:
    b.store(value, b.inttoptr(address, value.type.as_pointer()), align=4)


def _element(b: Builder, base: Value, index: Value, kind: Any) -> Value:
    """Element ``index`` of an array of 4-byte elements."""
    return _load(b, b.add(base, b.mul(index, _I64(4))), kind)


def _all(number: int) -> Value:
    return ir.Constant(_WORDS, [number] * HALF)


def _splat(b: Builder, value: Value, like: Any) -> Value:
    one = b.insert_element(ir.Constant(like, ir.Undefined), value, _I32(0))
    places = ir.Constant(ir.VectorType(_I32, like.count), [0] * like.count)
    return b.shuffle_vector(one, one, places)


def _unpack(b: Builder, address: Value) -> tuple[Value, Value]:
    words = _load(b, address, _WORDS)
    low = b.bitcast(b.shl(words, _all(16)), _FLOATS)
    return low, b.bitcast(b.and_(words, _all(-65536)), _FLOATS)


def _pair(b: Builder, address: Value) -> tuple[Value, Value]:
    """Both halves of a row of float32."""
    return _load(b, address, _FLOATS), _load(b, b.add(address, _I64(_ROW_BYTES)), _FLOATS)


def _store_pair(b: Builder, low: Value, high: Value, address: Value) -> None:
    _store(b, low, address)
    _store(b, high, b.add(address, _I64(_ROW_BYTES)))


def _fma(b: Builder, x: Value, y: Value, z: Value) -> Value:
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
    fma = cgutils.get_or_insert_function(b.module, kind, f"llvm.fma.v{HALF}f32")
    return b.call(fma, [x, y, z])


def _accumulate(b: Builder, count: Value, sums: list[Value], add: Any) -> list[Value]:
    """``sums`` after ``add(i, sums)`` for each i < count, held in registers between them."""
    before = b.block
    loop, after = b.append_basic_block("loop"), b.append_basic_block("after")
    b.cbranch(b.icmp_signed(">", count, _I64(0)), loop, after)
    b.position_at_end(loop)
    i = b.phi(_I64)
    held = [b.phi(s.type) for s in sums]
    added = add(i, held)
    following = b.add(i, _I64(1))
    for phi, first, then in ((i, _I64(0), following), *zip(held, sums, added, strict=True)):
        phi.add_incoming(first, before)
        phi.add_incoming(then, loop)
    b.cbranch(b.icmp_signed("<", following, count), loop, after)
    b.position_at_end(after)
    results = [b.phi(s.type) for s in sums]
    for phi, first, then in zip(results, sums, added, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(then, loop)
    return results


def _addresses(count: int) -> Any:
    return types.void(*[types.intp] * count)


@intrinsic
def add_rows(
    _: Any, table: Any, indices: Any, weights: Any, count: Any, row: Any
) -> tuple[Any, Any]:
    """row += sum over i < count of weights[i] * table[indices[i]].

    table: packed rows; indices: int32; weights: float32; row: float32 [WIDTH].
    """

    def generate(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        table, indices, weights, count, row = args

        def add(i: Value, sums: list[Value]) -> list[Value]:
            at = b.sext(_element(b, indices, i, _I32), _I64)
            weight = _splat(b, _element(b, weights, i, _F32), _FLOATS)
            halves = _unpack(b, b.add(table, b.mul(at, _I64(_ROW_BYTES))))
            return [_fma(b, weight, half, s) for half, s in zip(halves, sums, strict=True)]

        low, high = _accumulate(b, count, list(_pair(b, row)), add)
        _store_pair(b, low, high, row)
        return context.get_dummy_value()

    return _addresses(5), generate


@intrinsic
def dot_rows(_: Any, table: Any, indices: Any, count: Any, row: Any, out: Any) -> tuple[Any, Any]:
    """out[i] += row . table[indices[i]] for i < count; shapes as in `add_rows`."""

    def generate(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        table, indices, count, row, out = args
        kind = ir.FunctionType(_F32, [_F32, _FLOATS])
        total = cgutils.get_or_insert_function(
            b.module, kind, f"llvm.vector.reduce.fadd.v{HALF}f32"
        )
        low, high = _pair(b, row)
        with cgutils.for_range(b, count, intp=_I64) as loop:
            at = b.sext(_element(b, indices, loop.index, _I32), _I64)
            other_low, other_high = _unpack(b, b.add(table, b.mul(at, _I64(_ROW_BYTES))))
            products = _fma(b, high, other_high, b.fmul(low, other_low))
            place = b.add(out, b.mul(loop.index, _I64(4)))
            _store(
                b, b.call(total, [_load(b, place, _F32), products], fastmath=("reassoc",)), place
            )
        return context.get_dummy_value()

    return _addresses(5), generate


@intrinsic
def add_row_pairs(
    _: Any, table: Any, indices: Any, first: Any, second: Any, count: Any, into1: Any, into2: Any
) -> tuple[Any, Any]:
    """into1 += sum of first[i] * table[indices[i]][0], into2 of second[i] * table[indices[i]][1].

    table: pairs of packed rows, side by side; into1, into2: float32 [WIDTH].
    """

    def generate(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        table, indices, first, second, count, into1, into2 = args

        def add(i: Value, sums: list[Value]) -> list[Value]:
            at = b.sext(_element(b, indices, i, _I32), _I64)
            place = b.add(table, b.mul(at, _I64(2 * _ROW_BYTES)))
            rows = (*_unpack(b, place), *_unpack(b, b.add(place, _I64(_ROW_BYTES))))
            by_first, by_second = (
                _splat(b, _element(b, weights, i, _F32), _FLOATS) for weights in (first, second)
            )
            weights = (by_first, by_first, by_second, by_second)
            return [_fma(b, w, r, s) for w, r, s in zip(weights, rows, sums, strict=True)]

        before = [*_pair(b, into1), *_pair(b, into2)]
        low1, high1, low2, high2 = _accumulate(b, count, before, add)
        _store_pair(b, low1, high1, into1)
        _store_pair(b, low2, high2, into2)
        return context.get_dummy_value()

    return _addresses(7), generate


@intrinsic
def pack_row(_: Any, row: Any, out: Any) -> tuple[Any, Any]:
    """float32 [WIDTH] to a packed row, rounded to nearest even."""

    def generate(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        row, out = args

        def rounded(address: Value) -> Value:
            words = _load(b, address, _WORDS)
            odd = b.and_(b.lshr(words, _all(16)), _all(1))
            return b.add(words, b.add(_all(0x7FFF), odd))

        low, high = rounded(row), rounded(b.add(row, _I64(_ROW_BYTES)))
        _store(b, b.or_(b.lshr(low, _all(16)), b.and_(high, _all(-65536))), out)
        return context.get_dummy_value()

    return _addresses(2), generate


@intrinsic
def mask_at_least(_: Any, address: Any, bound: Any) -> tuple[Any, Any]:
    """Bit j says whether int16 number j of the 32 at ``address`` is at least ``bound``."""

    def generate(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        address, bound = args
        least = _splat(b, b.trunc(bound, _I16), _SHORTS)
        return b.bitcast(b.icmp_signed(">=", _load(b, address, _SHORTS), least), _I32)

    return types.uint32(types.intp, types.intp), generate


@intrinsic
def mask_allowed(_: Any, address: Any, allowed: Any, bound: Any) -> tuple[Any, Any]:
    """`mask_at_least` of the bitwise and of two times 32 int16."""

    def generate(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        address, allowed, bound = args
        least = _splat(b, b.trunc(bound, _I16), _SHORTS)
        value = b.and_(_load(b, address, _SHORTS), _load(b, allowed, _SHORTS))
        return b.bitcast(b.icmp_signed(">=", value, least), _I32)

    return types.uint32(types.intp, types.intp, types.intp), generate


@intrinsic
def raise_maxima(_: Any, maxima: Any, address: Any, allowed: Any) -> tuple[Any, Any]:
    """Each of the 32 int16 ``maxima`` becomes at least the number at its place at ``address``, of
    which only the bits that are set in ``allowed`` count."""

    def generate(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        old, fresh, mask = (_load(b, place, _SHORTS) for place in args)
        new = b.and_(fresh, mask)
        larger = b.select(b.icmp_signed(">", new, old), new, old)
        b.store(larger, b.inttoptr(args[0], _SHORTS.as_pointer()), align=2)
        return context.get_dummy_value()

    return _addresses(3), generate


@intrinsic
def count_bits(_: Any, mask: Any) -> tuple[Any, Any]:
    """How many bits of a uint32 are set."""

    def generate(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        return b.zext(b.ctpop(args[0]), _I64)

    return types.intp(types.uint32), generate


@intrinsic
def lowest_bit(_: Any, mask: Any) -> tuple[Any, Any]:
    """Place of the lowest bit that is set in a uint32 other than 0."""

    def generate(context: Any, b: Builder, signature: Any, args: Any) -> Value:
        return b.zext(b.cttz(args[0], ir.Constant(ir.IntType(1), 1)), _I64)

    return types.intp(types.uint32), generate
