"""Codings of sparse messages by name, and the bytes to expect of them, without torch.

The format itself, byte by byte, is ``dgc_topo/wire/FORMAT.md``.  Expected is the size of a message
with entries at random places; the exact one of a given message is in `dgc_topo.wire.body`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal, Protocol, cast, get_args

import numpy as np

from dgc_topo.arrays import FloatArray
from dgc_topo.sizes import is_sparse
from dgc_topo.wire.expected import expected_escapes, expected_rice_bits, expected_width
from dgc_topo.wire.limits import (
    CODE_BYTES,
    ESCAPE_COUNT_BYTES,
    HEADER_BYTES,
    INDEX_BYTES,
    SCALE_BYTES,
)

IndexEncoding = Literal["dense", "run-length", "bit-packed", "bitmap", "int32", "rice"]
#: An encoding, or the one that makes a message smallest.
IndexChoice = Literal["auto", "dense", "run-length", "bit-packed", "bitmap", "int32", "rice"]
WireDtype = Literal["float32", "float16", "bfloat16", "int8", "int4", "int2"]
#: Type of elements that travel dense: others need a scale, and a residual for what they miss.
DenseDtype = Literal["float32", "float16", "bfloat16"]

#: In the order in which `auto` takes them where sizes are equal: the cheapest to decode first.
INDEX_ENCODINGS: tuple[IndexEncoding, ...] = get_args(IndexEncoding)
INDEX_CHOICES: tuple[IndexChoice, ...] = get_args(IndexChoice)
WIRE_DTYPES: tuple[WireDtype, ...] = get_args(WireDtype)
DENSE_DTYPES: tuple[DenseDtype, ...] = get_args(DenseDtype)
#: Types whose values are steps of a scale, from the narrowest.
COARSE_DTYPES: tuple[WireDtype, ...] = ("int2", "int4", "int8")
VALUE_BITS: dict[WireDtype, int] = {
    "float32": 32, "float16": 16, "bfloat16": 16, "int8": 8, "int4": 4, "int2": 2
}  # fmt: skip
#: Bytes of an element that travels dense, beside messages of a type: bfloat16 beside coarse ones.
DENSE_BYTES: dict[WireDtype, int] = {
    dtype: 2 if dtype in COARSE_DTYPES else bits // 8 for dtype, bits in VALUE_BITS.items()
}

#: Where three and more runs come together that have so many entries, they are sorted; else merged.
SORTED_ENTRIES = 32_768


class EntryCoding(Protocol):
    """Bytes of messages of sparse entries, in predictions."""

    def expected_bytes(
        self, length: FloatArray, entries: FloatArray, sections: FloatArray | float = 1.0
    ) -> FloatArray:
        """Return the bytes of messages, shape (n,).

        Args:
            length: Elements of each message's run, at least 1; shape (n,).
            entries: Entries of each message, fractions included; shape (n,).
            sections: Sections of each run, such as layers, that have a scale if values are coarse;
                fractions included.
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

    def expected_bytes(
        self, length: FloatArray, entries: FloatArray, sections: FloatArray | float = 1.0
    ) -> FloatArray:
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

    @property
    def is_coarse(self) -> bool:
        """True if values are steps of a scale."""
        return self.wire_dtype in COARSE_DTYPES

    @property
    def dense_dtype(self) -> DenseDtype:
        """Type of what travels dense beside such messages: bfloat16 beside coarse values."""
        return dense_dtype_of(self.wire_dtype)

    @classmethod
    def named(cls, index_encoding: str, wire_dtype: str) -> WireCoding:
        """Return the coding with these names.

        Raises:
            ValueError: if one is unknown, with the valid ones.
        """
        return cls(cast(IndexChoice, index_encoding), cast(WireDtype, wire_dtype))

    def expected_bytes(
        self, length: FloatArray, entries: FloatArray, sections: FloatArray | float = 1.0
    ) -> FloatArray:
        """Return the bytes of messages, see `EntryCoding`."""
        length, entries = np.broadcast_arrays(
            np.asarray(length, np.float64), np.asarray(entries, np.float64)
        )
        told = self.index_encoding
        codes = encodings_of(self.wire_dtype) if told == "auto" else (told,)
        bodies = [self._expected_body(encoding, length, entries) for encoding in codes]
        fixed = HEADER_BYTES + SCALE_BYTES * np.maximum(sections, 1.0) * self.is_coarse
        return np.asarray(fixed + np.minimum.reduce(bodies), np.float64)

    def least_bytes(self, length: float, entries: FloatArray) -> FloatArray:
        """Return a lower bound, see `EntryCoding`.

        No encoding needs fewer bits for an index than the logarithm of the elements per entry, less
        two: the widest gap is wider than the mean one, and of a single entry all halves, quarters
        and so on of the run are alike.  (Below one entry the header is more than that.)
        """
        per_entry = length / np.maximum(entries, 1e-300)
        bits = np.maximum(np.log2(np.maximum(per_entry, 1.0)) - 2, 0.0)
        return np.asarray(entries * (VALUE_BITS[self.wire_dtype] + bits) / 8, np.float64)

    def _expected_body(
        self, encoding: IndexEncoding, length: FloatArray, entries: FloatArray
    ) -> FloatArray:
        value_bytes = VALUE_BITS[self.wire_dtype] / 8
        if encoding == "dense":
            return value_bytes * length
        some = entries > 0
        indices: FloatArray
        match encoding:
            case "run-length":
                escapes = expected_escapes(length, entries)
                # Version 2 does not have to say how many escapes there are.
                told = 0 if self.is_coarse else ESCAPE_COUNT_BYTES
                indices = CODE_BYTES * (entries + escapes) - told * np.expm1(-escapes)
            case "bit-packed":
                # Rounding up to whole bytes takes half a byte on average, and none of none.
                indices = entries * expected_width(length, entries) / 8 + 7 / 16 * some
            case "bitmap":
                indices = np.ceil(length / 8)
            case "int32":
                # Bytes that align indices: half of those that there may be.
                step = 1 if self.is_coarse else value_bytes
                indices = INDEX_BYTES * entries + (INDEX_BYTES - step) / 2 * some
            case "rice":  # both planes are rounded up
                indices = entries * expected_rice_bits(length, entries) / 8 + 7 / 8 * some
        return np.asarray(
            value_bytes * entries + indices + self._told(encoding, entries), np.float64
        )

    def _told(self, encoding: IndexEncoding, entries: FloatArray) -> FloatArray:
        """Return the bytes that version 2 adds, scales apart: number of entries, and rounding."""
        told = np.zeros(entries.shape)
        if self.is_coarse or encoding == "rice":
            told += 1.0 + (entries >= 2**8) + (entries >= 2**16) + (entries >= 2**24)
        if self.is_coarse:
            half_a_byte = 1 - VALUE_BITS[self.wire_dtype] / 16  # of values, and one that aligns
            told += half_a_byte * (entries > 0)
        return told


