"""The wire format of sparse entries: FORMAT.md beside this file specifies it byte by byte."""

from dgc_topo.payload.wire.dtypes import TORCH_DTYPES, largest_addend, to_wire, wire_name
from dgc_topo.payload.wire.errors import WireError
from dgc_topo.payload.wire.header import VERSION
from dgc_topo.payload.wire.message import decode, encode, encoded_bytes
from dgc_topo.payload.wire.plan import check_run

__all__ = [
    "TORCH_DTYPES",
    "VERSION",
    "WireError",
    "check_run",
    "decode",
    "encode",
    "encoded_bytes",
    "largest_addend",
    "to_wire",
    "wire_name",
]
