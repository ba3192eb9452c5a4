"""Routes between any two points of a SimGrid platform, across nested zones.

Some zones name all of their routes; others name a few, from which shortest paths are made.
"""

from __future__ import annotations

import heapq
from itertools import pairwise, product
from math import inf

import numpy as np

from dgc_topo.network.simgrid.zones import FullZone, Point, Route, Zone


def find_path(src: Point, dst: Point) -> tuple[int, ...]:
    """Return the links from one point to another.

    The innermost zone around both knows the route between its parts.  Inside each part, the route
    leads to or from the gateway that the outer route names.

    Raises:
        ValueError: if there is no route.
    """
    if src is dst:
        return ()
    around_src, around_dst = src.zones, dst.zones
    depth = 0
    for one, other in zip(around_src, around_dst, strict=False):
        if one is not other:
            break
        depth += 1
    zone = around_src[depth - 1]
    from_points, to_points = [*around_src[depth:], src], [*around_dst[depth:], dst]
    ends, route = _bypass(zone, from_points, to_points)
    if route is None:
        ends = from_points[0], to_points[0]
        route = zone.local(*ends)
    return (
        *_inside(src, ends[0], route.src, leaves=True),
        *route.links,
        *_inside(dst, ends[1], route.dst, leaves=False),
    )


def _bypass(
    zone: Zone, from_points: list[Point], to_points: list[Point]
) -> tuple[tuple[Point, Point], Route | None]:
    """Return the innermost bypass between two points, or between zones around them."""
    ends = from_points[-1], to_points[-1]
    if not zone.bypasses:
        return ends, None
    if len(from_points) == len(to_points) == 1:
        return ends, zone.bypasses.get(ends)
    # SimGrid searches the zones around both points from the inside; the zone itself comes last.
    one, other = ([*reversed(points[:-1]), zone] for points in (from_points, to_points))
    at = sorted(
        product(range(len(one)), range(len(other))),
        key=lambda pair: (max(pair), min(pair), pair[0] > pair[1]),
    )
    for first, second in at:
        ends = one[first], other[second]
        if ends in zone.bypasses:
            return ends, zone.bypasses[ends]
    return ends, None


def _inside(point: Point, part: Point, gateway: Point | None, *, leaves: bool) -> tuple[int, ...]:
    """Return the links between a point and the gateway of the part that it is in."""
    if point is part:
        return ()
    if gateway is None:
        gateway = part.gateway if isinstance(part, Zone) else None
    if gateway is None:
        raise ValueError(f"no gateway of zone {part.name}, expected its route to name one")
    return find_path(point, gateway) if leaves else find_path(gateway, point)


class ShortestZone(FullZone):
    """A zone that names some routes; all others are chains of these.

    If one route ends at another gateway than the next one begins, the way between the gateways
    is added, but does not count when chains are compared.  Among chains with equally many links,
    SimGrid's two algorithms choose different ones, and so do the two zones here.
    """

    def __init__(self, name: str, zone: Zone | None, line: int = 0) -> None:
        super().__init__(name, zone, line)
        self._before: dict[Point, dict[Point, Point]] | None = None

    def local(self, src: Point, dst: Point) -> Route:
        """Return the route between two points right inside."""
        if self._before is None:
            self._before = self._search()
        chain, before = [dst], self._before.get(src, {})
        while chain[0] is not src:
            if chain[0] not in before:
                raise self.no_route(src, dst)
            chain.insert(0, before[chain[0]])
        parts = [self.table[ends] for ends in pairwise(chain)]
        links = list(parts[0].links)
        for part, after in pairwise(parts):
            if part.dst is not None and after.src is not None and part.dst is not after.src:
                links += find_path(part.dst, after.src)
            links += after.links
        return Route(tuple(links), parts[0].src, parts[-1].dst)

    def _search(self) -> dict[Point, dict[Point, Point]]:
        """Return, for each source, the point before each other point on the way to it."""
        raise NotImplementedError


class FloydZone(ShortestZone):
    """A zone whose routes Floyd's algorithm finds, for all points together."""

    routing = "Floyd"

    def _search(self) -> dict[Point, dict[Point, Point]]:
        """Return the points on the way; see `ShortestZone._search`."""
        size = len(self.points)
        number = {point: index for index, point in enumerate(self.points)}
        cost = np.full((size, size), inf)
        before = np.full((size, size), -1)
        for (src, dst), route in self.table.items():
            cost[number[src], number[dst]] = len(route.links)
            before[number[src], number[dst]] = number[src]
        for middle in range(size):
            over = cost[:, middle, None] + cost[None, middle, :]
            shorter = over < cost
            cost[shorter] = over[shorter]
            before[shorter] = np.broadcast_to(before[middle], before.shape)[shorter]
        return {
            src: {
                dst: self.points[at]
                for dst, at in zip(self.points, row.tolist(), strict=True)
                if at >= 0
            }
            for src, row in zip(self.points, before, strict=True)
        }


class DijkstraZone(ShortestZone):
    """A zone whose routes Dijkstra's algorithm finds, from one source after the other."""

    routing = "Dijkstra"

    def _search(self) -> dict[Point, dict[Point, Point]]:
        """Return the points on the way; see `ShortestZone._search`."""
        number: dict[Point, int] = {}  # in the order in which routes name them
        after: dict[Point, list[tuple[Point, int]]] = {}
        for (src, dst), route in self.table.items():
            for point in (src, dst):
                number.setdefault(point, len(number))
            after.setdefault(src, []).append((dst, len(route.links)))
        return {src: _tree(src, number, after) for src in number}


def _tree(
    src: Point, number: dict[Point, int], after: dict[Point, list[tuple[Point, int]]]
) -> dict[Point, Point]:
    """Return the point before each point that can be reached from *src*."""
    points = list(number)
    cost = {src: 0}
    before: dict[Point, Point] = {}
    queue = [(0, number[src])]
    while queue:
        so_far, index = heapq.heappop(queue)
        point = points[index]
        if so_far > cost[point]:
            continue
        for end, links in after.get(point, []):
            if so_far + links < cost.get(end, inf):
                cost[end] = so_far + links
                before[end] = point
                heapq.heappush(queue, (cost[end], number[end]))
    return before
