"""Candidates for the largest elements (`Pool`), gathered while each tile is in the cache.

A candidate is an element above its group's threshold.  The threshold decides only how many
candidates there are, never which elements are sent: if a group has at least as many candidates as
it sends, its largest elements are all among them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from dgc_topo.compression.layout import Groups, tile_size


@lru_cache(maxsize=64)
def constant(values: tuple[int, ...], device: torch.device) -> Tensor:
    """Return *values* as int64 on *device*: copied there once, and not to be modified."""
    return torch.tensor(values, dtype=torch.int64, device=device)


def places_of(mask: Tensor) -> Tensor:
    """Return the ascending places of the true elements of a 1-D *mask*, shape (n,), int64."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero().flatten()


def repeated(values: Tensor, lengths: Tensor, total: int) -> Tensor:
    """Repeat each of *values* by its length in *lengths*; *total* elements in all."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.repeat(values.numpy(), lengths.numpy()))
    return values.repeat_interleave(lengths, output_size=total)


def ordered_at(values: Tensor, places: Tensor) -> Tensor:
    """Return the elements at *places*, shape (n,), int64, of the sorted *values*."""
    if values.device.type == "cpu":
        found = np.partition(values.numpy(), np.unique(places.numpy()))
        return torch.from_numpy(found)[places]
    return values.sort().values[places]


def exceeding(
    values: Tensor, threshold: float | Tensor, scratch: Tensor, above: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the ascending places of the magnitudes above *threshold*, and these magnitudes.

    Args:
        values: Shape (n,), float32.
        threshold: One for all, or one for each.
        scratch: Shape (n,), float32; overwritten.
        above: Shape (n,), bool; overwritten.
    """
    if values.device.type != "cpu":
        magnitudes = torch.abs(values, out=scratch)
        places = torch.gt(magnitudes, threshold, out=above).nonzero().flatten()
        return places, magnitudes[places]
    found, passes = np.abs(values.numpy(), out=scratch.numpy()), above.numpy()
    # Allocating memory for every tile would cost more than the comparison.
    limit = threshold.numpy() if isinstance(threshold, Tensor) else threshold
    at = np.flatnonzero(np.greater(found, limit, out=passes))
    return torch.from_numpy(at), torch.from_numpy(found[at])


_LOW = 0x7FFFFFFF  # the bits of a float32 without its sign


class Trimmed(NamedTuple):
    """Candidates that are left, and each group's numbers.

    Attributes:
        places: Ascending places in the list of candidates that are kept, shape (n,), int64.
        sizes: Candidates that each group had, shape (num_groups,), int64.
        smallest: Smallest magnitude kept, by group, float32; 0 where there were too few.
    """

    places: Tensor
    sizes: Tensor
    smallest: Tensor


def trim(magnitudes: Tensor, ends: Tensor, counts: Tensor) -> Trimmed:
    """Keep the *counts* largest magnitudes of each group; of equal ones the first.

    Args:
        magnitudes: Magnitudes of all candidates, group by group, shape (n,), float32, none
            negative.
        ends: End of each group's candidates, shape (num_groups,), int64, ascending.
        counts: Number to keep of each group, shape (num_groups,), int64; all if it has fewer.
    """
    sizes = ends.diff(prepend=ends.new_zeros(1))  # none of no groups
    starts = ends - sizes
    wanted = torch.minimum(counts, sizes)
    numbers = torch.arange(len(sizes), dtype=torch.int64, device=ends.device)
    # The bits of floats that are not negative are ordered as the floats are: one integer sorts by
    # group first and by falling magnitude within it.
    keys = magnitudes.view(torch.int32).to(torch.int64).neg_().add_(_LOW)
    keys.add_(repeated(numbers << 32, sizes, len(keys)))
    limits = _limits(keys, starts, wanted)
    places = places_of(keys <= repeated(limits, sizes, len(keys)))
    if len(places) > int(wanted.sum()):  # of equal magnitudes at a limit, not all fit
        group = repeated(numbers, sizes, len(keys))[places]
        places = places[_first_of_equals(keys[places], group, limits, wanted)]
    bits = (_LOW - (limits & 0xFFFFFFFF)).to(torch.int32)
    full = (counts > 0) & (sizes >= counts)
    return Trimmed(places, sizes, torch.where(full, bits.view(torch.float32), 0.0))


def _limits(keys: Tensor, starts: Tensor, wanted: Tensor) -> Tensor:
    """Return the largest key that each group keeps, shape (num_groups,); -1 where it keeps none."""
    if not len(keys):
        return torch.full_like(starts, -1)
    last = (starts + wanted - 1).clamp_(0, len(keys) - 1)
    return torch.where(wanted > 0, ordered_at(keys, last), -1)


def _first_of_equals(keys: Tensor, group: Tensor, limits: Tensor, wanted: Tensor) -> Tensor:
    """Return a mask of *keys*, none above its group's limit, that leaves *wanted* of each group.

    Of the keys equal to the limit, the last ones are left out.
    """
    tied = keys == limits[group]
    num_tied, num_all = (
        torch.zeros_like(wanted).index_add_(0, group, weight)
        for weight in (tied.to(torch.int64), torch.ones_like(group))
    )
    room = wanted - (num_all - num_tied)
    rank = tied.cumsum(0) - (num_tied.cumsum(0) - num_tied)[group]  # from 1, within the group
    return ~tied | (rank <= room[group])


