"""Networks from networkx graphs: any fabric that can be drawn.

Nodes are hosts and switches, edges are links.  A flow takes a path with the fewest links.  Among
several such paths its destination's number picks one, digit by digit, so that destinations spread
evenly over parallel paths (d-mod-k routing, as in InfiniBand fat trees: Zahavi, JPDC 72(11), 2012).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np

from dgc_topo.arrays import IntArray
from dgc_topo.network.costs import EndCosts
from dgc_topo.network.network import Network

if TYPE_CHECKING:
    Node = Hashable
    Graph = nx.Graph[Any]  # a DiGraph is one

#: Distance of a node that cannot be reached.
FAR = np.iinfo(np.int32).max


def from_graph(
    graph: Graph, *, hosts: Sequence[Node] | None = None, costs: EndCosts | None = None
) -> Network:
    """Return the network that a networkx graph describes.

    Args:
        graph: Every edge has ``bandwidth_bytes_per_s`` and may have ``latency_s`` (by default 0).
            An edge of an undirected graph stands for two links, one each way; if its
            ``half_duplex`` is true, both ways share one link.
        hosts: Nodes that are hosts, in order of their numbers; by default the nodes whose
            ``host`` is true, in the order of the graph.
        costs: Costs of a message at its ends; by default none.

    Raises:
        ValueError: if there is no host, an edge has no bandwidth, or a host cannot be reached.
    """
    nodes = list(graph)
    if hosts is None:
        hosts = [node for node in nodes if graph.nodes[node].get("host")]
    if not hosts:
        raise ValueError("graph: no hosts, expected nodes with host=True, or a list of them")
    number = {node: index for index, node in enumerate(nodes)}
    missing = [host for host in hosts if host not in number]
    if missing:
        raise ValueError(f"graph: no node {missing[0]!r}, expected every host to be one")
    links = _Links(graph, number)
    router = _Paths(links, [number[host] for host in hosts], nodes)
    return Network(
        len(hosts),
        np.array(links.bandwidth, np.float64),
        np.array(links.latency, np.float64),
        router.routes,
        links.names.__getitem__,
        costs or EndCosts(),
        lambda host: links.around(number[hosts[host]]),
    )


class _Links:
    """Numbered directed links: their properties as arrays, and each node's neighbours."""

    def __init__(self, graph: Graph, number: dict[Node, int]) -> None:
        self.bandwidth: list[float] = []
        self.latency: list[float] = []
        self.names: list[str] = []
        self.after: list[list[tuple[int, int]]] = [[] for _ in number]  # per node: (next, link)
        self.before: list[list[int]] = [[] for _ in number]  # per node: nodes with a link to it
        for start, end, data in graph.edges(data=True):
            if "bandwidth_bytes_per_s" not in data:
                raise ValueError(
                    f"edge {start!r} - {end!r}: no bandwidth_bytes_per_s, expected one on each edge"
                )
            link = self._add(f"{start} -> {end}", data)
            self._join(number[start], number[end], link)
            if not graph.is_directed():
                if not data.get("half_duplex"):
                    link = self._add(f"{end} -> {start}", data)
                self._join(number[end], number[start], link)
        for neighbours in self.after:
            neighbours.sort()

    def around(self, node: int) -> tuple[int, ...]:
        """Return the links that leave or reach a node, sorted."""
        leaving = [link for _, link in self.after[node]]
        arriving = [
            link for before in self.before[node] for end, link in self.after[before] if end == node
        ]
        return tuple(sorted({*leaving, *arriving}))

    def _add(self, name: str, data: dict[str, float]) -> int:
        self.bandwidth.append(data["bandwidth_bytes_per_s"])
        self.latency.append(data.get("latency_s", 0.0))
        self.names.append(name)
        return len(self.names) - 1

    def _join(self, start: int, end: int, link: int) -> None:
        self.after[start].append((end, link))
        self.before[end].append(start)


