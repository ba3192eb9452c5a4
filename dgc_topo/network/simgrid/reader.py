"""Reading of a SimGrid platform's elements: zones, points, links and routes."""

from __future__ import annotations

from collections.abc import Callable

from dgc_topo.network.simgrid.clusters import (
    read_backbone,
    read_cabinet,
    read_cluster,
    read_coordinates,
    read_host_link,
    read_peer,
)
from dgc_topo.network.simgrid.links import POLICIES
from dgc_topo.network.simgrid.markup import Element, read_choice, read_rate, read_time
from dgc_topo.network.simgrid.places import IGNORED, SPEEDS, Places, refuse_changes
from dgc_topo.network.simgrid.routing import DijkstraZone, FloydZone
from dgc_topo.network.simgrid.zones import (
    EmptyZone,
    FullZone,
    Point,
    Route,
    StarZone,
    VivaldiZone,
    Zone,
)

_ZONES = ("zone", "AS")
_TRACES = ("trace", "trace_connect")
_HOST = SPEEDS | {"id", "coordinates", "state_file"}
_LINK = {"id", "bandwidth", "latency", "sharing_policy"}
_LINK |= {"bandwidth_file", "latency_file", "state_file"}
#: Attributes of routes.
_POINTS = frozenset({"src", "dst"})
_ENDS = _POINTS | {"gw_src", "gw_dst"}
_SYMMETRICAL = frozenset({"symmetrical"})
#: Known versions of the format; before 3, units and names differ.
_OLDEST, _NEWEST = 3.0, 4.1


def read_platform(root: Element) -> Places:
    """Return the points, links and routes of a ``<platform>``.

    Raises:
        ValueError: naming the line and element that contradicts itself or isn't supported.
    """
    if root.tag != "platform":
        raise ValueError(f"<{root.tag}>, expected <platform>")
    _check_version(root)
    places = Places()
    tops = [child for child in root.children if child.tag not in {*IGNORED, *_TRACES}]
    if len(tops) != 1 or tops[0].tag not in {"cluster", *_ZONES}:
        found = ", ".join(f"<{top.tag}>" for top in tops) or "nothing"
        raise ValueError(f"{found}, expected one <cluster> or one <zone>")
    for element in root.children:
        if element.tag in _TRACES:
            _read_trace(element)
    if tops[0].tag == "cluster":
        read_cluster(tops[0], places, None)
    else:
        _read_zone(tops[0], places, None)
    if not places.hosts:
        raise ValueError("no hosts, expected at least one <cluster> or <host>")
    return places


def _check_version(root: Element) -> None:
    root.refuse_others({"version"}, [child.tag for child in root.children])
    text = root.get("version", str(_NEWEST))
    try:
        known = _OLDEST <= float(text) <= _NEWEST
    except ValueError:
        known = False
    if not known:
        raise root.error(f"version {text}, expected {_OLDEST:g} to {_NEWEST:g}")


def _read_zone(element: Element, places: Places, around: Zone | None) -> None:
    zone = _new_zone(element, places, around)
    places.add(element, zone)
    for child in element.children:
        if child.tag in IGNORED:
            continue
        if child.tag not in _READERS:
            raise child.error(f"<{child.tag}>, expected one of {', '.join(_READERS)}")
        _READERS[child.tag](child, places, zone)
    _find_gateway(zone, places)


def _new_zone(element: Element, places: Places, around: Zone | None) -> Zone:
    element.refuse_others({"id", "routing"}, [child.tag for child in element.children])
    place = element.get("id"), around, element.line
    kinds: dict[str, Callable[[], Zone]] = {
        "full": lambda: FullZone(*place),
        "floyd": lambda: FloydZone(*place),
        "dijkstra": lambda: DijkstraZone(*place),
        "dijkstracache": lambda: DijkstraZone(*place),
        "cluster": lambda: StarZone(*place),
        "vivaldi": lambda: VivaldiZone(places.links, *place),
        "none": lambda: EmptyZone(*place),
    }
    routing = element.get("routing", "Full")
    if routing.lower() not in kinds:
        raise element.error(f"routing {routing}, expected one of {', '.join(kinds)}")
    return kinds[routing.lower()]()


def _find_gateway(zone: Zone, places: Places) -> None:
    """Make a zone's only host, or its only point, the gateway of routes that name none."""
    hosts = [point for point in zone.points if point.is_host]
    only = hosts if len(hosts) == 1 else zone.points if not hosts else []
    if len(only) == 1 and not isinstance(only[0], Zone):
        zone.gateway = only[0]
        places.busy.add(zone.gateway)


def _read_host(element: Element, places: Places, zone: Zone) -> None:
    element.refuse_others(_HOST, ("prop", "disk", "mount"))
    refuse_changes(element)
    host = Point(element.needed("id"), zone, element.line, is_host=True)
    host.coordinates = read_coordinates(element)
    places.add(element, host)


