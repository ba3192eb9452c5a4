"""Codings of the sparse messages of measurements, today's and that of earlier ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dgc_topo.arrays import FloatArray
from dgc_topo.wire.coding import INDEX_ENCODINGS, WireCoding


@dataclass(frozen=True, slots=True)
class WithoutRice:
    """Coding of messages that were measured before there were Rice codes."""

    def expected_bytes(
        self, length: FloatArray, entries: FloatArray, sections: FloatArray | float = 1.0
    ) -> FloatArray:
        """Return the bytes of messages, see `EntryCoding`."""
        codings = [WireCoding(name) for name in INDEX_ENCODINGS if name != "rice"]
        found = [coding.expected_bytes(length, entries, sections) for coding in codings]
        return np.asarray(np.minimum.reduce(found), np.float64)

    def least_bytes(self, length: float, entries: FloatArray) -> FloatArray:
        """Return a lower bound, see `EntryCoding`."""
        return WireCoding().least_bytes(length, entries)


#: Codings that messages of measurements may have; the last one is today's.
CODINGS: tuple[WithoutRice | WireCoding, ...] = (WithoutRice(), WireCoding())
