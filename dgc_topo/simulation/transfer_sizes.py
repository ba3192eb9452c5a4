"""Sizes of a schedule's transfers: dense slices, or sparse unions that grow.

The sizes are requested once per step, in the order of the steps, so that sparse sizes can depend on
the number of contributions that a chunk has merged by then.
"""

from __future__ import annotations

import sys
from functools import cached_property, lru_cache, partial
from itertools import accumulate
from numbers import Real

import numpy as np

from dgc_topo.arrays import BoolArray, FloatArray, IntArray
from dgc_topo.schedule import Schedule, Step
from dgc_topo.schedule.completion import Merge, reselects
from dgc_topo.schedule.contributors import Contributors, require_countable
from dgc_topo.simulation.kept_steps import KeptSteps, Merged, find_kept
from dgc_topo.simulation.step_sizes import CutSizes, Merging, Sizes, StepSizes, spread
from dgc_topo.simulation.unions import Growth, growth_of, kept_growth, require
from dgc_topo.wire.coding import SORTED_ENTRIES, EntryCoding, WireCoding


def fit_sizes(sizes: Sizes | float, schedule: Schedule) -> Sizes:
    """Return the sizes of a schedule's transfers: *sizes*, or slices if it is a number of bytes.

    Raises:
        ValueError: if they were made for another schedule, or are neither sizes nor a number.
    """
    if isinstance(sizes, DenseSizes | UnionSizes):  # a protocol takes 100 times as long
        sizes.check_fit(schedule)
        return sizes
    if isinstance(sizes, Real):
        return DenseSizes(float(sizes), schedule.num_chunks)
    if isinstance(sizes, CutSizes):
        sizes.check_fit(schedule)
    if isinstance(sizes, Sizes):
        return sizes
    raise ValueError(f"sizes {sizes!r}: expected a number of bytes, DenseSizes or UnionSizes")


def _check_same(what: str, made_for: int, schedule_has: int) -> None:
    if made_for != schedule_has:
        raise ValueError(
            f"sizes: made for {made_for} {what}, but the schedule has {schedule_has}; expected "
            "sizes made for this schedule"
        )


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
        """Refuse a schedule with another number of chunks."""
        _check_same("chunks", self._num_chunks, schedule.num_chunks)

    def of_step(self, step_index: int, step: Step) -> StepSizes:
        """Return as many slices for each transfer as it has chunks."""
        if step.count.strides == (0,) and len(step):
            return StepSizes(spread(float(step.count[0]) * self._chunk_bytes, len(step)))
        return StepSizes(np.asarray(step.count * self._chunk_bytes, np.float64))

    def of_alike_steps(self, kept: KeptSteps, which: range) -> FloatArray | None:
        """Return the bytes of a message of each of these steps; None if a step's differ."""
        counts = kept.counts[which.start : which.stop]
        return np.asarray(counts * self._chunk_bytes, np.float64) if counts.all() else None


@lru_cache(maxsize=1024)
def sections_per_chunk(length: int, layer_sizes: tuple[int, ...], num_chunks: int) -> float:
    """Return the mean number of layers' parts in equal chunks of a buffer.

    Args:
        length: Elements of the buffer.
        layer_sizes: Elements of each layer in it, in their order.
        num_chunks: Number of chunks.
    """
    chunks = np.arange(num_chunks) * length // num_chunks
    edges = np.union1d(chunks, list(accumulate(layer_sizes, initial=0)))
    return float(np.count_nonzero(edges < length)) / num_chunks


