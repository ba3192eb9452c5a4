"""The fluid model against closed forms and against a slow, obvious one."""

import math
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from dgc_topo.network import Network, draw_racks, from_graph, star
from dgc_topo.schedule import Schedule, Step, copy, gather, reduce
from dgc_topo.simulation import (
    DenseSizes,
    due_flows,
    fluid,
    max_min_rates,
    maxmin,
    sharing,
    simulate_flows,
    simulate_schedule,
)
from dgc_topo.simulation.step_sizes import StepSizes
from dgc_topo.topology import load_topology
from tests.simulation.slow import slow_flows, slow_max_min, slow_schedule
from tests.strategies import ALL_REDUCE, GOSSIP, PUSH

BANDWIDTH, LATENCY = 125e6, 25e-6  # per link
ALPHA, BETA = 2 * LATENCY, 1 / BANDWIDTH

WORLDS = range(2, 65)
SIZES = [1024.0, 100.0 * 2**20]


def up(p: int) -> int:
    return math.ceil(math.log2(p))


#: Latencies and whole-buffer times of an all-reduce on a star, from the table of cost models.
CLOSED_FORMS: dict[str, Callable[[int], tuple[float, float]]] = {
    "ring": lambda p: (2 * (p - 1), 2 * (p - 1) / p),
    "tree": lambda p: (2 * up(p), 2 * up(p)),
    "butterfly": lambda p: (2 * up(p), 2 * (p - 1) / p),
    "butterfly doubling": lambda p: (up(p), up(p)),
    "parameter-server": lambda p: (2, 2 * (p - 1)),
    "sharded-parameter-server": lambda p: (2, 2 * (p - 1) / p),
    "mesh": lambda p: (1, p - 1),
}


def closed_form(name: str, options: dict[str, Any], p: int, num_bytes: float) -> float | None:
    """Seconds, or None where there is no closed form."""
    if name == "hierarchical":
        return None
    folding = 0
    if name == "butterfly" and p & (p - 1):
        if options.get("algorithm") != "doubling":
            return None
        p, folding = 1 << (p.bit_length() - 1), 2  # into a power of two and out again
    key = "butterfly doubling" if options.get("algorithm") == "doubling" else name
    latencies, buffers = CLOSED_FORMS[key](p)
    return (latencies + folding) * ALPHA + (buffers + folding) * num_bytes * BETA


@pytest.mark.parametrize("num_bytes", SIZES)
@pytest.mark.parametrize("case", ALL_REDUCE, ids=str)
def test_closed_forms(case, num_bytes):
    name, options = case
    checked = 0
    for world_size in WORLDS:
        expected = closed_form(name, options, world_size, num_bytes)
        if expected is None:
            continue
        schedule = load_topology(name, options).schedule(world_size)
        result = simulate_schedule(
            schedule,
            star(world_size, BANDWIDTH, LATENCY),
            DenseSizes(num_bytes, schedule.num_chunks),
        )
        assert result.time_s == pytest.approx(expected, rel=1e-9), world_size
        checked += 1
    assert checked or name == "hierarchical"


def random_network(draw: st.DrawFn, num_hosts: int) -> Network:
    """Hosts whose routes are random lists of distinct links, fixed per pair."""
    num_links = draw(st.integers(1, 8))
    seed = draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    table = np.full((num_hosts, num_hosts, 3), -1)
    for src in range(num_hosts):
        for dst in range(num_hosts):
            length = (
                rng.integers(0, min(3, num_links) + 1)
                if src == dst
                else rng.integers(1, min(3, num_links) + 1)
            )
            table[src, dst, :length] = rng.permutation(num_links)[:length]
    few = rng.choice([1.0, 2.0, 3.0], num_links) if seed % 2 else rng.uniform(1, 9, num_links)
    latency = rng.choice([0.0, 0.5, 1.0], num_links) if seed % 3 else rng.uniform(0, 1, num_links)
    return Network(num_hosts, few, latency, lambda src, dst: table[src, dst])


