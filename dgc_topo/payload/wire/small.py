"""Small messages in a CPU's memory: the same bytes with fewer and cheaper calls.

A message of some hundred entries costs not what it moves but what it calls, and a call of numpy
costs about a third of one of torch.  This module does what is common and small (run lengths without
escape codes, packed gaps); everything else takes the general way, which any device can go.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from torch import Tensor

IntArray = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

MAX_ENTRIES = 512  #: above, eight numbers at a time are faster than bit after bit
_PLANE_BITS = 16


def is_small(tensor: Tensor, entries: int) -> bool:
    """Return whether this module is the faster way for a message of so many entries."""
    return 0 < entries <= MAX_ENTRIES and tensor.device.type == "cpu"


def gaps_of(indices: IntArray, start: int) -> IntArray:
    """Return the elements without an entry before each of *indices*, at least one."""
    gaps = np.empty_like(indices)
    gaps[0] = indices[0] - start
    np.subtract(indices[1:], indices[:-1], out=gaps[1:])
    gaps[1:] -= 1
    return gaps


def read_codes(codes: Bytes, start: int) -> IntArray:
    """Return indices from run lengths without escape codes."""
    return _after(codes.view("<u2").astype(np.int64), start)


def write_packed(gaps: IntArray, width: int, into: Bytes) -> None:
    """Write gaps of *width* bits each, 0 to 31."""
    if width >= _PLANE_BITS:
        plane = 2 * len(gaps)
        into[:plane].view("<u2")[:] = gaps & 0xFFFF
        gaps, width, into = gaps >> _PLANE_BITS, width - _PLANE_BITS, into[plane:]
    if width:
        set_bits = (gaps[:, None] & _powers(width)) != 0
        into[:] = np.packbits(set_bits, bitorder="little")


def read_packed(packed: Bytes, count: int, width: int, start: int) -> IntArray:
    """Return *count* indices from gaps of *width* bits each."""
    gaps = np.zeros(count, np.int64)
    if width >= _PLANE_BITS:
        plane = 2 * count
        gaps += packed[:plane].view("<u2")
        packed, high_bits = packed[plane:], width - _PLANE_BITS
        if high_bits:
            gaps += _unpacked(packed, count, high_bits) << _PLANE_BITS
    elif width:
        gaps = _unpacked(packed, count, width)
    return _after(gaps, start)


def _unpacked(packed: Bytes, count: int, width: int) -> IntArray:
    set_bits = np.unpackbits(packed, count=count * width, bitorder="little")
    numbers: IntArray = set_bits.reshape(count, width) @ _powers(width)
    return numbers


def _after(gaps: IntArray, start: int) -> IntArray:
    """Return the indices that follow *gaps*, which it overwrites."""
    gaps += 1
    np.cumsum(gaps, out=gaps)
    gaps += start - 1
    return gaps


@lru_cache(maxsize=16)
def _powers(width: int) -> IntArray:
    return np.left_shift(np.int64(1), np.arange(width, dtype=np.int64))
