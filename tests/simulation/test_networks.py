"""Any fabric: graphs, limits, slow parts, other jobs, failures, end costs."""

from dataclasses import replace

import networkx as nx
import numpy as np
import pytest

from dgc_topo.network import (
    Background,
    EndCosts,
    LinkChange,
    add_gpus,
    curve_from_times,
    draw_fat_tree,
    draw_racks,
    draw_ring,
    draw_star,
    draw_torus,
    from_graph,
    limit_hosts,
    links_of_host,
    place_round_robin,
    slow_host,
    slow_links,
    star,
)
from dgc_topo.schedule import Schedule, reduce
from dgc_topo.simulation import DenseSizes, simulate_flows, simulate_schedule
from dgc_topo.topology import load_topology
from tests.simulation.placed import placed
from tests.simulation.slow import slow_flows, slow_schedule

GRAPHS = {
    "star": draw_star(6, 100.0, 0.1),
    "racks": draw_racks(3, 4, 100.0, oversubscription=4, latency_s=0.1),
    "fat tree": draw_fat_tree(4, 100.0, 0.1),
    "ring": draw_ring(7, 100.0, 0.1),
    "torus": draw_torus(3, 4, 100.0, 0.1),
    "two hosts": draw_ring(2, 100.0),
    "one host": draw_star(1, 100.0),
}


def time_of(topology, network, num_bytes, world_size=None, options=None, **settings):
    schedule = load_topology(topology, options or {}).schedule(world_size or network.num_hosts)
    cluster = placed(network, schedule.world_size, **settings)
    return simulate_schedule(schedule, cluster, num_bytes).time_s


def all_pairs(num_hosts):
    return np.divmod(np.arange(num_hosts**2), num_hosts)


@pytest.mark.parametrize("name", GRAPHS)
def test_routes_are_shortest_paths(name):
    graph = GRAPHS[name]
    network = from_graph(graph)
    src, dst = all_pairs(network.num_hosts)
    lengths = dict(nx.all_pairs_shortest_path_length(graph))
    for s, d, route in zip(src, dst, network.routes(src, dst), strict=True):
        links = [link for link in route if link >= 0]
        assert (route[len(links) :] == -1).all()
        assert len(links) == lengths[f"host {s}"][f"host {d}"]
        ends = [network.link_names(link).split(" -> ") for link in links]
        at = f"host {s}"
        for start, end in ends:
            assert start == at
            at = end
        assert at == f"host {d}"


@pytest.mark.parametrize("name", ["torus", "racks", "fat tree"])
def test_routes_of_other_pairs_are_found_later(name):
    """Routes are kept as they are asked for, in any order, with repetitions and other company."""
    graph = GRAPHS[name]
    size = from_graph(graph).num_hosts
    expected = from_graph(graph).routes(*all_pairs(size)).reshape(size, size, -1)
    network, rng = from_graph(graph), np.random.default_rng(0)
    for _ in range(20):
        src, dst = rng.integers(0, size, (2, 9))
        np.testing.assert_array_equal(network.routes(src, dst), expected[src, dst])


def test_the_drawn_star_is_the_star():
    drawn = from_graph(draw_star(8, 125e6, 25e-6))
    for topology in ("ring", "tree", "mesh", "parameter-server"):
        assert time_of(topology, drawn, 1e6) == time_of(topology, star(8, 125e6, 25e-6), 1e6)


NETWORKS = {name: from_graph(graph) for name, graph in GRAPHS.items() if name != "one host"}
NETWORKS["gpus"] = add_gpus(star(3, 50.0, 0.1), 2, 300.0)
NETWORKS["gpus in racks"] = add_gpus(NETWORKS["racks"], 2, 70.0, 0.05)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("limited", [False, True])
def test_flows_and_schedules_end_as_in_the_slow_model(name, limited):
    network = NETWORKS[name]
    rng = np.random.default_rng(3)
    if limited:
        network = limit_hosts(slow_host(network, 1, 0.5), 120.0)
        network = limit_hosts(network, 90.0, "CPU", each="slot")
    src, dst = rng.integers(0, network.num_slots, (2, 40))
    num_bytes, start = rng.integers(0, 500, 40).astype(float), rng.integers(0, 9, 40).astype(float)
    finish = simulate_flows(network, src, dst, num_bytes, start)
    flows = list(zip(src, dst, num_bytes, start, strict=True))
    np.testing.assert_allclose(finish, slow_flows(network, flows), rtol=1e-9)
    for topology in ("ring", "butterfly", "mesh", "tree"):
        schedule = load_topology(topology, {}).schedule(network.num_slots)
        sizes = DenseSizes(1000, schedule.num_chunks)
        np.testing.assert_allclose(
            simulate_schedule(schedule, network, sizes).finish_s,
            slow_schedule(schedule, network, sizes),
            rtol=1e-9,
        )


