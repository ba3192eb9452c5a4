"""Sparse entries of a buffer, kept per run of chunks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from dgc_topo.payload.union import Entries, join, position


class EntryPieces:
    """Entries of a buffer, cut or joined where a transfer begins or ends.

    So a step costs what it moves, not what the buffer holds.

    Args:
        whole: Entries of all chunks.
        bounds: First element of each chunk, and one past the last.

    Attributes:
        bounds: As given.
    """

    def __init__(self, whole: Entries, bounds: Sequence[int]) -> None:
        self.bounds = bounds
        self._starts = [0]  # first chunk of each piece; the pieces cover all chunks
        self._pieces = [whole]

    @property
    def first(self) -> Entries:
        """Entries of the first piece: all of them before anything is cut."""
        return self._pieces[0]

    @property
    def num_entries(self) -> int:
        """Number of entries of all pieces."""
        return sum(len(piece.indices) for piece in self._pieces)

    def run(self, first: int, end: int) -> tuple[int, int]:
        """Return the first element and the number of elements of the chunks first .. end - 1."""
        return self.bounds[first], self.bounds[end] - self.bounds[first]

    def take(self, first: int, end: int) -> Entries:
        """Return the entries of the chunks first .. end - 1."""
        begin, stop = self._split(first), self._split(end)
        if stop - begin > 1:
            self.put(first, end, join(self._pieces[begin:stop]))
        return self._pieces[begin]

    def put(self, first: int, end: int, entries: Entries) -> None:
        """Replace the entries of the chunks first .. end - 1."""
        begin, stop = self._split(first), self._split(end)
        self._starts[begin:stop] = [first]
        self._pieces[begin:stop] = [entries]

    def joined(self) -> Entries:
        """Return the entries of all chunks."""
        return join(self._pieces)

    def _split(self, chunk: int) -> int:
        """Make a piece begin at *chunk* and return its place; the end of all chunks counts."""
        if chunk == len(self.bounds) - 1:
            return len(self._starts)
        place = bisect_left(self._starts, chunk)
        if place == len(self._starts) or self._starts[place] != chunk:
            indices, values = self._pieces[place - 1]
            at = position(indices, self.bounds[chunk])
            self._starts.insert(place, chunk)
            self._pieces[place - 1 : place] = [
                Entries(indices[:at], values[:at]),
                Entries(indices[at:], values[at:]),
            ]
        return place
