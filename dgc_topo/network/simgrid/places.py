"""The points (hosts, routers, zones) of a SimGrid platform by name, shared by all readers."""

from __future__ import annotations

from dgc_topo.network.simgrid.links import Links
from dgc_topo.network.simgrid.markup import Element, nearest
from dgc_topo.network.simgrid.zones import Point

#: Elements without meaning for communication; their content is ignored, too.
IGNORED = frozenset(
    {"prop", "config", "random", "model_prop", "disk", "storage", "storage_type", "mount"}
    | {"actor", "process"}
)
#: Attributes that make a host, peer or link change over time.
_OVER_TIME = ("state_file", "bandwidth_file", "latency_file")
#: Attributes of hosts, peers and clusters without meaning for communication.
SPEEDS = frozenset({"speed", "power", "core", "pstate", "speed_file", "availability_file"})
SPEEDS |= {"availability"}


class Places:
    """A platform, as far as it has been read.

    Attributes:
        links: All links.
        hosts: Hosts in the order of the file.
        busy: Points that are gateways of routes or ends of bypasses.
    """

    def __init__(self) -> None:
        self.links = Links()
        self.hosts: list[Point] = []
        self.busy: set[Point] = set()
        self._points: dict[str, Point] = {}

    def add(self, element: Element, point: Point) -> None:
        """Add a point to its zone.

        Raises:
            ValueError: if there is one of this name already.
        """
        before = self._points.get(point.name)
        if before is not None:
            raise element.error(
                f"{point.name} again, expected a name of its own (line {before.line} has it)"
            )
        self._points[point.name] = point
        if point.zone is not None:
            point.zone.points.append(point)
        if point.is_host:
            self.hosts.append(point)

    def find(self, element: Element, attribute: str) -> Point:
        """Return the point that an attribute names.

        Raises:
            ValueError: if there is none of this name so far.
        """
        name = element.needed(attribute)
        if name not in self._points:
            near = nearest(name, self._points)
            raise element.error(f"{attribute} {name!r}: no such place before, expected {near}")
        return self._points[name]


def refuse_changes(element: Element) -> None:
    """Refuse an element that changes over time.

    Raises:
        ValueError: naming the attribute.
    """
    for attribute in _OVER_TIME:
        if element.get(attribute):
            raise element.error(
                f"{attribute}: what changes over time is not read, expected it in the scenario"
            )
