"""Many hosts in one element: clusters and cabinets; and peers."""

from __future__ import annotations

from collections.abc import Iterator

from dgc_topo.simulate.simgrid.links import Ways
from dgc_topo.simulate.simgrid.markup import Element
from dgc_topo.simulate.simgrid.places import SPEEDS, Places, refuse_changes
from dgc_topo.simulate.simgrid.values import read_choice, read_radical, read_rate, read_time
from dgc_topo.simulate.simgrid.zones import Point, StarZone, VivaldiZone, Zone

_HOSTS = SPEEDS | {"id", "prefix", "suffix", "radical", "bw", "lat"}
_CLUSTER = _HOSTS | {"sharing_policy", "bb_bw", "bb_lat", "bb_sharing_policy", "limiter_link"}
_CLUSTER |= {"router_id", "topology", "topo_parameters", "loopback_bw", "loopback_lat"}
_CLUSTER |= {"state_file"}
_PEER = SPEEDS | {"id", "bw_in", "bw_out", "lat", "coordinates", "state_file"}


def read_cluster(element: Element, places: Places, around: Zone | None) -> StarZone:
    """Add a flat cluster: hosts around one router, behind links of their own.

    Raises:
        ValueError: naming what makes no sense, or isn't supported.
    """
    element.refuse_others(_CLUSTER, {"prop"})
    refuse_changes(element)
    name = element.needed("id")
    if element.get("topology", "FLAT") != "FLAT" or element.get("topo_parameters"):
        raise ValueError(
            f"line {element.line}: cluster {name}: topology is not supported, expected FLAT "
            "(a [[networks]] table of kind torus or fat-tree draws such networks)"
        )
    zone = StarZone(name, around, element.line)
    places.add(element, zone)
    # FATPIPE is refused: SimGrid's format has it here, but SimGrid shares such links all the same.
    known = ("SPLITDUPLEX", "SHARED", "FULLDUPLEX")
    policy = read_choice(element, "sharing_policy", known, "SPLITDUPLEX")
    zone.backbone = _backbone(element, places)
    rate = read_rate(element, "bw"), read_time(element, "lat")
    limit = read_rate(element, "limiter_link") if element.get("limiter_link") else 0.0
    shared = " up" if policy == "SHARED" else ""
    for host in _add_hosts(element, places, zone):
        ways = places.links.add_ways(f"{host.name}{shared}", rate, policy)
        _strap(places, zone, host, ways, limit)
    router = element.get("router_id") or (
        f"{element.get('prefix')}{name}_router{element.get('suffix')}"
    )
    zone.gateway = Point(router, zone, element.line)
    places.add(element, zone.gateway)
    return zone


def _backbone(element: Element, places: Places) -> tuple[int, ...]:
    policy = read_choice(element, "bb_sharing_policy", ("SHARED", "FATPIPE"), "SHARED")
    latency_s = read_time(element, "bb_lat")
    if not element.get("bb_bw"):
        if latency_s:
            raise element.error(f"bb_lat {element.get('bb_lat')} without bb_bw, expected both")
        return ()
    name = element.get("id")
    rate = read_rate(element, "bb_bw"), latency_s
    ways = places.links.add_ways(f"{name} backbone", rate, policy)
    places.links.define(element, f"{name}_backbone", ways)
    return (ways.up,)


def _strap(places: Places, zone: StarZone, host: Point, ways: Ways, limit: float) -> None:
    """Join a host to its cluster, behind a limit on what it moves both ways if there is one."""
    limiter: tuple[int, ...] = ()
    if limit:
        limiter = (places.links.add(f"{host.name} both ways", limit, 0.0),)
        places.links.limits.update(limiter)
    zone.up[host] = (*limiter, ways.up)
    zone.down[host] = (ways.down, *limiter)


def read_cabinet(element: Element, places: Places, zone: Zone) -> None:
    """Add the hosts of a cabinet to its cluster; the cluster's backbone is between them.

    Raises:
        ValueError: naming what makes no sense.
    """
    element.refuse_others(_HOSTS)
    if not isinstance(zone, StarZone):
        raise element.error(f"expected it in a zone of routing Cluster, not {zone.routing}")
    rate = read_rate(element, "bw"), read_time(element, "lat")
    for host in _add_hosts(element, places, zone):
        _strap(places, zone, host, places.links.add_ways(host.name, rate, "SPLITDUPLEX"), 0.0)


def read_peer(element: Element, places: Places, zone: Zone) -> None:
    """Add a host with links of its own to a cloud.

    Raises:
        ValueError: naming what makes no sense.
    """
    element.refuse_others(_PEER)
    refuse_changes(element)
    if not isinstance(zone, VivaldiZone):
        raise element.error(f"expected it in a zone of routing Vivaldi, not {zone.routing}")
    host = Point(element.needed("id"), zone, element.line, is_host=True)
    places.add(element, host)
    host.coordinates = read_coordinates(element)
    zone.up[host] = (places.links.add(f"{host.name} up", read_rate(element, "bw_out"), 0.0),)
    zone.down[host] = (places.links.add(f"{host.name} down", read_rate(element, "bw_in"), 0.0),)


def read_host_link(element: Element, places: Places, zone: Zone) -> None:
    """Join a host of a cluster to its centre.

    Raises:
        ValueError: if there is no such host or link, or the host has links already.
    """
    element.refuse_others({"id", "up", "down"})
    host = places.find(element, "id")
    if not isinstance(zone, StarZone) or host.zone is not zone:
        raise element.error("expected it in the zone of routing Cluster that its host is in")
    if host in zone.up:
        raise element.error(f"host {host.name} again, expected one <host_link> for each")
    zone.up[host] = (places.links.find(element, element.needed("up")).up,)
    zone.down[host] = (places.links.find(element, element.needed("down")).down,)


def read_backbone(element: Element, places: Places, zone: Zone) -> None:
    """Put a link in the middle of a cluster.

    Raises:
        ValueError: if there is one, or the zone is no cluster.
    """
    element.refuse_others({"id", "bandwidth", "latency"})
    if not isinstance(zone, StarZone) or zone.backbone:
        raise element.error("expected at most one, in a zone of routing Cluster")
    rate = read_rate(element, "bandwidth"), read_time(element, "latency")
    name = element.needed("id")
    ways = places.links.add_ways(name, rate, "SHARED")
    places.links.define(element, name, ways)
    zone.backbone = (ways.up,)


def _add_hosts(element: Element, places: Places, zone: Zone) -> Iterator[Point]:
    """Add the hosts of a radical, and give one after the other."""
    prefix, suffix = element.get("prefix"), element.get("suffix")
    for number in read_radical(element):
        host = Point(f"{prefix}{number}{suffix}", zone, element.line, is_host=True)
        places.add(element, host)
        yield host


def read_coordinates(element: Element) -> tuple[float, ...]:
    """Return x, y and height in ms, or nothing if they are left out.

    Raises:
        ValueError: if they are anything but three finite numbers.
    """
    parts = element.get("coordinates").split()
    try:
        values = tuple(float(part) for part in parts)
    except ValueError:
        values = (float("nan"),)
    if len(values) not in {0, 3} or not all(abs(value) < float("inf") for value in values):
        raise element.error(f"coordinates {element.get('coordinates')!r}, expected 3 numbers")
    return values
