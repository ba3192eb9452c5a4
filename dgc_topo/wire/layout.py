"""Places of a message's parts: the sizes of all follow from that of the message."""

from __future__ import annotations

from typing import NamedTuple

from dgc_topo.wire.body import packed_bytes
from dgc_topo.wire.coding import VALUE_BYTES
from dgc_topo.wire.format import Header, WireError
from dgc_topo.wire.limits import CODE_BYTES, ESCAPE_COUNT_BYTES, HEADER_BYTES, INDEX_BYTES


class Layout(NamedTuple):
    """A message's header, and where its parts are.

    Attributes:
        header: What it says.
        entries: Number of entries.
        values_end: End of the values, in bytes from the start of the message, as the others.
        indices_start: Start of the indices.
        indices_end: End of the indices.
        unused: Bytes of which some bits, those in a mask, have to be 0, where the size of the
            message does not say so already: place and mask.
    """

    header: Header
    entries: int
    values_end: int
    indices_start: int
    indices_end: int
    unused: tuple[tuple[int, int], ...] = ()


def layout_of(header: Header, size: int, length: int, tail: bytes) -> Layout:
    """Return the layout of a message.

    Args:
        header: What it says.
        size: Bytes of the message.
        length: Elements of its run.
        tail: Last four bytes.

    Raises:
        WireError: if no number of entries takes so many bytes, or unused bits are set.
    """
    if header.count_bytes:
        return _counted(header, size, length, tail)
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
    values_end = HEADER_BYTES + VALUE_BYTES[header.wire_dtype] * entries
    padding = -values_end % INDEX_BYTES if header.encoding == "int32" else 0
    return Layout(header, entries, values_end, values_end + padding, size - trailer)


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
    value_bytes = VALUE_BYTES[header.wire_dtype]
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


def _counted(header: Header, size: int, length: int, tail: bytes) -> Layout:
    """Return the layout of a message that says how many entries it has."""
    entries = int.from_bytes(tail[-header.count_bytes :], "little")
    values_end = HEADER_BYTES + VALUE_BYTES[header.wire_dtype] * entries
    indices_end = size - header.count_bytes
    room = indices_end - values_end
    least, most = _index_room(header, entries, length)
    if entries > length or not least <= room <= most:
        raise WireError(
            f"wire: {header.encoding} {header.wire_dtype} message of {size} bytes for {entries} "
            f"entries, expected at most {length} of them, and {least} to {most} bytes of indices"
        )
    low_end = values_end + packed_bytes(entries, header.parameter)
    spare = -entries * header.parameter % 8
    unused = ((low_end - 1, 0xFF << 8 - spare & 0xFF),) if spare else ()
    return Layout(header, entries, values_end, values_end, indices_end, unused)


def _index_room(header: Header, entries: int, length: int) -> tuple[int, int]:
    """Return the least and the most bytes that Rice-coded gaps take.

    The quotients of all gaps add up to no more than that of the elements without an entry.
    """
    low = packed_bytes(entries, header.parameter)
    most = entries + (length - entries >> header.parameter) if entries else 0
    return low + packed_bytes(entries, 1), low + packed_bytes(most, 1)
