"""Values of 8, 4 and 2 bits in CPU memory: the same as `scales` has them, in fewer calls."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from dgc_topo.arrays import IntArray
from dgc_topo.wire.coding import COARSE_DTYPES, VALUE_BITS, WireDtype
from dgc_topo.wire.packing import TILE
from dgc_topo.wire.scales import MOST_LEVEL, Scales

Bytes = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]

_SIGN = np.uint8(0x80)
#: Addend to a number of steps that leaves the nearest whole number in the lowest byte.
_ROUNDING = np.float32(1.5 * 2**23)
_MOST = float(_ROUNDING) + MOST_LEVEL
_SAFE = 0x7B80  #: bfloat16 numbers below this one, 2**120, as bits: no sum of steps leaves float32
_LONG = 1024  #: entries of a section from which it is worth calls of its own
#: The codes in each byte, a row for each.
_CODES: dict[WireDtype, Bytes] = {
    dtype: (np.arange(256)[:, None] >> np.arange(0, 8, bits) & (1 << bits) - 1).astype(np.uint8)
    for dtype, bits in VALUE_BITS.items()
    if dtype in COARSE_DTYPES
}
_SIDE_BY_SIDE = 1 << 24 | 1 << 18 | 1 << 12 | 1 << 6  #: four codes of 2 bits into a word's top byte


def _factors_of(codes: Bytes, bits: int) -> Float32Array:
    """Return a sign, and steps with that sign, for each code: last axis of 2."""
    signs = np.where(codes >> bits - 1, np.float32(-1), np.float32(1))
    return np.stack([signs, signs * (codes & (1 << bits - 1) - 1)], -1).astype(np.float32)


#: Factors of a scale for each code of a type, and for those in each byte, side by side.
_FACTORS = {
    dtype: _factors_of(np.arange(1 << VALUE_BITS[dtype], dtype=np.uint8), VALUE_BITS[dtype])
    for dtype in COARSE_DTYPES
}
_BYTE_FACTORS = {
    dtype: _factors_of(codes, VALUE_BITS[dtype]).reshape(256, -1) for dtype, codes in _CODES.items()
}


def table_of(scales: Scales) -> Float32Array:
    """Return the smallest magnitude and the step of each section, shape (sections, 2)."""
    table = np.empty((len(scales.low), 2), np.float32)
    table[:, 0] = scales.low.numpy()
    table[:, 1] = scales.step.numpy()
    return table


def write_table(table: Float32Array, into: Bytes) -> None:
    """Write scales, whose low halves are 0."""
    into.view(np.uint16)[:] = table.reshape(-1).view(np.uint16)[1::2]


def steps_of(
    places: IntArray,
    values: Float32Array,
    table: Float32Array,
    bounds: tuple[int, ...],
    wire_dtype: WireDtype,
) -> tuple[Bytes, WireDtype]:
    """Return values that are steps of scales as bytes, and the narrowest type that counts them.

    Args:
        places: Indices of the values, shape (n,).
        values: Shape (n,).
        table: Scales of the sections, as `table_of`.
        bounds: Elements at which a section but the first begins.
        wire_dtype: Narrowest type to take.
    """
    count, most = len(values), float(_ROUNDING)
    codes = np.zeros(-(-count // 4) * 4, np.uint8)
    own, signs = codes[:count], np.ascontiguousarray(values).view(np.uint8)[3::4]
    divisors = table.copy()
    divisors[:, 1][table[:, 1] <= 0] = np.inf  # of 0 there is no step
    for at, low, step in _pieces(places, divisors, bounds):
        levels = np.abs(values[at])
        levels -= low
        levels /= step
        levels += _ROUNDING
        largest = float(levels.max())
        if not largest <= _MOST:  # too far, or NaN, which is no step
            np.fmin(np.fmax(levels, _ROUNDING, out=levels), _MOST, out=levels)
            largest = float(levels.max())
        most = max(most, largest)
        part = np.bitwise_and(signs[at], _SIGN, out=own[at])
        part |= levels.view(np.uint8)[::4]
    while most - _ROUNDING >= 1 << VALUE_BITS[wire_dtype] - 1:
        wire_dtype = COARSE_DTYPES[COARSE_DTYPES.index(wire_dtype) + 1]
    return _packed(codes, count, wire_dtype), wire_dtype


def values_in(
    packed: Bytes, places: IntArray, coded: Bytes, bounds: tuple[int, ...], wire_dtype: WireDtype
) -> tuple[Float32Array, Scales] | None:
    """Return the values that `steps_of` packed, and the scales that `write_table` wrote.

    Args:
        packed: The values' bytes.
        places: Indices of the values, shape (n,).
        coded: The scales' bytes.
        bounds: Elements at which a section but the first begins.
        wire_dtype: Type of the values.

    Returns:
        None where a scale is so large, or such nonsense, that it takes the general way.
    """
    halves = coded.view(np.uint16)
    if int(halves.max()) >= _SAFE:
        return None
    bits = halves.astype(np.uint32)
    bits <<= 16
    table = bits.view(np.float32).reshape(-1, 2)
    low, step = torch.from_numpy(table).unbind(1)
    scales, count = Scales(bounds, low, step), len(places)
    if count < _LONG * len(table):
        factors = _BYTE_FACTORS[wire_dtype].take(packed, 0).reshape(-1, 2)[:count]
        factors *= _each(places, table, bounds)
        return factors[:, 0] + factors[:, 1], scales
    codes = packed if wire_dtype == "int8" else _CODES[wire_dtype].take(packed, 0).reshape(-1)
    values = np.empty(count, np.float32)
    for at, smallest, one in _pieces(places, table, bounds):
        factors = _FACTORS[wire_dtype] * (smallest, one)
        (factors[:, 0] + factors[:, 1]).take(codes[at], out=values[at], mode="clip")
    return values, scales


def _packed(codes: Bytes, count: int, wire_dtype: WireDtype) -> Bytes:
    """Return codes of 8 bits, the sign on top, as those of a type, side by side."""
    bits = VALUE_BITS[wire_dtype]
    if bits == VALUE_BITS["int8"]:
        return codes[:count]
    codes |= codes >> np.uint8(8 - bits)
    codes &= np.uint8((1 << bits) - 1)
    if wire_dtype == "int4":
        words = codes.view(np.uint16)
        return (words | words >> 4).astype(np.uint8)[: -(-count // 2)]
    return (codes.view(np.uint32) * np.uint32(_SIDE_BY_SIDE) >> 24).astype(np.uint8)


def _pieces(
    places: IntArray, table: Float32Array, bounds: tuple[int, ...]
) -> Iterator[tuple[slice, Float32Array | np.float32, Float32Array | np.float32]]:
    """Yield parts of the entries with their scale, or with one for each entry if that is less."""
    count = len(places)
    if count < _LONG * len(table):
        if count:
            each = _each(places, table, bounds)
            yield slice(count), each[..., 0], each[..., 1]
        return
    end = 0
    for number, (low, step) in zip(_counts(places, bounds), table, strict=True):
        first, end = end, end + number
        for at in range(first, end, TILE):
            yield slice(at, min(at + TILE, end)), low, step


def _each(places: IntArray, table: Float32Array, bounds: tuple[int, ...]) -> Float32Array:
    """Return the scale of each of ascending places, or the only one."""
    if not bounds:
        return table
    counts = _counts(places, bounds)
    return table.view(np.complex64).reshape(-1).repeat(counts).view(np.float32).reshape(-1, 2)


def _counts(places: IntArray, bounds: tuple[int, ...]) -> IntArray:
    """Return the number of ascending places in each section."""
    ends = places.searchsorted(_edges(bounds))
    counts = np.empty(len(bounds) + 1, np.int64)
    counts[:-1] = ends
    counts[-1] = len(places)
    counts[1:] -= ends
    return counts


@lru_cache(maxsize=256)
def _edges(bounds: tuple[int, ...]) -> IntArray:
    return np.array(bounds, np.int64)
