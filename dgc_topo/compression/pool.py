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
from dgc_topo.payload.largest import Trimmed, repeated, trim


@lru_cache(maxsize=64)
def constant(values: tuple[int, ...], device: torch.device) -> Tensor:
    """Return *values* as int64 on *device*: copied there once, and not to be modified."""
    return torch.tensor(values, dtype=torch.int64, device=device)


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
