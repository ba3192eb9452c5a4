"""Readers of SimGrid elements that hold many hosts: clusters and cabinets; and of peers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from dgc_topo.network.simgrid.grids import FatTreeZone, GridZone, TorusZone, TreeShape
from dgc_topo.network.simgrid.links import Ways
from dgc_topo.network.simgrid.markup import Element, read_choice, read_radical, read_rate, read_time
from dgc_topo.network.simgrid.places import SPEEDS, Places, refuse_changes
from dgc_topo.network.simgrid.zones import Point, StarZone, VivaldiZone, Zone

_HOSTS = SPEEDS | {"id", "prefix", "suffix", "radical", "bw", "lat"}
_CLUSTER = _HOSTS | {"sharing_policy", "bb_bw", "bb_lat", "bb_sharing_policy", "limiter_link"}
_CLUSTER |= {"router_id", "topology", "topo_parameters", "loopback_bw", "loopback_lat"}
_CLUSTER |= {"state_file"}
#: Most hosts of a torus or fat tree; more are taken for a mistake.
_MOST_LINKS = 1 << 20
_PEER = SPEEDS | {"id", "bw_in", "bw_out", "lat", "coordinates", "state_file"}


def read_cluster(element: Element, places: Places, around: Zone | None) -> Zone:
    """Add a cluster: hosts with own links around a router, a torus, or a fat tree.

    Raises:
        ValueError: naming the impossible or unsupported value.
    """
    element.refuse_others(_CLUSTER, {"prop"})
    refuse_changes(element)
    topology = read_choice(element, "topology", ("FLAT", "TORUS", "FAT_TREE", "DRAGONFLY"), "FLAT")
    if topology == "DRAGONFLY":
        raise element.error("topology DRAGONFLY is not supported, expected FLAT, TORUS, FAT_TREE")
    # FATPIPE is refused: SimGrid's format has it here, but SimGrid shares such links all the same.
    known = ("SPLITDUPLEX", "SHARED", "FULLDUPLEX")
    make = _Links(
        places,
        (read_rate(element, "bw"), read_time(element, "lat")),
        read_choice(element, "sharing_policy", known, "SPLITDUPLEX"),
        read_rate(element, "limiter_link") if element.get("limiter_link") else 0.0,
    )
    if topology == "FLAT":
        return _read_flat(element, places, around, make)
    return _read_grid(element, places, read_grid(element, topology, around), make)


def _read_flat(element: Element, places: Places, around: Zone | None, make: _Links) -> StarZone:
    if element.get("topo_parameters"):
        raise element.error("topo_parameters of a FLAT cluster, expected none")
    name = element.needed("id")
    zone = StarZone(name, around, element.line)
    places.add(element, zone)
    zone.backbone = _backbone(element, places)
    shared = " up" if make.policy == "SHARED" else ""
    for host in _add_hosts(element, places, zone):
        ways = places.links.add_ways(f"{host.name}{shared}", make.rate, make.policy)
        limiter = make.limit(host.name)
        zone.up[host], zone.down[host] = (*limiter, ways.up), (ways.down, *limiter)
    router = element.get("router_id") or (
        f"{element.get('prefix')}{name}_router{element.get('suffix')}"
    )
    zone.gateway = Point(router, zone, element.line)
    places.add(element, zone.gateway)
    return zone


def _read_grid(element: Element, places: Places, zone: GridZone, make: _Links) -> GridZone:
    for attribute in ("bb_bw", "router_id"):
        if element.get(attribute):
            raise element.error(f"{attribute} of a {zone.routing}, expected none")
    places.add(element, zone)
    zone.join(list(_add_hosts(element, places, zone)), make.link, make.limit)
    return zone


@dataclass(frozen=True)
class _Links:
    """Makes the links of a cluster, all alike."""

    places: Places
    rate: tuple[float, float]
    policy: str
    most_bytes_per_s: float  #: bytes per second that pass a host, both ways; 0 for no limit

    def link(self, start: str, end: str) -> Ways:
        """Add a link between two ends."""
        links = self.places.links
        there = links.add(f"{start} -> {end}", *self.rate)
        shared = self.policy == "SHARED"
        return Ways(there, there if shared else links.add(f"{end} -> {start}", *self.rate))

    def limit(self, name: str) -> tuple[int, ...]:
        """Add the limit on an end's traffic both ways, if there is one."""
        if not self.most_bytes_per_s:
            return ()
        links = self.places.links
        limiter = links.add(f"{name} both ways", self.most_bytes_per_s, 0.0)
        links.limits.add(limiter)
        return (limiter,)


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


def read_grid(element: Element, topology: str, around: Zone | None) -> GridZone:
    """Return an empty torus or fat tree as ``topo_parameters`` describe it.

    Raises:
        ValueError: if they describe none, or the number of hosts differs.
    """
    text = element.needed("topo_parameters")
    parts = [part.split(",") for part in text.replace(" ", "").split(";")]
    if not all(re.fullmatch("[1-9][0-9]{0,5}", number) for part in parts for number in part):
        raise element.error(f"topo_parameters {text!r}, expected numbers above 0")
    numbers = [tuple(int(number) for number in part) for part in parts]
    place = element.needed("id"), around, element.line
    zone: GridZone
    if topology == "TORUS" and len(numbers) == 1:
        sizes = numbers[0]
        zone = TorusZone(sizes, *place)
    elif topology == "FAT_TREE" and [len(part) for part in numbers] == [1] + 3 * [*numbers[0]]:
        sizes = numbers[1]
        zone = FatTreeZone(TreeShape(*numbers[1:]), *place)
    else:
        form = "3,3,2" if topology == "TORUS" else "2;4,4;1,2;1,2"
        raise element.error(f"topo_parameters {text!r}, expected a form like {form!r}")
    if prod(number for part in numbers for number in part) > _MOST_LINKS:
        raise element.error(f"topo_parameters {text!r}: too large, expected {_MOST_LINKS} links")
    found = len(read_radical(element))
    if found != prod(sizes):
        raise element.error(
            f"{found} hosts, expected {prod(sizes)} as topo_parameters {text!r} say"
        )
    return zone


def read_cabinet(element: Element, places: Places, zone: Zone) -> None:
    """Add the hosts of a cabinet to its cluster; routes between them cross its backbone.

    Raises:
        ValueError: naming what makes no sense.
    """
    element.refuse_others(_HOSTS)
    if not isinstance(zone, StarZone):
        raise element.error(f"expected it in a zone of routing Cluster, not {zone.routing}")
    rate = read_rate(element, "bw"), read_time(element, "lat")
    for host in _add_hosts(element, places, zone):
        up, down = places.links.add_ways(host.name, rate, "SPLITDUPLEX")
        zone.up[host], zone.down[host] = (up,), (down,)


def read_peer(element: Element, places: Places, zone: Zone) -> None:
    """Add a host with links of its own to a cloud.

    Raises:
        ValueError: naming what makes no sense.
    """
    element.refuse_others(_PEER)
    refuse_changes(element)
    if not isinstance(zone, VivaldiZone):
        raise element.error(f"expected it in a zone of routing Vivaldi, not {zone.routing}")
    if read_time(element, "lat"):
        raise element.error(f"lat {element.get('lat')}, expected the third of its coordinates")
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
    """Add the hosts of a radical (ranges of numbers), and yield them one by one."""
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
