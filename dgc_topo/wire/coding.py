"""Codings of sparse messages by name, and the bytes to expect of them, without torch.

The format itself, byte by byte, is ``dgc_topo/wire/FORMAT.md``.  Expected is the size of a message
with entries at random places; the exact one of a given message is in `dgc_topo.wire.body`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal, Protocol, cast, get_args

import numpy as np

from dgc_topo.arrays import FloatArray
from dgc_topo.sizes import is_sparse
from dgc_topo.wire.expected import expected_escapes, expected_rice_bits, expected_width
from dgc_topo.wire.limits import CODE_BYTES, ESCAPE_COUNT_BYTES, HEADER_BYTES, INDEX_BYTES

IndexEncoding = Literal["dense", "run-length", "bit-packed", "bitmap", "int32", "rice"]
#: An encoding, or the one that makes a message smallest.
IndexChoice = Literal["auto", "dense", "run-length", "bit-packed", "bitmap", "int32", "rice"]
WireDtype = Literal["float32", "float16", "bfloat16"]

#: In the order in which `auto` takes them where sizes are equal: the cheapest to decode first.
INDEX_ENCODINGS: tuple[IndexEncoding, ...] = get_args(IndexEncoding)
INDEX_CHOICES: tuple[IndexChoice, ...] = get_args(IndexChoice)
WIRE_DTYPES: tuple[WireDtype, ...] = get_args(WireDtype)
VALUE_BYTES: dict[WireDtype, int] = {"float32": 4, "float16": 2, "bfloat16": 2}

#: Where three and more runs come together that have so many entries, they are sorted; else merged.
SORTED_ENTRIES = 32_768


class EntryCoding(Protocol):
    """Bytes of messages of sparse entries, in predictions."""

    def expected_bytes(self, length: FloatArray, entries: FloatArray) -> FloatArray:
        """Return the bytes of messages, shape (n,).

        Args:
            length: Elements of each message's run, at least 1; shape (n,).
            entries: Entries of each message, fractions included; shape (n,).
        """

    def least_bytes(self, length: float, entries: FloatArray) -> FloatArray:
        """Return the least bytes of entries, whatever number of messages they are cut into.

        Args:
            length: Elements of the whole buffer.
            entries: Entries in it, shape (n,).
        """


@dataclass(frozen=True, slots=True)
class FlatCoding:
    """Fixed bytes per entry and nothing besides, as the DGC paper counts.

    Attributes:
        bytes_per_entry: Bytes of a value and its index.

    Raises:
        ValueError: if it is not above 0, or not finite.
    """

    bytes_per_entry: float = 8.0

    def __post_init__(self) -> None:
        if not 0 < self.bytes_per_entry < inf:
            raise ValueError(f"coding: bytes_per_entry {self.bytes_per_entry}, expected above 0")

    def expected_bytes(self, length: FloatArray, entries: FloatArray) -> FloatArray:
        """Return the bytes of messages, see `EntryCoding`."""
        return np.asarray(self.bytes_per_entry * entries, np.float64)

    def least_bytes(self, length: float, entries: FloatArray) -> FloatArray:
        """Return the bytes of entries, see `EntryCoding`."""
        return np.asarray(self.bytes_per_entry * entries, np.float64)


@dataclass(frozen=True, slots=True)
class WireCoding:
    """The format of real messages, headers included.

    Expectations are for entries that may lie anywhere in their run, each place alike.  Real
    gradients cluster, so their largest gaps are wider and their indices may take a bit more.

    Attributes:
        index_encoding: How indices are coded; ``auto`` is the smallest.
        wire_dtype: Type of the values.

    Raises:
        ValueError: if a name is unknown.
    """

    index_encoding: IndexChoice = "auto"
    wire_dtype: WireDtype = "float32"

    def __post_init__(self) -> None:
        check_names("coding", self.index_encoding, self.wire_dtype)

    @classmethod
    def named(cls, index_encoding: str, wire_dtype: str) -> WireCoding:
        """Return the coding with these names.

        Raises:
            ValueError: if one is unknown, with the valid ones.
        """
        return cls(cast(IndexChoice, index_encoding), cast(WireDtype, wire_dtype))

    def expected_bytes(self, length: FloatArray, entries: FloatArray) -> FloatArray:
        """Return the bytes of messages, see `EntryCoding`."""
        length, entries = np.broadcast_arrays(
            np.asarray(length, np.float64), np.asarray(entries, np.float64)
        )
        told = self.index_encoding
        codes = INDEX_ENCODINGS if told == "auto" else (told,)
        bodies = [self._expected_body(encoding, length, entries) for encoding in codes]
        return np.asarray(HEADER_BYTES + np.minimum.reduce(bodies), np.float64)

    def least_bytes(self, length: float, entries: FloatArray) -> FloatArray:
        """Return a lower bound, see `EntryCoding`.

        No encoding needs fewer bits for an index than the logarithm of the elements per entry, less
        two: the widest gap is wider than the mean one, and of a single entry all halves, quarters
        and so on of the run are alike.  (Below one entry the header is more than that.)
        """
        per_entry = length / np.maximum(entries, 1e-300)
        bits = np.maximum(np.log2(np.maximum(per_entry, 1.0)) - 2, 0.0)
        return np.asarray(entries * (VALUE_BYTES[self.wire_dtype] + bits / 8), np.float64)

    def _expected_body(
        self, encoding: IndexEncoding, length: FloatArray, entries: FloatArray
    ) -> FloatArray:
        value_bytes = VALUE_BYTES[self.wire_dtype]
        if encoding == "dense":
            return value_bytes * length
        indices: FloatArray
        match encoding:
            case "run-length":
                escapes = expected_escapes(length, entries)
                has_some = -np.expm1(-escapes)
                indices = CODE_BYTES * (entries + escapes) + ESCAPE_COUNT_BYTES * has_some
            case "bit-packed":
                # Rounding up to whole bytes takes half a byte on average, and none of none.
                indices = entries * expected_width(length, entries) / 8 + 7 / 16 * (entries > 0)
            case "bitmap":
                indices = np.ceil(length / 8)
            case "int32":
                # Two bytes follow an odd number of values of two bytes: half the time.
                padding = 1.0 if value_bytes < INDEX_BYTES else 0.0
                indices = INDEX_BYTES * entries + padding * (entries > 0)
            case "rice":
                # Both planes are rounded up, and the number of entries takes a byte or more.
                planes = entries * expected_rice_bits(length, entries) / 8 + 7 / 8 * (entries > 0)
                count = 1.0 + (entries >= 2**8) + (entries >= 2**16) + (entries >= 2**24)
                indices = planes + count
        return np.asarray(value_bytes * entries + indices, np.float64)


def compression_name(density: float, wire_dtype: WireDtype) -> str:
    """Return a compression's name in records: dense or dgc, and the type of its values."""
    kind = "dgc" if is_sparse(density) else "dense"
    return kind + {"float32": "", "float16": "-fp16", "bfloat16": "-bf16"}[wire_dtype]


def check_names(where: str, index_encoding: str, wire_dtype: str) -> None:
    """Refuse unknown settings.

    Raises:
        ValueError: that lists the valid names.
    """
    if index_encoding not in INDEX_CHOICES:
        expected = ", ".join(INDEX_CHOICES)
        raise ValueError(f"{where}: index_encoding {index_encoding!r}, expected one of {expected}")
    check_dtype(where, wire_dtype)


def check_dtype(where: str, wire_dtype: str) -> None:
    """Refuse an unknown type of values.

    Raises:
        ValueError: that lists the valid names.
    """
    if wire_dtype not in WIRE_DTYPES:
        expected = ", ".join(WIRE_DTYPES)
        raise ValueError(f"{where}: wire_dtype {wire_dtype!r}, expected one of {expected}")


DEFAULT_CODING = WireCoding()
