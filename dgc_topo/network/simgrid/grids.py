"""Zones that are a torus or a fat tree, with SimGrid's links and routes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from dgc_topo.network.simgrid.links import Ways
from dgc_topo.network.simgrid.zones import Point, Route, Zone

#: Function that adds a link between two named ends, for both ways.
Joiner = Callable[[str, str], Ways]
#: Function that adds the limit on an end's traffic, if there is one.
Limiter = Callable[[str], tuple[int, ...]]

#: A node of a fat tree: its level and its label.
_Node = tuple[int, tuple[int, ...]]


@dataclass(frozen=True)
class TreeShape:
    """Levels of a fat tree, from the hosts up.

    Attributes:
        children: Number of children of a switch, by level.
        parents: Number of parents of a node below each level.
        ports: Number of links between a node below each level and each of its parents.
    """

    children: tuple[int, ...]
    parents: tuple[int, ...]
    ports: tuple[int, ...]


class GridZone(Zone):
    """A zone whose hosts are given together, in the order of their places in a grid or tree.

    Attributes:
        position: Number of each host, from 0.
        at: Links that leave and reach each host.
    """

    def __init__(self, name: str, zone: Zone | None, line: int = 0) -> None:
        super().__init__(name, zone, line)
        self.position: dict[Point, int] = {}
        self.at: dict[str, set[int]] = {}

    @abstractmethod
    def join(self, hosts: list[Point], link: Joiner, limit: Limiter) -> None:
        """Join the hosts by links."""

    def ends(self, point: Point) -> tuple[set[int], set[int]] | None:
        """Return the links at a point's end; see `Zone.ends`."""
        return set(self.at[point.name]), set()

    def _link(self, link: Joiner, start: str, end: str) -> Ways:
        ways = link(start, end)
        self.at.setdefault(start, set()).update(ways)
        self.at.setdefault(end, set()).update(ways)
        return ways


class TorusZone(GridZone):
    """Hosts joined to their neighbours in each dimension; a route goes one dimension at a time."""

    routing = "torus"

    def __init__(self, sizes: tuple[int, ...], name: str, zone: Zone | None, line: int = 0) -> None:
        super().__init__(name, zone, line)
        self._sizes = sizes
        self._next: dict[tuple[int, int], Ways] = {}  # by host and dimension: to the next one
        self._limits: list[tuple[int, ...]] = []

    def join(self, hosts: list[Point], link: Joiner, limit: Limiter) -> None:
        """Join the hosts by links."""
        self.position = {host: index for index, host in enumerate(hosts)}
        self._limits = [limit(host.name) for host in hosts]
        self.at = {host.name: set() for host in hosts}
        for here, host in enumerate(hosts):
            for dimension, size in enumerate(self._sizes):
                there = self._step(here, dimension, 1)
                # In a dimension of two hosts, SimGrid's routes use only one of the two links.
                if size > 2 or there > here:  # noqa: PLR2004
                    ways = self._link(link, host.name, hosts[there].name)
                    self._next[here, dimension] = ways

    def _step(self, here: int, dimension: int, by: int) -> int:
        stride, size = prod(self._sizes[:dimension]), self._sizes[dimension]
        at = here // stride % size
        return here + ((at + by) % size - at) * stride

    def local(self, src: Point, dst: Point) -> Route:
        """Return the route between two points right inside."""
        here, goal = self.position[src], self.position[dst]
        links: list[int] = []
        for dimension, size in enumerate(self._sizes):
            stride = prod(self._sizes[:dimension])
            start, end = here // stride % size, goal // stride % size
            forward = start < end <= start + size // 2 or (
                start > size // 2 and (start + size // 2) % size >= end
            )
            while here // stride % size != end:
                there = self._step(here, dimension, 1 if forward else -1)
                ways = self._next[here, dimension] if forward else self._next[there, dimension]
                links += [*self._limits[here], ways.up if forward else ways.down]
                here = there
        return Route((*links, *self._limits[goal]))


class FatTreeZone(GridZone):
    """Levels of switches over the hosts (Zahavi, JPDC 72(11), 2012: parallel-ports tree).

    On the way up the destination decides the parents (d-mod-k); on the way down the source decides
    among parallel links.
    """

    routing = "fat tree"

    def __init__(self, shape: TreeShape, name: str, zone: Zone | None, line: int = 0) -> None:
        super().__init__(name, zone, line)
        self._shape = shape
        self._up: dict[tuple[_Node, int], Ways] = {}  # by node and parent's number and port
        self._limits: dict[_Node, tuple[int, ...]] = {}
        self._labels: list[tuple[int, ...]] = []

    def join(self, hosts: list[Point], link: Joiner, limit: Limiter) -> None:
        """Join the hosts by links."""
        self.position = {host: index for index, host in enumerate(hosts)}
        shape, num_levels = self._shape, len(self._shape.children)
        levels = [
            _labels((*shape.parents[:level], *shape.children[level:]))
            for level in range(num_levels + 1)
        ]
        self._labels = levels[0]
        names = {(0, label): host.name for host, label in zip(hosts, levels[0], strict=True)}
        for level in range(1, num_levels + 1):
            for index, label in enumerate(levels[level]):
                names[level, label] = f"{self.name} switch {level}.{index}"
        self._limits = {node: limit(name) for node, name in names.items()}
        for node, name in names.items():
            level = node[0]
            if level < num_levels:
                for port in range(shape.parents[level] * shape.ports[level]):
                    self._up[node, port] = self._link(link, name, names[self._parent(node, port)])

    def _parent(self, node: _Node, port: int) -> _Node:
        level, label = node
        number = port % self._shape.parents[level]
        return level + 1, (*label[:level], number, *label[level + 1 :])

    def local(self, src: Point, dst: Point) -> Route:
        """Return the route between two points right inside."""
        shape, goal = self._shape, self._labels[self.position[dst]]
        node: _Node = 0, self._labels[self.position[src]]
        links: list[int] = []
        number = self.position[dst]
        while node[0] == 0 or node[1][node[0] :] != goal[node[0] :]:
            level = node[0]
            port = number % (shape.parents[level] * shape.ports[level])
            links += [*self._limits[node], self._up[node, port].up]
            number //= shape.parents[level]
            node = self._parent(node, port)
        while node[0] > 0:
            level, label = node[0] - 1, node[1]
            below: _Node = level, (*label[:level], goal[level], *label[level + 1 :])
            port = label[level] + self.position[src] % shape.ports[level] * shape.parents[level]
            links += [self._up[below, port].down, *self._limits[node]]
            node = below
        return Route((*links, *self._limits[node]))


def _labels(sizes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return all labels, the first digit running fastest."""
    labels: list[tuple[int, ...]] = [()]
    for size in reversed(sizes):
        labels = [(digit, *rest) for rest in labels for digit in range(size)]
    return labels
