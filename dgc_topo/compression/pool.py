"""The pool: candidates for the largest elements, gathered while each tile is in the cache.

A candidate is what exceeds its group's threshold.  However it was guessed, the threshold decides
only how many candidates there are, never what is sent: if a group has at least as many as it
sends, its largest elements are all among them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dgc_topo.compression.arrays import constant, exceeding, repeated
from dgc_topo.compression.groups import Groups
from dgc_topo.compression.tiles import tile_size
from dgc_topo.compression.trim import Trimmed, trim

_ROOM = 1 << 15  # candidates that may wait, beyond twice what is sent, before a trim


class Watcher(Protocol):
    """What looks on while the residual is written."""

    def watch(self, start: int, values: Tensor) -> None:
        """Gather what a part of the buffer has to offer.

        Args:
            start: Its first element.
            values: Shape (n,), float32.
        """


class Chosen(NamedTuple):
    """The largest elements of each group, and what finding them has told."""

    indices: Tensor  #: shape (n,), int64, strictly ascending
    found: Tensor  #: candidates that each group had, shape (num_groups,), int64
    smallest: Tensor  #: smallest magnitude chosen, by group, float32; 0 where there were too few


class Pool:
    """Candidates of all groups, gathered in ascending order of their indices.

    If far too many pass, the pool is trimmed to the largest, and the smallest of those becomes its
    group's threshold: an element that comes later has to exceed it, since of equal ones the lower
    index is sent.

    Args:
        groups: Who competes with whom.
        counts: How many each group sends.
        thresholds: Of each group, at least 0; shape (num_groups,), float32.
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
        """Gather what a tile of the buffer has to offer.

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
        """Gather what *values* have to offer, from element *start* on, a tile at a time."""
        size = tile_size(len(values), self.device)
        for at in range(0, len(values), size):
            self.watch(start + at, values[at : at + size])

    def put(self, indices: Tensor, magnitudes: Tensor) -> None:
        """Add candidates, which come after all that are there, ascending."""
        self._indices.append(indices)
        self._magnitudes.append(magnitudes)
        self._waiting += len(indices)
        if self._waiting > self._room:
            self._tighten()

    def choose(self) -> Chosen:
        """Return the largest candidates of each group; all of them where they are too few."""
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
        """Join the candidates and return their indices, and what trimming leaves of them."""
        indices = torch.cat([*self._indices, self._counts[:0]])
        self._magnitudes = [torch.cat([*self._magnitudes, self.thresholds[:0]])]
        self._indices = [indices]
        ends = torch.searchsorted(indices, self._ends)
        return indices, trim(self._magnitudes[0], ends, self._counts)

    def _threshold_of(self, start: int, stop: int) -> float | Tensor:
        """Return what an element from *start* to *stop* has to exceed: of all, or of each."""
        offsets = self.groups.offsets
        first = bisect_right(offsets, start) - 1
        if stop <= offsets[first + 1] and self._limits:
            return self._limits[first]
        last = bisect_right(offsets, stop - 1)
        edges = (start, *offsets[first + 1 : last], stop)
        lengths = torch.tensor(edges, dtype=torch.int64, device=self.device).diff()
        return repeated(self.thresholds[first:last], lengths, stop - start)
