"""Rice-coded gaps: some low bits of each, packed, then the quotients above them in unary.

A gap g is ``g & (2**k - 1)``, in k bits, and ``g >> k`` zeros with a one behind them.  The ones of
all gaps lie in one plane of bits.  There are as many zeros before the i-th of them as the quotients
up to it add up to, so one look for the ones reads them all.  (Golomb 1966; Rice 1979.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from dgc_topo.arrays import IntArray
from dgc_topo.wire.body import packed_bytes
from dgc_topo.wire.format import WireError
from dgc_topo.wire.indices import pack_flags, read_numbers, set_flags, unpack_plane, write_packed

_TILE = 1 << 14  #: gaps at once on a CPU: their numbers stay in its cache
_PLANE_BITS = 16  #: from so many low bits on, they lie in two planes


def quotient_sums(gaps: Tensor, low_bits: int) -> tuple[int, int, int]:
    """Return the sums of ``gap >> low`` for so many low bits, and for one and two more.

    On a GPU it waits once.
    """
    if gaps.device.type != "cpu":
        sums = torch.stack([(gaps >> low_bits + more).sum() for more in range(3)])
        below, here, above = sums.tolist()
        return below, here, above
    parts = (gaps.numpy()[at : at + _TILE] for at in range(0, len(gaps), _TILE))
    found = [few_quotient_sums(part, low_bits) for part in parts]
    below, here, above = (sum(each) for each in zip(*found, strict=True))
    return below, here, above


def few_quotient_sums(gaps: IntArray, low_bits: int) -> tuple[int, int, int]:
    """Return the numbers of `quotient_sums` for gaps in a CPU's memory, in fewer calls."""
    quotients = gaps >> low_bits
    below = int(quotients.sum())
    quotients >>= 1
    here = int(quotients.sum())
    quotients >>= 1
    return below, here, int(quotients.sum())


def write_rice(gaps: Tensor, low_bits: int, into: Tensor) -> None:
    """Write gaps as Rice codes.

    Args:
        gaps: Shape (n,), int64.
        low_bits: Bits of each that are packed, 0 to 31.
        into: uint8, the bytes of the low bits and of the plane.
    """
    low_end = packed_bytes(len(gaps), low_bits)
    plane = into[low_end:]
    flags = torch.zeros(8 * len(plane), dtype=torch.uint8, device=gaps.device)
    tile, before = _tile_of(gaps, low_bits), None
    for first in range(0, len(gaps), tile):
        part = gaps[first : first + tile]
        if low_bits:
            low = into[packed_bytes(first, low_bits) : packed_bytes(first + len(part), low_bits)]
            write_packed(part & (1 << low_bits) - 1, low_bits, low)
        ends = (part >> low_bits).add_(1)
        ends[0] += -1 if before is None else before
        ends.cumsum_(0)
        before = ends[-1]
        set_flags(flags, ends)
    pack_flags(flags, plane)


def read_rice(coded: Tensor, count: int, low_bits: int, start: int) -> Tensor:
    """Return the *count* indices of Rice-coded gaps, shape (count,), int64.

    Args:
        coded: uint8, as `write_rice` writes it.
        count: Number of entries, at least 1.
        low_bits: Bits of each gap that are packed, 0 to 31.
        start: First element of the run.

    Raises:
        WireError: if there are more or fewer quotients.
    """
    found = unpack_plane(coded[packed_bytes(count, low_bits) :])
    check_ends(len(found), count, int(coded[-1]))
    if not low_bits:
        return found.add_(start)
    # The quotients up to the i-th add up to its place less i, so each step of the low bits' sum
    # takes one such unit away.
    step, tile = 1 << low_bits, _tile_of(found, low_bits)
    before: Tensor | int = start - 1 + step
    for first in range(0, count, tile):
        ends = found[first : first + tile]
        low = coded[packed_bytes(first, low_bits) : packed_bytes(first + len(ends), low_bits)]
        steps = read_numbers(low, len(ends), low_bits).add_(1 - step)
        steps[0] += before
        steps.cumsum_(0)
        before = steps[-1]
        ends.bitwise_left_shift_(low_bits).add_(steps)
    return found


def _tile_of(numbers: Tensor, low_bits: int) -> int:
    """Return how many gaps are coded at once."""
    tiles = numbers.device.type == "cpu" and low_bits < _PLANE_BITS
    return _TILE if tiles else max(1, len(numbers))


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
