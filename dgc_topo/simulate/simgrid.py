"""Read SimGrid platform files: flat clusters, and clusters joined by links (two levels).

Only what describes a network of homogeneous clusters is understood; anything else is refused
rather than ignored.  Numbers are taken as written: SimGrid's own TCP corrections (97 % of the
bandwidth, 13 times the latency; its LV08 model) are not applied.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np

from dgc_topo.simulate.changes import limit_hosts
from dgc_topo.simulate.hosts import HostCosts
from dgc_topo.simulate.network import IntArray, Network, pack_routes

_TIME_S = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "ps": 1e-12}
_PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12} | {
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
}
_BYTES_PER_S = {prefix + "Bps": factor for prefix, factor in _PREFIXES.items()}
_BYTES_PER_S |= {prefix + "bps": factor / 8 for prefix, factor in _PREFIXES.items()} | {"": 1.0}

#: Attributes of a cluster: those that describe its network, and those that don't matter here.
_CLUSTER = {"id", "radical", "bw", "lat", "sharing_policy", "bb_bw", "bb_lat", "limiter_link"}
_CLUSTER |= {"prefix", "suffix", "speed", "core", "router_id", "loopback_bw", "loopback_lat"}


def read_simgrid(path: Path | str, *, costs: HostCosts | None = None) -> Network:
    """Return the network that a SimGrid platform file describes.

    Hosts are numbered cluster by cluster, in the order of the file.

    Args:
        path: A file with one ``<cluster>``, or one ``<zone>`` of clusters, links and zone routes.
        costs: What a message costs at its ends; nothing if left out.

    Raises:
        ValueError: naming the file and the element, if it isn't such a file.
    """
    try:
        root = ET.parse(path).getroot()
    except ET.ParseError as error:
        raise ValueError(f"{path}: not XML ({error}), expected a SimGrid platform") from error
    try:
        return _Platform(root).network(costs or HostCosts())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


@dataclass(frozen=True)
class _Cluster:
    up: list[int]  #: link of each host
    down: list[int]
    backbone: int  #: link that all of the cluster's flows cross, or -1
    limit_bytes_per_s: float  #: of each host, both ways together


class _Platform:
    """Links by number, clusters, and the links between two clusters."""

    def __init__(self, root: ET.Element) -> None:
        self._bandwidth: list[float] = []
        self._latency: list[float] = []
        self._names: list[str] = []
        self._clusters: dict[str, _Cluster] = {}
        self._both_ways: dict[str, tuple[int, int]] = {}  # link between clusters: up, down
        self._between: dict[tuple[str, str], list[int]] = {}
        if root.tag != "platform":
            raise ValueError(f"<{root.tag}>, expected <platform>")
        tops = [child for child in root if child.tag not in {"config", "prop"}]
        if len(tops) != 1 or tops[0].tag not in {"cluster", "zone", "AS"}:
            found = ", ".join(f"<{top.tag}>" for top in tops) or "nothing"
            raise ValueError(f"{found}, expected one <cluster> or one <zone>")
        elements = tops if tops[0].tag == "cluster" else list(tops[0])
        readers = {
            "cluster": self._read_cluster,
            "link": self._read_link,
            "zoneRoute": self._read_route,
            "ASroute": self._read_route,
        }
        for element in elements:
            if element.tag not in readers:
                raise ValueError(f"<{element.tag}>, expected one of {', '.join(readers)}")
            readers[element.tag](element)
        if not self._clusters:
            raise ValueError("no hosts, expected at least one <cluster>")

    def _add_link(self, name: str, bandwidth: float, latency_s: float) -> int:
        self._names.append(name)
        self._bandwidth.append(bandwidth)
        self._latency.append(latency_s)
        return len(self._names) - 1

    def _read_cluster(self, element: ET.Element) -> None:
        name = _needed(element, "id")
        unknown = sorted(set(element.attrib) - _CLUSTER)
        if unknown or len(element):
            what = unknown[0] if unknown else f"<{element[0].tag}>"
            raise ValueError(f"cluster {name}: {what} is not supported, expected a flat cluster")
        bandwidth, latency_s = _bandwidth(element, "bw"), _latency(element, "lat")
        split = _policy(element, "SPLITDUPLEX")
        up, down = [], []
        for host in _radical(name, _needed(element, "radical")):
            host_name = f"{element.get('prefix', '')}{host}{element.get('suffix', '')}"
            up.append(self._add_link(f"{host_name} up", bandwidth, latency_s))
            if split:
                self._add_link(f"{host_name} down", bandwidth, latency_s)
            down.append(len(self._names) - 1)
        backbone = -1
        if "bb_bw" in element.attrib:
            values = _bandwidth(element, "bb_bw"), _latency(element, "bb_lat")
            backbone = self._add_link(f"{name} backbone", *values)
        limit = np.inf
        if "limiter_link" in element.attrib:
            limit = _bandwidth(element, "limiter_link")
        self._clusters[name] = _Cluster(up, down, backbone, limit)

    def _read_link(self, element: ET.Element) -> None:
        name = _needed(element, "id")
        values = _bandwidth(element, "bandwidth"), _latency(element, "latency")
        if _policy(element, "SHARED"):
            ways = self._add_link(f"{name} up", *values), self._add_link(f"{name} down", *values)
            self._both_ways[name] = ways
        else:
            self._both_ways[name] = (self._add_link(name, *values),) * 2

    def _read_route(self, element: ET.Element) -> None:
        src, dst = _needed(element, "src"), _needed(element, "dst")
        there: list[int] = []
        back: list[int] = []
        for part in element:
            name = _needed(part, "id")
            if part.tag != "link_ctn" or name not in self._both_ways:
                raise ValueError(f"route {src} - {dst}: <{part.tag}> {name}: no such link before")
            up, down = self._both_ways[name]
            forward = part.get("direction", "UP") != "DOWN"
            there.append(up if forward else down)
            back.insert(0, down if forward else up)
        self._between[src, dst] = there
        if element.get("symmetrical", "YES").upper() == "YES":
            self._between[dst, src] = back

    def network(self, costs: HostCosts) -> Network:
        clusters = list(self._clusters.values())
        of_host = np.repeat(np.arange(len(clusters)), [len(cluster.up) for cluster in clusters])
        up = np.concatenate([cluster.up for cluster in clusters])
        down = np.concatenate([cluster.down for cluster in clusters])
        middle = self._middle()

        def route(src: IntArray, dst: IntArray) -> IntArray:
            inner = middle[of_host[src], of_host[dst]]
            routes = np.column_stack([up[src], inner, down[dst]])
            routes[src == dst] = -1
            return pack_routes(routes)

        network = Network(
            len(of_host),
            np.array(self._bandwidth),
            np.array(self._latency),
            route,
            self._names.__getitem__,
            costs,
        )
        limits = np.array([cluster.limit_bytes_per_s for cluster in clusters])[of_host]
        return limit_hosts(network, limits) if np.isfinite(limits).any() else network

    def _middle(self) -> IntArray:
        """Return the links between the hosts' own, shape (clusters, clusters, most)."""
        rows = []
        for src, start in self._clusters.items():
            for dst, end in self._clusters.items():
                if src == dst:
                    rows.append([start.backbone])
                    continue
                if (src, dst) not in self._between:
                    raise ValueError(f"no route from {src} to {dst}, expected a <zoneRoute>")
                rows.append([start.backbone, *self._between[src, dst], end.backbone])
        padded = np.full((len(rows), max(map(len, rows))), -1)
        for row, links in zip(padded, rows, strict=True):
            row[: len(links)] = links
        return padded.reshape(len(self._clusters), len(self._clusters), -1)


