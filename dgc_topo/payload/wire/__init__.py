"""The wire format of sparse entries: FORMAT.md beside this file specifies it byte by byte."""

from dgc_topo.payload.wire.errors import WireError
from dgc_topo.payload.wire.message import (
    TORCH_DTYPES,
    check_run,
    decode,
    encode,
    encoded_bytes,
    to_wire,
    wire_name,
)

__all__ = [
    "TORCH_DTYPES",
    "WireError",
    "check_run",
    "decode",
    "encode",
    "encoded_bytes",
    "to_wire",
    "wire_name",
]