class UnionSizes:
    """Sparse gradients whose unions grow as contributions are merged.

    The class counts the contributors that each chunk of each rank has merged: a reduce adds the
    sender's number, a copy replaces by it.  That is exact for a correct all-reduce, in which no
    contribution is merged twice; a number never exceeds that of all contributors.

    Args:
        schedule: Schedule to be run.
        length: Elements of the tensors that are sent sparse.
        entries: Entries of them that each contributor sends.
        coding: Coding of messages of entries; by default that of real messages.
        dense_bytes: Bytes of the tensors that are sent dense beside them (1-D tensors).
        union_exponent: See `power_growth`; None for independent supports.
        growth: A union model of your own, instead.
        merge: Policy of the sum; with ``reselect`` and ``auto`` a chunk is sent on with no more
            entries than one contributor sends of it.
        layer_sizes: Elements of each layer, which has scales of its own if values are coarse; one
            layer by default.

    Raises:
        ValueError: if a number makes no sense, the schedule has too many ranks and chunks, or what
            it rejects would have no place.
    """

    def __init__(  # noqa: PLR0913  # each has a name
        self,
        schedule: Schedule,
        *,
        length: int,
        entries: float,
        coding: EntryCoding | None = None,
        dense_bytes: float = 0.0,
        union_exponent: float | None = None,
        growth: Growth | None = None,
        merge: Merge = "union",
        layer_sizes: tuple[int, ...] = (),
    ) -> None:
        require(length >= 1, f"length {length}", "at least 1 element")
        require(0 <= entries <= length, f"entries {entries}", f"0 to length, {length}")
        require(0 <= dense_bytes < np.inf, f"dense_bytes {dense_bytes}", "0 or more")
        require_countable(schedule)
        self._growth = growth or growth_of(length, entries, union_exponent)
        if reselects(schedule, merge):
            self._growth = kept_growth(self._growth, len(schedule.contributors), entries)
        self._schedule, self._num_chunks, self._length = schedule, schedule.num_chunks, length
        self._coding = coding or WireCoding()
        self._chunk_sections = 1.0
        if isinstance(self._coding, WireCoding) and self._coding.is_coarse:
            chunks = schedule.num_chunks
            self._chunk_sections = sections_per_chunk(length, tuple(layer_sizes), chunks)
        self._dense_bytes = dense_bytes / schedule.num_chunks
        self._kept = find_kept(schedule)
        self._merged = Contributors(schedule) if self._kept is None else None
        self._last_index = sys.maxsize

    def check_fit(self, schedule: Schedule) -> None:
        """Refuse a schedule with other chunks, ranks or servers, which decide the unions."""
        mine = self._schedule
        _check_same("chunks", mine.num_chunks, schedule.num_chunks)
        _check_same("ranks", mine.world_size, schedule.world_size)
        _check_same("servers", len(mine.servers), len(schedule.servers))
        if mine.servers != schedule.servers:
            raise ValueError(
                f"sizes: made for servers {mine.servers}, but the schedule's are "
                f"{schedule.servers}; expected sizes made for this schedule"
            )

    def of_step(self, step_index: int, step: Step) -> StepSizes:
        """Return the sizes of a step's transfers; call it for every step, in order.

        An index that is not above the last one begins a new run.  Dense tensors beside the entries
        add bytes, but no work of merging.
        """
        if self._kept is not None and self._kept.has(step_index, step):
            row = int(self._kept.alike.row[step_index])
            if row < 0:
                return self._general(step, self._kept.merged[step_index])
            merging = partial(self._find_merging, step, self._kept.merged[step_index])
            return StepSizes(spread(float(self._alike_bytes[row]), len(step)), merging)
        if self._merged is None or step_index <= self._last_index:
            self._merged = Contributors(self._schedule)
        self._last_index = step_index
        return self._general(step, Merged(*self._merged.advance(step)))

    def of_alike_steps(self, kept: KeptSteps, which: range) -> FloatArray | None:
        """Return the bytes of a message of each of these steps; None if a step's differ."""
        if kept is not self._kept:
            return None
        rows = kept.alike.row[which.start : which.stop]
        return self._alike_bytes[rows] if (rows >= 0).all() else None

    @cached_property
    def _alike_bytes(self) -> FloatArray:
        """Bytes of a message of each step whose messages are alike."""
        assert self._kept is not None
        _, contributors, count = self._kept.alike
        # The same operations as for other steps: bytes are rounded up, so that the last bit counts.
        entries = self._entries(np.repeat(contributors, count), np.cumsum(count) - count)
        lengths = np.asarray(count * (self._length / self._num_chunks), np.float64)
        sections = np.asarray(count * self._chunk_sections, np.float64)
        coded = self._coding.expected_bytes(lengths, entries, sections)
        return np.asarray(coded + count * self._dense_bytes, np.float64)

    def _general(self, step: Step, merged: Merged) -> StepSizes:
        coded = self._coded_bytes(step, self._entries(merged.sent, merged.first))
        merging = partial(self._find_merging, step, merged)
        return StepSizes(coded + step.count * self._dense_bytes, merging)

    def _find_merging(self, step: Step, merged: Merged) -> Merging:
        adds = (step.keep != 0) & (step.weight != 0)
        if not adds.any():
            return Merging(np.zeros(len(step)), adds)
        entries = self._entries(merged.sent, merged.first)
        received = self._entries(merged.received, merged.first)
        return self._merging(step, adds, entries, self._coded_bytes(step, entries), received)

    def _merging(
        self,
        step: Step,
        adds: BoolArray,
        entries: FloatArray,
        coded: FloatArray,
        own_entries: FloatArray,
    ) -> Merging:
        """Return the work of adding messages to each other and to the receivers' entries."""
        place = step.dst * self._num_chunks + step.chunk
        _, which = np.unique(place, return_inverse=True)
        together = np.maximum(np.bincount(which, adds), 1)[which]
        own = self._coded_bytes(step, own_entries) / together
        num_entries = np.bincount(which, adds * (entries + own_entries / together))[which]
        is_sort = adds & (together > 1) & (num_entries >= SORTED_ENTRIES)
        return Merging(np.where(adds, coded + own, 0.0), is_sort)

    def _entries(self, contributors: IntArray, first: IntArray | None) -> FloatArray:
        """Return the entries in the union of some contributors, per transfer."""
        entries = self._growth(contributors) / self._num_chunks
        if first is not None and len(first):
            entries = np.add.reduceat(entries, first)
        return np.asarray(entries, np.float64)

    def _coded_bytes(self, step: Step, entries: FloatArray) -> FloatArray:
        """Return the bytes of messages of so many entries."""
        lengths = np.asarray(step.count * (self._length / self._num_chunks), np.float64)
        # A step's messages have few different sizes, and each size is computed once.
        kinds, which = np.unique(lengths + 1j * entries, return_inverse=True)
        counts = np.rint(kinds.real / (self._length / self._num_chunks))
        sections = counts * self._chunk_sections
        coded = self._coding.expected_bytes(kinds.real, kinds.imag, sections)
        return np.asarray(coded[which], np.float64)