@pytest.mark.parametrize("ports", [4, 8])
def test_a_fat_tree_carries_every_shift_at_full_rate(ports):
    """What d-mod-k routing is for (Zahavi 2012): shifts, as of a ring or all-to-all."""
    network = from_graph(draw_fat_tree(ports, 1.0))
    hosts = np.arange(network.num_hosts)
    assert network.num_hosts == ports**3 // 4
    for shift in range(1, network.num_hosts):
        dst = (hosts + shift) % network.num_hosts
        ones = np.ones(network.num_hosts)
        np.testing.assert_allclose(simulate_flows(network, hosts, dst, ones, 0 * ones), 1.0)


def test_an_oversubscribed_uplink():
    """Four hosts per rack send across at once: each gets a quarter of an uplink of one host's."""
    network = from_graph(draw_racks(2, 4, 100.0, oversubscription=4))
    hosts, bytes_, zero = np.arange(4), np.full(4, 100.0), np.zeros(4)
    np.testing.assert_allclose(simulate_flows(network, hosts, hosts + 4, bytes_, zero), 4.0)
    np.testing.assert_allclose(simulate_flows(network, hosts, (hosts + 1) % 4, bytes_, zero), 1.0)


def test_placement_matters_on_racks():
    """A ring in order crosses each uplink once; dealt round robin, every hop crosses."""
    network = from_graph(draw_racks(4, 4, 100.0, oversubscription=4))
    dealt = place_round_robin(16, 4, 4)
    assert sorted(dealt) == list(range(16))
    assert dealt[:5].tolist() == [0, 4, 8, 12, 1]
    in_order = time_of("ring", network, 1600)
    assert in_order == pytest.approx(2 * 15 * 1.0)
    assert time_of("ring", network, 1600, placement=dealt) == pytest.approx(4 * in_order)


def test_gpu_hosts_share_a_nic():
    network = add_gpus(star(2, 100.0), 4, 400.0)
    gpus, bytes_, zero = np.arange(4), np.full(4, 100.0), np.zeros(4)
    np.testing.assert_allclose(simulate_flows(network, gpus, gpus + 4, bytes_, zero), 4.0)
    np.testing.assert_allclose(simulate_flows(network, gpus, gpus ^ 1, bytes_, zero), 0.25)


def test_half_duplex_edges():
    graph = draw_ring(2, 1.0)
    graph.edges["host 0", "host 1"]["half_duplex"] = True
    both = np.array([0, 1])
    finish = simulate_flows(from_graph(graph), both, both[::-1], np.ones(2), np.zeros(2))
    np.testing.assert_allclose(finish, 2.0)


def test_duplex_limiter():
    """Graphene: 120 MB/s one way, 187.5 both ways; exchanges are 1.28 times slower, trees not."""
    plain = star(8, 120e6)
    limited = limit_hosts(plain, 187.5e6)
    for topology in ("ring", "butterfly"):
        slower = time_of(topology, limited, 1e6) / time_of(topology, plain, 1e6)
        assert slower == pytest.approx(1.28)
    for topology in ("tree", "parameter-server"):
        assert time_of(topology, limited, 1e6) == pytest.approx(time_of(topology, plain, 1e6))
    assert limited.link_names(plain.num_links + 3) == "host 3 both ways"