class _Paths:
    """Shortest paths between hosts, cached.

    Only *anchors* need a search.  The anchor of a host with a single link to a switch is that
    switch, one link away; any other host is its own anchor.
    """

    def __init__(self, links: _Links, hosts: list[int], nodes: list[Node]) -> None:
        self._links = links
        self._hosts = np.array(hosts)
        self._anchors = np.array([self._anchor(host) for host in hosts])
        ends = zip(self._anchors.tolist(), hosts, strict=True)
        self._last_links = np.array([self._last_link(anchor, host) for anchor, host in ends])
        self._distance = {
            int(anchor): _distances_to(int(anchor), links.before)
            for anchor in np.unique(self._anchors).tolist()
        }
        self._candidates: dict[int, tuple[IntArray, IntArray, IntArray, IntArray]] = {}
        self.max_links = self._longest(nodes)
        self._keys = np.empty(0, np.int64)  # src * num_hosts + dst, sorted
        self._kept = np.empty((0, self.max_links), np.int64)

    def _anchor(self, host: int) -> int:
        around = {node for node, _ in self._links.after[host]} | set(self._links.before[host])
        if len(around) == 1 and len(self._links.after[host]) == 1:
            return around.pop()
        return host

    def _last_link(self, anchor: int, host: int) -> int:
        """Return the link from an anchor to its host, or -1 for a host that is its own anchor."""
        if anchor == host:
            return -1
        return next(link for end, link in self._links.after[anchor] if end == host)

    def _longest(self, nodes: list[Node]) -> int:
        """Return the most links on a path between hosts; refuse hosts that have no path."""
        longest = 1
        for host, anchor in zip(self._hosts.tolist(), self._anchors.tolist(), strict=True):
            distance = self._distance[anchor][self._hosts]
            if (distance == FAR).any():
                cut_off = nodes[self._hosts[int(np.argmax(distance == FAR))]]
                raise ValueError(
                    f"graph: no path from {cut_off!r} to {nodes[host]!r}, "
                    "expected every host to reach every other"
                )
            longest = max(longest, int(distance.max()) + (anchor != host))
        return longest

    def routes(self, src: IntArray, dst: IntArray) -> IntArray:
        """Return links, shape (num_flows, max_links), padded with -1."""
        keys = src * len(self._hosts) + dst
        wanted = np.setdiff1d(keys, self._keys)
        if len(wanted):
            new = self._walk(wanted // len(self._hosts), wanted % len(self._hosts))
            order = np.argsort(np.concatenate([self._keys, wanted]), kind="stable")
            self._keys = np.concatenate([self._keys, wanted])[order]
            self._kept = np.concatenate([self._kept, new])[order]
        return self._kept[np.searchsorted(self._keys, keys)]

    def _walk(self, src: IntArray, dst: IntArray) -> IntArray:
        """Fill in the routes of all flows, one anchor of destinations after the other."""
        found = np.full((len(src), self.max_links), -1)
        anchors = self._anchors[dst]
        order = np.argsort(anchors, kind="stable")
        firsts = np.flatnonzero(np.diff(anchors[order], prepend=-1))
        for flows in np.split(order, firsts[1:]):
            self._walk_to(int(anchors[flows[0]]), src[flows], dst[flows], flows, found)
        return found

    def _walk_to(
        self, anchor: int, src: IntArray, dst: IntArray, flows: IntArray, found: IntArray
    ) -> None:
        """Fill the rows *flows* of *found* with the links to destinations that have one anchor."""
        first, count, links, ends = self._next_links(anchor)
        at, goals, last = self._hosts[src], self._hosts[dst], self._last_links[dst]
        digits = dst.copy()
        for hop in range(self.max_links):
            there = (at == anchor) & (last >= 0)
            found[flows[there], hop] = last[there]
            moving = (at != goals) & ~there
            if not moving.any():
                return
            flows, at, goals, last, digits = (
                column[moving] for column in (flows, at, goals, last, digits)
            )
            choice = first[at] + digits % count[at]
            digits = digits // count[at]
            found[flows, hop] = links[choice]
            at = ends[choice]

    def _next_links(self, anchor: int) -> tuple[IntArray, IntArray, IntArray, IntArray]:
        """Return the links that lead nearer to *anchor*: first and count by node, links, ends."""
        if anchor not in self._candidates:
            distance = self._distance[anchor]
            links: list[int] = []
            ends: list[int] = []
            first = []
            for node, after in enumerate(self._links.after):
                first.append(len(links))
                for end, link in after:
                    if distance[end] < distance[node]:
                        links.append(link)
                        ends.append(end)
            count = np.diff([*first, len(links)])
            self._candidates[anchor] = (np.array(first), count, np.array(links), np.array(ends))
        return self._candidates[anchor]


def _distances_to(goal: int, before: list[list[int]]) -> IntArray:
    """Return the number of links from each node to *goal*, FAR if there is no path."""
    distance = [FAR] * len(before)
    distance[goal] = 0
    reached = deque([goal])
    while reached:
        node = reached.popleft()
        for earlier in before[node]:
            if distance[earlier] == FAR:
                distance[earlier] = distance[node] + 1
                reached.append(earlier)
    return np.array(distance, np.int64)
