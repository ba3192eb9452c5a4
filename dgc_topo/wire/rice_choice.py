"""Choice of the Rice code that makes a message's gaps short: its low bits, and its quotients.

Unary quotients suit gaps at random places, whose quotients are mostly 0 and 1.  Entries of real
gradients cluster: most gaps are short, some long.  Gamma codes grow with a quotient's logarithm.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log, sqrt

from dgc_topo.wire.body import RiceCode

#: Entries up to which a message may take gamma codes.
MOST_GAMMA_ENTRIES = 4096
_PER_MEAN = 2 * log((1 + sqrt(5)) / 2)


def unary_low_bits(entries: int, total: int) -> int:
    """Return the low bits of the best Rice code with unary quotients for gaps at random places.

    With the chance ``a = exp(-2**k / mean)`` that a gap reaches ``2**k``, one more low bit than
    ``k`` begins to pay where ``a + a**2 = 1``: at ``2**k = mean * ln(golden ratio)`` (Kiely 2004).

    Args:
        entries: Number of gaps, at least 1.
        total: Their sum.
    """
    return max(0, int(_PER_MEAN * total / entries).bit_length() - 1)


def least_unary_bits(entries: int, counts: Sequence[int], low_bits: int) -> int:
    """Return the fewest bits that gaps can take whose quotients are unary.

    Args:
        entries: Number of gaps.
        counts: Numbers of gaps by their bit length, from 0 on.
        low_bits: Low bits of each.
    """
    bits = (low_bits + 1) * entries
    for above, number in enumerate(counts[low_bits + 1 :]):
        bits += number << above  # a gap of so many bits is no less than its highest
    return bits


def gamma_code(entries: int, counts: Sequence[int]) -> RiceCode:
    """Return the shortest Rice code with gamma quotients.

    One more low bit takes a bit of every gap, and saves one of those whose quotient is above 0 and
    one of those whose quotient is above 1.  So the sizes have one valley.

    Args:
        entries: Number of gaps.
        counts: Numbers of gaps by their bit length, from 0 on.
    """
    low_bits = above = more = 0
    # Down from where all quotients are 0: gaps above 0, and above 1, with a low bit less each time.
    quotient_bits = entries
    for low_bits in range(len(counts) - 2, -1, -1):
        above += counts[low_bits + 1]
        if above + more > entries:
            return RiceCode(low_bits + 1, True, quotient_bits)
        quotient_bits += above + more
        more = above
    return RiceCode(low_bits, True, quotient_bits)


def code_bits(code: RiceCode, entries: int) -> int:
    """Return the bits of so many gaps."""
    return entries * code.low_bits + code.quotient_bits