def _needed(element: ET.Element, attribute: str) -> str:
    if attribute not in element.attrib:
        name = element.get("id", "")
        raise ValueError(f"<{element.tag}> {name}: no {attribute}, expected one".replace("  ", " "))
    return element.attrib[attribute]


def _policy(element: ET.Element, default: str) -> bool:
    """Return whether each way has a link of its own."""
    policy = element.get("sharing_policy", default)
    if policy not in {"SPLITDUPLEX", "SHARED"}:
        raise ValueError(
            f"<{element.tag}> {element.get('id')}: sharing_policy {policy}, "
            "expected SPLITDUPLEX or SHARED"
        )
    return policy == "SPLITDUPLEX"


def _bandwidth(element: ET.Element, attribute: str) -> float:
    return _number(element, attribute, _BYTES_PER_S)


def _latency(element: ET.Element, attribute: str) -> float:
    return _number(element, attribute, _TIME_S) if attribute in element.attrib else 0.0


def _number(element: ET.Element, attribute: str, units: dict[str, float]) -> float:
    text = _needed(element, attribute).strip()
    match = re.fullmatch(r"([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)", text)
    if match is None or match[2] not in units:
        known = ", ".join(unit for unit in units if unit)
        raise ValueError(
            f"<{element.tag}> {element.get('id')}: {attribute} {text!r}, "
            f"expected a number with one of {known}"
        )
    return float(match[1]) * units[match[2]]


def _radical(name: str, text: str) -> list[int]:
    """Return the numbers in ``0-3,7``."""
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None:
            raise ValueError(f"cluster {name}: radical {text!r}, expected numbers like 0-3,7")
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    return numbers
