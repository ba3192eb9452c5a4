"""Sparse payloads: a run of chunks is the entries whose indices fall in it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor, device

from dgc_topo.payload.base import (
    SUM,
    Arrival,
    BoundsOf,
    equal_bounds,
    runs,
    weighted_terms,
)
from dgc_topo.payload.pieces import EntryPieces
from dgc_topo.payload.reselection import Quotas, Reselection
from dgc_topo.payload.rounding import Received, Rounding
from dgc_topo.payload.union import Entries, check_entries, position, union_sum
from dgc_topo.schedule import Goal
from dgc_topo.schedule.completion import Merge, Role
from dgc_topo.wire.body import most_body_bytes
from dgc_topo.wire.coding import DEFAULT_CODING, WireCoding
from dgc_topo.wire.decoding import decode_scaled
from dgc_topo.wire.encoding import encode, encoded_bytes, or_dense
from dgc_topo.wire.format import WireError
from dgc_topo.wire.limits import HEADER_BYTES, MAX_RUN
from dgc_topo.wire.scales import Scales, no_scales, rounded
from dgc_topo.wire.tensors import TORCH_DTYPES


class SparsePayload:
    """Entries of a flat buffer of *length* elements; merging is a union-sum.

    Values at the same index are added in rank order; a copy replaces the run's entries; other
    weights scale.  Entries whose sum is 0 stay: dropping them would cost more than sending them.

    Every message is coded on its own (wire/FORMAT.md): as run lengths, packed gaps, a bitmap, or
    dense, whichever takes the fewest bytes.  A run that arrives dense has an entry for each of its
    elements from then on.

    If the *coding* has 16-bit values, the values of messages are rounded, by the law of
    `DensePayload`: if the ranks are to agree, packing also rounds the sender's own values, and
    `finish` rounds the result.  The maker of the payload should round its float32 values with
    `to_wire` first and keep the difference; otherwise it is lost.  Sums lose at most half a unit in
    the last place of the 16-bit type per hop, as in any 16-bit all-reduce.

    Values of 8, 4 and 2 bits are steps of a scale, one for each layer in each chunk (see
    `dgc_topo.payload.rounding`).  What rounding a partial sum leaves out of the result, one rank
    takes back: `take_back` returns it, as it does rejected entries.

    With *quotas* a rank takes rejected entries out of the sum (see
    `dgc_topo.payload.reselection`); `take_back` returns them after the run.

    Args:
        indices: Shape (n,), int64, strictly ascending, from 0 to length - 1 (trusted: checking
            would cost a synchronisation on a GPU; `decode` checks whatever came from a wire).
        values: Shape (n,), float32, on the same device; not modified by a run.
        length: Elements of the buffer.
        coding: Type of the values in messages, and coding of the indices.
        bounds_of: Function for the offsets of chunks; equal slices by default.
        message: Message of all chunks, if it is known already; *values* then have to be numbers
            of the coding's type.
        goals: Accepted goals of schedules: by default only a sum, because a rank's selected
            entries have no meaning by themselves.
        quotas: Entries of the sum to keep, the same on every rank; None keeps all: the exact
            union.
        scales: Scales of layers that coarse *values* are steps of already; by default they are
            rounded as partial sums are, and share a scale in each chunk.

    Raises:
        ValueError: if shapes, element types or devices do not fit, or *quotas* are of another
            length.
    """

    def __init__(  # noqa: PLR0913  # each has a name
        self,
        indices: Tensor,
        values: Tensor,
        length: int,
        *,
        coding: WireCoding = DEFAULT_CODING,
        bounds_of: BoundsOf = equal_bounds,
        message: Tensor | None = None,
        goals: frozenset[Goal] = SUM,
        quotas: Quotas | None = None,
        scales: Scales | None = None,
    ) -> None:
        check_entries(indices, values, length)
        if quotas is not None and (quotas.offsets[-1] != length or goals != SUM):
            raise ValueError(
                f"sparse payload: quotas for {quotas.offsets[-1]} elements and goals "
                f"{sorted(goals)}, expected those for {length} elements, and a sum"
            )
        self.coding = coding
        self.length = length
        self.made_with: Mapping[str, object] = {}
        self.goals = goals
        #: Type that values are rounded to; None if they are steps of a scale.
        self._dtype = TORCH_DTYPES.get(coding.wire_dtype)
        self._round_own = self._dtype not in {None, torch.float32}
        self._scales = scales
        self._rounding: Rounding | None = None  # of a run with coarse values
        self._bounds_of = bounds_of
        self._pieces = EntryPieces(Entries(indices.detach(), values.detach()), (0, length))
        self.quotas = quotas
        self._reselection: Reselection | None = None  # of a run, unless it is exact
        self._taken: list[Entries] = []  # out of the sum, by this rank
        # Entries of a run of chunks, and their message; only the first one before any merge.
        self._first = None if message is None else (self._pieces.first, message)
        self._packed = self._first

    def __repr__(self) -> str:
        return f"SparsePayload({self.num_entries:,} of {self.length:,} elements, {self.coding})"

    @property
    def merge_policy(self) -> Merge:
        """Policy of the sum."""
        return "union" if self.quotas is None else self.quotas.merge

    @property
    def device(self) -> device:
        """Device of the entries."""
        return self._pieces.first.values.device

    @property
    def indices(self) -> Tensor:
        """Indices of the entries, shape (num_entries,), int64, strictly ascending."""
        return self._pieces.joined().indices

    @property
    def values(self) -> Tensor:
        """Values of the entries, shape (num_entries,), float32."""
        return self._pieces.joined().values

    @property
    def num_entries(self) -> int:
        """Number of entries held now."""
        return self._pieces.num_entries

    def encoded_bytes(self) -> int:
        """Return the bytes of everything held now as one message, header included.

        More than 2**31 elements are as many messages as it takes.
        """
        if self._first is not None and self._first[0] is self._pieces.first:
            return len(self._first[1])
        if self.coding.is_coarse and self.length <= MAX_RUN:  # how wide it is depends on the values
            return len(encode(*self._pieces.joined(), 0, self.length, self.coding, self._scales))
        indices, total = self.indices, 0
        for start in range(0, self.length, MAX_RUN):
            length = min(MAX_RUN, self.length - start)
            here = indices
            if length < self.length:
                here = indices[position(indices, start) : position(indices, start + length)]
            sections = 1 if self._scales is None else len(self._scales.low)
            total += encoded_bytes(here, start, length, self.coding, sections)
        return total

    def to_dense(self) -> Tensor:
        """Return the whole buffer, shape (length,), float32, zero where there is no entry."""
        dense = torch.zeros(self.length, dtype=torch.float32, device=self.device)
        dense[self.indices] = self.values
        return dense

    @property
    def layout(self) -> Hashable:
        """Key of all sparse payloads: only senders know sizes."""
        return "sparse"

    def cut(self, num_chunks: int, *, agree: bool = True, role: Role | None = None) -> None:
        """Fix the chunk boundaries, and whether own values are rounded like those in messages.

        Raises:
            ValueError: if rejected entries of some chunk would be lost.
        """
        whole, bounds = self._pieces.joined(), self._bounds_of(self.length, num_chunks)
        if self.quotas is not None:
            assert role is not None  # whoever runs a schedule gives it
            self._reselection = Reselection(self.quotas, role, bounds)
        self._round_own = agree and self._dtype not in {None, torch.float32}
        if self.coding.is_coarse:
            first = self._scales or no_scales((), self.device)
            on_scale, wire_dtype = self._scales is not None, self.coding.wire_dtype
            self._rounding = Rounding(
                wire_dtype, bounds, first, on_scale=on_scale, agree=agree, role=role
            )
            self._scales = None  # a second run begins with the sum of the first
        self._pieces = EntryPieces(whole, bounds)
        self._packed = self._first

    def message_bytes(self, chunk: int, count: int) -> int | None:
        """Return None: only the sender knows how many entries fall in a run."""
        return None

    def most_bytes(self, chunk: int, count: int, world_size: int) -> int:
        """Return the size of a message with an entry for every element."""
        _, length = self._pieces.run(chunk, chunk + count)
        inside = () if self._rounding is None else self._rounding.bounds(chunk, chunk + count)
        return HEADER_BYTES + most_body_bytes(self.coding, length, 1 + len(inside))

    def pack(self, chunk: int, count: int) -> Tensor:
        """Return the run's entries in the wire format, encoded once for all who get them."""
        entries = self._pieces.take(chunk, chunk + count)
        if self._packed is not None and self._packed[0] is entries:
            return self._packed[1]
        scales = None
        if self._rounding is not None:
            entries, scales = self._on_scale(self._rounding, chunk, chunk + count)
        elif self._round_own:
            entries = self._rounded(entries)
            self._pieces.put(chunk, chunk + count, entries)
        run, coding = self._pieces.run(chunk, chunk + count), self.coding
        if self.merge_policy == "auto":
            coding = or_dense(coding, entries.indices, *run)
        message = encode(*entries, *run, coding, scales)
        self._packed = entries, message
        return message

    def landing(self, chunk: int, count: int) -> Tensor | None:
        """Return None: entries are not kept as they travel."""
        return None

    def merge(self, arrivals: Sequence[Arrival], rank: int) -> None:
        """Apply the arrivals of one step: union-sums weighted in the order listed."""
        received = [self._decode(arrival) for arrival in arrivals]
        for first, end, covering in runs(received):
            weighted = weighted_terms(covering, rank)
            terms = [(factor, self._entries(source, first, end)) for factor, source in weighted]
            self._pieces.put(first, end, union_sum(terms, self.device))
            if self._rounding is not None:
                self._rounding.arrived(first, end, weighted)
            if self._reselection is not None:
                self._reselect(self._reselection, first, end)

    def finish(self) -> None:
        """End a run: join the entries and, if ranks are to agree, round them as messages are."""
        if self._rounding is not None and self._rounding.agree:
            self._on_scale(self._rounding, 0, len(self._pieces.bounds) - 1)
        whole = self._pieces.joined()
        if self._round_own:
            whole = self._rounded(whole)
        self._pieces = EntryPieces(whole, self._pieces.bounds)
        self._packed = self._first = None

    def take_back(self) -> Entries | None:
        """Return what this rank took out of the sum, once; None if that is nothing.

        The sum and what all ranks took back are, to rounding, the sum of all contributions.
        """
        taken, self._taken = [each for each in self._taken if len(each.indices)], []
        return union_sum([(1.0, each) for each in taken], self.device) if taken else None

    def _reselect(self, reselection: Reselection, first: int, end: int) -> None:
        """Keep only the share of the largest of those of the chunks that are complete now."""
        for begin, stop in reselection.completed(first, end):
            kept, rejected = reselection.split(begin, stop, self._pieces.take(begin, stop))
            self._pieces.put(begin, stop, kept)
            if rejected is not None:
                self._taken.append(rejected)

    def _on_scale(self, rounding: Rounding, first: int, end: int) -> tuple[Entries, Scales]:
        """Return entries of chunks as messages hold them; if ranks are to agree, so do they."""
        if not rounding.agree and any(rounding.pending(first, end)):
            entries = self._pieces.take(first, end)
            values, scales = rounded(*entries, rounding.bounds(first, end), rounding.wire_dtype)
            return Entries(entries.indices, values), scales
        for begin, stop in list(rounding.pending(first, end)):
            kept, missed = rounding.round(begin, stop, self._pieces.take(begin, stop))
            self._pieces.put(begin, stop, kept)
            if missed is not None:
                self._taken.append(missed)
        return self._pieces.take(first, end), rounding.scales(first, end)

    def _decode(self, arrival: Arrival) -> Received:
        transfer, message = arrival
        chunks = transfer.chunk, transfer.chunk_end
        bounds = () if self._rounding is None else self._rounding.bounds(*chunks)
        try:
            found = decode_scaled(message, *self._pieces.run(*chunks), bounds)
            return Received(transfer, Entries(found.indices, found.values), found.scales)
        except WireError as error:
            raise WireError(f"{error} ({transfer})") from error

    def _rounded(self, entries: Entries) -> Entries:
        return Entries(entries.indices, entries.values.to(self._dtype).to(torch.float32))

    def _entries(self, source: Received | None, first: int, end: int) -> Entries:
        """Return the entries of *source* in the chunks first .. end - 1; None is this payload."""
        if source is None:
            return self._pieces.take(first, end)
        if (first, end) == (source.transfer.chunk, source.transfer.chunk_end):
            return source.entries
        indices, values = source.entries
        begin, stop = (position(indices, self._pieces.bounds[chunk]) for chunk in (first, end))
        return Entries(indices[begin:stop], values[begin:stop])
