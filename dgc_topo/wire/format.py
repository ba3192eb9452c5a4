"""The first word of a message (version and coding), and the error of a bad one."""

from __future__ import annotations

from typing import NamedTuple

from dgc_topo.wire.coding import IndexEncoding, WireDtype

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
    """Bytes that are no message of this format for this run; the text says what was expected."""


class Header(NamedTuple):
    """What a message says of itself."""

    encoding: IndexEncoding
    wire_dtype: WireDtype
    parameter: int  #: bits per gap if bit-packed; 1 if run lengths have escape codes; else 0


def first_word(header: Header) -> int:
    """Return the header's first word."""
    kind = ENCODING_CODES[header.encoding] | DTYPE_CODES[header.wire_dtype] << 4
    return MAGIC | VERSION << 8 | kind << 16 | header.parameter << 24
