"""First word and plan of a message, and the error `WireError` of a bad one."""

from __future__ import annotations

from typing import NamedTuple

from dgc_topo.wire.body import GapFacts, count_bytes, smallest
from dgc_topo.wire.coding import IndexEncoding, WireCoding, WireDtype
from dgc_topo.wire.limits import HEADER_BYTES, MAX_CODE, MAX_RUN

MAGIC = 0xDC
VERSION = 2  #: the newest that is written and read; 1 is, too
ENCODING_CODES: dict[IndexEncoding, int] = {
    "dense": 0,
    "run-length": 1,
    "bit-packed": 2,
    "bitmap": 3,
    "int32": 4,
    "rice": 5,
}
DTYPE_CODES: dict[WireDtype, int] = {
    "float32": 0,
    "float16": 1,
    "bfloat16": 2,
    "int8": 3,
    "int4": 4,
    "int2": 5,
}
#: Codes that version 1 has, too.
OLD_ENCODINGS, OLD_DTYPES = 5, 3
PARAMETER_BITS = 5  #: of the header's last byte in version 2; above them, the count's bytes less 1
GAMMA_BIT = 7  #: of that byte


class WireError(ValueError):
    """Bytes that are not a valid message for this run; the text says what was expected."""


class Header(NamedTuple):
    """Header of a message.

    Attributes:
        encoding: Coding of the indices.
        wire_dtype: Type of the values.
        parameter: Bits per gap if bit-packed; low bits of a Rice code; 1 if run lengths have
            escape codes; else 0.
        count_bytes: Bytes of the number of entries that the message ends with; 0 in version 1,
            where the size of a message says it.
        is_gamma: True if the quotients of Rice codes are gamma codes.
    """

    encoding: IndexEncoding
    wire_dtype: WireDtype
    parameter: int
    count_bytes: int = 0
    is_gamma: bool = False


def first_word(header: Header) -> int:
    """Return the header's first word."""
    kind = ENCODING_CODES[header.encoding] | DTYPE_CODES[header.wire_dtype] << 4
    version, parameter = 1, header.parameter
    if header.count_bytes:
        version, parameter = 2, parameter | header.count_bytes - 1 << PARAMETER_BITS
        parameter |= header.is_gamma << GAMMA_BIT
    return MAGIC | version << 8 | kind << 16 | parameter << 24


def is_new(encoding: IndexEncoding, wire_dtype: WireDtype) -> bool:
    """Return True if only version 2 has these codes; other messages are of version 1."""
    return ENCODING_CODES[encoding] >= OLD_ENCODINGS or DTYPE_CODES[wire_dtype] >= OLD_DTYPES


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


def plan_of(gaps: GapFacts, length: int, coding: WireCoding) -> Plan:
    """Return the best plan for entries.

    Args:
        gaps: Numbers about the gaps; a largest one of just 65535 is a code by itself, and then no
            other gap takes an escape code either.  The Rice code only where it may be taken.
        length: Elements of the run.
        coding: What is wanted.

    Raises:
        WireError: if the run is longer than 2**31 elements.
    """
    check_run(length)
    if gaps.escapes and gaps.largest <= MAX_CODE:
        gaps = gaps._replace(escapes=0)
    encoding, body = smallest(coding.index_encoding, coding.wire_dtype, length, gaps)
    parameter, is_gamma = 0, False
    if encoding == "bit-packed":
        parameter = gaps.largest.bit_length()
    elif encoding == "rice" and gaps.rice is not None:
        parameter, is_gamma = gaps.rice.low_bits, gaps.rice.is_gamma
    elif encoding == "run-length":
        parameter = int(gaps.escapes > 0)
    size = count_bytes(gaps.entries) if is_new(encoding, coding.wire_dtype) else 0
    header = Header(encoding, coding.wire_dtype, parameter, size, is_gamma)
    return Plan(header, gaps.escapes, HEADER_BYTES + body)


def may_take_rice(coding: WireCoding) -> bool:
    """Return True if a message of this coding may have Rice-coded gaps."""
    return coding.index_encoding in {"auto", "rice"}


def suits_kernels(coding: WireCoding) -> bool:
    """Return True if kernels plan messages of this coding: all of version 1.

    To them ``auto`` is the smallest message without Rice codes, which they do not write: on a GPU
    launches cost more than bytes.
    """
    return not coding.is_coarse and coding.index_encoding != "rice"


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
