"""How many bytes each transfer of a schedule carries.

Sizes are asked for once per step, in the order of the steps, so that sparse sizes may follow
how many ranks' contributions a chunk has merged by then.
"""

from __future__ import annotations

import sys
from numbers import Real
from typing import Protocol, runtime_checkable

import numpy as np

from dgc_topo.arrays import BoolArray, FloatArray, IntArray
from dgc_topo.schedule import Schedule, Step
from dgc_topo.simulation.growth import Growth, growth_of, require
from dgc_topo.wire.coding import SORTED_ENTRIES, EntryCoding, WireCoding

#: More counters than this (one per rank and chunk) are refused: 1 GiB of them.
MAX_COUNTERS = 1 << 27


@runtime_checkable
class Sizes(Protocol):
    """Bytes of the transfers of a step."""

    def bytes_of(self, step_index: int, step: Step) -> FloatArray:
        """Return the bytes of each transfer, shape (num_transfers,), in order of steps."""


@runtime_checkable
class CodedSizes(Sizes, Protocol):
    """Sizes of messages that are encoded, and merged entry by entry."""

    def merged_bytes(self) -> FloatArray:
        """Return the bytes that adding each transfer goes through, shape (num_transfers,).

        Of the step whose `bytes_of` was asked for last: what arrives and what the receiver has
        there; nothing where it only replaces.
        """

    def are_sorted(self) -> BoolArray:
        """Return for which of these transfers that is a sort: where many come together."""


@runtime_checkable
class CutSizes(Sizes, Protocol):
    """Sizes of a buffer that has been cut for some schedules, and fits no others."""

    def check_fit(self, schedule: Schedule) -> None:
        """Refuse a schedule for which these sizes were not made.

        Raises:
            ValueError: naming what differs.
        """


def fit_sizes(sizes: Sizes | float, schedule: Schedule) -> Sizes:
    """Return the sizes of a schedule's transfers: *sizes*, or slices of so many dense bytes.

    Raises:
        ValueError: if they were made for another schedule, or are neither sizes nor a number.
    """
    if isinstance(sizes, Real):
        return DenseSizes(float(sizes), schedule.num_chunks)
    if isinstance(sizes, CutSizes):
        sizes.check_fit(schedule)
    if isinstance(sizes, Sizes):
        return sizes
    raise ValueError(f"sizes {sizes!r}: expected a number of bytes, DenseSizes or SparseSizes")


def _check_same(what: str, made_for: int, schedule_has: int) -> None:
    if made_for != schedule_has:
        raise ValueError(
            f"sizes: made for {made_for} {what}, but the schedule has {schedule_has}; expected "
            "sizes made for this schedule"
        )


def checked_sizes(sizes: Sizes, step_index: int, step: Step) -> FloatArray:
    """Return the sizes of a step.

    Raises:
        ValueError: if a size is negative or not finite, or there is not one per transfer.
    """
    num_bytes = sizes.bytes_of(step_index, step)
    if num_bytes.shape != (len(step),):
        raise ValueError(
            f"step {step_index}: sizes of shape {num_bytes.shape}, expected ({len(step)},)"
        )
    if not (num_bytes.min(initial=0.0) >= 0 and num_bytes.sum() < np.inf):
        index = int(np.argmin((num_bytes >= 0) & np.isfinite(num_bytes)))
        raise ValueError(
            f"step {step_index}: {step[index]}: {num_bytes[index]} bytes, "
            "expected a finite number, 0 or more"
        )
    return num_bytes


class DenseSizes:
    """Equal slices of a dense buffer, fractions of a byte included.

    Args:
        total_bytes: Size of the whole buffer.
        num_chunks: Number of chunks it is cut into.

    Raises:
        ValueError: if the size is negative or not finite, or there is no chunk.
    """

    def __init__(self, total_bytes: float, num_chunks: int) -> None:
        require(0 <= total_bytes < np.inf, f"total_bytes {total_bytes}", "0 or more, and finite")
        require(num_chunks >= 1, f"num_chunks {num_chunks}", "at least 1")
        self._num_chunks, self._chunk_bytes = num_chunks, total_bytes / num_chunks

    def check_fit(self, schedule: Schedule) -> None:
        """As `CutSizes.check_fit`."""
        _check_same("chunks", self._num_chunks, schedule.num_chunks)

    def bytes_of(self, step_index: int, step: Step) -> FloatArray:
        """Return the bytes of each transfer, shape (num_transfers,)."""
        return np.asarray(step.count * self._chunk_bytes, np.float64)


