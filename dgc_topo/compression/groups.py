"""Groups: the ranges of the flat buffer that compete among themselves to be sent."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from dgc_topo.compression.layout import FlatLayout
from dgc_topo.sizes import entries_of


@dataclass(frozen=True, slots=True)
class Groups:
    """Consecutive ranges that cover a flat buffer; each sends its own largest elements.

    One per layer is the paper's rule and keeps every layer learning; a single one over the whole
    model sends the largest elements wherever they are.
    """

    offsets: tuple[int, ...]  #: first element of each group, then the length of the buffer

    @classmethod
    def per_layer(cls, layout: FlatLayout) -> Groups:
        """Return one group per tensor."""
        return cls(layout.offsets)

    @classmethod
    def whole(cls, layout: FlatLayout) -> Groups:
        """Return a single group."""
        return cls((0, layout.length))

    @property
    def num_groups(self) -> int:
        """Number of groups."""
        return len(self.offsets) - 1

    def counts(self, density: float) -> list[int]:
        """Return the number of elements that each group sends, see `entries_of`."""
        return [entries_of(stop - start, density) for start, stop in pairwise(self.offsets)]
