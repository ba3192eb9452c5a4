"""Routes of a SimGrid platform as arrays, without memory per pair of a cluster's hosts.

A route has three pieces: from the host to its *anchor*, from anchor to anchor, and from there to
the other host.  The anchor of a cluster's hosts is the cluster's centre; other hosts are their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dgc_topo.arrays import FloatArray, IntArray
from dgc_topo.network.network import pack_routes
from dgc_topo.network.simgrid.grids import GridZone
from dgc_topo.network.simgrid.places import Places
from dgc_topo.network.simgrid.routing import find_path
from dgc_topo.network.simgrid.zones import Point, StarZone, VivaldiZone, Zone

#: Most anchors; every pair of them takes memory.
_MOST_ANCHORS = 1 << 13


class Pieces:
    """The pieces of all routes of a platform.

    Attributes:
        up: Links from each host to its anchor, shape (num_hosts, most), padded with -1.
        down: Links from its anchor to each host.
        anchor_of: Number of each host's anchor.

    Raises:
        ValueError: if a host cannot reach another.
    """

    def __init__(self, places: Places) -> None:
        self._hosts = hosts = places.hosts
        centres = _centres(places)
        anchors: dict[Point, int] = {}
        for host in hosts:
            anchors.setdefault(centres.get(host.zone, host), len(anchors))
        self.anchor_of = np.array([anchors[centres.get(host.zone, host)] for host in hosts])
        stars = [host.zone if host.zone in centres else None for host in hosts]
        ways = [
            (star.up[host], star.down[host]) if isinstance(star, StarZone) else ((), ())
            for host, star in zip(hosts, stars, strict=True)
        ]
        self.up, self.down = padded([up for up, _ in ways]), padded([down for _, down in ways])
        self._middle = Middle(list(anchors))
        self._refuse_nothing_between()

    def _refuse_nothing_between(self) -> None:
        """Refuse pairs of hosts without a link between them: SimGrid has no route there."""
        bare = np.flatnonzero((self.up < 0).all(axis=1))
        at = self.anchor_of[bare]
        empty = self._middle.is_empty[np.ix_(at, at)] & (bare[:, None] != bare)
        if empty.any():
            src, dst = (self._hosts[bare[end]] for end in np.argwhere(empty)[0].tolist())
            raise ValueError(f"no link between {src.name} and {dst.name}, expected at least one")

    def routes(self, src: IntArray, dst: IntArray) -> IntArray:
        """Return the links between hosts; see `dgc_topo.network.network.Router`."""
        middle = self._middle.between(self.anchor_of[src], self.anchor_of[dst])
        routes = np.column_stack([self.up[src], middle, self.down[dst]])
        routes[src == dst] = -1
        return pack_routes(routes)

    def ends(self, host: int) -> tuple[set[int], set[int]]:
        """Return the links at a host's end of its routes, and those between all other hosts.

        A host that others' routes pass through has own links, too, if its zone gives it some.
        """
        point = self._hosts[host]
        given = point.zone.ends(point) if point.zone else None
        if given is not None:
            return given
        at = self.anchor_of[host]
        middle = self._middle.all()
        others = np.flatnonzero(np.arange(len(middle)) != at)
        leaving, arriving = middle[at, others], middle[others, at]
        last = (arriving >= 0).sum(axis=1) - 1
        ends = {*leaving[:, 0].tolist(), *arriving[np.arange(len(last)), last].tolist()}
        return ends, set(np.unique(middle[np.ix_(others, others)]).tolist())

    def narrowest(self, bandwidth: FloatArray) -> Narrowest:
        """Return the smallest bandwidth on each piece of the routes, infinite without a link."""
        padded_too = np.append(bandwidth, np.inf)
        return Narrowest(
            padded_too[self.up].min(axis=1, initial=np.inf),
            padded_too[self._middle.all()].min(axis=2, initial=np.inf),
            padded_too[self.down].min(axis=1, initial=np.inf),
            self.anchor_of,
        )


class Narrowest:
    """The smallest bandwidth on each piece of the routes."""

    def __init__(
        self, up: FloatArray, middle: FloatArray, down: FloatArray, anchor_of: IntArray
    ) -> None:
        self._up, self._middle, self._down = up, middle, down
        self._anchor_of = anchor_of

    def of_flows(self, src: IntArray, dst: IntArray) -> FloatArray:
        """Return the smallest bandwidth on each route."""
        middle = self._middle[self._anchor_of[src], self._anchor_of[dst]]
        return np.minimum(np.minimum(self._up[src], middle), self._down[dst])

    def least(self) -> FloatArray:
        """Return the smallest bandwidth of all routes, for each pair of anchors."""
        return self._extreme(np.minimum, np.inf)

    def most(self) -> FloatArray:
        """Return an upper bound on the bandwidth of all routes, for each pair of anchors."""
        return self._extreme(np.maximum, 0.0)

    def _extreme(self, extreme: np.ufunc, start: float) -> FloatArray:
        up, down = (np.full(len(self._middle), start) for _ in range(2))
        extreme.at(up, self._anchor_of, self._up)
        extreme.at(down, self._anchor_of, self._down)
        least: FloatArray = np.minimum(np.minimum(up[:, None], self._middle), down)
        return least


def _centres(places: Places) -> dict[Zone | None, Point]:
    """Return the centre of each zone whose hosts differ only in their own links."""
    centres: dict[Zone | None, Point] = {}
    for zone in dict.fromkeys(host.zone for host in places.hosts):
        if isinstance(zone, StarZone) and _is_uniform(zone, places):
            centres[zone] = Point(f"the centre of {zone.name}", zone)
            zone.up[centres[zone]] = zone.down[centres[zone]] = ()
    return centres


def _is_uniform(zone: StarZone, places: Places) -> bool:
    """Return True if a zone's hosts are interchangeable for the rest of the platform."""
    hosts = [point for point in zone.points if point.is_host]
    if isinstance(zone, VivaldiZone) or not all(host in zone.up for host in hosts):
        return False
    used = Counter(zone.backbone)
    for host in hosts:
        used.update({*zone.up[host], *zone.down[host]})
    return places.busy.isdisjoint(hosts) and max(used.values()) == 1


class Middle:
    """The links between any two anchors.

    Routes inside a torus or fat tree are found when they are asked for.

    Attributes:
        is_empty: True where there is no link between two anchors, shape (num_anchors, num_anchors).

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
