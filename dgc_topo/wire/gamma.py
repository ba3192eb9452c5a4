"""Gamma codes of whole numbers: how many bits one has, in unary, and its bits below the highest.

The ones that end the unary numbers lie in a plane; the bits below the highest of all numbers follow
it, those of the first number first and the lowest first.  0 has no bits.  (Elias 1975.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from dgc_topo.arrays import IntArray
from dgc_topo.wire.body import packed_bytes
from dgc_topo.wire.format import WireError

_FRACTION_BITS, _BIAS = 52, 1022  #: of a float64, whose exponent tells how long a number is


def bit_lengths(numbers: Tensor) -> Tensor:
    """Return the bits of numbers below 2**53, shape (n,), int64; of 0 none."""
    as_bits = numbers.to(torch.float64).view(torch.int64)
    return (as_bits >> _FRACTION_BITS).sub_(_BIAS).clamp_(min=0)


def bits_below(numbers: Tensor, sizes: Tensor) -> Tensor:
    """Return the bits below the highest of each number, one after the other.

    Args:
        numbers: Shape (n,), int64.
        sizes: Bits of each, same shape.

    Returns:
        Shape (bits,), uint8.
    """
    more = (sizes - 1).clamp_(min=0)
    if numbers.device.type != "cpu":
        owners, places = _owners(more)
        return (numbers[owners] >> places & 1).to(torch.uint8)
    found, of = torch.empty(int(more.sum()), dtype=torch.uint8, device="cpu"), numbers.numpy()
    bits = found.numpy()
    for place, (which, at) in enumerate(_levels(more.numpy())):
        bits[at] = of[which] >> place & 1
    return found


def read(bits: Tensor, sizes: Tensor) -> Tensor:
    """Return the numbers of so many bits, shape (n,), int64.

    Args:
        bits: Those below the highest, as `bits_below`.
        sizes: Bits of each number, shape (n,), int64.
    """
    numbers = torch.ones_like(sizes) << sizes >> 1
    more = (sizes - 1).clamp_(min=0)
    if sizes.device.type != "cpu":
        owners, places = _owners(more)
        return numbers.index_add_(0, owners, bits.to(torch.int64) << places)
    found, wide = numbers.numpy(), bits.to(torch.int64).numpy()
    for place, (which, at) in enumerate(_levels(more.numpy())):
        found[which] |= wide[at] << place
    return numbers


def _owners(more: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for each bit of numbers that have so many, which one has it, and its place there."""
    owners = torch.repeat_interleave(more)
    before = more.cumsum(0).sub_(more)
    places = torch.arange(len(owners), dtype=torch.int64, device=more.device)
    return owners, places.sub_(before[owners])


def _levels(more: IntArray) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield, for each place from the lowest, which numbers have a bit there, and where it lies."""
    at = more.cumsum() - more
    (which,) = more.nonzero()
    at, more = at[which], more[which]
    while len(which):
        yield which, at
        stays = more > 1
        which, at, more = which[stays], at[stays] + 1, more[stays] - 1


def check_number(found: int, count: int) -> None:
    """Refuse a plane of too few gamma codes.

    Raises:
        WireError: if there are fewer than *count*.
    """
    if found < count:
        raise WireError(f"wire: rice message with {found} gamma codes, expected {count}")


class GammaFacts(NamedTuple):
    """Numbers about a plane of gamma codes.

    Attributes:
        entries: Number of quotients.
        above: Number of those above 0.
        largest: Bits of the largest.
        end: Bits of the plane.
        last: Place of the last one among its bits and those behind it.
    """

    entries: int
    above: int
    largest: int
    end: int
    last: int


def check(facts: GammaFacts, most: int, num_bytes: int) -> int:
    """Return the bits of a plane of gamma codes and of those that belong behind it.

    Args:
        facts: What was found.
        most: Bits that a quotient may have.
        num_bytes: Bytes of all.

    Raises:
        WireError: if a quotient has more, or there are more or fewer bytes, or other bits are set.
    """
    bits = 2 * facts.end - facts.entries - facts.above
    if facts.largest > most or packed_bytes(bits, 1) != num_bytes or facts.last >= bits:
        raise WireError(
            f"wire: rice message with gamma codes in {num_bytes} bytes, the largest of a quotient "
            f"of {facts.largest} bits, expected {packed_bytes(bits, 1)} bytes, no other bit set, "
            f"and at most {most} bits"
        )
    return bits
