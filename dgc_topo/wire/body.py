"""Exact bytes of a message from a few numbers about the gaps between its entries."""

from __future__ import annotations

from typing import NamedTuple

from dgc_topo.wire.coding import (
    COARSE_DTYPES,
    VALUE_BITS,
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
    SCALE_BYTES,
)


class RiceCode(NamedTuple):
    """Rice code of a message's gaps.

    Attributes:
        low_bits: Low bits of each gap, which are packed.
        is_gamma: True if the quotients above them are gamma codes, False if they are unary.
        quotient_bits: Bits of all quotients.
    """

    low_bits: int
    is_gamma: bool
    quotient_bits: int


class GapFacts(NamedTuple):
    """Numbers about the gaps of a message, which decide how its indices are coded.

    Attributes:
        entries: Number of gaps, one before each entry.
        largest: Largest gap: most elements without an entry before an entry, since the last one or
            the start.
        escapes: Escape codes that run lengths take: ``gap // 65535`` summed if *largest* is above
            65535, else 0.
        rice: Rice code that makes the gaps shortest; None if none is to be considered.
        sections: Sections of the run, each of which has a scale if values are coarse.
    """

    entries: int
    largest: int
    escapes: int = 0
    rice: RiceCode | None = None
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
    indices = _index_bytes(encoding, wire_dtype, length, gaps)
    told = _told_bytes(encoding, wire_dtype, gaps)
    return _values_end(wire_dtype, gaps) + indices + told


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


def _values_end(wire_dtype: WireDtype, gaps: GapFacts) -> int:
    scales = SCALE_BYTES * gaps.sections if wire_dtype in COARSE_DTYPES else 0
    return scales + packed_bytes(gaps.entries, VALUE_BITS[wire_dtype])


def _told_bytes(encoding: IndexEncoding, wire_dtype: WireDtype, gaps: GapFacts) -> int:
    """Return the bytes that align indices, and those of the number of entries."""
    coarse = wire_dtype in COARSE_DTYPES
    told = count_bytes(gaps.entries) if coarse or encoding == "rice" else 0
    return told + padding_bytes(encoding, wire_dtype, _values_end(wire_dtype, gaps))


def _index_bytes(
    encoding: IndexEncoding, wire_dtype: WireDtype, length: int, gaps: GapFacts
) -> int:
    match encoding:
        case "run-length":
            is_told = gaps.escapes and wire_dtype not in COARSE_DTYPES
            told = ESCAPE_COUNT_BYTES if is_told else 0
            return told + CODE_BYTES * (gaps.entries + gaps.escapes)
        case "bit-packed":
            return packed_bytes(gaps.entries, gaps.largest.bit_length())
        case "bitmap":
            return packed_bytes(length, 1)
        case "int32":
            return INDEX_BYTES * gaps.entries
        case "rice":
            return rice_bytes(gaps.entries, gaps.rice or RiceCode(0, False, gaps.entries))
    raise AssertionError(encoding)


def rice_bytes(entries: int, code: RiceCode) -> int:
    """Return the bytes of so many Rice-coded gaps."""
    return packed_bytes(entries, code.low_bits) + packed_bytes(code.quotient_bits, 1)


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

    Of equal ones it is the first of `INDEX_ENCODINGS`; int32 is never smaller than packed gaps.
    Arguments are those of `body_bytes`.
    """
    if choice != "auto":
        return choice, body_bytes(choice, wire_dtype, length, gaps)
    coarse, entries = wire_dtype in COARSE_DTYPES, gaps.entries
    indices = CODE_BYTES * (entries + gaps.escapes)
    if gaps.escapes and not coarse:
        indices += ESCAPE_COUNT_BYTES
    found: IndexEncoding = "run-length"
    packed, bitmap = packed_bytes(entries, gaps.largest.bit_length()), packed_bytes(length, 1)
    if packed < indices:
        found, indices = "bit-packed", packed
    if bitmap < indices:
        found, indices = "bitmap", bitmap
    if gaps.rice is not None:
        told = 0 if coarse else count_bytes(entries)
        if rice_bytes(entries, gaps.rice) + told < indices:
            found, indices = "rice", rice_bytes(entries, gaps.rice) + told
    size = _values_end(wire_dtype, gaps) + indices
    if coarse:
        return found, size + _told_bytes(found, wire_dtype, gaps)
    dense = VALUE_BITS[wire_dtype] // 8 * length
    return ("dense", dense) if dense <= size else (found, size)
