"""Well-known shapes of networks, as networkx graphs, and round-robin placement.

Each ``draw_`` function returns a graph for `from_graph`; change its edges first if links differ.
Hosts are the nodes ``host 0``, ``host 1``, ... in this order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import networkx as nx
import numpy as np

from dgc_topo.arrays import IntArray

if TYPE_CHECKING:
    Graph = nx.Graph[str]


def draw_star(num_hosts: int, bandwidth_bytes_per_s: float, latency_s: float = 0.0) -> Graph:
    """Return a graph of hosts around one switch (`star` is the same network without a graph)."""
    return draw_racks(1, num_hosts, bandwidth_bytes_per_s, latency_s=latency_s)


def draw_racks(
    num_racks: int,
    hosts_per_rack: int,
    bandwidth_bytes_per_s: float,
    *,
    oversubscription: float = 1.0,
    latency_s: float = 0.0,
) -> Graph:
    """Return a graph of racks of hosts; one core switch joins the racks' switches.

    Args:
        num_racks: Number of racks; one rack needs no core.
        hosts_per_rack: Hosts on each rack's switch.
        bandwidth_bytes_per_s: Bandwidth of a host's link, each way.
        oversubscription: Bandwidth of all hosts of a rack over that of its uplink.
        latency_s: Latency of every link.

    Raises:
        ValueError: if a number makes no sense.
    """
    _at_least_one(num_racks=num_racks, hosts_per_rack=hosts_per_rack)
    if not 0 < oversubscription < np.inf:
        raise ValueError(f"racks: oversubscription {oversubscription}, expected above 0")
    graph: Graph = nx.Graph()
    uplink = hosts_per_rack * bandwidth_bytes_per_s / oversubscription
    for rack in range(num_racks):
        for host in range(rack * hosts_per_rack, (rack + 1) * hosts_per_rack):
            graph.add_node(f"host {host}", host=True)
            _join(graph, f"host {host}", f"rack {rack}", bandwidth_bytes_per_s, latency_s)
        if num_racks > 1:
            _join(graph, f"rack {rack}", "core", uplink, latency_s)
    return graph


def draw_fat_tree(ports: int, bandwidth_bytes_per_s: float, latency_s: float = 0.0) -> Graph:
    """Return a three-level fat tree of *ports*-port switches: ``ports ** 3 / 4`` hosts.

    All links are alike and nothing is oversubscribed (Al-Fares, Loukissas & Vahdat, SIGCOMM 2008).
    """
    if ports < 2 or ports % 2:  # noqa: PLR2004 - half of the ports go down, half go up
        raise ValueError(f"fat tree: {ports} ports, expected an even number, 2 or more")
    graph: Graph = nx.Graph()
    half = ports // 2
    host = 0
    for pod in range(ports):
        for up in range(half):
            for down in range(half):
                edge = f"edge {pod}.{down}"
                _join(graph, edge, f"aggregation {pod}.{up}", bandwidth_bytes_per_s, latency_s)
            for core in range(half):
                above = f"core {up}.{core}"
                _join(graph, f"aggregation {pod}.{up}", above, bandwidth_bytes_per_s, latency_s)
        for below in range(half):
            for _ in range(half):
                graph.add_node(f"host {host}", host=True)
                edge = f"edge {pod}.{below}"
                _join(graph, f"host {host}", edge, bandwidth_bytes_per_s, latency_s)
                host += 1
    return graph


def draw_torus(
    num_rows: int, num_columns: int, bandwidth_bytes_per_s: float, latency_s: float = 0.0
) -> Graph:
    """Return hosts joined to their neighbours, without switches; one row is a ring."""
    _at_least_one(num_rows=num_rows, num_columns=num_columns)
    graph: Graph = nx.Graph()
    for host in range(num_rows * num_columns):
        graph.add_node(f"host {host}", host=True)
    for host in range(num_rows * num_columns):
        row, column = divmod(host, num_columns)
        for neighbour in (
            row * num_columns + (column + 1) % num_columns,
            (row + 1) % num_rows * num_columns + column,
        ):
            if neighbour != host:
                ends = f"host {host}", f"host {neighbour}"
                _join(graph, *ends, bandwidth_bytes_per_s, latency_s)
    return graph


def draw_ring(num_hosts: int, bandwidth_bytes_per_s: float, latency_s: float = 0.0) -> Graph:
    """Return hosts joined in a ring, without switches."""
    return draw_torus(1, num_hosts, bandwidth_bytes_per_s, latency_s)


def place_round_robin(world_size: int, num_groups: int, slots_per_group: int) -> IntArray:
    """Return the slot of each rank if racks (or hosts) take ranks in turn.

    (In order, rank r is simply on slot r.)

    Args:
        world_size: Number of ranks.
        num_groups: Number of racks, or hosts.
        slots_per_group: Slots in each; ``group * slots_per_group`` is the first.

    Returns:
        Slots, shape (world_size,).

    Raises:
        ValueError: if there are more ranks than slots.
    """
    if not 1 <= world_size <= num_groups * slots_per_group:
        raise ValueError(
            f"round robin: {world_size} ranks on {num_groups} x {slots_per_group} slots, "
            "expected 1 to as many ranks as slots"
        )
    ranks = np.arange(world_size)
    return ranks % num_groups * slots_per_group + ranks // num_groups


def _join(graph: Graph, start: str, end: str, bandwidth: float, latency_s: float) -> None:
    graph.add_edge(start, end, bandwidth_bytes_per_s=bandwidth, latency_s=latency_s)


def _at_least_one(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} {count}: expected at least 1")
