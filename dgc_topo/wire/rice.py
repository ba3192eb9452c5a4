"""Rice-coded gaps: some low bits of each, packed, then the quotients above them.

A quotient is in unary, as many zeros as it says and a one behind them, or a gamma code: as many
zeros as it has bits, a one, and later its bits below the highest.  The ones of all quotients lie in
one plane of bits, so one look for them reads them all.  (Golomb 1966; Rice 1979; Elias 1975.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from dgc_topo.wire import gamma
from dgc_topo.wire.body import RiceCode, packed_bytes
from dgc_topo.wire.format import WireError
from dgc_topo.wire.indices import (
    pack_flags,
    read_numbers,
    set_flags,
    set_places,
    unpack_flags,
    write_packed,
)
from dgc_topo.wire.limits import MAX_WIDTH
from dgc_topo.wire.rice_choice import (
    MOST_GAMMA_ENTRIES,
    code_bits,
    gamma_code,
    unary_low_bits,
)

_TILE = 1 << 14  #: gaps at once on a CPU: their numbers stay in its cache
_PLANE_BITS = 16  #: from so many low bits on, they lie in two planes


def best_rice(gaps: Tensor, total: int) -> RiceCode:
    """Return a Rice code that makes gaps short; with gamma quotients where these take less.

    Many gaps get unary quotients: gamma codes of so many take several times as long to write and
    read (`benchmarks/results/2026-11-30-entry-bits.md`).  On a GPU it waits twice.

    Args:
        gaps: Shape (n,), int64, n at least 1.
        total: Their sum.
    """
    count = len(gaps)
    low_bits = unary_low_bits(count, total)
    unary = RiceCode(low_bits, False, count + _quotient_sum(gaps, low_bits))
    if count > MOST_GAMMA_ENTRIES:
        return unary
    found: list[int] = torch.bincount(gamma.bit_lengths(gaps), minlength=MAX_WIDTH + 1).tolist()
    by_gamma = gamma_code(count, found)
    return by_gamma if code_bits(by_gamma, count) < code_bits(unary, count) else unary


def write_rice(gaps: Tensor, low_bits: int, into: Tensor, *, is_gamma: bool) -> None:
    """Write gaps as Rice codes.

    Args:
        gaps: Shape (n,), int64.
        low_bits: Bits of each that are packed, 0 to 31.
        into: uint8, the bytes of the low bits and of the quotients.
        is_gamma: Whether quotients are gamma codes.
    """
    quotients = into[packed_bytes(len(gaps), low_bits) :]
    flags = torch.zeros(8 * len(quotients), dtype=torch.uint8, device=gaps.device)
    tile, before = _tile_of(gaps, low_bits), None
    rest: list[Tensor] = []
    for first in range(0, len(gaps), tile):
        part = gaps[first : first + tile]
        if low_bits:
            low = into[packed_bytes(first, low_bits) : packed_bytes(first + len(part), low_bits)]
            write_packed(part & (1 << low_bits) - 1, low_bits, low)
        above = part >> low_bits
        if is_gamma:
            sizes = gamma.bit_lengths(above)
            rest.append(gamma.bits_below(above, sizes))
            above = sizes
        ends = above.add_(1)
        ends[0] += -1 if before is None else before
        ends.cumsum_(0)
        before = ends[-1]
        set_flags(flags, ends)
    if before is not None and is_gamma:
        at = int(before) + 1
        bits = torch.cat(rest)
        flags[at : at + len(bits)] = bits
    pack_flags(flags, quotients)


def read_rice(
    coded: Tensor, count: int, low_bits: int, run: tuple[int, int], *, is_gamma: bool
) -> Tensor:
    """Return the *count* indices of Rice-coded gaps, shape (count,), int64.

    Args:
        coded: uint8, as `write_rice` writes it.
        count: Number of entries, at least 1.
        low_bits: Bits of each gap that are packed, 0 to 31.
        run: First element and number of elements of the run.
        is_gamma: Whether quotients are gamma codes.

    Raises:
        WireError: if there are more or fewer quotients.
    """
    start, length = run
    plane = coded[packed_bytes(count, low_bits) :]
    if is_gamma:
        # As if quotients were unary: of the place that each has then, its number is taken away.
        found = _read_gamma(plane, count, length - count >> low_bits)
        found.cumsum_(0).add_(torch.arange(count, dtype=torch.int64, device=found.device))
    else:
        found = set_places(unpack_flags(plane))
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


def _read_gamma(plane: Tensor, count: int, most: int) -> Tensor:
    """Return quotients from gamma codes, shape (count,), int64.

    Raises:
        WireError: if there are fewer, one has more bits than *most* has, or bits are left.
    """
    flags = unpack_flags(plane)
    found = set_places(flags)
    gamma.check_number(len(found), count)
    ends = found[:count]
    sizes = torch.diff(ends, prepend=ends.new_full((1,), -1)).sub_(1)
    facts = torch.stack([sizes.max(), sizes.count_nonzero(), ends[-1], found[-1]])
    largest, above, end, last = facts.tolist()
    rest_end = gamma.check(
        gamma.GammaFacts(count, above, largest, end + 1, last), most.bit_length(), len(plane)
    )
    below = (flags[end + 1 : rest_end] != 0).to(torch.uint8)
    return gamma.read(below, sizes)


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


def _quotient_sum(gaps: Tensor, low_bits: int) -> int:
    if gaps.device.type != "cpu":
        return int((gaps >> low_bits).sum())
    parts = (gaps.numpy()[at : at + _TILE] for at in range(0, len(gaps), _TILE))
    return sum(int((part >> low_bits).sum()) for part in parts)


def _tile_of(numbers: Tensor, low_bits: int) -> int:
    """Return how many gaps are coded at once."""
    tiles = numbers.device.type == "cpu" and low_bits < _PLANE_BITS
    return _TILE if tiles else max(1, len(numbers))