@st.composite
def flows_on_a_network(draw):
    num_hosts = draw(st.integers(1, 6))
    network = random_network(draw, num_hosts)
    host = st.integers(0, num_hosts - 1)
    size = st.one_of(st.sampled_from([0.0, 1.0, 6.0]), st.floats(1e-3, 100))
    start = st.one_of(st.sampled_from([0.0, 1.0, 2.5]), st.floats(0, 20))
    flows = draw(st.lists(st.tuples(host, host, size, start), max_size=24))
    return network, flows


#: How to share: after how many calm instants links' users are indexed, how large a component is
#: solved with all the rest, and how many flows are handled one by one.
WAYS = {"mixed": (2, 3, 2), "local": (0, 256, 6), "local arrays": (0, 256, 0), "global": (99, 0, 0)}


@pytest.fixture(params=WAYS)
def way_of_sharing(request, monkeypatch):
    patience, large, few = WAYS[request.param]
    monkeypatch.setattr(sharing, "PATIENCE", patience)
    monkeypatch.setattr(sharing, "LARGE_COMPONENT", large)
    monkeypatch.setattr(fluid, "FEW", few)
    monkeypatch.setattr(due_flows, "FEW", few)


@pytest.fixture(params=[maxmin.WORTH_A_ROUND, 2.0], ids=["rounds", "one by one"])
def way_of_filling(request, monkeypatch):
    monkeypatch.setattr(maxmin, "WORTH_A_ROUND", request.param)


@pytest.mark.usefixtures("way_of_filling")
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_rates_are_the_slow_ones(data):
    num_links = data.draw(st.integers(1, 10))
    capacity = data.draw(
        st.lists(
            st.one_of(st.integers(1, 4).map(float), st.floats(0.1, 9)),
            min_size=num_links,
            max_size=num_links,
        )
    )
    link = st.integers(0, num_links - 1)
    routes = data.draw(st.lists(st.lists(link, max_size=4, unique=True), min_size=1, max_size=20))
    hops = np.full((4, len(routes)), num_links)
    for flow, route in enumerate(routes):
        hops[: len(route), flow] = route
    rates = max_min_rates(hops, np.array([*capacity, np.inf]))
    np.testing.assert_allclose(rates, slow_max_min(routes, capacity), rtol=1e-9)


@pytest.mark.usefixtures("way_of_filling")
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_weighted_rates_are_the_slow_ones(data):
    """Also where a flow crosses a link twice, as when one machine sends and receives."""
    num_links, num_hops = data.draw(st.integers(1, 6)), 4
    capacity = data.draw(st.lists(st.floats(0.1, 9), min_size=num_links, max_size=num_links))
    weights = data.draw(st.lists(st.floats(0.05, 3), min_size=num_hops, max_size=num_hops))
    hop = st.integers(0, num_links)  # the last one pads, anywhere
    table = data.draw(st.lists(st.tuples(*[hop] * num_hops), min_size=1, max_size=12))
    routes = [[link for link in row if link < num_links] for row in table]
    used = [[w for w, link in zip(weights, row, strict=True) if link < num_links] for row in table]
    rates = max_min_rates(np.array(table).T, np.array([*capacity, np.inf]), np.array(weights))
    np.testing.assert_allclose(rates, slow_max_min(routes, capacity, used), rtol=1e-9)


def test_a_flow_without_any_limit_is_free_beside_others():
    """Also where a position has no use of its own, as of a CPU that messages do not need."""
    hops = np.array([[2, 0, 1], [3, 1, 3], [3, 3, 3]])
    rates = max_min_rates(hops, np.array([1.0, 10.0, np.inf, np.inf]), np.array([1.0, 1.0, 0.0]))
    assert rates.tolist() == [np.inf, 1.0, 9.0]


@pytest.mark.usefixtures("way_of_sharing")
def test_flows_end_as_in_the_slow_model():
    @settings(max_examples=100)
    @given(flows_on_a_network())
    def check(case):
        network, flows = case
        src, dst, num_bytes, start = (
            (np.array(column) for column in zip(*flows, strict=True))
            if flows
            else (np.empty(0, np.int64),) * 2 + (np.empty(0),) * 2
        )
        finish = simulate_flows(network, src, dst, num_bytes, start)
        np.testing.assert_allclose(finish, slow_flows(network, flows), rtol=1e-9)

    check()