_ROOM = 1 << 15  # candidates that may wait, beyond twice what is sent, before a trim


class Watcher(Protocol):
    """Observer of the residual while it is written."""

    def watch(self, start: int, values: Tensor) -> None:
        """Gather the candidates of a part of the buffer.

        Args:
            start: Its first element.
            values: Shape (n,), float32.
        """


class Chosen(NamedTuple):
    """Largest elements of each group, and numbers found with them.

    Attributes:
        indices: Shape (n,), int64, strictly ascending.
        found: Candidates that each group had, shape (num_groups,), int64.
        smallest: Smallest magnitude chosen, by group, float32; 0 where there were too few.
    """

    indices: Tensor
    found: Tensor
    smallest: Tensor


class Pool:
    """Candidates of all groups, gathered in ascending order of their indices.

    If far too many pass, the pool keeps only the largest, and the smallest of those becomes its
    group's threshold.  A later element must exceed it, because of equal elements the one with the
    lower index is sent.

    Args:
        groups: Groups of elements; each sends its own largest.
        counts: Number of elements that each group sends.
        thresholds: Threshold of each group, at least 0; shape (num_groups,), float32.
    """

    def __init__(self, groups: Groups, counts: Sequence[int], thresholds: Tensor) -> None:
        self.groups = groups
        self.thresholds = thresholds
        self.device = thresholds.device
        self._counts = constant(tuple(counts), self.device)
        self._ends = constant(groups.offsets[1:], self.device)
        self._limits: list[float] = thresholds.tolist() if self.device.type == "cpu" else []
        self.num_wanted = sum(counts)  #: elements that all groups together send
        self._room = 2 * self.num_wanted + _ROOM
        self._scratch = thresholds[:0]
        self._above = torch.empty(0, dtype=torch.bool, device=self.device)
        self._indices: list[Tensor] = []
        self._magnitudes: list[Tensor] = []
        self._waiting = 0
        self._found = torch.zeros_like(self._counts)

    def watch(self, start: int, values: Tensor) -> None:
        """Gather the candidates of a tile of the buffer.

        Args:
            start: The tile's first element.
            values: Shape (n,), float32.
        """
        threshold = self._threshold_of(start, start + len(values))
        if len(values) > len(self._scratch):
            self._scratch = torch.empty_like(values)
            self._above = torch.empty_like(values, dtype=torch.bool)
        scratch, above = self._scratch[: len(values)], self._above[: len(values)]
        places, magnitudes = exceeding(values, threshold, scratch, above)
        self.put(places.add_(start), magnitudes)

    def watch_all(self, values: Tensor, start: int = 0) -> None:
        """Gather the candidates among *values*, which begin at element *start*, tile by tile."""
        size = tile_size(len(values), self.device)
        for at in range(0, len(values), size):
            self.watch(start + at, values[at : at + size])

    def put(self, indices: Tensor, magnitudes: Tensor) -> None:
        """Add candidates; they must be ascending and come after all earlier ones."""
        self._indices.append(indices)
        self._magnitudes.append(magnitudes)
        self._waiting += len(indices)
        if self._waiting > self._room:
            self._tighten()

    def choose(self) -> Chosen:
        """Return the largest candidates of each group; all of them if there are too few."""
        indices, trimmed = self._trimmed()
        return Chosen(indices[trimmed.places], self._found + trimmed.sizes, trimmed.smallest)

    def _tighten(self) -> None:
        indices, trimmed = self._trimmed()
        self.thresholds = torch.maximum(self.thresholds, trimmed.smallest)
        self._limits = self.thresholds.tolist() if self._limits else []
        self._found += trimmed.sizes - torch.minimum(trimmed.sizes, self._counts)
        self._indices = [indices[trimmed.places]]
        self._magnitudes = [self._magnitudes[0][trimmed.places]]
        self._waiting = len(self._indices[0])

    def _trimmed(self) -> tuple[Tensor, Trimmed]:
        """Join the candidates; return their indices, and the trimmed ones."""
        indices = torch.cat([*self._indices, self._counts[:0]])
        self._magnitudes = [torch.cat([*self._magnitudes, self.thresholds[:0]])]
        self._indices = [indices]
        ends = torch.searchsorted(indices, self._ends)
        return indices, trim(self._magnitudes[0], ends, self._counts)

    def _threshold_of(self, start: int, stop: int) -> float | Tensor:
        """Return the threshold from *start* to *stop*: one for all elements, or one for each."""
        offsets = self.groups.offsets
        first = bisect_right(offsets, start) - 1
        if stop <= offsets[first + 1] and self._limits:
            return self._limits[first]
        last = bisect_right(offsets, stop - 1)
        edges = (start, *offsets[first + 1 : last], stop)
        lengths = torch.tensor(edges, dtype=torch.int64, device=self.device).diff()
        return repeated(self.thresholds[first:last], lengths, stop - start)
