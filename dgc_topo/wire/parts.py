"""Places of a message's parts: the sizes of all follow from that of the message."""

from __future__ import annotations

from typing import NamedTuple

from dgc_topo.wire.body import packed_bytes, padding_bytes
from dgc_topo.wire.coding import COARSE_DTYPES, VALUE_BITS
from dgc_topo.wire.format import Header, WireError
from dgc_topo.wire.limits import (
    CODE_BYTES,
    ESCAPE_COUNT_BYTES,
    HEADER_BYTES,
    INDEX_BYTES,
    MAX_CODE,
    SCALE_BYTES,
)


class Layout(NamedTuple):
    """A message's header, and where its parts are.

    Attributes:
        header: What it says.
        entries: Number of entries.
        values_start: Start of the values, in bytes from that of the message, as the others.
        values_end: End of the values.
        indices_start: Start of the indices.
        indices_end: End of the indices.
        unused: Bytes of which some bits, those in a mask, have to be 0, where the size of the
            message does not say so already: place and mask.
    """

    header: Header
    entries: int
    values_start: int
    values_end: int
    indices_start: int
    indices_end: int
    unused: tuple[tuple[int, int], ...] = ()


def layout_of(header: Header, size: int, length: int, tail: bytes, sections: int) -> Layout:
    """Return the layout of a message.

    Args:
        header: What it says.
        size: Bytes of the message.
        length: Elements of its run.
        tail: Last four bytes.
        sections: Sections of the run, each with a scale if values are coarse.

    Raises:
        WireError: if no number of entries takes so many bytes, or unused bits are set.
    """
    if header.count_bytes:
        return _counted(header, size, length, tail, sections)
    body = size - HEADER_BYTES
    entries, expected, trailer = _count(header, body, length, tail)
    if body != expected or not 0 <= entries <= length:
        raise WireError(
            f"wire: {header.encoding} {header.wire_dtype} message with {body} bytes after its "
            f"header, expected as many as 0 to {length} entries take, such as {max(expected, 0)}"
        )
    unused = _unused_bits(header, entries, length)
    if unused and tail[-1] >> 8 - unused:
        raise unused_bits_error(header, tail[-1], 0xFF << 8 - unused & 0xFF)
    values_end = HEADER_BYTES + packed_bytes(entries, VALUE_BITS[header.wire_dtype])
    padding = padding_bytes(header.encoding, header.wire_dtype, values_end)
    return Layout(header, entries, HEADER_BYTES, values_end, values_end + padding, size - trailer)


def unused_bits_error(header: Header, found: int, mask: int) -> WireError:
    """Return the error of a byte with unused bits that are set."""
    return WireError(
        f"wire: {header.encoding} {header.wire_dtype} message with a byte {found:#04x} where only "
        f"some bits are used, expected 0 in those of {mask:#04x}"
    )


def _count(header: Header, body: int, length: int, tail: bytes) -> tuple[int, int, int]:
    """Return the entries that a body can hold, its size with them, and its bytes after the indices.

    The first is derived from the size, so where it is no whole number the second is another size.
    """
    parameter = header.parameter
    value_bytes = VALUE_BITS[header.wire_dtype] // 8
    match header.encoding:
        case "dense":
            return length, value_bytes * length, 0
        case "bitmap":
            plane = packed_bytes(length, 1)
            entries = (body - plane) // value_bytes
            return entries, value_bytes * entries + plane, 0
        case "bit-packed":
            entries = 8 * body // (8 * value_bytes + parameter)
            return entries, value_bytes * entries + packed_bytes(entries, parameter), 0
        case "int32":
            entries = body // (value_bytes + INDEX_BYTES)
            values = value_bytes * entries
            return entries, values + -values % INDEX_BYTES + INDEX_BYTES * entries, 0
    if not parameter:
        entries = body // (value_bytes + CODE_BYTES)
        return entries, (value_bytes + CODE_BYTES) * entries, 0
    escapes = int.from_bytes(tail, "little")
    escape_bytes = CODE_BYTES * escapes + ESCAPE_COUNT_BYTES
    entries = (body - escape_bytes) // (value_bytes + CODE_BYTES)
    if not escapes or entries <= 0:
        raise WireError(
            f"wire: run-length message of {body} bytes with {escapes} escape codes, "
            "expected some, and entries behind them"
        )
    return entries, (value_bytes + CODE_BYTES) * entries + escape_bytes, ESCAPE_COUNT_BYTES


