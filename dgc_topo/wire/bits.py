"""Bits of small numbers in a CPU's memory, a byte each: packed numbers and Rice codes by numpy.

For numbers below 65536, and few of them: a byte for each bit is many bytes, but few calls.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dgc_topo.arrays import IntArray
from dgc_topo.wire.body import packed_bytes
from dgc_topo.wire.gamma import GammaFacts, check, check_number
from dgc_topo.wire.many import check_ends

Bytes = npt.NDArray[np.uint8]

CODE_BITS = 16
MOST = 4096  #: numbers at once
_RAMP = np.arange(MOST)
_PLACES = np.arange(CODE_BITS + 1)
#: Bits of each number of 16 bits.
SIZES = np.repeat(_PLACES, np.maximum(1 << _PLACES >> 1, 1)).astype(np.uint8)
#: By the low bits of a Rice code, and the bits of a gap: which of its bits follow a gamma code ...
_BELOW = (_PLACES[:, None, None] <= _PLACES[:-1]) & (_PLACES[:-1] < _PLACES[:, None] - 1)
#: ... which one is the highest of its quotient ...
_HIGHEST = ((_PLACES[:-1] == _PLACES[:, None] - 1) & (_PLACES[:-1] >= _PLACES[:, None, None])) * (
    np.uint8(1)
)
_HIGHEST_AFTER, _BELOW_AFTER = (np.pad(t, ((0, 0), (1, 0), (0, 0))) for t in (_HIGHEST, _BELOW))
#: ... and the bits of its quotient, and one.
_STEPS = np.maximum(_PLACES - _PLACES[:, None], 0) + 1


def write_packed(gaps: IntArray, width: int, into: Bytes) -> None:
    """Write gaps of *width* bits each, 0 to 16."""
    if width:
        into[:] = np.packbits(_bits_of(gaps)[:, :width], bitorder="little")


def write_unary(gaps: IntArray, low_bits: int, into: Bytes) -> None:
    """Write gaps as Rice codes whose quotients are unary."""
    count = len(gaps)
    flags = _with_low_bits(_bits_of(gaps), low_bits, into)
    ends = gaps >> low_bits
    ends += 1
    ends[0] += 8 * packed_bytes(count, low_bits) - 1
    ends.cumsum(out=ends)
    flags[ends] = 1
    into[:] = np.packbits(flags, bitorder="little")


def write_gamma(gaps: IntArray, sizes: Bytes, low_bits: int, into: Bytes) -> None:
    """Write gaps, of so many bits each, as Rice codes whose quotients are gamma codes."""
    bits = _bits_of(gaps)
    flags = _with_low_bits(bits, low_bits, into)
    ends = _STEPS[low_bits].take(sizes)
    ends[0] += 8 * packed_bytes(len(gaps), low_bits) - 1
    ends.cumsum(out=ends)
    flags[ends] = 1
    rest = bits[_BELOW[low_bits].take(sizes, 0)]
    end = int(ends[-1]) + 1
    flags[end : end + len(rest)] = rest
    into[:] = np.packbits(flags, bitorder="little")


def indices_of(gaps: IntArray, start: int) -> IntArray:
    """Return the indices that follow gaps, which it overwrites."""
    gaps.cumsum(out=gaps)
    gaps += _RAMP[: len(gaps)]
    if start:
        gaps += start
    return gaps


def read_packed(packed: Bytes, count: int, width: int) -> IntArray:
    """Return *count* numbers of *width* bits each, 0 to 16."""
    bits = np.zeros((count, CODE_BITS), np.uint8)
    _set_low_bits(bits, np.unpackbits(packed, bitorder="little"), width)
    return _numbers(bits)


def read_unary(coded: Bytes, count: int, low_bits: int, start: int) -> IntArray:
    """Return the *count* indices of Rice codes whose quotients are unary.

    Raises:
        WireError: if there are more or fewer quotients.
    """
    flags = np.unpackbits(coded, bitorder="little")
    (ends,) = flags[8 * packed_bytes(count, low_bits) :].view(np.bool_).nonzero()
    check_ends(len(ends), count, coded.item(-1))
    bits = np.zeros((count, CODE_BITS), np.uint8)
    _set_low_bits(bits, flags, low_bits)
    # The quotients up to the i-th add up to its place less i.
    ends -= _RAMP[:count]
    ends <<= low_bits
    ends += indices_of(_numbers(bits), start)
    return ends


def read_gamma(coded: Bytes, count: int, low_bits: int, length: int) -> IntArray | None:
    """Return *count* gaps of Rice codes whose quotients are gamma codes; None if one is too large.

    Raises:
        WireError: as `rice.read_rice`.
    """
    flags, low_bytes = np.unpackbits(coded, bitorder="little"), packed_bytes(count, low_bits)
    plane = flags[8 * low_bytes :]
    (found,) = plane.view(np.bool_).nonzero()
    check_number(len(found), count)
    steps = found[:count].copy()
    end, last = found.item(count - 1) + 1, found.item(-1)
    steps[1:] -= found[: count - 1]
    steps[0] += 1
    most = (length - count >> low_bits).bit_length()
    rows = slice(low_bits, low_bits + most + 2)  # by the bits of a quotient, and one
    bits: Bytes | None
    try:
        bits = _HIGHEST_AFTER[low_bits, rows].take(steps, 0)
    except IndexError:
        bits = None
    above = count - int(np.count_nonzero(steps == 1))
    largest = most if bits is not None else int(steps.max()) - 1
    facts = GammaFacts(count, above, largest, end, last)
    rest_end = check(facts, most, len(coded) - low_bytes)
    if bits is None:
        return None
    _set_low_bits(bits, flags, low_bits)
    bits[_BELOW_AFTER[low_bits, rows].take(steps, 0)] = plane[end:rest_end]
    return _numbers(bits)


def _with_low_bits(bits: Bytes, low_bits: int, into: Bytes) -> Bytes:
    """Return all bits of *into*, of which the low bits of all numbers come first."""
    flags = np.zeros(8 * len(into), np.uint8)
    if low_bits:
        flags[: len(bits) * low_bits].reshape(-1, low_bits)[:] = bits[:, :low_bits]
    return flags


def _bits_of(gaps: IntArray) -> Bytes:
    """Return the bits of gaps below 65536, the lowest first, shape (n, 16)."""
    codes = gaps.astype(np.uint16).view(np.uint8)
    return np.unpackbits(codes, bitorder="little").reshape(-1, CODE_BITS)


def _set_low_bits(bits: Bytes, flags: Bytes, width: int) -> None:
    """Set the bits of numbers, of which *flags* begins with *width* each."""
    if width:
        bits[:, :width] = flags[: len(bits) * width].reshape(-1, width)


def _numbers(bits: Bytes) -> IntArray:
    """Return the numbers whose bits these are, shape (n,), from shape (n, 16)."""
    return np.packbits(bits, bitorder="little").view(np.uint16).astype(np.int64)
