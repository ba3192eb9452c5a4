"""Routes as arrays, without storage per pair of hosts of a cluster.

A route is three pieces: from the host to its *anchor*, from anchor to anchor, and from there to
the other host.  The anchor of a cluster's hosts is the cluster's centre; other hosts are their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from dgc_topo.simulate.network import FloatArray, IntArray, pack_routes
from dgc_topo.simulate.simgrid.paths import find_path
from dgc_topo.simulate.simgrid.places import Places
from dgc_topo.simulate.simgrid.zones import Point, StarZone, VivaldiZone, Zone


class Pieces:
    """The pieces of all routes of a platform.

    Attributes:
        up: Links from each host to its anchor, shape (num_hosts, most), padded with -1.
        down: Links from its anchor to each host.
        anchor_of: Number of each host's anchor.
        middle: Links between anchors, shape (num_anchors, num_anchors, most).

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
        self.up, self.down = _padded([up for up, _ in ways]), _padded([down for _, down in ways])
        middle = [
            src.zone.local(src, dst).links
            if src is dst and isinstance(src.zone, StarZone) and not src.is_host
            else find_path(src, dst)
            for src in anchors
            for dst in anchors
        ]
        self.middle = _padded(middle).reshape(len(anchors), len(anchors), -1)
        self._refuse_nothing_between()

    def _refuse_nothing_between(self) -> None:
        """Refuse hosts that no link separates: SimGrid has no way between them."""
        bare = np.flatnonzero((self.up < 0).all(axis=1))
        at = self.anchor_of[bare]
        empty = (self.middle[np.ix_(at, at)] < 0).all(axis=2) & (bare[:, None] != bare)
        if empty.any():
            src, dst = (self._hosts[bare[end]] for end in np.argwhere(empty)[0].tolist())
            raise ValueError(f"no link between {src.name} and {dst.name}, expected at least one")

    def routes(self, src: IntArray, dst: IntArray) -> IntArray:
        """As `dgc_topo.simulate.network.Router`."""
        middle = self.middle[self.anchor_of[src], self.anchor_of[dst]]
        routes = np.column_stack([self.up[src], middle, self.down[dst]])
        routes[src == dst] = -1
        return pack_routes(routes)

    def ends(self, host: int) -> tuple[set[int], set[int]]:
        """Return the links at a host's end of its routes, and those between all other hosts.

        Where each host of a zone has links to the centre, those are its ends, though others may
        pass through a host that is a gateway.
        """
        point = self._hosts[host]
        if isinstance(point.zone, StarZone) and point in point.zone.up:
            ways = (point.zone.up, point.zone.down)
            others = [links for way in ways for end, links in way.items() if end is not point]
            return {*ways[0][point], *ways[1][point]}, {link for links in others for link in links}
        at = self.anchor_of[host]
        others_at = np.flatnonzero(np.arange(len(self.middle)) != at)
        leaving, arriving = self.middle[at, others_at], self.middle[others_at, at]
        last = (arriving >= 0).sum(axis=1) - 1
        ends = {*leaving[:, 0].tolist(), *arriving[np.arange(len(last)), last].tolist()}
        return ends, set(np.unique(self.middle[np.ix_(others_at, others_at)]).tolist())

    def narrowest(self, bandwidth: FloatArray) -> Narrowest:
        """Return the narrowest of a bandwidth on each piece, infinite where there is no link."""
        padded = np.append(bandwidth, np.inf)
        return Narrowest(
            padded[self.up].min(axis=1, initial=np.inf),
            padded[self.middle].min(axis=2, initial=np.inf),
            padded[self.down].min(axis=1, initial=np.inf),
            self.anchor_of,
        )


class Narrowest:
    """The narrowest bandwidth on each piece of the routes."""

    def __init__(
        self, up: FloatArray, middle: FloatArray, down: FloatArray, anchor_of: IntArray
    ) -> None:
        self._up, self._middle, self._down = up, middle, down
        self._anchor_of = anchor_of

    def of_flows(self, src: IntArray, dst: IntArray) -> FloatArray:
        """Return the narrowest on each route."""
        middle = self._middle[self._anchor_of[src], self._anchor_of[dst]]
        return np.minimum(np.minimum(self._up[src], middle), self._down[dst])

    def least(self) -> FloatArray:
        """Return the narrowest of all routes between two anchors."""
        return self._extreme(np.minimum, np.inf)

    def most(self) -> FloatArray:
        """Return a bound on the widest of all routes between two anchors."""
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
    """Whether hosts of a zone are alike for the rest of the platform."""
    hosts = [point for point in zone.points if point.is_host]
    if isinstance(zone, VivaldiZone) or not all(host in zone.up for host in hosts):
        return False
    used = Counter(zone.backbone)
    for host in hosts:
        used.update({*zone.up[host], *zone.down[host]})
    return places.busy.isdisjoint(hosts) and max(used.values()) == 1


def _padded(rows: Sequence[Sequence[int]]) -> IntArray:
    """Return rows of links as one array, padded with -1."""
    padded = np.full((len(rows), max(map(len, rows))), -1)
    for row, links in zip(padded, rows, strict=True):
        row[: len(links)] = links
    return padded
