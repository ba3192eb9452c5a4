"""Values of 8, 4 and 2 bits in CPU memory: the same as `scales` has them, in fewer calls."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from dgc_topo.arrays import IntArray
from dgc_topo.wire.coding import COARSE_DTYPES, VALUE_BITS, WireDtype
from dgc_topo.wire.scales import MOST_LEVEL, Scales

Bytes = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]

_FLOAT32_MAX = np.finfo(np.float32).max
_LEVELS = np.arange(MOST_LEVEL + 1, dtype=np.float32)
_BYTES = np.arange(256)
#: The two codes of 4 bits, and the four of 2 bits, in each byte.
_IN_BYTE = {
    dtype: (_BYTES[:, None] >> np.arange(0, 8, bits) & (1 << bits) - 1).astype(np.uint8)
    for dtype, bits in VALUE_BITS.items()
    if dtype in COARSE_DTYPES[:2]
}
_SIDE_BY_SIDE = 1 << 24 | 1 << 18 | 1 << 12 | 1 << 6  #: four codes of 2 bits into a word's top byte


def table_of(scales: Scales) -> Bytes:
    """Return the bytes of scales."""
    table = np.empty((len(scales.low), 2), np.uint16)
    table[:, 0] = scales.low.numpy().view(np.uint32) >> 16
    table[:, 1] = scales.step.numpy().view(np.uint32) >> 16
    return table.view(np.uint8).reshape(-1)


def scales_in(table: Bytes, bounds: tuple[int, ...]) -> Scales:
    """Return the scales that `table_of` wrote."""
    both = table.view(np.uint16).astype(np.uint32).reshape(-1, 2).T << 16
    low, step = torch.from_numpy(np.ascontiguousarray(both).view(np.float32)).unbind(0)
    return Scales(bounds, low, step)


def steps_of(
    places: IntArray, values: Float32Array, scales: Scales, wire_dtype: WireDtype
) -> tuple[Bytes, WireDtype]:
    """Return values that are steps of scales as bytes, and the narrowest type that counts them.

    Args:
        places: Indices of the values, shape (n,).
        values: Shape (n,).
        scales: Scales of the sections.
        wire_dtype: Narrowest type to take.
    """
    low, step = scales.low.numpy(), scales.step.numpy()
    step = np.where(step > 0, step, np.float32(np.inf))  # of which there is no step
    if scales.bounds:
        counts = _counts(places, scales.bounds)
        low, step = low.repeat(counts), step.repeat(counts)
    levels = np.abs(values)
    levels -= low
    levels /= step
    np.rint(levels, out=levels)
    most = float(levels.max(initial=0))
    if most != most:  # noqa: PLR0124  # there is NaN, which is no step
        np.fmax(levels, 0, out=levels)
        most = float(levels.max())
    if most > MOST_LEVEL:
        np.fmin(levels, MOST_LEVEL, out=levels)
    while most >= 1 << VALUE_BITS[wire_dtype] - 1 and wire_dtype != COARSE_DTYPES[-1]:
        wire_dtype = COARSE_DTYPES[COARSE_DTYPES.index(wire_dtype) + 1]
    bits = VALUE_BITS[wire_dtype]
    codes = np.zeros(-(-len(values) * bits // 8) * 8 // bits, np.uint8)
    own = codes[: len(values)]
    own[:] = levels
    own |= np.signbit(values).view(np.uint8) << np.uint8(bits - 1)
    return _packed(codes, wire_dtype), wire_dtype


def values_in(
    packed: Bytes, places: IntArray, scales: Scales, wire_dtype: WireDtype
) -> Float32Array:
    """Return the values that `steps_of` packed.

    Args:
        packed: The bytes.
        places: Indices of the values, shape (n,).
        scales: Scales of the sections.
        wire_dtype: Type of the values.
    """
    bits = VALUE_BITS[wire_dtype]
    several = _IN_BYTE.get(wire_dtype)
    codes = packed if several is None else several.take(packed, 0).reshape(-1)
    codes = codes[: len(places)]
    low, step = scales.low.numpy(), scales.step.numpy()
    if scales.bounds:
        counts = _counts(places, scales.bounds)
        low, step = low.repeat(counts), step.repeat(counts)
    sign = np.uint8(1 << bits - 1)
    with np.errstate(over="ignore", invalid="ignore"):  # whatever scales a message has
        values = _LEVELS.take(codes & sign - np.uint8(1))
        values *= step
        values += low
    np.minimum(values, _FLOAT32_MAX, out=values)
    np.maximum(values, -_FLOAT32_MAX, out=values)
    np.negative(values, out=values, where=(codes & sign).view(np.bool_))
    return values


def _packed(codes: Bytes, wire_dtype: WireDtype) -> Bytes:
    """Return codes side by side; there are whole bytes of them."""
    if wire_dtype == "int4":
        words = codes.view(np.uint16)
        return (words | words >> 4).astype(np.uint8)
    if wire_dtype == "int2":
        return (codes.view(np.uint32) * np.uint32(_SIDE_BY_SIDE) >> 24).astype(np.uint8)
    return codes


def _counts(places: IntArray, bounds: tuple[int, ...]) -> IntArray:
    """Return the number of ascending places in each section."""
    ends = np.searchsorted(places, _edges(bounds))
    counts = np.empty(len(bounds) + 1, np.int64)
    counts[:-1] = ends
    counts[-1] = len(places)
    counts[1:] -= ends
    return counts


@lru_cache(maxsize=256)
def _edges(bounds: tuple[int, ...]) -> IntArray:
    return np.array(bounds, np.int64)
