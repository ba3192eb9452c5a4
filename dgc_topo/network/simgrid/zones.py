"""Zones of a SimGrid platform: points, and the routes between the points of one zone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import hypot
from typing import NamedTuple

from dgc_topo.network.simgrid.links import Links


class Point:
    """A host, a router, or a zone seen from outside.

    Attributes:
        name: Unique in a platform.
        zone: The zone that it belongs to; None for the outermost zone.
        line: Line of the file.
        is_host: True for a host.
        coordinates: Position in a Vivaldi zone: x, y and height, in ms.
    """

    __slots__ = ("coordinates", "is_host", "line", "name", "zone")

    def __init__(
        self, name: str, zone: Zone | None, line: int = 0, *, is_host: bool = False
    ) -> None:
        self.name = name
        self.zone = zone
        self.line = line
        self.is_host = is_host
        self.coordinates: tuple[float, ...] = ()

    @property
    def zones(self) -> list[Zone]:
        """The zones around it, from the outermost to its own."""
        around: list[Zone] = []
        zone = self.zone
        while zone is not None:
            around.insert(0, zone)
            zone = zone.zone
        return around


class Route(NamedTuple):
    """Links between two points of a zone, and the gateways inside them if these are zones.

    A gateway that is None is the point itself.
    """

    links: tuple[int, ...]
    src: Point | None = None
    dst: Point | None = None


class Zone(Point, ABC):
    """Points with routes between them.

    Attributes:
        points: Hosts, routers and zones right inside.
        gateway: The point at which a route to the zone ends, unless the route names another.
        bypasses: Routes that override all others, between any two points inside.
    """

    routing = "Full"

    def __init__(self, name: str, zone: Zone | None, line: int = 0) -> None:
        super().__init__(name, zone, line)
        self.points: list[Point] = []
        self.gateway: Point | None = None
        self.bypasses: dict[tuple[Point, Point], Route] = {}

    def add_route(self, src: Point, dst: Point, route: Route) -> None:
        """Add a route.

        Raises:
            ValueError: if there is one, or zones of this routing have none.
        """
        del src, dst, route
        raise ValueError(f"zone {self.name} has routing {self.routing}, expected no routes in it")

    @abstractmethod
    def local(self, src: Point, dst: Point) -> Route:
        """Return the route between two points right inside.

        Raises:
            ValueError: if there is none.
        """

    def ends(self, point: Point) -> tuple[set[int], set[int]] | None:
        """Return the links at a point's end of all its routes, those around its zone included.

        Returns None if only its routes can tell.
        """
        del point
        return None

    def no_route(self, src: Point, dst: Point) -> ValueError:
        """Return the error that there is no route."""
        tag = "<zoneRoute>" if isinstance(src, Zone) and isinstance(dst, Zone) else "<route>"
        return ValueError(f"no route from {src.name} to {dst.name}, expected a {tag}")


class EmptyZone(Zone):
    """A zone without routes: its points can't reach each other."""

    routing = "None"

    def local(self, src: Point, dst: Point) -> Route:
        """Return the route between two points right inside."""
        raise ValueError(
            f"no route from {src.name} to {dst.name}, for zone {self.name} has routing None"
        )


class FullZone(Zone):
    """A zone that names the route between any two points."""

    def __init__(self, name: str, zone: Zone | None, line: int = 0) -> None:
        super().__init__(name, zone, line)
        self.table: dict[tuple[Point, Point], Route] = {}

    def add_route(self, src: Point, dst: Point, route: Route) -> None:
        """Add a route; see `Zone.add_route`."""
        if (src, dst) in self.table:
            raise ValueError(
                f"a route from {src.name} to {dst.name} again, expected it once "
                "(a route counts both ways unless symmetrical is NO)"
            )
        self.table[src, dst] = route

    def local(self, src: Point, dst: Point) -> Route:
        """Return the route between two points right inside."""
        if (src, dst) not in self.table:
            raise self.no_route(src, dst)
        return self.table[src, dst]


class StarZone(Zone):
    """A cluster: each point has links to and from the centre; routes cross the backbone, if any.

    A link that is on the way up and on the way down is crossed once.
    """

    routing = "Cluster"

    def __init__(self, name: str, zone: Zone | None, line: int = 0) -> None:
        super().__init__(name, zone, line)
        self.up: dict[Point, tuple[int, ...]] = {}
        self.down: dict[Point, tuple[int, ...]] = {}
        self.backbone: tuple[int, ...] = ()

    def local(self, src: Point, dst: Point) -> Route:
        """Return the route between two points right inside."""
        links: list[int] = []
        if src in self.up:
            links += [*self.up[src], *self.backbone]
        if dst in self.down:
            links += [*self.backbone, *self.down[dst]]
        return Route(tuple(dict.fromkeys(links)))

    def ends(self, point: Point) -> tuple[set[int], set[int]] | None:
        """Return the links at a point's end; see `Zone.ends`."""
        if point not in self.up:
            return None
        others = {
            link
            for ways in (self.up, self.down)
            for other, links in ways.items()
            if other is not point
            for link in links
        }
        return {*self.up[point], *self.down[point]}, others


class VivaldiZone(StarZone):
    """A cloud of hosts with latencies from coordinates (Dabek et al., SIGCOMM 2004)."""

    routing = "Vivaldi"

    def __init__(self, links: Links, name: str, zone: Zone | None, line: int = 0) -> None:
        super().__init__(name, zone, line)
        self._links = links
        self._far: dict[tuple[Point, Point], int] = {}

    def local(self, src: Point, dst: Point) -> Route:
        """Return the route between two points right inside."""
        if (src, dst) not in self._far:
            for point in (src, dst):
                if not point.coordinates:
                    raise ValueError(f"no coordinates of {point.name}, expected some")
            (x, y, height), (to_x, to_y, to_height) = src.coordinates, dst.coordinates
            far_s = (hypot(x - to_x, y - to_y) + abs(height) + abs(to_height)) / 1000
            name = f"{src.name} -> {dst.name}"
            self._far[src, dst] = self._far[dst, src] = self._links.add(name, float("inf"), far_s)
        links = (*self.up.get(src, ()), self._far[src, dst], *self.down.get(dst, ()))
        return Route(tuple(dict.fromkeys(links)))
