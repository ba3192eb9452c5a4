"""Sizes of sparse messages by arithmetic, exact or expected, without torch.

The format itself, byte by byte, is ``dgc_topo/wire/FORMAT.md``.  Here are the exact size of a
message from four numbers, and the expected size of a message with entries at random places.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal, Protocol, cast, get_args

import numpy as np

from dgc_topo.arrays import FloatArray
from dgc_topo.sizes import is_sparse

IndexEncoding = Literal["dense", "run-length", "bit-packed", "bitmap", "int32"]
#: An encoding, or the one that makes a message smallest.
IndexChoice = Literal["auto", "dense", "run-length", "bit-packed", "bitmap", "int32"]
WireDtype = Literal["float32", "float16", "bfloat16"]

#: In the order in which `auto` takes them where sizes are equal: the cheapest to decode first.
INDEX_ENCODINGS: tuple[IndexEncoding, ...] = get_args(IndexEncoding)
INDEX_CHOICES: tuple[IndexChoice, ...] = get_args(IndexChoice)
WIRE_DTYPES: tuple[WireDtype, ...] = get_args(WireDtype)
VALUE_BYTES: dict[WireDtype, int] = {"float32": 4, "float16": 2, "bfloat16": 2}

HEADER_BYTES = 12  #: of every message
MAX_RUN = 2**31  #: longest run of elements: relative indices fit an int32, gaps fit 31 bits
MAX_CODE = 2**16 - 1  #: longest run of zeros in one 16-bit code; longer ones take escape codes
#: Where three and more runs come together that have so many entries, they are sorted; else merged.
SORTED_ENTRIES = 32_768
CODE_BYTES = 2
INDEX_BYTES = 4  #: of an index that is written as it is
ESCAPE_COUNT_BYTES = 4  #: only in messages that have escape codes
_ESCAPE_TERMS = 100  # of a sum; entries per code are then enough for terms below e**-14


def body_bytes(
    encoding: IndexEncoding, value_bytes: int, length: int, entries: int, max_gap: int, escapes: int
) -> int:
    """Return the exact bytes of a message's values and indices, header apart.

    Args:
        encoding: Of the indices.
        value_bytes: Bytes of a value, 4 or 2.
        length: Elements of the run.
        entries: Entries among them.
        max_gap: Most elements without an entry before an entry, since the last one or the start.
        escapes: Escape codes that run lengths take: ``gap // 65535`` summed if *max_gap* is above
            65535, else 0.
    """
    if encoding == "dense":
        return value_bytes * length
    return value_bytes * entries + _index_bytes(
        encoding, value_bytes, length, entries, max_gap, escapes
    )


def _index_bytes(
    encoding: IndexEncoding, value_bytes: int, length: int, entries: int, max_gap: int, escapes: int
) -> int:
    match encoding:
        case "run-length":
            return CODE_BYTES * (entries + escapes) + (ESCAPE_COUNT_BYTES if escapes else 0)
        case "bit-packed":
            return -(-entries * max_gap.bit_length() // 8)
        case "bitmap":
            return -(-length // 8)
        case "int32":
            return INDEX_BYTES * entries + -value_bytes * entries % INDEX_BYTES
        case "dense":
            return 0


def most_body_bytes(coding: WireCoding, length: int) -> int:
    """Return the most bytes of the body for a run of *length* elements."""
    value_bytes = VALUE_BYTES[coding.wire_dtype]
    if coding.index_encoding in {"auto", "dense"}:  # the first is never larger than the second
        return value_bytes * length
    # Packed gaps have at most 31 bits, and 16-bit codes one escape per 65535 elements.
    return (value_bytes + INDEX_BYTES) * length + INDEX_BYTES


def smallest(
    choice: IndexChoice, value_bytes: int, length: int, entries: int, max_gap: int, escapes: int
) -> tuple[IndexEncoding, int]:
    """Return the encoding of a message, the smallest unless told, and the bytes of its body.

    Arguments are those of `body_bytes`.
    """
    if choice != "auto":
        told = body_bytes(choice, value_bytes, length, entries, max_gap, escapes)
        return choice, told
    sizes = [
        (body_bytes(encoding, value_bytes, length, entries, max_gap, escapes), place)
        for place, encoding in enumerate(INDEX_ENCODINGS)
    ]
    size, place = min(sizes)
    return INDEX_ENCODINGS[place], size


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
                escapes = _expected_escapes(length, entries)
                has_some = -np.expm1(-escapes)
                indices = CODE_BYTES * (entries + escapes) + ESCAPE_COUNT_BYTES * has_some
            case "bit-packed":
                # Rounding up to whole bytes takes half a byte on average, and none of none.
                indices = entries * _expected_width(length, entries) / 8 + 7 / 16 * (entries > 0)
            case "bitmap":
                indices = np.ceil(length / 8)
            case "int32":
                # Two bytes follow an odd number of values of two bytes: half the time.
                padding = 1.0 if value_bytes < INDEX_BYTES else 0.0
                indices = INDEX_BYTES * entries + padding * (entries > 0)
        return np.asarray(value_bytes * entries + indices, np.float64)


def _gap_reaches(gap: float | FloatArray, length: FloatArray, entries: FloatArray) -> FloatArray:
    """Return the probability that at least *gap* elements without an entry precede a given entry.

    Exactly ``prod(1 - gap / (length - i) for i in range(entries))``; here every factor is the one
    in the middle.
    """
    room = length - (entries - 1) / 2
    none = np.clip(1 - gap / np.maximum(room, 1.0), 0.0, 1.0)
    chance = np.where(entries > 0, none ** np.maximum(entries, 1e-300), 0.0)
    return np.where(gap <= length - entries, chance, 0.0)


def _expected_width(length: FloatArray, entries: FloatArray) -> FloatArray:
    """Return the bits of the largest gap: one for each power of 2 that it reaches."""
    gaps = np.exp2(np.arange(MAX_RUN.bit_length() - 1)).reshape(-1, *[1] * length.ndim)
    reaches = _gap_reaches(gaps, length, entries)
    with np.errstate(divide="ignore"):  # log of 0 where every gap reaches so far
        none = np.maximum(entries, 1.0) * np.log1p(-reaches)
    return np.asarray(-np.expm1(none).sum(axis=0), np.float64)


def _expected_escapes(length: FloatArray, entries: FloatArray) -> FloatArray:
    """Return the escape codes of all gaps: one for each multiple of 65535 that a gap reaches.

    A sum over the multiples; where it has many terms that fall slowly, by Euler and Maclaurin.
    """
    chances = np.zeros(length.shape)
    for times in range(1, _ESCAPE_TERMS + 1):
        reaches = _gap_reaches(float(times * MAX_CODE), length, entries)
        if not reaches.any():
            break
        chances += reaches
    most = length / MAX_CODE
    slow = (most > _ESCAPE_TERMS) & (entries > 0) & (entries < most * 14 / _ESCAPE_TERMS)
    smooth = most / (entries + 1) - 0.5 + entries / (12 * np.maximum(most, 1.0))
    return entries * np.where(slow, smooth, chances)


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
