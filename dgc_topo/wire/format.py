"""First word and plan of a message, and the error `WireError` of a bad one."""

from __future__ import annotations

from typing import NamedTuple

from dgc_topo.wire.coding import (
    HEADER_BYTES,
    MAX_CODE,
    MAX_RUN,
    VALUE_BYTES,
    IndexEncoding,
    WireCoding,
    WireDtype,
    smallest,
)

MAGIC = 0xDC
VERSION = 1
MAX_WIDTH = 31  #: bits of a gap
ENCODING_CODES: dict[IndexEncoding, int] = {
    "dense": 0,
    "run-length": 1,
    "bit-packed": 2,
    "bitmap": 3,
    "int32": 4,
}
DTYPE_CODES: dict[WireDtype, int] = {"float32": 0, "float16": 1, "bfloat16": 2}

WORD_BYTES = 4


class WireError(ValueError):
    """Bytes that are not a valid message for this run; the text says what was expected."""


class Header(NamedTuple):
    """Header of a message.

    Attributes:
        encoding: Coding of the indices.
        wire_dtype: Type of the values.
        parameter: Bits per gap if bit-packed; 1 if run lengths have escape codes; else 0.
    """

    encoding: IndexEncoding
    wire_dtype: WireDtype
    parameter: int


def first_word(header: Header) -> int:
    """Return the header's first word."""
    kind = ENCODING_CODES[header.encoding] | DTYPE_CODES[header.wire_dtype] << 4
    return MAGIC | VERSION << 8 | kind << 16 | header.parameter << 24


class Plan(NamedTuple):
    """Plan of a message: its coding and its size.

    Attributes:
        header: What its header says.
        escapes: Escape codes among its run lengths.
        num_bytes: Bytes of the whole message.
    """

    header: Header
    escapes: int
    num_bytes: int


def plan_of(count: int, largest: int, escapes: int, length: int, coding: WireCoding) -> Plan:
    """Return the best plan for entries.

    Args:
        count: Number of entries.
        largest: Largest gap: most elements without an entry before an entry.
        escapes: Escape codes that the gaps take together; a largest gap of just 65535 is a code by
            itself, and then no other gap takes one either.
        length: Elements of the run.
        coding: What is wanted.

    Raises:
        WireError: if the run is longer than 2**31 elements.
    """
    check_run(length)
    if largest <= MAX_CODE:
        escapes = 0
    value_bytes = VALUE_BYTES[coding.wire_dtype]
    encoding, body = smallest(coding.index_encoding, value_bytes, length, count, largest, escapes)
    parameter = 0
    if encoding == "bit-packed":
        parameter = largest.bit_length()
    elif encoding == "run-length":
        parameter = int(escapes > 0)
    return Plan(Header(encoding, coding.wire_dtype, parameter), escapes, HEADER_BYTES + body)


def check_run(length: int) -> None:
    """Refuse a run whose relative indices do not fit.

    Raises:
        WireError: if *length* is above 2**31.
    """
    if length > MAX_RUN:
        raise WireError(
            f"wire: run of {length} elements in one sparse message, expected at most {MAX_RUN}; "
            "use a topology that cuts the buffer into more chunks"
        )