@pytest.mark.usefixtures("way_of_sharing")
@pytest.mark.parametrize("seed", range(3))
def test_many_flows_on_unequal_racks_end_as_in_the_slow_model(seed):
    """Slow flows keep their rates while faster ones beside them come and go."""
    num_flows, rng = 60, np.random.default_rng(seed)
    graph = draw_racks(3, 4, 1.0, oversubscription=2, latency_s=0.01)
    for _, _, link in graph.edges(data=True):
        link["bandwidth_bytes_per_s"] *= rng.uniform(0.2, 1.8)
    network = from_graph(graph)
    src, dst = rng.integers(0, 12, (2, num_flows))
    num_bytes, start = rng.uniform(0, 5, num_flows), rng.uniform(0, 10, num_flows)
    start[: num_flows // 2] = 1.0
    finish = simulate_flows(network, src, dst, num_bytes, start)
    flows = list(zip(src, dst, num_bytes, start, strict=True))
    np.testing.assert_allclose(finish, slow_flows(network, flows), rtol=1e-9)


@st.composite
def random_schedule(draw):
    world_size = draw(st.integers(2, 6))
    rank = st.integers(0, world_size - 1)
    pair = st.tuples(rank, rank).filter(lambda pair: pair[0] != pair[1])
    transfer = st.tuples(pair, st.integers(0, 2), st.booleans())
    steps = []
    for transfers in draw(st.lists(st.lists(transfer, max_size=8), max_size=6)):
        made: list[Step] = [
            (reduce if add else copy)(src, dst, chunk) for (src, dst), chunk, add in transfers
        ]
        steps.append(gather(made))
    return Schedule.from_steps(world_size, 3, steps, goal="part")


class RandomSizes:
    """Different bytes for every transfer, some of them zero."""

    def of_step(self, step_index, step):
        rng = np.random.default_rng(step_index)
        return StepSizes(rng.choice([0.0, 1.0, 3.0, rng.uniform(0, 5)], len(step)))


@pytest.mark.usefixtures("way_of_sharing")
def test_schedules_end_as_in_the_slow_model():
    @settings(max_examples=100)
    @given(st.data(), random_schedule())
    def check(data, schedule):
        network = random_network(data.draw, schedule.world_size)
        slow = slow_schedule(schedule, network, RandomSizes())
        for engine in ("events", "auto"):
            result = simulate_schedule(schedule, network, RandomSizes(), engine=engine)
            np.testing.assert_allclose(result.finish_s, slow, rtol=1e-9)
            assert result.time_s == max(result.finish_s)

    check()


@pytest.mark.parametrize("case", [*ALL_REDUCE, *GOSSIP, *PUSH], ids=str)
@pytest.mark.parametrize("world_size", [5, 8])
def test_topologies_on_unequal_links_end_as_in_the_slow_model(case, world_size):
    name, options = case
    schedule = load_topology(name, options).schedule(world_size)
    rng = np.random.default_rng(7)
    network = star(
        world_size,
        BANDWIDTH * rng.uniform(0.8, 1.2, 2 * world_size),
        LATENCY * rng.uniform(0.8, 1.2, 2 * world_size),
    )
    sizes = DenseSizes(1e7, schedule.num_chunks)
    result = simulate_schedule(schedule, network, sizes)
    np.testing.assert_allclose(result.finish_s, slow_schedule(schedule, network, sizes), rtol=1e-9)


@pytest.mark.usefixtures("way_of_sharing")
@pytest.mark.parametrize("seed", range(4))
def test_an_incast_beside_lone_flows(seed):
    """Large components and single flows change at the same instants."""
    rng = np.random.default_rng(seed)
    incast, lone = 12, 30
    src = np.concatenate([np.arange(1, incast + 1), np.full(lone, incast + 1)])
    dst = np.concatenate([np.zeros(incast, np.int64), np.full(lone, incast + 2)])
    num_bytes = np.concatenate([rng.integers(1, 9, incast), np.ones(lone)]).astype(float)
    start = np.concatenate([np.zeros(incast), 2 * np.arange(lone)])
    network = star(incast + 3, 1.0)
    flows = list(zip(src, dst, num_bytes, start, strict=True))
    finish = simulate_flows(network, src, dst, num_bytes, start)
    np.testing.assert_allclose(finish, slow_flows(network, flows), rtol=1e-9)
