"""Groups: the ranges of the flat buffer that compete among themselves to be sent."""

from __future__ import annotations

from dataclasses import dataclass

from dgc_topo.compression.layout import FlatLayout


def layer_count(num_elements: int, density: float) -> int:
    """Return how many of a group's elements are sent: ``round(density * n)``, but at least one."""
    return min(num_elements, max(1, round(density * num_elements)))


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
        """Return how many elements each group sends, as `layer_count` says."""
        starts, stops = self.offsets[:-1], self.offsets[1:]
        return [
            layer_count(stop - start, density) for start, stop in zip(starts, stops, strict=True)
        ]