def _read_router(element: Element, places: Places, zone: Zone) -> None:
    element.refuse_others({"id", "coordinates"})
    router = Point(element.needed("id"), zone, element.line)
    router.coordinates = read_coordinates(element)
    places.add(element, router)


def _read_link(element: Element, places: Places, zone: Zone) -> None:
    del zone  # links are known in all zones from here on
    element.refuse_others(_LINK, ("prop",))
    refuse_changes(element)
    policy = read_choice(element, "sharing_policy", POLICIES, "SHARED")
    rate = read_rate(element, "bandwidth"), read_time(element, "latency")
    name = element.needed("id")
    places.links.define(element, name, places.links.add_ways(name, rate, policy))


def _read_trace(element: Element, *places: object) -> None:
    """Ignore changes of a host's speed, and traces that no element uses."""
    del places
    if element.tag == "trace_connect" and element.get("kind") not in {"SPEED", "POWER"}:
        raise element.error(
            f"kind {element.get('kind', 'HOST_AVAIL')}: what changes over time is not read, "
            "expected it in the scenario"
        )


def _read_route(element: Element, places: Places, zone: Zone) -> None:
    """Add a route, and the way back unless the element excludes it.

    Raises:
        ValueError: if an end, a gateway or a link is unknown or elsewhere, or there is a route.
    """
    src, dst, route, back = _read_ends(element, places, _SYMMETRICAL)
    for end in (src, dst):
        if end.zone is not zone:
            raise element.error(
                f"{end.name} is not right inside zone {zone.name}, expected it to be"
            )
    symmetrical = read_choice(element, "symmetrical", ("YES", "NO", "yes", "no"), "YES")
    try:
        zone.add_route(src, dst, route)
        if symmetrical.upper() == "YES" and src is not dst:
            zone.add_route(dst, src, back)
    except ValueError as error:
        raise element.error(str(error)) from error


def _read_bypass(element: Element, places: Places, zone: Zone) -> None:
    """Add a one-way route that overrides all others.

    Raises:
        ValueError: if an end, a gateway or a link is unknown or elsewhere, or there is one.
    """
    src, dst, route, _ = _read_ends(element, places)
    for end in (src, dst):
        if zone not in end.zones:
            raise element.error(f"{end.name} is not inside zone {zone.name}, expected it to be")
    if (src, dst) in zone.bypasses:
        raise element.error("again, expected it once")
    zone.bypasses[src, dst] = route
    places.busy |= {src, dst}


def _read_ends(
    element: Element, places: Places, more: frozenset[str] = frozenset()
) -> tuple[Point, Point, Route, Route]:
    """Return the ends of a route, the route and its way back."""
    of_zones = element.tag.endswith(("zoneRoute", "ZoneRoute", "ASroute"))
    element.refuse_others((_ENDS if of_zones else _POINTS) | more, {"link_ctn"})
    src, dst = places.find(element, "src"), places.find(element, "dst")
    for end in (src, dst):
        if isinstance(end, Zone) is not of_zones:
            expected = "a zone" if of_zones else "a host or router"
            raise element.error(f"{end.name}: expected {expected}")
    there, back = places.links.of_route(element)
    gateways: list[Point | None] = [None, None]
    if of_zones:
        ends = ((src, "gw_src"), (dst, "gw_dst"))
        gateways = [_gateway(element, places, end, attribute) for end, attribute in ends]
    return src, dst, Route(tuple(there), *gateways), Route(tuple(back), *reversed(gateways))


def _gateway(element: Element, places: Places, zone: Point, attribute: str) -> Point | None:
    """Return the gateway of a zone in a route; by default the zone's own."""
    if not element.get(attribute):
        return zone.gateway if isinstance(zone, Zone) else None
    gateway = places.find(element, attribute)
    if isinstance(gateway, Zone) or zone not in gateway.zones:
        raise element.error(f"{attribute} {gateway.name}, expected a host or router in {zone.name}")
    places.busy.add(gateway)
    return gateway


_READERS: dict[str, Callable[[Element, Places, Zone], object]] = {
    "cluster": read_cluster,
    "link": _read_link,
    "zoneRoute": _read_route,
    "ASroute": _read_route,
    "zone": _read_zone,
    "AS": _read_zone,
    "host": _read_host,
    "router": _read_router,
    "route": _read_route,
    "cabinet": read_cabinet,
    "backbone": read_backbone,
    "host_link": read_host_link,
    "peer": read_peer,
    "bypassRoute": _read_bypass,
    "bypassZoneRoute": _read_bypass,
    "bypassASroute": _read_bypass,
    "trace": _read_trace,
    "trace_connect": _read_trace,
}
