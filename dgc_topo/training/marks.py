"""Marks: what must be equal on all ranks, as a few flags that are summed with what travels anyhow.

Where ranks differ, some flag is set on one and not on another, and every rank sees that in the sum.
So all can stop to find out what differs, before anybody waits for a message that never comes, or
gets one of another size.
"""

from __future__ import annotations

import struct
import zlib
from binascii import crc_hqx
from collections.abc import Iterable, Mapping, Sequence

from torch import Size, Tensor

NUM_MARKS = 16  #: ranks that differ by chance have the same ones once in 65,536 times

#: Most ranks of whose flags a sum is exact, by the type in which it travels.
_MOST_RANKS = {"float32": 1 << 24, "float16": 1 << 11, "bfloat16": 1 << 8}


class DisagreementError(RuntimeError):
    """Marks differ between ranks; all of them notice in the same exchange."""


def marks_of(*numbers: int) -> list[bool]:
    """Return the marks of some numbers."""
    digest = crc_hqx(struct.pack(f"<{len(numbers)}q", *numbers), 0)
    return [bool(digest >> bit & 1) for bit in range(NUM_MARKS)]


def number_of(tensors: Mapping[str, Tensor] | Mapping[str, Size]) -> int:
    """Return a number that stands for names and shapes, in whatever order."""
    shapes: Iterable[tuple[str, Tensor | Size]] = tensors.items()
    found = sorted((name, tuple(getattr(each, "shape", each))) for name, each in shapes)
    return zlib.crc32(repr(found).encode())


def check_marks(
    where: str,
    counts: Sequence[float],
    marks: Sequence[bool],
    num_ranks: int,
    wire_dtype: str = "float32",
) -> None:
    """Compare this rank's marks with the sums over all ranks, if the sums can be exact.

    Args:
        where: What to call the owner in errors.
        counts: Sums of the marks, as floats.
        marks: This rank's.
        num_ranks: Number of ranks in the sums.
        wire_dtype: Type in which they travelled.

    Raises:
        DisagreementError: if a rank has others.
    """
    if num_ranks > _MOST_RANKS.get(wire_dtype, 0):
        return
    assert len(counts) == len(marks)
    expected = [num_ranks * mark for mark in marks]
    if [round(count) for count in counts] != expected:
        raise DisagreementError(f"{where}: ranks differ in what they send, or in their step")
