"""Growth of sparse unions: contributors of each chunk, and the entries in their union."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dgc_topo.arrays import FloatArray, IntArray
from dgc_topo.schedule import Schedule, Step

#: Function from numbers of contributors, any shape, to entries in the union of their supports.
Growth = Callable[[IntArray], FloatArray]


def growth_of(length: int, entries: float, union_exponent: float | None) -> Growth:
    """Return `power_growth`, or `independent_growth` without an exponent."""
    if union_exponent is None:
        return independent_growth(length, entries)
    return power_growth(length, entries, union_exponent)


def power_growth(length: int, entries: float, union_exponent: float) -> Growth:
    """Return the union model ``U(c) = min(length, entries * c ** union_exponent)``.

    Args:
        length: Number of elements of the tensor.
        entries: Entries that one contributor sends.
        union_exponent: 1 for disjoint supports, 0 for identical ones.
    """
    require(0 <= union_exponent <= 1, f"union_exponent {union_exponent}", "0 to 1")

    def union(contributors: IntArray) -> FloatArray:
        grown: FloatArray = entries * np.power(contributors.astype(np.float64), union_exponent)
        grown[contributors == 0] = 0.0  # 0 ** 0 is 1
        return np.asarray(np.minimum(grown, length), np.float64)

    return union


def independent_growth(length: int, entries: float) -> Growth:
    """Return the union model of independent supports, ``U(c) = L * (1 - (1 - k/L) ** c)``.

    Args:
        length: Number of elements of the tensor (L).
        entries: Entries that one contributor sends (k).
    """

    def union(contributors: IntArray) -> FloatArray:
        # expm1 and log1p keep the digits that 1 - (1 - tiny) would lose.
        missing = np.log1p(-entries / length) if entries < length else -np.inf
        grown = -length * np.expm1(np.where(contributors > 0, contributors, 1) * missing)
        return np.asarray(np.where(contributors > 0, grown, 0.0), np.float64)

    return union


def recorded_growth(length: int, entries: float, points: Sequence[tuple[int, float]]) -> Growth:
    """Return the union model of a recorded run, interpolated.

    The model has straight lines between the points on logarithmic axes.  The last line is continued
    beyond the points (with a single point, the line from ``(1, 1)``).  A union never has fewer
    entries than one contributor.

    Args:
        length: Number of elements of the tensor.
        entries: Entries that one contributor sends.
        points: Pairs (contributors, union of their entries over one's), both rising, above 1.

    Raises:
        ValueError: if the points do not rise, or grow faster than disjoint supports would.
    """
    ranks, grown = np.log(np.array([(1, 1.0), *points], np.float64).T)
    slopes = np.diff(grown) / np.diff(ranks) if (np.diff(ranks) > 0).all() else np.array([np.nan])
    holds = bool(((slopes >= 0) & (slopes <= 1)).all())
    require(holds, f"points {tuple(points)}", "rising contributors, growth of 1 to as many")

    def union(contributors: IntArray) -> FloatArray:
        at = np.log(np.maximum(contributors, 1))
        beyond = np.maximum(at - ranks[-1], 0.0) * (slopes[-1] if len(slopes) else 1.0)
        factor = np.exp(np.interp(at, ranks, grown) + beyond)
        return np.asarray(np.where(contributors > 0, np.minimum(entries * factor, length), 0.0))

    return union


def require(holds: bool, what: str, expected: str) -> None:
    """Refuse an impossible size.

    Raises:
        ValueError: unless it *holds*.
    """
    if not holds:
        raise ValueError(f"sizes: {what}, expected {expected}")


#: Most counters (one per rank and chunk); they take 1 GiB.
MAX_COUNTERS = 1 << 27


def require_countable(schedule: Schedule) -> None:
    """Refuse a schedule with too many ranks and chunks to count contributors.

    Raises:
        ValueError: naming their numbers.
    """
    require(
        schedule.world_size * schedule.num_chunks <= MAX_COUNTERS,
        f"{schedule.world_size} ranks x {schedule.num_chunks} chunks",
        f"at most {MAX_COUNTERS} counters of contributors",
    )


class Contributors:
    """Numbers of contributions that each chunk of each rank has merged.

    A reduce adds the sender's number, a copy replaces by it; see `UnionSizes`.

    Args:
        schedule: The schedule that is run: its ranks, chunks and servers.

    Raises:
        ValueError: if the schedule has too many ranks and chunks.
    """

    def __init__(self, schedule: Schedule) -> None:
        require_countable(schedule)
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
            For every chunk of every transfer, in order: the sender's number of contributors before
            the step, and the receiver's.  Then the position at which each transfer's run of chunks
            begins, or None if every transfer has one chunk.
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
        """Count in the order listed: a copy replaces earlier counts, and later ones are added."""
        keeps, counts = step.keep != 0, step.weight != 0
        if len(received) > len(step):
            keeps, counts = np.repeat(keeps, step.count), np.repeat(counts, step.count)
        if not keeps.any():  # the last of several copies to one place stays
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
