"""Contributions that every chunk of every rank has merged, counted along the steps."""

from __future__ import annotations

import numpy as np

from dgc_topo.arrays import IntArray
from dgc_topo.schedule.schedule import Schedule
from dgc_topo.schedule.step import Step

#: Most counters (one per rank and chunk); they take 1 GiB.
MAX_COUNTERS = 1 << 27


def require_countable(schedule: Schedule) -> None:
    """Refuse a schedule with too many ranks and chunks to count contributors.

    Raises:
        ValueError: naming their numbers.
    """
    if schedule.world_size * schedule.num_chunks > MAX_COUNTERS:
        raise ValueError(
            f"sizes: {schedule.world_size} ranks x {schedule.num_chunks} chunks, expected at most "
            f"{MAX_COUNTERS} counters of contributors"
        )


class Contributors:
    """Numbers of contributions that each chunk of each rank has merged.

    A reduce adds the sender's number, a copy replaces by it.  That is exact for a correct
    all-reduce, in which no contribution is merged twice; a number never exceeds that of all
    contributors.

    Args:
        schedule: The schedule that is run: its ranks, chunks and servers.

    Attributes:
        most: Number of all contributors; a chunk that has merged so many is complete.
        merged: Number that each chunk has merged so far, rank by rank, shape
            (world_size * num_chunks,).

    Raises:
        ValueError: if the schedule has too many ranks and chunks.
    """

    def __init__(self, schedule: Schedule) -> None:
        require_countable(schedule)
        self._schedule = schedule
        self.most = schedule.world_size - len(schedule.servers)
        self.merged = np.empty(0, np.int64)
        self.restart()

    def restart(self) -> None:
        """Forget the steps: every contributor holds its own contribution only."""
        merged = np.zeros((self._schedule.world_size, self._schedule.num_chunks), np.int64)
        merged[self._schedule.contributors] = 1
        self.merged = merged.ravel()

    def advance(self, step: Step) -> tuple[IntArray, IntArray, IntArray | None]:
        """Merge what a step sends.

        Returns:
            For every chunk of every transfer, in order: the sender's number of contributors before
            the step, and the receiver's.  Then the position at which each transfer's run of chunks
            begins, or None if every transfer has one chunk.
        """
        sent, received, first = self.cells(step)
        given, had = self.merged[sent], self.merged[received]
        self._merge(step, received, given)
        return given, had, first

    def cells(self, step: Step) -> tuple[IntArray, IntArray, IntArray | None]:
        """Return the places in *merged* that a step reads, and those that it writes.

        Returns:
            Both for every chunk of every transfer, in order; then as `advance`.
        """
        num_chunks = self._schedule.num_chunks
        sent, received = step.src * num_chunks + step.chunk, step.dst * num_chunks + step.chunk
        if not len(step) or step.count.max() == 1:
            return sent, received, None
        first = np.cumsum(step.count) - step.count
        within = np.arange(int(step.count.sum())) - np.repeat(first, step.count)
        return np.repeat(sent, step.count) + within, np.repeat(received, step.count) + within, first

    def _merge(self, step: Step, received: IntArray, contributors: IntArray) -> None:
        """Count in the order listed: a copy replaces earlier counts, and later ones are added."""
        keeps, counts = step.keep != 0, step.weight != 0
        if len(received) > len(step):
            keeps, counts = np.repeat(keeps, step.count), np.repeat(counts, step.count)
        if not keeps.any():  # the last of several copies to one place stays
            self.merged[received] = np.where(counts, contributors, 0)
            return
        if not keeps.all():
            places, which = np.unique(received, return_inverse=True)
            listed, last = np.arange(len(received)), np.full(len(places), -1)
            np.maximum.at(last, which[~keeps], listed[~keeps])
            self.merged[places[last >= 0]] = 0
            counts &= listed >= last[which]
        np.add.at(self.merged, received[counts], contributors[counts])
        self.merged[received] = np.minimum(self.merged[received], self.most)