class SparseSizes:
    """Sparse gradients whose unions grow as contributions are merged.

    Follows how many contributors each chunk of each rank has merged: a reduce adds the sender's
    number, a copy replaces by it.  That is exact for a correct all-reduce, where no contribution
    is merged twice; the number never exceeds that of all contributors.

    Args:
        schedule: The schedule to be run: its ranks, chunks and servers.
        length: Elements of the tensors that are sent sparse.
        entries: Entries of them that each contributor sends.
        coding: What messages of entries weigh; real ones by default.
        dense_bytes: Bytes of what is sent dense beside them (1-D tensors).
        overlap_exponent: See `power_growth`; None for independent supports.
        growth: A union model of your own, instead.

    Raises:
        ValueError: if a number makes no sense, or the schedule has too many ranks and chunks.
    """

    def __init__(
        self,
        schedule: Schedule,
        *,
        length: int,
        entries: float,
        coding: EntryCoding | None = None,
        dense_bytes: float = 0.0,
        overlap_exponent: float | None = None,
        growth: Growth | None = None,
    ) -> None:
        require(length >= 1, f"length {length}", "at least 1 element")
        require(0 <= entries <= length, f"entries {entries}", f"0 to length, {length}")
        require(0 <= dense_bytes < np.inf, f"dense_bytes {dense_bytes}", "0 or more")
        self._growth = growth or growth_of(length, entries, overlap_exponent)
        self._schedule, self._merged = schedule, Contributors(schedule)
        self._coding = coding or WireCoding()
        self._num_chunks, self._length = schedule.num_chunks, length
        self._dense_bytes = dense_bytes / schedule.num_chunks
        self._last_index = sys.maxsize
        self._last_merged, self._last_sorted = np.empty(0), np.empty(0, np.bool_)

    def check_fit(self, schedule: Schedule) -> None:
        """As `CutSizes.check_fit`; who contributes decides how unions grow."""
        mine = self._schedule
        _check_same("chunks", mine.num_chunks, schedule.num_chunks)
        _check_same("ranks", mine.world_size, schedule.world_size)
        _check_same("servers", len(mine.servers), len(schedule.servers))
        if mine.servers != schedule.servers:
            raise ValueError(
                f"sizes: made for servers {mine.servers}, but the schedule's are "
                f"{schedule.servers}; expected sizes made for this schedule"
            )

    def bytes_of(self, step_index: int, step: Step) -> FloatArray:
        """Return the bytes of each transfer; call it for every step, in order."""
        if step_index <= self._last_index:
            self._merged.restart()
        self._last_index = step_index
        sent, received, first = self._merged.advance(step)
        entries = self._entries(sent, first)
        coded = self._coded_bytes(step, entries)
        adds = (step.keep != 0) & (step.weight != 0)
        if adds.any():
            self._add_up(step, adds, entries, coded, self._entries(received, first))
        else:
            self._last_merged, self._last_sorted = np.zeros(len(step)), adds
        return coded + step.count * self._dense_bytes

    def _add_up(
        self,
        step: Step,
        adds: BoolArray,
        entries: FloatArray,
        coded: FloatArray,
        own_entries: FloatArray,
    ) -> None:
        """Work out what adding goes through: messages of one place together, and what is there."""
        place = step.dst * self._num_chunks + step.chunk
        _, which = np.unique(place, return_inverse=True)
        together = np.maximum(np.bincount(which, adds), 1)[which]
        own = self._coded_bytes(step, own_entries) / together
        self._last_merged = np.where(adds, coded + own, 0.0)
        num_entries = np.bincount(which, adds * (entries + own_entries / together))[which]
        self._last_sorted = adds & (together > 1) & (num_entries >= SORTED_ENTRIES)

    def merged_bytes(self) -> FloatArray:
        """As `CodedSizes.merged_bytes`; what travels dense beside the entries does not count."""
        return self._last_merged

    def are_sorted(self) -> BoolArray:
        """As `CodedSizes.are_sorted`."""
        return self._last_sorted

    def _entries(self, contributors: IntArray, first: IntArray | None) -> FloatArray:
        """Return the entries that so many contributors gave, per transfer."""
        entries = self._growth(contributors) / self._num_chunks
        if first is not None and len(first):
            entries = np.add.reduceat(entries, first)
        return np.asarray(entries, np.float64)

    def _coded_bytes(self, step: Step, entries: FloatArray) -> FloatArray:
        """Return the bytes of messages of so many entries."""
        lengths = np.asarray(step.count * (self._length / self._num_chunks), np.float64)
        # A step's messages are of few kinds: each is coded once.
        kinds, which = np.unique(lengths + 1j * entries, return_inverse=True)
        coded = self._coding.expected_bytes(kinds.real, kinds.imag)
        return np.asarray(coded[which], np.float64)


