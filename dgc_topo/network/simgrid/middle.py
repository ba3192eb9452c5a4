"""Links between anchors: found at once where one may be missing, else when they are needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dgc_topo.arrays import IntArray
from dgc_topo.network.simgrid.grids import GridZone
from dgc_topo.network.simgrid.paths import find_path
from dgc_topo.network.simgrid.zones import Point, StarZone

#: Any two of them take room.
_MOST_ANCHORS = 1 << 13


class Middle:
    """The links between any two anchors.

    Within a torus or fat tree, every host reaches every other: these routes are found when they
    are asked for.

    Attributes:
        is_empty: Whether there is no link between two anchors, shape (num_anchors, num_anchors).

    Raises:
        ValueError: if an anchor cannot reach another, or there are too many.
    """

    def __init__(self, anchors: list[Point]) -> None:
        if len(anchors) > _MOST_ANCHORS:
            raise ValueError(
                f"{len(anchors)} hosts outside flat clusters, expected {_MOST_ANCHORS}"
            )
        self._anchors = anchors
        self._rows = np.empty((0, 1), np.int64)
        self._row_of = np.full((len(anchors), len(anchors)), -1, np.int32)
        zones = [anchor.zone for anchor in anchors]
        numbers = {zone: number for number, zone in enumerate(dict.fromkeys(zones))}
        zone_of: IntArray = np.array([numbers[zone] for zone in zones])
        in_grid = np.array([isinstance(zone, GridZone) for zone in zones])
        later: npt.NDArray[np.bool_] = np.equal.outer(zone_of, zone_of) & in_grid
        self._find(*np.nonzero(~later))
        self.is_empty: npt.NDArray[np.bool_] = np.zeros(later.shape, np.bool_)
        self.is_empty[~later] = (self._rows.max(axis=1, initial=-1) < 0)[self._row_of[~later]]

    def between(self, src: IntArray, dst: IntArray) -> IntArray:
        """Return the links between anchors, shape (num_pairs, most), padded with -1."""
        unknown = self._row_of[src, dst] < 0
        if unknown.any():
            pairs = np.unique(src[unknown] * len(self._anchors) + dst[unknown])
            self._find(*np.divmod(pairs, len(self._anchors)))
        return self._rows[self._row_of[src, dst]]

    def all(self) -> IntArray:
        """Return all, shape (num_anchors, num_anchors, most)."""
        size = len(self._anchors)
        return self.between(*np.divmod(np.arange(size**2), size)).reshape(size, size, -1)

    def _find(self, src: IntArray, dst: IntArray) -> None:
        ends = zip(src.tolist(), dst.tolist(), strict=True)
        found = [self._path(self._anchors[start], self._anchors[end]) for start, end in ends]
        first = len(self._rows)
        self._rows = padded([*self._rows.tolist(), *found])
        self._row_of[src, dst] = first + np.arange(len(found))

    @staticmethod
    def _path(src: Point, dst: Point) -> tuple[int, ...]:
        if src is dst and isinstance(src.zone, StarZone) and not src.is_host:
            return src.zone.local(src, dst).links  # from one host of a cluster to another
        return find_path(src, dst)


def padded(rows: Sequence[Sequence[int]]) -> IntArray:
    """Return rows of links as one array, padded with -1."""
    array = np.full((len(rows), max(map(len, rows), default=0)), -1)
    for row, links in zip(array, rows, strict=True):
        row[: len(links)] = links
    return array
