"""Gaps, and packed numbers of up to 15 bits, in CPU memory: what `indices` does anywhere."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dgc_topo.arrays import IntArray

Bytes = npt.NDArray[np.uint8]

TILE = 1 << 14  #: numbers at once, whose temporaries stay in a core's cache


def gaps_of(places: IntArray, start: int) -> IntArray:
    """Return the elements without an entry before each of *places*, shape (n,), int64."""
    gaps = np.empty_like(places)
    if len(places):
        gaps[0] = places[0] - start
        above = gaps[1:]
        np.subtract(places[1:], places[:-1], out=above)
        above -= 1
    return gaps


def pack(numbers: IntArray, width: int, into: Bytes) -> None:
    """Pack *numbers* of *width* bits, 1 to 15, into as many bytes as they take."""
    count = len(numbers)
    whole = count - count % 8
    for first in range(0, whole, TILE):
        end = min(first + TILE, whole)
        rows = into[first * width // 8 : end * width // 8].reshape(-1, width)
        rows[:] = _side_by_side(numbers[first:end], width)
    if whole < count:
        last = np.zeros(8, np.int64)
        last[: count - whole] = numbers[whole:]
        rest = into[whole * width // 8 :]
        rest[:] = _side_by_side(last, width)[0, : len(rest)]


def unpack(packed: Bytes, count: int, width: int) -> IntArray:
    """Return the *count* numbers that `pack` packed, shape (count,), int64."""
    groups = -(-count // 8)
    numbers = np.empty(8 * groups, np.int64)
    whole = count - count % 8
    for first in range(0, whole, TILE):
        end = min(first + TILE, whole)
        rows = packed[first * width // 8 : end * width // 8].reshape(-1, width)
        _split(rows, width, numbers[first:end])
    if whole < count:
        last = np.zeros((1, width), np.uint8)
        rest = packed[whole * width // 8 :]
        last[0, : len(rest)] = rest
        _split(last, width, numbers[whole:])
    return numbers[:count]


def _words(width: int) -> int:
    """Return the 64-bit words that eight numbers take."""
    return 1 + (8 * width - 1) // 64


def _side_by_side(numbers: IntArray, width: int) -> Bytes:
    """Return eight numbers in each row of *width* bytes."""
    pairs = numbers[1::2] << width
    pairs |= numbers[::2]
    fours = pairs[1::2] << 2 * width
    fours |= pairs[::2]
    low, high = fours[::2], fours[1::2]
    rows = np.empty((len(low), _words(width)), np.int64)
    first = rows[:, 0]
    np.left_shift(high, 4 * width, out=first)
    first |= low
    if _words(width) > 1:
        np.right_shift(high, 64 - 4 * width, out=rows[:, 1])
    return rows.view(np.uint8)[:, :width]


def _split(packed: Bytes, width: int, into: IntArray) -> None:
    """Write the eight numbers of each row."""
    rows = np.zeros((len(packed), _words(width)), np.int64)
    rows.view(np.uint8)[:, :width] = packed
    first, four = rows[:, 0], (1 << 4 * width) - 1
    fours = np.empty(2 * len(packed), np.int64)
    np.bitwise_and(first, four, out=fours[::2])
    # A shift to the right drags the sign along, which is masked.
    first >>= 4 * width
    if _words(width) > 1:
        first &= (1 << 64 - 4 * width) - 1
        rows[:, 1] <<= 64 - 4 * width
        np.bitwise_or(first, rows[:, 1], out=fours[1::2])
    else:
        np.bitwise_and(first, four, out=fours[1::2])
    pairs = np.empty(2 * len(fours), np.int64)
    np.bitwise_and(fours, (1 << 2 * width) - 1, out=pairs[::2])
    np.right_shift(fours, 2 * width, out=pairs[1::2])
    np.bitwise_and(pairs, (1 << width) - 1, out=into[::2])
    np.right_shift(pairs, width, out=into[1::2])
