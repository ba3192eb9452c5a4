"""Shares of a sum's entries along the buffer, and chunks that hold equal ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dgc_topo.arrays import FloatArray, IntArray


class Shares:
    """A share of the entries for every element; the same on every rank.

    Chunks cut by `bounds` have equal shares.  Every operation is one that rounds alike on any
    machine, so that ranks agree.

    Args:
        edges: First element of each cell, from 0, then the length of the buffer; strictly rising.
        weights: Share of each cell, in any unit, above 0; equal over its elements.

    Raises:
        ValueError: if the edges do not rise from 0, or a weight is missing or not above 0.
    """

    def __init__(self, edges: IntArray, weights: IntArray) -> None:
        rises = len(edges) > 0 and edges[0] == 0 and bool((np.diff(edges) > 0).all())
        if not rises or len(weights) != len(edges) - 1 or bool((weights <= 0).any()):
            raise ValueError(
                f"shares: {len(weights)} weights for {len(edges)} edges, expected edges that rise "
                "from 0, and a weight above 0 between each two"
            )
        self._edges = edges
        self._before: IntArray = np.concatenate([np.zeros(1, np.int64), np.cumsum(weights)])

    @property
    def edges(self) -> IntArray:
        """First element of each cell, then the length of the buffer."""
        return self._edges

    def bounds(self, length: int, num_chunks: int) -> Sequence[int]:
        """Return offsets of *num_chunks* chunks with equal shares, see `BoundsOf`.

        Raises:
            ValueError: if *length* is not the buffer's.
        """
        edges, before = self._edges, self._before
        if length != edges[-1]:
            raise ValueError(f"shares: for {edges[-1]} elements, expected {length}")
        if not length:
            return [0] * (num_chunks + 1)
        wanted = np.arange(num_chunks) * (before[-1] / num_chunks)
        cell = np.searchsorted(before, wanted, side="right").clip(1, max(len(edges) - 1, 1)) - 1
        inside = (wanted - before[cell]) / np.diff(before)[cell] * np.diff(edges)[cell]
        starts = edges[cell] + np.floor(inside).astype(np.int64)
        return [*starts.tolist(), length]

    def before(self, elements: IntArray) -> FloatArray:
        """Return the share of the elements before each of *elements*, in any unit."""
        return np.interp(elements, self._edges, self._before)
