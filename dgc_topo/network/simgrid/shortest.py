"""Zones whose routes are found: those with the fewest links."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import pairwise
from math import inf

import numpy as np

from dgc_topo.network.simgrid.zones import FullZone, Point, Route, Zone

#: Finds the links between any two points.
Finder = Callable[[Point, Point], tuple[int, ...]]


class ShortestZone(FullZone):
    """A zone that names some routes; the others are chains of these.

    Where one such route ends at another gateway than the next begins, the way between them counts
    as well, but not when chains are compared.  Of chains with as many links, SimGrid's algorithms
    take different ones; so do the two zones here.
    """

    def __init__(self, find: Finder, name: str, zone: Zone | None, line: int = 0) -> None:
        super().__init__(name, zone, line)
        self._find = find
        self._before: dict[Point, dict[Point, Point]] | None = None

    def local(self, src: Point, dst: Point) -> Route:
        """As `Zone.local`."""
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
                links += self._find(part.dst, after.src)
            links += after.links
        return Route(tuple(links), parts[0].src, parts[-1].dst)

    def _search(self) -> dict[Point, dict[Point, Point]]:
        """Return, for each source, the point before each other point on the way to it."""
        raise NotImplementedError


class FloydZone(ShortestZone):
    """A zone whose routes Floyd's algorithm finds, for all points together."""

    routing = "Floyd"

    def _search(self) -> dict[Point, dict[Point, Point]]:
        """As `ShortestZone._search`."""
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
        """As `ShortestZone._search`."""
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
