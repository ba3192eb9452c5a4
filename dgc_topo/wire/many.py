"""Many gaps in CPU memory as Rice codes with unary quotients: `rice` tile by tile, by numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from dgc_topo.arrays import IntArray
from dgc_topo.wire import packing
from dgc_topo.wire.body import packed_bytes
from dgc_topo.wire.format import WireError
from dgc_topo.wire.packing import TILE

Bytes = npt.NDArray[np.uint8]

MOST_LOW_BITS = 15  #: more lie in two planes


def quotient_sum(gaps: IntArray, low_bits: int) -> int:
    """Return the sum of all quotients of gaps."""
    parts = (gaps[at : at + TILE] for at in range(0, len(gaps), TILE))
    return sum(int((part >> low_bits).sum()) for part in parts)


def write_unary(gaps: IntArray, low_bits: int, into: Bytes) -> None:
    """Write gaps, at least one, with at most `MOST_LOW_BITS` low bits."""
    plane = into[packed_bytes(len(gaps), low_bits) :]
    flags = np.zeros(8 * len(plane), np.uint8)
    before = -1
    for first in range(0, len(gaps), TILE):
        part = gaps[first : first + TILE]
        if low_bits:
            low = _low_bytes(into, first, len(part), low_bits)
            packing.pack(part & (1 << low_bits) - 1, low_bits, low)
        ends = part >> low_bits
        ends += 1
        ends[0] += before
        _add_up(ends)
        before = int(ends[-1])
        flags[ends] = 1
    plane[:] = np.packbits(flags, bitorder="little")


def read_unary(coded: Bytes, count: int, low_bits: int, start: int) -> IntArray:
    """Return the *count* indices of a run from *start* on, shape (count,), int64.

    Raises:
        WireError: if there are more or fewer quotients.
    """
    plane = coded[packed_bytes(count, low_bits) :]
    (found,) = np.unpackbits(plane, bitorder="little").view(np.bool_).nonzero()
    check_ends(len(found), count, coded.item(-1))
    if not low_bits:
        found += start
        return found
    # The quotients up to the i-th add up to its place less i, so each step of the low bits' sum
    # takes one such unit away.
    step = 1 << low_bits
    before = start - 1 + step
    for first in range(0, count, TILE):
        ends = found[first : first + TILE]
        steps = packing.unpack(_low_bytes(coded, first, len(ends), low_bits), len(ends), low_bits)
        steps += 1 - step
        steps[0] += before
        _add_up(steps)
        before = int(steps[-1])
        ends <<= low_bits
        ends += steps
    return found


def check_ends(found: int, count: int, last_byte: int) -> None:
    """Refuse a plane of quotients that does not end with the last of them.

    Raises:
        WireError: unless *found* is *count*, and *last_byte* has a one.
    """
    if found != count or not last_byte:
        raise WireError(
            f"wire: rice message with {found} quotients that ends with byte {last_byte:#04x}, "
            f"expected {count} quotients, and the last of them in the last byte"
        )


def _add_up(numbers: IntArray) -> None:
    """Replace each number by the sum up to it; torch does it in a sixth of numpy's time."""
    torch.from_numpy(numbers).cumsum_(0)


def _low_bytes(coded: Bytes, first: int, count: int, low_bits: int) -> Bytes:
    """Return the bytes of the low bits of so many gaps; *first* is a multiple of 8."""
    return coded[packed_bytes(first, low_bits) : packed_bytes(first + count, low_bits)]