class Contributors:
    """How many ranks' contributions each chunk of each rank has merged, step by step.

    A reduce adds the sender's number, a copy replaces by it; see `SparseSizes`.

    Args:
        schedule: The schedule that is run: its ranks, chunks and servers.

    Raises:
        ValueError: if the schedule has too many ranks and chunks.
    """

    def __init__(self, schedule: Schedule) -> None:
        counters = schedule.world_size * schedule.num_chunks
        require(
            counters <= MAX_COUNTERS,
            f"{schedule.world_size} ranks x {schedule.num_chunks} chunks",
            f"at most {MAX_COUNTERS} counters of contributors",
        )
        self._schedule = schedule
        self._most = schedule.world_size - len(schedule.servers)
        self._merged = np.empty(0, np.int64)
        self.restart()

    def restart(self) -> None:
        """Forget the steps: every contributor holds its own contribution only."""
        merged = np.zeros((self._schedule.world_size, self._schedule.num_chunks), np.int64)
        merged[self._schedule.contributors] = 1
        self._merged = merged.ravel()

    def advance(self, step: Step) -> tuple[IntArray, IntArray, IntArray | None]:
        """Merge what a step sends.

        Returns:
            Contributors of every chunk, before the step, transfer after transfer: as its sender
            has it, and as its receiver does; and where each transfer's run of chunks begins, or
            None if every transfer has just one.
        """
        sent, received, first = self._cells(step)
        given, had = self._merged[sent], self._merged[received]
        self._merge(step, received, given)
        return given, had, first

    def _cells(self, step: Step) -> tuple[IntArray, IntArray, IntArray | None]:
        """Return counters read and written by a step, and where each transfer's run begins."""
        num_chunks = self._schedule.num_chunks
        sent, received = step.src * num_chunks + step.chunk, step.dst * num_chunks + step.chunk
        if not len(step) or step.count.max() == 1:
            return sent, received, None
        first = np.cumsum(step.count) - step.count
        within = np.arange(int(step.count.sum())) - np.repeat(first, step.count)
        return np.repeat(sent, step.count) + within, np.repeat(received, step.count) + within, first

    def _merge(self, step: Step, received: IntArray, contributors: IntArray) -> None:
        """Count in the order listed: a copy replaces what came before it, and not what follows."""
        keeps, counts = step.keep != 0, step.weight != 0
        if len(received) > len(step):
            keeps, counts = np.repeat(keeps, step.count), np.repeat(counts, step.count)
        if not keeps.any():  # of several copies to one place the last stays
            self._merged[received] = np.where(counts, contributors, 0)
            return
        if not keeps.all():
            places, which = np.unique(received, return_inverse=True)
            listed, last = np.arange(len(received)), np.full(len(places), -1)
            np.maximum.at(last, which[~keeps], listed[~keeps])
            self._merged[places[last >= 0]] = 0
            counts &= listed >= last[which]
        np.add.at(self._merged, received[counts], contributors[counts])
        self._merged[received] = np.minimum(self._merged[received], self._most)
