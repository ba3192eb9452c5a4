"""Re-selection: where a chunk of a sparse sum completes, only its largest entries go on.

A sum of N ranks' entries has up to N times as many as one rank sent.  Whoever completes a chunk
(see `dgc_topo.schedule.completion`) keeps the chunk's share of the largest before anybody is sent
it; one of those who complete it, the *keeper*, takes the others back for a later sum.  Nothing is
lost: the sum and what was taken back, of all ranks together, are the sum of all contributions.
(Owners that select before the all-gather: Ok-Topk, Li & Hoefler, PPoPP 2022.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import torch

from dgc_topo.arrays import FloatArray, IntArray
from dgc_topo.payload.largest import trim
from dgc_topo.payload.shares import Shares
from dgc_topo.payload.union import Entries
from dgc_topo.schedule.completion import Merge, Role, check_keepers

_PARTS = 1 << 20  #: of an entry, where chunks with equal numbers of them are cut


@dataclass(frozen=True, slots=True)
class Quotas:
    """Numbers of entries to keep of a sum, by range of elements; the same on every rank.

    Inside a range every element has an equal share, unless there are *shares*, so that any cut into
    chunks keeps as many entries in all.

    Attributes:
        offsets: First element of each range, from 0, then the length of the buffer.
        counts: Entries to keep in each range.
        merge: ``reselect``, or ``auto``.
        shares: Shares of the elements inside each range.

    Raises:
        ValueError: if the ranges do not ascend from 0, a count is missing or negative, or *merge*
            is another policy.
    """

    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    merge: Merge = "reselect"
    shares: Shares | None = None

    def __post_init__(self) -> None:
        rises = all(begin <= end for begin, end in pairwise(self.offsets))
        fits = len(self.counts) == len(self.offsets) - 1 and min(self.counts, default=0) >= 0
        if not (fits and rises and self.offsets[0] == 0):
            raise ValueError(
                f"quotas: {len(self.counts)} counts of {len(self.offsets)} offsets, expected "
                "offsets that rise from 0, and a count of at least 0 between each two"
            )
        if self.merge not in {"reselect", "auto"}:
            raise ValueError(f"quotas: merge {self.merge!r}, expected 'reselect' or 'auto'")

    def before(self, elements: IntArray) -> IntArray:
        """Return the entries to keep among the elements before each of *elements*."""
        return np.asarray(np.floor(self._before(elements) + 0.5), np.int64)

    def bounds(self, length: int, num_chunks: int) -> Sequence[int]:
        """Return offsets of *num_chunks* chunks that keep equal numbers of entries, see `BoundsOf`.

        Whoever completes a chunk then sends on no more than the others do.

        Raises:
            ValueError: if *length* is not the buffer's.
        """
        cells = self.offsets if self.shares is None else (*self.offsets, *self.shares.edges)
        edges = np.unique(np.asarray(cells, np.int64))
        kept = np.diff(self._before(edges))
        # Elements of which nothing is kept need some weight to have a place.
        return Shares(edges, 1 + np.floor(kept * _PARTS).astype(np.int64)).bounds(
            length, num_chunks
        )

    def _before(self, elements: IntArray) -> FloatArray:
        """Return the entries to keep before each of *elements*, fractions included."""
        if not self.counts:
            return np.zeros(len(elements))
        offsets, counts = np.asarray(self.offsets, np.int64), np.asarray(self.counts, np.int64)
        place = np.searchsorted(offsets, elements, side="right").clip(1, len(counts)) - 1
        measure = offsets if self.shares is None else self.shares.before(offsets)
        at = elements if self.shares is None else self.shares.before(elements)
        widths = np.diff(measure)
        part = counts[place] * ((at - measure[place]) / np.where(widths > 0, widths, 1)[place])
        earlier = np.asarray([0, *accumulate(self.counts)], np.int64)[place]
        return np.asarray(earlier + part, np.float64)


class Split(NamedTuple):
    """Entries of completed chunks, split.

    Attributes:
        kept: Those that stay in the sum.
        rejected: The others; None if another rank takes them back.
    """

    kept: Entries
    rejected: Entries | None


class Reselection:
    """One rank's re-selection in one run of a schedule.

    Args:
        quotas: Entries to keep.
        role: The rank's part in the run.
        bounds: Offsets of the chunks.

    Raises:
        ValueError: if ``reselect`` leaves nobody to take back what is rejected of some chunk.
    """

    def __init__(self, quotas: Quotas, role: Role, bounds: Sequence[int]) -> None:
        found, rank = role.completion(), role.rank
        if quotas.merge == "reselect":
            check_keepers(role.schedule)
        may = (found.keeper >= 0) & (found.is_passed_on | (quotas.merge == "reselect"))
        self._due = np.where(may, found.merge[rank], 0)
        self._keeps = found.keeper == rank
        self._merges = np.zeros_like(self._due)
        self._quotas, self._bounds = quotas, np.asarray(bounds, np.int64)

    def completed(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        """Note that something arrived for the chunks *first* to *end* - 1; yield what completes.

        Yields:
            Runs of chunks that this completes, for `split`: first chunk, and one past the last.
        """
        self._merges[first:end] += 1
        done = (self._due[first:end] > 0) & (self._due[first:end] == self._merges[first:end])
        if not done.any():
            return
        kind = np.where(done, 1 + self._keeps[first:end], 0)
        edges = first + np.flatnonzero(np.r_[True, kind[1:] != kind[:-1], True])
        for begin, stop in pairwise(edges.tolist()):
            if kind[begin - first]:
                yield begin, stop

    def split(self, first: int, end: int, whole: Entries) -> Split:
        """Split the entries of chunks that are complete.

        Args:
            first: First chunk.
            end: One past the last.
            whole: All their entries.
        """
        edges = self._edges(first, end)
        counts = np.diff(self._quotas.before(edges))
        device = whole.values.device
        ends = torch.searchsorted(whole.indices, torch.from_numpy(edges[1:]).to(device))
        room = torch.from_numpy(counts).to(device)
        places = trim(whole.values.abs(), ends, room).places
        kept = Entries(whole.indices[places], whole.values[places])
        if not self._keeps[first]:
            return Split(kept, None)
        is_rejected = torch.ones(len(whole.indices), dtype=torch.bool, device=device)
        is_rejected[places] = False
        return Split(kept, Entries(whole.indices[is_rejected], whole.values[is_rejected]))

    def _edges(self, first: int, end: int) -> IntArray:
        """Return the elements at which chunks or ranges begin, with the end of the last chunk."""
        bounds = self._bounds[first : end + 1]
        offsets = np.asarray(self._quotas.offsets, np.int64)
        inside = offsets[(offsets > bounds[0]) & (offsets < bounds[-1])]
        return np.union1d(bounds, inside) if len(inside) else np.asarray(bounds)
