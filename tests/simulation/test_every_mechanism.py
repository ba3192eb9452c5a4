"""No time is below its bound, whatever the model's mechanisms do together.

Each case draws a network, what differs on it, what messages cost and what is sent.
"""

from dataclasses import dataclass, replace
from functools import cache

import networkx as nx
import numpy as np
import pytest

from dgc_topo.network import (
    Background,
    EndCosts,
    LinkChange,
    add_gpus,
    draw_racks,
    draw_torus,
    from_graph,
    limit_hosts,
    links_of_host,
    slow_host,
    slow_links,
    star,
)
from dgc_topo.schedule.cost import count_cost
from dgc_topo.simulation import DenseSizes, UnionSizes, network_bound_s, simulate_schedule
from dgc_topo.simulation.training import (
    Codec,
    ComputeFactors,
    DenseEncoding,
    LognormalJitter,
    ReadyLayer,
    SparseEncoding,
    TrainingStep,
    Workload,
    power_rule,
    simulate_training_step,
)
from dgc_topo.simulation.unions import growth_of
from dgc_topo.topology import load_topology
from dgc_topo.wire.coding import WireCoding
from tests.simulation.placed import placed
from tests.strategies import ALL_REDUCE, GOSSIP, parts

NUM_CASES, BATCHES = 2000, 8
HOSTS = 8
ROUNDING = 1 + 1e-9


def draw_half_duplex(rng):
    graph: nx.Graph[object] = nx.Graph()
    for host in range(HOSTS):
        graph.add_node(host, host=True)
        speed = {"bandwidth_bytes_per_s": rng.uniform(50, 200), "latency_s": rng.uniform(0, 0.2)}
        graph.add_edge(host, "switch", half_duplex=bool(rng.integers(2)), **speed)
    return graph


NETWORKS = (
    lambda rng: star(HOSTS, rng.uniform(50, 200, 2 * HOSTS), rng.uniform(0, 0.2, 2 * HOSTS)),
    lambda rng: star(HOSTS, 100.0, 0.1),
    lambda rng: star(HOSTS, 100.0),
    lambda rng: from_graph(draw_racks(2, 4, 100.0, oversubscription=4, latency_s=0.05)),
    lambda rng: from_graph(draw_torus(2, 4, 100.0, 0.05)),
    lambda rng: add_gpus(star(2, 50.0), 4, 900.0),
    lambda rng: from_graph(draw_half_duplex(rng)),
)


@dataclass(frozen=True)
class World:
    """A network, who runs where, and what happens meanwhile."""

    schedule: object
    network: object
    hosts: np.ndarray
    background: Background | None
    changes: tuple[LinkChange, ...]


def sometimes(rng, value, otherwise=0.0):
    return value if rng.random() < 0.5 else otherwise


def draw_costs(rng):
    """Serial costs, or processors that are shared; bursts, curves and acknowledgements."""
    common = {
        "burst_bytes": sometimes(rng, rng.uniform(0, 400)),
        "reverse_share": sometimes(rng, 0.05),
        "overhead_s": sometimes(rng, 0.02),
        "step_overhead_s": sometimes(rng, 0.03),
        "start_overhead_s": sometimes(rng, 0.1),
        "receive_overhead_s": sometimes(rng, 0.02),
        "reduce_s_per_byte": sometimes(rng, 1e-3),
        "scale_s_per_byte": sometimes(rng, 5e-4),
        "joint_merge_s": sometimes(rng, 0.04),
        "message_curve": sometimes(rng, ((10.0, 0.05), (500.0, 0.3)), ()),
    }
    if rng.random() < 0.6:
        return EndCosts(**common)
    return EndCosts(
        **common,
        send_s_per_byte=sometimes(rng, 2e-3),
        receive_s_per_byte=sometimes(rng, 3e-3),
        code_s_per_byte=sometimes(rng, 1e-3),
        merge_s_per_byte=sometimes(rng, 1e-3),
        sort_s_per_byte=sometimes(rng, 2e-3),
        code_s_per_message=sometimes(rng, 0.01),
        cold_code_s=sometimes(rng, 0.05),
        cores_per_process=float(rng.choice([0.5, 1.0, 2.0])),
        cores_per_machine=sometimes(rng, 1.5, None),
        hosts_per_machine=int(rng.integers(1, 4)),
    )


def draw_changes(rng, network):
    """Links that get faster or slower, or fail and come back faster than they were."""
    changes = []
    for _ in range(rng.integers(0, 4)):
        links = links_of_host(network, int(rng.integers(network.num_hosts)))
        if rng.random() < 0.3:
            links = (int(rng.integers(network.num_links)),)
        at_s = sometimes(rng, rng.uniform(0, 10))
        factor = float(rng.choice([0.0, 0.3, 2.0, 10.0]))
        changes.append(LinkChange(at_s, links, factor))
        if not factor:
            changes.append(LinkChange(at_s + rng.uniform(0, 10), links, rng.uniform(0.5, 5)))
    return tuple(changes)