def test_slow_host_and_slow_link():
    network = star(4, 100.0)
    assert links_of_host(network, 1) == (1, 5)
    ring = from_graph(GRAPHS["ring"])
    around = {ring.link_names(link) for link in links_of_host(ring, 0)}
    pairs = [("host 0", "host 1"), ("host 0", "host 6")]
    assert around == {f"{a} -> {b}" for pair in pairs for a, b in (pair, pair[::-1])}
    assert time_of("ring", slow_host(network, 1, 0.5), 400) == pytest.approx(12.0)
    assert time_of("ring", slow_links(network, [1], 0.5), 400) == pytest.approx(12.0)


def hand_made(network):
    """Return the network as one knows it who wrote only its routes."""
    return replace(network, own_links=None)


@pytest.mark.parametrize(
    "network",
    [
        star(8, 120e6),
        from_graph(draw_racks(2, 4, 120e6)),
        from_graph(draw_ring(8, 120e6)),
        hand_made(star(8, 120e6)),
        hand_made(from_graph(draw_racks(2, 4, 120e6))),
    ],
)
def test_a_limit_is_no_link_of_the_host(network):
    """The order of slowing a host and of limiting what hosts move makes no difference."""
    limited = limit_hosts(limit_hosts(network, 150e6), 140e6, "CPU")
    assert links_of_host(limited, 1) == links_of_host(hand_made(network), 1)
    first, then = slow_host(limited, 1, 0.1), limit_hosts(slow_host(network, 1, 0.1), 140e6)
    assert time_of("ring", first, 1e6) == time_of("ring", then, 1e6)
    assert time_of("ring", first, 1e6) > 1.5 * time_of("ring", limited, 1e6)
    with pytest.raises(ValueError, match="host 8, expected 0 to 7"):
        links_of_host(limited, 8)


def test_background_flows_take_their_share():
    schedule = Schedule.from_steps(2, 1, [reduce(0, 1)], goal="part")
    other = Background(np.array([0]), np.array([2]), np.array([50.0]), np.array([0.5]))
    cluster = placed(star(3, 100.0), 2, background=other)
    result = simulate_schedule(schedule, cluster, DenseSizes(100, 1))
    assert result.time_s == pytest.approx(1.5)


def test_a_link_slows_down_and_recovers():
    schedule = Schedule.from_steps(2, 1, [reduce(0, 1)], goal="part")
    changes = [LinkChange(0.5, (0,), 0.5), LinkChange(0.75, (0,), 1.0)]
    cluster = placed(star(2, 100.0), 2, changes=changes)
    result = simulate_schedule(schedule, cluster, DenseSizes(100, 1))
    assert result.time_s == pytest.approx(1.125)


def test_message_curve():
    """1 GbE over TCP, OSU: one message takes just what was measured at each size."""
    times = ((32.0, 25e-6), (1024.0, 49e-6), (4096.0, 235e-6), (16384.0, 235e-6), (32768.0, 419e-6))
    costs = EndCosts(message_curve=curve_from_times(times, 116.2e6, 20e-6))
    network = star(2, 116.2e6, 10e-6, costs=costs)
    schedule = Schedule.from_steps(2, 1, [reduce(0, 1)], goal="part")
    for size, time_s in times:
        result = simulate_schedule(schedule, network, DenseSizes(size, 1))
        assert result.time_s == pytest.approx(time_s)
    far = simulate_schedule(schedule, network, DenseSizes(32768 + 116.2e6, 1))
    assert far.time_s == pytest.approx(1 + times[-1][1])


def test_overhead_is_serial_per_rank():
    """A server that posts receives one after the other, o apart, and then sends likewise."""
    costs = EndCosts(overhead_s=1.0)
    network = star(4, 1e9, costs=costs)
    assert time_of("parameter-server", network, 1e-3) == pytest.approx(6.0)
    assert time_of("tree", network, 1e-3) == pytest.approx(4.0)


def test_costs_do_not_depend_on_who_is_early():
    """Overheads of a rank that waits begin when it reached the step, not when its peer did."""
    steps = [reduce(0, 1, 0, 4), reduce(1, 2, 0, 4)]
    schedule = Schedule.from_steps(3, 4, steps, goal="part")
    network = star(3, 1.0, costs=EndCosts(overhead_s=0.5, reduce_s_per_byte=0.25))
    result = simulate_schedule(schedule, network, DenseSizes(4, 4))
    assert result.finish_s.tolist() == [4.5, 10.0, 11.0]


