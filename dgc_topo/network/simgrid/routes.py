"""Elements that say over which links two points reach each other."""

from __future__ import annotations

from dgc_topo.network.simgrid.markup import Element
from dgc_topo.network.simgrid.places import Places
from dgc_topo.network.simgrid.values import read_choice
from dgc_topo.network.simgrid.zones import Point, Route, Zone

_POINTS = frozenset({"src", "dst"})
_ZONES = _POINTS | {"gw_src", "gw_dst"}
_SYMMETRICAL = frozenset({"symmetrical"})


def read_route(element: Element, places: Places, zone: Zone) -> None:
    """Add a route, and the way back unless it says otherwise.

    Raises:
        ValueError: if an end, a gateway or a link is unknown or elsewhere, or there is a route.
    """
    src, dst, route, back = _read(element, places, _SYMMETRICAL)
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


def read_bypass(element: Element, places: Places, zone: Zone) -> None:
    """Add a route that holds before all others, one way.

    Raises:
        ValueError: if an end, a gateway or a link is unknown or elsewhere, or there is one.
    """
    src, dst, route, _ = _read(element, places)
    for end in (src, dst):
        if zone not in end.zones:
            raise element.error(f"{end.name} is not inside zone {zone.name}, expected it to be")
    if (src, dst) in zone.bypasses:
        raise element.error("again, expected it once")
    zone.bypasses[src, dst] = route
    places.busy |= {src, dst}


def _read(
    element: Element, places: Places, more: frozenset[str] = frozenset()
) -> tuple[Point, Point, Route, Route]:
    """Return the ends of a route, the route and its way back."""
    of_zones = element.tag.endswith(("zoneRoute", "ZoneRoute", "ASroute"))
    element.refuse_others((_ZONES if of_zones else _POINTS) | more, {"link_ctn"})
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
    """Return the point of a zone that a route joins; its own gateway if the route says none."""
    if not element.get(attribute):
        return zone.gateway if isinstance(zone, Zone) else None
    gateway = places.find(element, attribute)
    if isinstance(gateway, Zone) or zone not in gateway.zones:
        raise element.error(f"{attribute} {gateway.name}, expected a host or router in {zone.name}")
    places.busy.add(gateway)
    return gateway
