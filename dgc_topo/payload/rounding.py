"""Coarse values during a run: the scale of each section, and what rounding leaves out of the sum.

A section is the part of a layer that lies in one chunk, so a scale belongs to a chunk whatever
message it travels in.  A chunk is *on scale* once it has been rounded, by its sender, or has
arrived as a copy; it is then sent on as it is, until something is added to it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dgc_topo.payload.base import Term
from dgc_topo.payload.union import Entries
from dgc_topo.schedule import Transfer
from dgc_topo.schedule.completion import Role
from dgc_topo.schedule.losses import losses_of
from dgc_topo.wire.coding import WireDtype
from dgc_topo.wire.scales import Scales, rounded


class Received(NamedTuple):
    """A decoded message.

    Attributes:
        transfer: Transfer that it is the message of.
        entries: Its entries.
        scales: Their scales, if values are coarse.
    """

    transfer: Transfer
    entries: Entries
    scales: Scales | None


class Rounding:
    """Scales of one payload's chunks during a run.

    Args:
        wire_dtype: Type of the values.
        bounds: Offsets of the chunks, from 0 to the length of the buffer.
        first: Scales of the layers, if the entries are on them already; else only the layers'
            bounds count.
        on_scale: True if the entries are on these scales.
        agree: True if all ranks are to end with the same bits: then own values are rounded, too.
        role: This rank's part in the run, which says what comes back to it.

    Raises:
        ValueError: if what a server rounds away would be lost.
    """

    def __init__(
        self,
        wire_dtype: WireDtype,
        bounds: Sequence[int],
        first: Scales,
        *,
        on_scale: bool,
        agree: bool,
        role: Role | None,
    ) -> None:
        if agree and role is not None and role.schedule.servers:
            raise ValueError(
                f"wire_dtype {wire_dtype!r}: rank {role.schedule.servers[0]} is a server, which "
                "has no residual for what it rounds away, expected a topology whose servers "
                "train, or values of 16 bits"
            )
        self.agree = agree
        self.wire_dtype = wire_dtype
        edges = sorted({*bounds, *first.bounds})
        self._edges = edges
        self._places = [bisect_left(edges, bound) for bound in bounds]
        places = [bisect_left(first.bounds, edge + 1) for edge in edges[:-1]]
        layers = torch.tensor(places, dtype=torch.int64, device=first.low.device)
        self._low, self._step = first.low[layers], first.step[layers]
        self._on_scale = [on_scale] * (len(bounds) - 1)
        self._merges = [0] * (len(bounds) - 1)
        self._shares = losses_of(role.schedule)[role.rank] if agree and role is not None else None

    def bounds(self, first: int, end: int) -> tuple[int, ...]:
        """Return the bounds of the sections inside the chunks first .. end - 1."""
        return tuple(self._edges[self._places[first] + 1 : self._places[end]])

    def scales(self, first: int, end: int) -> Scales:
        """Return the scales of the sections of the chunks first .. end - 1."""
        begin, stop = self._places[first], self._places[end]
        if begin == stop:  # no element, and so no section, but a message has one
            nothing = self._low.new_zeros(1)
            return Scales((), nothing, nothing)
        return Scales(self.bounds(first, end), self._low[begin:stop], self._step[begin:stop])

    def pending(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the runs among the chunks first .. end - 1 that lost alike, not yet on scale."""
        begin = first
        while begin < end:
            stop = begin + 1
            if not self._on_scale[begin]:
                while stop < end and not self._on_scale[stop] and self._alike(begin, stop):
                    stop += 1
                yield begin, stop
            begin = stop

    def round(self, first: int, end: int, entries: Entries) -> tuple[Entries, Entries | None]:
        """Put the entries of chunks on scale.

        Returns:
            They, and what the final sum lacks therefore; None if another rank takes that back.
        """
        values, scales = rounded(*entries, self.bounds(first, end), self.wire_dtype)
        begin, stop = self._places[first], self._places[end]
        if begin < stop:
            self._low[begin:stop], self._step[begin:stop] = scales.low, scales.step
        self._on_scale[first:end] = [True] * (end - first)
        share = self._share(first)
        missed = Entries(entries.indices, (entries.values - values) * share) if share else None
        return Entries(entries.indices, values), missed

    def arrived(self, first: int, end: int, terms: Sequence[Term[Received]]) -> None:
        """Note that chunks first .. end - 1 are now the sum of these terms, or a copy of one."""
        for chunk in range(first, end):
            self._merges[chunk] += 1
        scales = self._copied(first, terms)
        self._on_scale[first:end] = [scales is not None] * (end - first)
        begin, stop = self._places[first], self._places[end]
        if scales is not None and begin < stop:
            low, step = scales
            self._low[begin:stop], self._step[begin:stop] = (
                low[: stop - begin],
                step[: stop - begin],
            )

    def _copied(self, first: int, terms: Sequence[Term[Received]]) -> tuple[Tensor, Tensor] | None:
        """Return the scales from chunk *first* on, if it has become a copy of what arrived."""
        if len(terms) != 1:
            return None
        factor, source = terms[0]
        if source is None or factor != 1 or source.scales is None:
            return None
        begin = self._places[first] - self._places[source.transfer.chunk]
        return source.scales.low[begin:], source.scales.step[begin:]

    def _alike(self, one: int, other: int) -> bool:
        return self._share(one) == self._share(other)

    def _share(self, chunk: int) -> float:
        return 0.0 if self._shares is None else self._shares[chunk][self._merges[chunk]]
