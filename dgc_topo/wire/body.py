"""Exact bytes of a message from a few numbers about the gaps between its entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log
from typing import NamedTuple

from dgc_topo.wire.coding import (
    COARSE_DTYPES,
    VALUE_BITS,
    IndexChoice,
    IndexEncoding,
    WireCoding,
    WireDtype,
    encodings_of,
)
from dgc_topo.wire.limits import (
    CODE_BYTES,
    ESCAPE_COUNT_BYTES,
    INDEX_BYTES,
    MAX_COUNT_BYTES,
    MAX_WIDTH,
    SCALE_BYTES,
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
        quotients: ``gap >> low_bits`` summed; None if no Rice code is to be considered.
        sections: Sections of the run, each of which has a scale if values are coarse.
    """

    entries: int
    largest: int
    escapes: int = 0
    low_bits: int = 0
    quotients: int | None = None
    sections: int = 1


def body_bytes(encoding: IndexEncoding, wire_dtype: WireDtype, length: int, gaps: GapFacts) -> int:
    """Return the exact bytes of a message's values and indices, header apart.

    Args:
        encoding: Of the indices.
        wire_dtype: Of the values.
        length: Elements of the run.
        gaps: Numbers about the gaps.
    """
    if encoding == "dense":
        return VALUE_BITS[wire_dtype] // 8 * length
    coarse = wire_dtype in COARSE_DTYPES
    values = packed_bytes(gaps.entries, VALUE_BITS[wire_dtype])
    if coarse:
        values += SCALE_BYTES * gaps.sections
    padding = padding_bytes(encoding, wire_dtype, values)
    told = count_bytes(gaps.entries) if coarse or encoding == "rice" else 0
    if encoding == "run-length" and gaps.escapes and not coarse:
        told = ESCAPE_COUNT_BYTES
    return values + padding + _index_bytes(encoding, length, gaps) + told


def padding_bytes(encoding: IndexEncoding, wire_dtype: WireDtype, values_end: int) -> int:
    """Return the bytes between values and indices, which align these.

    Args:
        encoding: Of the indices.
        wire_dtype: Of the values.
        values_end: Bytes before, of the whole message or of its body.
    """
    if encoding == "int32":
        return -values_end % INDEX_BYTES
    return values_end % CODE_BYTES if wire_dtype in COARSE_DTYPES else 0


def _index_bytes(encoding: IndexEncoding, length: int, gaps: GapFacts) -> int:
    match encoding:
        case "run-length":
            return CODE_BYTES * (gaps.entries + gaps.escapes)
        case "bit-packed":
            return packed_bytes(gaps.entries, gaps.largest.bit_length())
        case "bitmap":
            return packed_bytes(length, 1)
        case "int32":
            return INDEX_BYTES * gaps.entries
        case "rice":
            low = packed_bytes(gaps.entries, gaps.low_bits)
            return low + packed_bytes(gaps.entries + (gaps.quotients or 0), 1)
        case "dense":
            return 0


def packed_bytes(count: int, width: int) -> int:
    """Return the bytes of *count* numbers of *width* bits."""
    return -(-count * width // 8)


def count_bytes(count: int) -> int:
    """Return the bytes of a number of entries: as few as hold it, but one."""
    return max(1, -(-count.bit_length() // 8))


def most_body_bytes(coding: WireCoding, length: int, sections: int = 1) -> int:
    """Return the most bytes of the body for a run of *length* elements in so many *sections*.

    Coarse values may be wider than the coding says.
    """
    widest = COARSE_DTYPES[-1] if coding.is_coarse else coding.wire_dtype
    values = packed_bytes(length, VALUE_BITS[widest])
    if coding.is_coarse:
        values += SCALE_BYTES * sections + INDEX_BYTES + MAX_COUNT_BYTES
    if coding.index_encoding == "dense":
        return values
    if coding.index_encoding == "auto":  # never larger than dense, or than a bitmap
        return values + (packed_bytes(length, 1) if coding.is_coarse else 0)
    if coding.index_encoding == "rice":  # without low bits at most a bit for each element
        return values + packed_bytes(length, 1) + 1 + MAX_COUNT_BYTES
    # Packed gaps have at most 31 bits, and 16-bit codes one escape per 65535 elements.
    return values + INDEX_BYTES * length + INDEX_BYTES


def smallest(
    choice: IndexChoice, wire_dtype: WireDtype, length: int, gaps: GapFacts
) -> tuple[IndexEncoding, int]:
    """Return the encoding of a message, the smallest unless told, and the bytes of its body.

    Arguments are those of `body_bytes`.
    """
    if choice != "auto":
        return choice, body_bytes(choice, wire_dtype, length, gaps)
    encodings = encodings_of(wire_dtype)
    sizes = [
        (body_bytes(encoding, wire_dtype, length, gaps), place)
        for place, encoding in enumerate(encodings)
        if encoding != "rice" or gaps.quotients is not None
    ]
    size, place = min(sizes)
    return encodings[place], size


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
        return gaps._replace(quotients=0)
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
    return GapFacts(entries, gaps.largest, gaps.escapes, low, quotients, gaps.sections)
