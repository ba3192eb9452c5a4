"""Marks: what must be equal on all ranks, as a few flags that travel with the rest, or before it.

Every rank sets half of the flags, and which half says what it is at.  Flags are summed, or mixed
with weights above 0, as anything is that a topology carries.  So where a rank set none and some
came, it was not alone, and another one is at something else.  It can stop to find out what differs,
before anybody waits for a message that never comes, or gets one of another size.
"""

from __future__ import annotations

import struct
import zlib
from binascii import crc_hqx
from collections.abc import Iterable, Mapping, Sequence

from torch import Size, Tensor

_BITS = 16  # ranks that differ by chance have the same ones once in 65,536 times
NUM_MARKS = 2 * _BITS  #: each bit, and its opposite


class DisagreementError(RuntimeError):
    """Ranks turn out to differ; who holds more than marks finds out in what."""


def marks_of(*numbers: int) -> list[bool]:
    """Return the marks of some numbers."""
    digest = crc_hqx(struct.pack(f"<{len(numbers)}q", *numbers), 0)
    bits = [bool(digest >> bit & 1) for bit in range(_BITS)]
    return bits + [not bit for bit in bits]


def number_of(tensors: Mapping[str, Tensor] | Mapping[str, Size]) -> int:
    """Return a number that stands for names and shapes, in whatever order."""
    shapes: Iterable[tuple[str, Tensor | Size]] = tensors.items()
    found = sorted((name, tuple(getattr(each, "shape", each))) for name, each in shapes)
    return zlib.crc32(repr(found).encode())


def check_marks(where: str, found: Sequence[float], marks: Sequence[bool]) -> None:
    """Compare this rank's marks with those of all whose messages have reached it.

    Args:
        where: Name of the owner in errors.
        found: Sums or mixtures of all their marks and this rank's.
        marks: This rank's.

    Raises:
        DisagreementError: if one of them has others.
    """
    if any(came and not own for came, own in zip(found, marks, strict=True)):
        raise DisagreementError(f"{where}: ranks differ in what they do, or in their step")
