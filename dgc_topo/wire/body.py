"""Exact bytes of a message from a few numbers about the gaps between its entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log
from typing import NamedTuple

from dgc_topo.wire.coding import (
    INDEX_ENCODINGS,
    VALUE_BYTES,
    IndexChoice,
    IndexEncoding,
    WireCoding,
    WireDtype,
)
from dgc_topo.wire.limits import (
    CODE_BYTES,
    ESCAPE_COUNT_BYTES,
    INDEX_BYTES,
    MAX_COUNT_BYTES,
    MAX_WIDTH,
)


class GapFacts(NamedTuple):
    """Numbers about the gaps of a message, which decide how its indices are coded.

    Attributes:
        entries: Number of gaps, one before each entry.
        largest: Largest gap: most elements without an entry before an entry, since the last one or
            the start.
        escapes: Escape codes that run lengths take: ``gap // 65535`` summed if *largest* is above
            65535, else 0.
        low_bits: Low bits of the Rice code that makes the gaps shortest.
        quotients: ``gap >> low_bits`` summed.
    """

    entries: int
    largest: int
    escapes: int = 0
    low_bits: int = 0
    quotients: int = 0


def body_bytes(encoding: IndexEncoding, wire_dtype: WireDtype, length: int, gaps: GapFacts) -> int:
    """Return the exact bytes of a message's values and indices, header apart.

    Args:
        encoding: Of the indices.
        wire_dtype: Of the values.
        length: Elements of the run.
        gaps: Numbers about the gaps.
    """
    value_bytes = VALUE_BYTES[wire_dtype]
    if encoding == "dense":
        return value_bytes * length
    return value_bytes * gaps.entries + _index_bytes(encoding, value_bytes, length, gaps)


def _index_bytes(encoding: IndexEncoding, value_bytes: int, length: int, gaps: GapFacts) -> int:
    match encoding:
        case "run-length":
            codes = gaps.entries + gaps.escapes
            return CODE_BYTES * codes + (ESCAPE_COUNT_BYTES if gaps.escapes else 0)
        case "bit-packed":
            return packed_bytes(gaps.entries, gaps.largest.bit_length())
        case "bitmap":
            return -(-length // 8)
        case "int32":
            return INDEX_BYTES * gaps.entries + -value_bytes * gaps.entries % INDEX_BYTES
        case "rice":
            low = packed_bytes(gaps.entries, gaps.low_bits)
            return low + packed_bytes(gaps.entries + gaps.quotients, 1) + count_bytes(gaps.entries)
        case "dense":
            return 0


def packed_bytes(count: int, width: int) -> int:
    """Return the bytes of *count* numbers of *width* bits."""
    return -(-count * width // 8)


def count_bytes(count: int) -> int:
    """Return the bytes of a number of entries: as few as hold it, but one."""
    return max(1, -(-count.bit_length() // 8))


def most_body_bytes(coding: WireCoding, length: int) -> int:
    """Return the most bytes of the body for a run of *length* elements."""
    value_bytes = VALUE_BYTES[coding.wire_dtype]
    if coding.index_encoding in {"auto", "dense"}:  # the first is never larger than the second
        return value_bytes * length
    if coding.index_encoding == "rice":  # without low bits at most a bit for each element
        return value_bytes * length + packed_bytes(length, 1) + 1 + MAX_COUNT_BYTES
    # Packed gaps have at most 31 bits, and 16-bit codes one escape per 65535 elements.
    return (value_bytes + INDEX_BYTES) * length + INDEX_BYTES


def smallest(
    choice: IndexChoice, wire_dtype: WireDtype, length: int, gaps: GapFacts
) -> tuple[IndexEncoding, int]:
    """Return the encoding of a message, the smallest unless told, and the bytes of its body.

    Arguments are those of `body_bytes`.
    """
    if choice != "auto":
        return choice, body_bytes(choice, wire_dtype, length, gaps)
    sizes = [
        (body_bytes(encoding, wire_dtype, length, gaps), place)
        for place, encoding in enumerate(INDEX_ENCODINGS)
    ]
    size, place = min(sizes)
    return INDEX_ENCODINGS[place], size


def with_rice(gaps: GapFacts, total: int, sums: Callable[[int], Sequence[int]]) -> GapFacts:
    """Return the facts with the Rice code that makes the gaps shortest.

    A bit more of each gap halves its quotient, rounded down, so what one more saves falls from one
    to the next: the sizes have one valley, and it is near ``log2(mean * ln 2)``.

    Args:
        gaps: What is known.
        total: Sum of the gaps.
        sums: Function from a number of bits to the sums of all ``gap >> bits``, for it and the next
            two.
    """
    if not total:
        return gaps
    entries = gaps.entries
    middle = max(1, int(log(2) * total / entries).bit_length() - 1)
    while True:
        below, here, above = sums(middle - 1)
        if below - here < entries and middle > 1:
            middle -= 1
        elif here - above > entries and middle < MAX_WIDTH - 1:
            middle += 1
        else:
            break
    low, quotients = middle, here
    if below - here < entries:
        low, quotients = middle - 1, below
    elif here - above > entries:
        low, quotients = middle + 1, above
    return GapFacts(entries, gaps.largest, gaps.escapes, low, quotients)
