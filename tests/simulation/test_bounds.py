"""No schedule beats its lower bound, on any network; and the bounds are not idle."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from dgc_topo.network import (
    add_gpus,
    draw_fat_tree,
    draw_racks,
    draw_ring,
    draw_torus,
    from_graph,
    limit_hosts,
    place_round_robin,
    slow_host,
    star,
)
from dgc_topo.schedule import Schedule, reduce
from dgc_topo.schedule.cost import count_cost
from dgc_topo.simulation import (
    DenseSizes,
    UnionSizes,
    goal_bound_s,
    independent_growth,
    lower_bound_s,
    network_bound_s,
    power_growth,
    simulate_schedule,
)
from dgc_topo.simulation.unions import Growth
from dgc_topo.topology import load_topology
from dgc_topo.wire.coding import EntryCoding, FlatCoding, WireCoding
from tests.simulation.placed import placed
from tests.strategies import ALL_REDUCE, GOSSIP

LENGTH, ENTRIES = 1000, 30.0
CODINGS = [FlatCoding(), WireCoding(), WireCoding("bit-packed", "float16")]

NETWORKS = {
    "star": star(12, 100.0, 0.1),
    "slow host": slow_host(star(12, 100.0, 0.1), 3, 0.25),
    "duplex limit": limit_hosts(star(12, 100.0, 0.1), 150.0),
    "racks": from_graph(draw_racks(3, 4, 100.0, oversubscription=8, latency_s=0.1)),
    "fat tree": from_graph(draw_fat_tree(4, 100.0, 0.1)),
    "ring": from_graph(draw_ring(12, 100.0, 0.1)),
    "torus": from_graph(draw_torus(3, 4, 100.0, 0.1)),
    "gpus": add_gpus(star(3, 50.0), 4, 900.0),
}
PLACEMENTS = {"in order": np.arange(12), "round robin": place_round_robin(12, 3, 4)}


def dense(num_bytes: float) -> Growth:
    return lambda contributors: np.where(contributors > 0, num_bytes, 0.0)


def sparse(growth: Growth, coding: EntryCoding) -> Growth:
    return lambda contributors: coding.least_bytes(LENGTH, growth(contributors))


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("placement", PLACEMENTS.values(), ids=PLACEMENTS)
@pytest.mark.parametrize("world_size", [2, 7, 12])
def test_nothing_beats_its_bound(network, placement, world_size):
    hosts = placement[:world_size]
    growths = {None: independent_growth(LENGTH, ENTRIES), 0.0: power_growth(LENGTH, ENTRIES, 0.0)}
    for name, options in [*ALL_REDUCE, *GOSSIP]:
        schedule = load_topology(name, options).schedule(world_size)
        cost = count_cost(schedule)
        for num_bytes in (0.0, 1e4):
            sizes = DenseSizes(num_bytes, schedule.num_chunks)
            result = simulate_schedule(schedule, placed(network, world_size, hosts), sizes)
            bound_s = network_bound_s(schedule, cost, dense(num_bytes), network, hosts)
            assert bound_s <= result.time_s * (1 + 1e-12), (name, options)
        for (exponent, growth), coding in product(growths.items(), CODINGS):
            sizes_now = UnionSizes(
                schedule, length=LENGTH, entries=ENTRIES, union_exponent=exponent, coding=coding
            )
            result = simulate_schedule(schedule, placed(network, world_size, hosts), sizes_now)
            bound_s = network_bound_s(
                schedule,
                cost,
                sparse(growth, coding),
                network,
                hosts,
                is_dense=False,
            )
            assert bound_s <= result.time_s * (1 + 1e-12), (name, options, exponent, coding)


def bound_on(network, name="ring", num_bytes=1e4):
    schedule = load_topology(name).schedule(12)
    return network_bound_s(
        schedule,
        count_cost(schedule),
        dense(num_bytes),
        network,
        PLACEMENTS["in order"],
    )


def test_the_narrowest_cut_is_found():
    port_s = 2 * 11 / 12 * 100
    assert bound_on(NETWORKS["star"]) == pytest.approx(port_s)
    assert bound_on(NETWORKS["slow host"]) == pytest.approx(400)
    assert bound_on(NETWORKS["racks"]) == pytest.approx(200)  # an uplink of half a port
    assert bound_on(NETWORKS["gpus"]) == pytest.approx(200)
    assert bound_on(NETWORKS["star"], num_bytes=0.0) == pytest.approx(4 * 0.2)  # ceil(lg 12)


def test_on_equal_ports_it_is_the_textbook_bound():
    schedule = load_topology("tree").schedule(8)
    cost = count_cost(schedule)
    for num_bytes in (1.0, 1e6):
        textbook = lower_bound_s(8, num_bytes, 100.0, 0.2)
        assert goal_bound_s(schedule, cost, num_bytes, 100.0, 0.2) == pytest.approx(textbook)


def test_what_promises_nothing_has_no_bound():
    part = Schedule.from_steps(2, 1, [reduce(0, 1)], goal="part")
    assert goal_bound_s(part, count_cost(part), 1e6, 1.0, 1.0) == 0
    alone = load_topology("ring").schedule(1)
    assert goal_bound_s(alone, count_cost(alone), 1e6, 1.0, 1.0) == 0
    everyone_on_one_host = np.zeros(12, np.int64)
    schedule = load_topology("ring").schedule(12)
    bound_s = network_bound_s(
        schedule,
        count_cost(schedule),
        lambda c: c.astype(np.float64),
        replace(NETWORKS["star"]),
        everyone_on_one_host,
    )
    assert bound_s == 0