def test_what_bounds_a_run():
    network = star(4, 100.0, 0.5)
    schedule = load_topology("parameter-server", {}).schedule(4)

    def bounds(num_bytes, costs=None):
        used = replace(network, costs=costs) if costs else network
        return simulate_schedule(schedule, used, DenseSizes(num_bytes, 1)).bounds

    large = bounds(1e6)
    assert large.bound_by == "host 0 up (and 1 more)"  # its down link carries as much
    assert large.link_s == pytest.approx(3e4)
    assert bounds(1.0).bound_by == "latency"
    assert bounds(1.0).latency_s == pytest.approx(2.0)
    assert bounds(1e6, EndCosts(reduce_s_per_byte=1.0)).bound_by == "rank 0 CPU"
    assert bounds(0.0, EndCosts(overhead_s=9.0)).cpu_s == pytest.approx(54.0)
    unequal = slow_links(network, [4], 0.5)
    result = simulate_schedule(schedule, unequal, DenseSizes(1e6, 1))
    assert result.bounds.bound_by == "host 0 down"
    assert result.bounds.largest_s <= result.time_s
    nothing = load_topology("ring", {}).schedule(1)
    assert simulate_schedule(nothing, network, DenseSizes(1, 1)).bounds.bound_by == "nothing"


def disconnected():
    graph = draw_ring(2, 1.0)
    graph.add_node("host 2", host=True)
    return graph


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: from_graph(disconnected()), "no path from 'host 2' to 'host 0'"),
        (lambda: from_graph(nx.path_graph(3)), "no hosts, expected nodes with host=True"),
        (lambda: from_graph(nx.path_graph(3), hosts=[0, 7]), "no node 7"),
        (
            lambda: from_graph(nx.path_graph(3), hosts=[0, 2]),
            "edge 0 - 1: no bandwidth",
        ),
        (lambda: from_graph(draw_star(2, 0.0)), "host 0 -> rack 0: bandwidth_bytes_per_s 0.0"),
        (lambda: draw_racks(0, 4, 1.0), "num_racks 0: expected at least 1"),
        (lambda: draw_racks(1, 4, 1.0, oversubscription=0), "oversubscription 0"),
        (lambda: draw_fat_tree(3, 1.0), "3 ports, expected an even number"),
        (lambda: place_round_robin(9, 2, 4), "9 ranks on 2 x 4 slots"),
        (lambda: slow_links(star(2, 1.0), [4], 0.5), "link 4: expected 0 to 3"),
        (lambda: slow_links(star(2, 1.0), [0], 0.0), "factor 0.0, expected above 0"),
        (lambda: add_gpus(star(2, 1.0), 0, 1.0), "0 in each host of Network.2 hosts, 4 links"),
        (lambda: add_gpus(add_gpus(star(2, 1.0), 2, 1.0), 2, 1.0), "2 hosts of 2 GPUs.*, once"),
        (lambda: add_gpus(star(2, 1.0), 2, 0.0), "host 0 GPU 0 up: bandwidth_bytes_per_s 0.0"),
        (lambda: limit_hosts(star(2, 1.0), 0.0), "host 0 both ways: bandwidth_bytes_per_s 0.0"),
        (lambda: LinkChange(-1.0, (0,), 1.0), "at_s -1.0"),
        (lambda: EndCosts(message_curve=((2, 1), (1, 1))), "expected growing sizes"),
        (lambda: EndCosts(message_curve=((2, -1),)), "end costs: message_curve.0.1 = -1: expected"),
    ],
)
def test_nonsense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_change_of_no_link_is_refused():
    schedule = Schedule.from_steps(2, 1, [reduce(0, 1)], goal="part")
    with pytest.raises(ValueError, match="link 9: expected 0 to 3"):
        simulate_schedule(
            schedule,
            placed(star(2, 1.0), 2, changes=[LinkChange(0.0, (9,), 0.5)]),
            DenseSizes(1, 1),
        )