def draw_background(rng):
    if rng.random() < 0.6:
        return None
    src = rng.integers(0, HOSTS, 3)
    dst = (src + rng.integers(1, HOSTS, 3)) % HOSTS
    return Background(src, dst, rng.uniform(0, 3000, 3), rng.uniform(0, 5, 3))


def draw_world(rng):
    name, options = [*ALL_REDUCE, *GOSSIP][rng.integers(len(ALL_REDUCE) + len(GOSSIP))]
    schedule = schedule_of(name, tuple(sorted(options.items())), int(rng.integers(2, 7)))
    world_size = schedule.world_size
    network = NETWORKS[rng.integers(len(NETWORKS))](rng)
    network = replace(network, costs=draw_costs(rng))
    if rng.random() < 0.3:
        network = slow_host(
            network, int(rng.integers(network.num_hosts)), float(rng.choice([0.2, 3.0]))
        )
    if rng.random() < 0.2:
        network = slow_links(network, [int(rng.integers(network.num_links))], 0.3)
    changes = draw_changes(rng, network)
    if rng.random() < 0.3:
        network = limit_hosts(network, rng.uniform(50, 200, network.num_hosts))
    if rng.random() < 0.3:
        network = limit_hosts(network, rng.uniform(50, 200, HOSTS), "CPU", each="slot")
    hosts = rng.permutation(HOSTS)[:world_size]
    if rng.random() < 0.1:
        hosts = rng.integers(0, HOSTS, world_size)  # several ranks on a host
    return World(schedule, network, hosts, draw_background(rng), changes)


@cache  # finding an installed topology takes longer than to simulate it
def schedule_of(name, options, world_size):
    return load_topology(name, dict(options)).schedule(world_size)


def draw_sizes(rng, schedule):
    """Return sizes, and the least bytes of what some contributors give together."""
    if rng.random() < 0.5:
        num_bytes = float(rng.choice([0.0, 1.0, 300.0, 5000.0]))
        dense = DenseSizes(num_bytes, schedule.num_chunks)
        return dense, lambda count: np.where(count > 0, num_bytes, 0.0), True
    length, exponent = 1000, [None, 0.0, 0.5, 1.0][rng.integers(4)]
    entries = float(rng.choice([0.0, 1.0, 40.0, 1000.0]))
    sizes = UnionSizes(schedule, length=length, entries=entries, union_exponent=exponent)
    growth = growth_of(length, entries, exponent)
    return sizes, lambda count: WireCoding().least_bytes(length, growth(count)), False


@pytest.mark.parametrize("batch", parts(3, BATCHES))
def test_no_time_is_below_its_bound(batch):
    binding = 0
    for number in range(batch, NUM_CASES, BATCHES):
        rng = np.random.default_rng([19, number])
        world = draw_world(rng)
        sizes, union_bytes, is_dense = draw_sizes(rng, world.schedule)
        result = simulate_schedule(
            world.schedule,
            placed(
                world.network,
                world.schedule.world_size,
                world.hosts,
                world.background,
                world.changes,
            ),
            sizes,
        )
        bound_s = network_bound_s(
            world.schedule,
            count_cost(world.schedule),
            union_bytes,
            world.network,
            world.hosts,
            is_dense=is_dense,
            changes=world.changes,
        )
        assert bound_s <= result.time_s * ROUNDING, number
        assert result.bounds.largest_s <= result.time_s * ROUNDING, number
        binding += result.bounds.largest_s > 0.9 * result.time_s
    assert binding > 20  # the bounds are not idle


def draw_step(rng):
    ready_s = np.sort(rng.uniform(0, 3, 4))
    layers = [ReadyLayer(f"{at}", at, (int(rng.integers(0, 400)),), 3) for at in ready_s.tolist()]
    dense = rng.random() < 0.5
    return TrainingStep(
        workload=Workload(rng.uniform(0, 1), tuple(layers), update_s=sometimes(rng, 0.2)),
        encoding=DenseEncoding() if dense else SparseEncoding(0.1, union=power_rule(0.5)),
        codec=Codec() if dense else Codec(encode_s_per_element=1e-3, decode_s_per_element=1e-3),
        bucket_bytes=sometimes(rng, rng.uniform(100, 2000), None),
        accumulation_steps=int(rng.integers(1, 3)),
        compute_factors=ComputeFactors(
            {0: 1.5} if rng.random() < 0.3 else {}, sometimes(rng, LognormalJitter(0.3), None)
        ),
    )


@pytest.mark.parametrize("batch", parts(3, BATCHES))
def test_no_training_step_is_below_its_bound(batch):
    for number in range(batch, NUM_CASES // 4, BATCHES):
        rng = np.random.default_rng([91, number])
        world, step = draw_world(rng), draw_step(rng)
        result = simulate_training_step(
            step,
            world.schedule,
            placed(
                world.network,
                world.schedule.world_size,
                world.hosts,
                world.background,
                world.changes,
            ),
        )
        least_s = max(
            result.traffic.bounds.largest_s,
            step.alone_s * min(result.timeline.factors[result.workers]),
        )
        assert least_s <= result.step_time_s * ROUNDING, number
