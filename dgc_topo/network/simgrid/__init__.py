"""Read SimGrid platform files (https://simgrid.org/doc/latest/Platform.html).

Supported are ``<zone>`` (or ``<AS>``) of routing Full, Floyd, Dijkstra, DijkstraCache, Cluster,
Vivaldi and None, also nested; in them ``<cluster>`` (flat, torus or fat tree), ``<cabinet>``,
``<peer>``, ``<host>``, ``<router>``, ``<link>``, ``<host_link>``, ``<backbone>``, ``<route>``,
``<zoneRoute>`` (``<ASroute>``) and their bypasses.  Routes are the same as SimGrid's.

Numbers are taken as written: SimGrid's own TCP corrections (97 % of the bandwidth, 13 times the
latency, 5 % of the way back; its LV08 model) are not applied, even if a ``<config>`` asks for them.

Ignored, because they do not concern communication: speeds and cores, ``<prop>`` and ``<config>``,
disks and storage, actors (processes), loopbacks (a message to oneself costs nothing), and changes
of a host's speed.  Everything else is refused by name: links and hosts that change or fail over
time (a scenario can describe that), Wi-Fi, dragonflies, entities, and contradictions.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from dgc_topo.arrays import FloatArray, IntArray
from dgc_topo.network.costs import EndCosts
from dgc_topo.network.network import Network, pack_routes
from dgc_topo.network.simgrid.markup import parse_markup
from dgc_topo.network.simgrid.pieces import Pieces
from dgc_topo.network.simgrid.places import Places
from dgc_topo.network.simgrid.reader import read_platform

__all__ = ["read_simgrid"]

#: Most pairs of hosts that may each get a link of their own.
_MOST_PAIRS = 1 << 22


def read_simgrid(path: Path | str, *, costs: EndCosts | None = None) -> Network:
    """Return the network that a SimGrid platform file describes.

    Hosts are numbered in the order of the file, those of a cluster in the order of its radical.

    Args:
        path: A file with one ``<cluster>`` or one ``<zone>``, as described in this module.
        costs: Costs of a message at its ends; by default none.

    Raises:
        ValueError: naming the file, line and element, if it isn't such a file.
    """
    try:
        return _build_network(read_platform(parse_markup(Path(path).read_bytes())), costs)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _build_network(places: Places, costs: EndCosts | None = None) -> Network:
    """Return the network of a platform.

    Raises:
        ValueError: if a host cannot reach another.
    """
    pieces, links = Pieces(places), places.links
    bandwidth = np.array(links.bandwidth_bytes_per_s)
    is_pipe = np.isin(np.arange(len(bandwidth)), list(links.pipes))
    network = Network(
        len(places.hosts),
        np.where(is_pipe, np.inf, bandwidth),
        np.array(links.latency_s),
        pieces.routes,
        links.names.__getitem__,
        costs or EndCosts(),
        partial(_own_links, places, pieces),
    )
    return _cap_flows(network, pieces, bandwidth, is_pipe) if is_pipe.any() else network


def _own_links(places: Places, pieces: Pieces, host: int) -> tuple[int, ...]:
    """Return the links at a host's end of its routes.

    Raises:
        ValueError: if traffic between other hosts crosses them as well, or one has no bandwidth.
    """
    links = places.links
    ends, others = pieces.ends(host)
    ends -= links.limits
    endless = {link for link in ends if np.isinf(links.bandwidth_bytes_per_s[link])}
    shared = sorted(ends & (others | links.pipes | endless))
    if shared:
        raise ValueError(
            f"host {host} ({places.hosts[host].name}): {links.names[shared[0]]} is not its "
            "alone, expected a host with a link of its own (or the link instead of the host)"
        )
    return tuple(sorted(ends))


def _cap_flows(
    network: Network, pieces: Pieces, bandwidth: FloatArray, is_pipe: np.ndarray
) -> Network:
    """Return the network with the bandwidths to which pipes (FATPIPE) limit single flows.

    A pipe is not shared; in *network* it only has a latency.  If it is narrower than all shared
    links of a route, the two hosts get a one-way link of their own that no other flow crosses.
    """
    piped = pieces.narrowest(np.where(is_pipe, bandwidth, np.inf))
    shared = pieces.narrowest(np.where(is_pipe, np.inf, bandwidth))
    if not (piped.least() < shared.most()).any():
        return network
    num_hosts, first = network.num_hosts, network.num_links
    if num_hosts**2 > _MOST_PAIRS:
        most = int(_MOST_PAIRS**0.5)
        raise ValueError(f"a FATPIPE narrower than others and {num_hosts} hosts, expected {most}")
    src, dst = np.divmod(np.arange(num_hosts**2), num_hosts)
    caps = piped.of_flows(src, dst)
    pairs = np.flatnonzero((caps < shared.of_flows(src, dst)) & (src != dst))
    own = np.full(num_hosts**2, -1)
    own[pairs] = first + np.arange(len(pairs))

    def route(src: IntArray, dst: IntArray) -> IntArray:
        wires = network.router(src, dst)
        return pack_routes(np.column_stack([wires, own[src * num_hosts + dst]]))

    def name(link: int) -> str:
        if link < first:
            return network.link_names(link)
        src, dst = divmod(int(pairs[link - first]), num_hosts)
        return f"host {src} -> host {dst} through pipes"

    return replace(
        network,
        bandwidth_bytes_per_s=np.append(network.bandwidth_bytes_per_s, caps[pairs]),
        latency_s=np.append(network.latency_s, np.zeros(len(pairs))),
        router=route,
        link_names=name,
    )
