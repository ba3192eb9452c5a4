"""Random clusters, as hypothesis strategies: links, costs, places, other jobs, changes.

Numbers are multiples of something coarse.  Times are then either equal or clearly different; the
event engine takes instants for one that differ by less than 1e-12.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import hypothesis.strategies as st
import networkx as nx
import numpy as np

from dgc_topo.arrays import FloatArray, IntArray
from dgc_topo.network import (
    Background,
    Cluster,
    EndCosts,
    LinkChange,
    Network,
    add_gpus,
    draw_fat_tree,
    draw_racks,
    draw_torus,
    from_graph,
    limit_hosts,
    links_of_host,
    place_round_robin,
    star,
)

#: A draw of a network with room for so many ranks.
Networks = Callable[[int], st.SearchStrategy[Network]]

SEEDS = st.integers(0, 999)


@st.composite
def per_link(draw: st.DrawFn, num_links: int, usual: float, *, may_end: bool) -> FloatArray:
    """Values of all links: equal, of a few kinds, all different, or one very different."""
    kinds = ["equal", "few", "different", "one", *(["endless", "none"] if may_end else [])]
    kind = draw(st.sampled_from(kinds))
    rng = np.random.default_rng(draw(SEEDS))
    values = np.full(num_links, usual)
    if kind == "few":
        values *= rng.choice([0.5, 1.0, 2.0], num_links)
    elif kind == "different":
        values *= rng.integers(800, 1200, num_links) / 1000
    elif kind == "one":
        values[rng.integers(num_links)] *= 1 / 256
    elif kind == "endless":
        values[rng.random(num_links) < 0.5] = np.inf
    elif kind == "none":
        values[:] = np.inf
    return values


def latencies(num_links: int) -> st.SearchStrategy[FloatArray]:
    usual = st.sampled_from([0.125, 0.0, 3.0])
    return usual.flatmap(lambda usual_s: per_link(num_links, usual_s, may_end=False))


@st.composite
def stars(draw: st.DrawFn, num_hosts: int) -> Network:
    num_links = 2 * num_hosts
    bandwidth = draw(per_link(num_links, 100.0, may_end=True))
    return star(num_hosts, bandwidth, draw(latencies(num_links)))


@st.composite
def hosts_of_gpus(draw: st.DrawFn, num_slots: int) -> Network:
    outside = draw(stars(-(-num_slots // 2)))
    return add_gpus(outside, 2, draw(st.sampled_from([900.0, 50.0, 100.0])), 0.0625)


@st.composite
def racks(draw: st.DrawFn, num_hosts: int) -> Network:
    """Two or three racks; uplinks are too narrow, just wide enough, or wider."""
    num_racks = draw(st.integers(2, 3))
    wide = draw(st.sampled_from([4.0, 1.0, 0.5]))
    network = from_graph(
        draw_racks(num_racks, -(-num_hosts // num_racks), 100.0, oversubscription=wide)
    )
    bandwidth = network.bandwidth_bytes_per_s
    if draw(st.booleans()):
        rng = np.random.default_rng(draw(SEEDS))
        bandwidth = bandwidth * rng.integers(800, 1200, len(bandwidth)) / 1000
    latency_s = draw(latencies(network.num_links))
    return replace(network, bandwidth_bytes_per_s=bandwidth, latency_s=latency_s)


@st.composite
def graphs(draw: st.DrawFn, num_hosts: int) -> Network:
    """A torus, a fat tree, or hosts whose two ways may share a link."""
    kind = draw(st.sampled_from(["torus", "fat tree", "half duplex"]))
    if kind == "fat tree":
        return from_graph(draw_fat_tree(4, 100.0, 0.125))
    if kind == "torus":
        return from_graph(draw_torus(2, -(-num_hosts // 2), 100.0, 0.125))
    graph: nx.Graph[object] = nx.Graph()
    shared = np.random.default_rng(draw(SEEDS)).integers(0, 2, num_hosts)
    for host in range(num_hosts):
        graph.add_node(host, host=True)
        speed = {"bandwidth_bytes_per_s": 50.0 + 25 * (host % 3), "latency_s": 0.125}
        graph.add_edge(host, "switch", half_duplex=bool(shared[host]), **speed)
    return from_graph(graph)


@st.composite
def limited(draw: st.DrawFn, num_slots: int) -> Network:
    """Limits of what hosts, or processes, move both ways."""
    network = draw(st.one_of(stars(num_slots), hosts_of_gpus(num_slots)))
    if draw(st.booleans()):
        network = limit_hosts(network, draw(per_link(network.num_hosts, 150.0, may_end=False)))
    return limit_hosts(network, 120.0, "CPU", each="slot") if draw(st.booleans()) else network


@st.composite
def any_routes(draw: st.DrawFn, num_hosts: int) -> Network:
    """Routes of up to three random links between each pair of hosts, none of its own."""
    rng = np.random.default_rng(draw(SEEDS))
    num_links = draw(st.integers(1, 24))
    table = np.full((num_hosts, num_hosts, 3), -1)
    for src, dst in np.argwhere(~np.eye(num_hosts, dtype=np.bool_)):
        length = rng.integers(1, min(3, num_links) + 1)
        table[src, dst, :length] = rng.permutation(num_links)[:length]

    def route(src: IntArray, dst: IntArray) -> IntArray:
        return np.asarray(table[src, dst])

    bandwidth = draw(per_link(num_links, 100.0, may_end=True))
    return Network(num_hosts, bandwidth, draw(latencies(num_links)), route)


NETWORKS: dict[str, Networks] = {
    "star": stars,
    "GPUs": hosts_of_gpus,
    "racks": racks,
    "graph": graphs,
    "limits": limited,
    "any routes": any_routes,
}

#: What may cost anything in any cluster, and in one with processors.
COSTS: dict[str, object] = {
    "overhead_s": 0.02,
    "step_overhead_s": 0.03,
    "start_overhead_s": 0.1,
    "receive_overhead_s": 0.015,
    "reduce_s_per_byte": 1e-3,
    "scale_s_per_byte": 5e-4,
    "joint_merge_s": 0.04,
    "message_curve": ((10.0, 0.05), (500.0, 0.3)),
    "reverse_share": 0.05,
}
PROCESSORS: dict[str, object] = {
    "send_s_per_byte": 2e-3,
    "receive_s_per_byte": 3e-3,
    "code_s_per_byte": 1e-3,
    "merge_s_per_byte": 1e-3,
    "sort_s_per_byte": 2e-3,
    "code_s_per_message": 0.01,
    "merge_s_per_message": 0.02,
    "cold_code_s": 0.05,
}


def some_of(costs: dict[str, object]) -> st.SearchStrategy[dict[str, object]]:
    """Any of these costs, drawn as one number."""
    subset = st.integers(0, 2 ** len(costs) - 1)
    return subset.map(
        lambda bits: {key: cost for at, (key, cost) in enumerate(costs.items()) if bits >> at & 1}
    )


@st.composite
def end_costs(draw: st.DrawFn) -> EndCosts:
    """No costs, serial ones, or processors; the cores of machines are shared now and then."""
    kind = draw(st.sampled_from(["none", "serial", "processors"]))
    if kind == "none":
        return EndCosts()
    costs = draw(some_of(COSTS))
    if kind == "processors":
        costs |= draw(some_of(PROCESSORS))
        costs["cores_per_process"] = draw(st.sampled_from([1.0, 0.5, 2.0]))
        costs["cooling_s"] = 0.005  # slow ones give instants that differ by 1e-12
        costs["hosts_per_machine"] = draw(st.integers(1, 3))
        costs["cores_per_machine"] = draw(st.sampled_from([None, 1.5, 0.75, 16.0]))
    return EndCosts(**costs)


@st.composite
def places(draw: st.DrawFn, num_ranks: int, network: Network) -> IntArray:
    """Ranks in order, in turn over the hosts, in any order, or several in one place."""
    num_slots = network.num_slots
    how = draw(st.sampled_from(["in order", "in turn", "any", "shared"]))
    if how == "in turn" and num_slots % 2 == 0:
        return place_round_robin(num_ranks, 2, num_slots // 2)
    if how == "any":
        return np.array(draw(st.permutations(range(num_slots)))[:num_ranks])
    if how == "shared" and draw(st.booleans()):
        return np.random.default_rng(draw(SEEDS)).integers(0, num_slots, num_ranks)
    return np.arange(num_ranks)


@st.composite
def clusters(draw: st.DrawFn, num_ranks: int, networks: Networks) -> Cluster:
    """Ranks on a network, alone on it as long as it lasts."""
    network = draw(networks(num_ranks + draw(st.integers(0, 1))))
    network = replace(network, costs=draw(end_costs()))
    return Cluster("network", network, draw(places(num_ranks, network)))


@st.composite
def disturbed(draw: st.DrawFn, cluster: Cluster) -> Cluster:
    """The cluster with other jobs' flows, links that change, or links that save up bytes."""
    what = draw(st.sampled_from(["background", "changes", "bursts"]))
    network, rng = cluster.network, np.random.default_rng(draw(SEEDS))
    if what == "bursts":
        costs = network.costs.model_copy(update={"burst_bytes": 200.0})
        return replace(cluster, network=replace(network, costs=costs))
    if what == "background":
        src, dst = rng.integers(0, network.num_slots, (2, 3))
        num_bytes, start_s = rng.choice([0.0, 1000.0, 3000.0], 3), rng.choice([0.0, 0.5, 2.0], 3)
        flows = Background(src, dst, num_bytes, start_s)
        return replace(cluster, background=flows)
    finite = np.isfinite(network.bandwidth_bytes_per_s)
    links = [link for link in links_of_host(network, 0) if finite[link]]
    down = LinkChange(float(rng.integers(0, 3)), tuple(links), float(rng.choice([0.0, 0.25, 4.0])))
    again = LinkChange(float(rng.integers(3, 9)), tuple(links), 2.0)
    return replace(cluster, changes=(down, again))