def _unused_bits(header: Header, entries: int, length: int) -> int:
    """Return the number of the last byte's bits that are unused."""
    match header.encoding:
        case "bitmap":
            return -length % 8
        case "bit-packed":
            return -entries * header.parameter % 8
    return 0


def _counted(header: Header, size: int, length: int, tail: bytes, sections: int) -> Layout:
    """Return the layout of a message that says how many entries it has."""
    entries = int.from_bytes(tail[-header.count_bytes :], "little")
    bits = VALUE_BITS[header.wire_dtype]
    values_start = HEADER_BYTES
    if header.wire_dtype in COARSE_DTYPES:
        values_start += SCALE_BYTES * sections
    values_end = values_start + packed_bytes(entries, bits)
    start = values_end + padding_bytes(header.encoding, header.wire_dtype, values_end)
    end = size - header.count_bytes
    least, most = _index_room(header, entries, length)
    odd = header.encoding == "run-length" and (end - start) % CODE_BYTES
    if entries > length or odd or not least <= end - start <= most:
        raise WireError(
            f"wire: {header.encoding} {header.wire_dtype} message of {size} bytes for {entries} "
            f"entries, expected at most {length} of them, and {least} to {most} bytes of indices"
        )
    unused = [(place, 0xFF) for place in range(values_end, start)]
    if entries * bits % 8:
        unused.append(_spare(values_end, entries * bits))
    unused += _spare_of_indices(header, entries, length, start, end)
    masks = tuple((place, mask) for place, mask in unused if mask)
    return Layout(header, entries, values_start, values_end, start, end, masks)


def _index_room(header: Header, entries: int, length: int) -> tuple[int, int]:
    """Return the least and the most bytes of the indices of so many entries.

    The quotients of all Rice-coded gaps add up to no more than that of the elements without an
    entry, and the escape codes of run lengths skip no more than these.
    """
    parameter = header.parameter
    match header.encoding:
        case "bitmap":
            exact = packed_bytes(length, 1)
        case "int32":
            exact = INDEX_BYTES * entries
        case "run-length" if parameter:
            codes = entries + length // MAX_CODE
            return CODE_BYTES * (entries + 1), CODE_BYTES * codes if entries else 0
        case "run-length":
            exact = CODE_BYTES * entries
        case "rice":
            low = packed_bytes(entries, parameter)
            most = length - entries >> parameter  # of all quotients
            bits = entries * 2 * most.bit_length() if header.is_gamma else most
            bits = entries + bits if entries else 0
            return low + packed_bytes(entries, 1), low + packed_bytes(bits, 1)
        case _:
            exact = packed_bytes(entries, parameter)
    return exact, exact


def _spare_of_indices(
    header: Header, entries: int, length: int, start: int, end: int
) -> list[tuple[int, int]]:
    match header.encoding:
        case "bitmap":
            return [_spare(end, length)]
        case "bit-packed":
            return [_spare(end, entries * header.parameter)]
        case "rice":
            low_end = start + packed_bytes(entries, header.parameter)
            return [_spare(low_end, entries * header.parameter)]
    return []


def _spare(end: int, bits: int) -> tuple[int, int]:
    """Return the last byte before *end*, and the mask of those that *bits* of them leave unused."""
    return end - 1, 0xFF << bits % 8 & 0xFF if bits % 8 else 0