def encodings_of(wire_dtype: WireDtype) -> tuple[IndexEncoding, ...]:
    """Return the encodings for values of a type: a coarse one has no zero for dense messages."""
    return INDEX_ENCODINGS[1:] if wire_dtype in COARSE_DTYPES else INDEX_ENCODINGS


def dense_dtype_of(wire_dtype: WireDtype) -> DenseDtype:
    """Return the type of what travels dense: bfloat16, which has float32's range, if coarse."""
    return "bfloat16" if wire_dtype in COARSE_DTYPES else cast(DenseDtype, wire_dtype)


def compression_name(density: float, wire_dtype: WireDtype) -> str:
    """Return a compression's name in records: dense or dgc, and the type of its values."""
    kind = "dgc" if is_sparse(density) else "dense"
    if kind == "dense":
        wire_dtype = dense_dtype_of(wire_dtype)
    short = {"float32": "", "float16": "-fp16", "bfloat16": "-bf16"}
    return kind + short.get(wire_dtype, f"-{wire_dtype}")


def check_names(where: str, index_encoding: str, wire_dtype: str) -> None:
    """Refuse unknown settings, and those that do not go together.

    Raises:
        ValueError: that lists the valid names.
    """
    if index_encoding not in INDEX_CHOICES:
        expected = ", ".join(INDEX_CHOICES)
        raise ValueError(f"{where}: index_encoding {index_encoding!r}, expected one of {expected}")
    check_dtype(where, wire_dtype)
    if index_encoding == "dense" and wire_dtype in COARSE_DTYPES:
        raise ValueError(
            f"{where}: index_encoding 'dense' with wire_dtype {wire_dtype!r}, which has no zero: "
            "expected another index_encoding, or wire_dtype float32, float16 or bfloat16"
        )


def check_dtype(where: str, wire_dtype: str) -> None:
    """Refuse an unknown type of values.

    Raises:
        ValueError: that lists the valid names.
    """
    _check_one_of(where, wire_dtype, WIRE_DTYPES)


def check_dense_dtype(where: str, wire_dtype: str) -> None:
    """Refuse a type that elements which travel dense cannot have.

    Raises:
        ValueError: that lists the valid names, and says what the others are for.
    """
    if wire_dtype in COARSE_DTYPES:
        raise ValueError(
            f"{where}: wire_dtype {wire_dtype!r} is for selected entries, whose rounding errors "
            f"stay in a residual: expected one of {', '.join(DENSE_DTYPES)}"
        )
    _check_one_of(where, wire_dtype, DENSE_DTYPES)


def _check_one_of(where: str, wire_dtype: str, valid: Sequence[str]) -> None:
    if wire_dtype not in valid:
        raise ValueError(f"{where}: wire_dtype {wire_dtype!r}, expected one of {', '.join(valid)}")


DEFAULT_CODING = WireCoding()
