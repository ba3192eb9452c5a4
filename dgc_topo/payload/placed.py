"""Sums in two passes: first the places of all entries, then the values.

A rank knows where its own entries are, but not where those of the sum will be, so that equal slices
of a buffer hold unequal numbers of them.  The first pass of a schedule unites the places alone.
After it every rank knows all places of the sum, and counts elements by them: the second pass cuts
the sum into chunks of equal numbers of entries, to one, and complete chunks need no indices any
more.  Both passes together send little more than a single one.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dgc_topo.payload.base import Payload
from dgc_topo.payload.pieces import EntryPieces
from dgc_topo.payload.sparse import SparsePayload
from dgc_topo.payload.union import Entries
from dgc_topo.wire.body import most_body_bytes
from dgc_topo.wire.coding import DEFAULT_CODING, WireCoding
from dgc_topo.wire.encoding import encode
from dgc_topo.wire.limits import HEADER_BYTES
from dgc_topo.wire.scales import Scales

_CODING = WireCoding(wire_dtype="int2")


class PlacesPayload(SparsePayload):
    """Places of entries, which a run unites; messages are those of 2-bit values, all alike.

    Args:
        indices: As those of a `SparsePayload`.
        length: Elements of the buffer.
    """

    def __init__(self, indices: Tensor, length: int) -> None:
        ones = torch.ones(len(indices), dtype=torch.float32, device=indices.device)
        super().__init__(indices, ones, length)
        unit = torch.ones(1, dtype=torch.float32, device=indices.device)
        self._unit = Scales((), unit, torch.zeros_like(unit))

    def most_bytes(self, chunk: int, count: int, world_size: int) -> int:
        """Return the size of a message with an entry for every element."""
        _, length = self._pieces.run(chunk, chunk + count)
        return HEADER_BYTES + most_body_bytes(_CODING, length)

    def pack(self, chunk: int, count: int) -> Tensor:
        """Return the places in a run, encoded once for all who get them."""
        entries = self._pieces.take(chunk, chunk + count)
        if self._packed is None or self._packed[0] is not entries:
            message = encode(*entries, *self._pieces.run(chunk, chunk + count), _CODING, self._unit)
            self._packed = entries, message
        return self._packed[1]


class PlacedPayload(SparsePayload):
    """Sparse entries whose exact sum is cut into chunks of equal numbers of entries.

    Args:
        indices: As those of a `SparsePayload`, as are the others.
        values: Values of the entries.
        length: Elements of the buffer.
        coding: Type of the values, and coding of the indices.
        scales: Scales of layers, if the values are steps of them.

    Raises:
        ValueError: as `SparsePayload`.
    """

    def __init__(
        self,
        indices: Tensor,
        values: Tensor,
        length: int,
        *,
        coding: WireCoding = DEFAULT_CODING,
        scales: Scales | None = None,
    ) -> None:
        super().__init__(indices, values, length, coding=coding, scales=scales)

    def passes(self) -> Iterator[Payload]:
        """Yield the places; then the values, numbered by the places of the sum."""
        own, scales = self._pieces.joined(), self._scales
        first = PlacesPayload(own.indices, self.length)
        yield first
        places = first.indices
        if scales is not None:
            bounds = torch.tensor(scales.bounds, dtype=torch.int64, device=self.device)
            numbers = torch.searchsorted(places, bounds).tolist()
            scales = Scales(tuple(numbers), scales.low, scales.step)
        numbered = SparsePayload(
            torch.searchsorted(places, own.indices),
            own.values,
            len(places),
            coding=self.coding,
            scales=scales,
        )
        yield numbered
        whole = Entries(places[numbered.indices], numbered.values)
        self._pieces = EntryPieces(whole, (0, self.length))
        self._packed = self._first = self._scales = None  # a second run begins with the sum
        taken = numbered.take_back()
        if taken is not None:
            self._taken.append(Entries(places[taken.indices], taken.values))
