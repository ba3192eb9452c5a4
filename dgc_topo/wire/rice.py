"""Rice-coded gaps: some low bits of each, packed, then the quotients above them.

A quotient is in unary, as many zeros as it says and a one behind them, or a gamma code: as many
zeros as it has bits, a one, and later its bits below the highest.  The ones of all quotients lie in
one plane of bits, so one look for them reads them all.  (Golomb 1966; Rice 1979; Elias 1975.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from dgc_topo.wire import gamma, many, tensors
from dgc_topo.wire.body import RiceCode, packed_bytes
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
    if tensors.in_numpy(gaps):
        quotients = many.quotient_sum(gaps.numpy(), low_bits)
    else:
        quotients = int((gaps >> low_bits).sum())
    unary = RiceCode(low_bits, False, count + quotients)
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
        is_gamma: True if quotients are gamma codes.
    """
    if not len(gaps):
        return
    if _is_for_numpy(gaps, low_bits, is_gamma=is_gamma):
        many.write_unary(gaps.numpy(), low_bits, into.numpy())
        return
    low_end = packed_bytes(len(gaps), low_bits)
    if low_bits:
        write_packed(gaps & (1 << low_bits) - 1, low_bits, into[:low_end])
    flags = torch.zeros(8 * len(into[low_end:]), dtype=torch.uint8, device=gaps.device)
    above = gaps >> low_bits
    sizes = gamma.bit_lengths(above) if is_gamma else above
    ends = (sizes + 1).cumsum(0).sub_(1)
    set_flags(flags, ends)
    if is_gamma:
        at, bits = int(ends[-1]) + 1, gamma.bits_below(above, sizes)
        flags[at : at + len(bits)] = bits
    pack_flags(flags, into[low_end:])


def read_rice(
    coded: Tensor, count: int, low_bits: int, run: tuple[int, int], *, is_gamma: bool
) -> Tensor:
    """Return the *count* indices of Rice-coded gaps, shape (count,), int64.

    Args:
        coded: uint8, as `write_rice` writes it.
        count: Number of entries, at least 1.
        low_bits: Bits of each gap that are packed, 0 to 31.
        run: First element and number of elements of the run.
        is_gamma: True if quotients are gamma codes.

    Raises:
        WireError: if there are more or fewer quotients.
    """
    start, length = run
    if _is_for_numpy(coded, low_bits, is_gamma=is_gamma):
        return torch.from_numpy(many.read_unary(coded.numpy(), count, low_bits, start))
    low_end = packed_bytes(count, low_bits)
    plane = coded[low_end:]
    if is_gamma:
        gaps = _read_gamma(plane, count, length - count >> low_bits)
    else:
        gaps = set_places(unpack_flags(plane))
        many.check_ends(len(gaps), count, int(coded[-1]))
        gaps = torch.diff(gaps, prepend=gaps.new_full((1,), -1)).sub_(1)
    if low_bits:
        gaps <<= low_bits
        gaps += read_numbers(coded[:low_end], count, low_bits)
    return gaps.add_(1).cumsum_(0).add_(start - 1)


def _is_for_numpy(numbers: Tensor, low_bits: int, *, is_gamma: bool) -> bool:
    return tensors.in_numpy(numbers) and not is_gamma and low_bits <= many.MOST_LOW_BITS


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
