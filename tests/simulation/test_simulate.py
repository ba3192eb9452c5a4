"""What `simulate` returns, and what it refuses."""

import math
import subprocess
import sys
import time

import numpy as np
import pytest
import simpy

from dgc_topo.network import EndCosts, Fabric, known_fabrics, load_fabric, star
from dgc_topo.schedule import Schedule, copy, gather, reduce
from dgc_topo.schedule.cost import count_cost
from dgc_topo.simulation import (
    DenseSizes,
    Fluid,
    ScheduleProgress,
    lower_bound_s,
    simulate_flows,
    simulate_schedule,
)
from dgc_topo.topology import load_topology
from tests.simulation.placed import placed
from tests.strategies import ALL_REDUCE

MIB = 2**20


def one_message(num_bytes=1e6):
    return Schedule.from_steps(2, 1, [reduce(0, 1)], goal="part"), DenseSizes(num_bytes, 1)


def test_imports_without_torch():
    code = "import sys, dgc_topo.simulation; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_result():
    schedule, sizes = one_message()
    result = simulate_schedule(schedule, star(3, 1e6, 0.25), sizes)
    assert result.time_s == 1.5
    assert result.messages == 1
    assert result.bytes_sent.tolist() == [1e6, 0]
    assert result.finish_s.tolist() == [1.5, 1.5]
    assert result.algbw_bytes_per_s(3e6) == 2e6
    assert result.busbw_bytes_per_s(3e6) == 2e6
    assert result.wall_s > 0


def test_one_rank_takes_no_time():
    schedule = load_topology("ring", {}).schedule(1)
    result = simulate_schedule(schedule, star(1, 1e6), DenseSizes(100, schedule.num_chunks))
    assert result.time_s == 0
    assert result.busbw_bytes_per_s(100) == 0
    assert result.algbw_bytes_per_s(100) == math.inf


def test_empty_messages_cost_latency_only():
    schedule = load_topology("ring", {}).schedule(4)
    assert simulate_schedule(schedule, star(4, 1e6, 0.5), DenseSizes(0, 4)).time_s == 6.0
    assert simulate_schedule(schedule, star(4, 1e6), DenseSizes(0, 4)).time_s == 0.0


def test_transfers_of_one_pair_share_a_connection():
    """Rank 0 sends twice to rank 1 and once to 2: two flows share its up link, not three."""
    step = gather([reduce(0, 1, 0), reduce(0, 1, 1), reduce(0, 2, 0)])
    schedule = Schedule.from_steps(3, 2, [step], goal="part")
    result = simulate_schedule(schedule, star(3, 1.0), DenseSizes(2, 2))
    assert result.finish_s.tolist() == [3.0, 3.0, 2.0]
    assert result.messages == 3


def test_ranks_drift():
    """No barrier: ranks 2 and 3 do their second step while 0 and 1 are in their first."""
    steps = [gather([reduce(0, 1, 0, 4), reduce(2, 3, 0, 1)]), copy(3, 2), copy(1, 0)]
    schedule = Schedule.from_steps(4, 4, steps, goal="part")
    result = simulate_schedule(schedule, star(4, 1.0), DenseSizes(4, 4))
    assert result.finish_s.tolist() == [5.0, 5.0, 2.0, 2.0]


def test_placement_puts_ranks_on_hosts():
    schedule = Schedule.from_steps(3, 1, [gather([reduce(0, 1), reduce(2, 1)])], goal="part")
    network = star(8, 1.0)
    apart = simulate_schedule(schedule, placed(network, 3, np.array([7, 3, 5])), DenseSizes(1, 1))
    assert apart.time_s == 2.0
    together = simulate_schedule(
        schedule, placed(network, 3, np.array([7, 3, 3])), DenseSizes(1, 1)
    )
    assert together.time_s == 1.0  # inside a host nothing crosses a link


def test_ten_thousand_idle_ranks_and_a_long_chain():
    """Steps that touch few ranks stay cheap: those that do nothing cost next to nothing."""
    steps = [reduce(rank, rank + 1) for rank in range(300)]
    fewest_s = {}  # of the processor's time, which other work on this machine leaves alone
    for world_size in (301, 10_000):
        schedule = Schedule.from_steps(world_size, 1, steps, goal="part")
        network = star(world_size, 1.0)
        worked_s = []
        for _ in range(3):
            before_s = time.thread_time()
            assert simulate_schedule(schedule, network, DenseSizes(1, 1)).time_s == 300.0
            worked_s.append(time.thread_time() - before_s)
        fewest_s[world_size] = min(worked_s)
    assert fewest_s[10_000] < 10 * fewest_s[301]


def test_host_overhead_and_reduction():
    """The ring with gamma: 2 (p-1) (alpha + 2 o) + 2 (p-1)/p n beta + (p-1)/p n gamma."""
    p, n = 4, 1e6
    costs = EndCosts(overhead_s=1e-3, reduce_s_per_byte=1e-7)
    schedule = load_topology("ring", {}).schedule(p)
    result = simulate_schedule(schedule, star(p, 1e6, 0.5e-3, costs=costs), DenseSizes(n, p))
    share = (p - 1) / p * n
    expected = 2 * (p - 1) * (1e-3 + 2e-3) + 2 * share / 1e6 + share * 1e-7
    assert result.time_s == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", known_fabrics())
def test_fabrics(name):
    given = {"bandwidth_bytes_per_s": 125e6, "link_latency_s": 5e-5} if name == "ideal" else {}
    fabric = load_fabric(name, **given)
    schedule, sizes = one_message()
    expected = fabric.latency_s + 1e6 / fabric.bandwidth_bytes_per_s
    assert simulate_schedule(schedule, fabric.star(2), sizes).time_s == pytest.approx(expected)
    assert fabric.source


def test_bad_fabrics():
    with pytest.raises(ValueError, match=r"fabric '2gbe': unknown, expected .*ideal.*did you mean"):
        load_fabric("2gbe")
    with pytest.raises(ValueError, match="fabric ideal: no bandwidth"):
        load_fabric("ideal")
    with pytest.raises(ValueError, match="expected 'ideal' to set them"):
        load_fabric("1gbe", bandwidth_bytes_per_s=1e9)
    with pytest.raises(ValueError, match="bandwidth 0 bytes/s, expected above 0"):
        Fabric("mine", 0, 0, "")
    with pytest.raises(ValueError, match="latency -1 s"):
        Fabric("mine", 1, -1, "")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: star(0, 1e6), "0 hosts, expected at least 1"),
        (lambda: star(2, 0), "host 0 up: bandwidth_bytes_per_s 0.0, expected above 0"),
        (lambda: star(2, [1, 1, float("nan"), 1]), "host 0 down: bandwidth_bytes_per_s nan"),
        (lambda: star(2, 1, -1), "latency_s -1.0, expected 0 or more"),
        (lambda: star(2, [1, 2, 3]), r"bandwidth_bytes_per_s of shape \(3,\), expected one number"),
        (lambda: place_two_ranks(star(1, 1)), "2 ranks on 1 hosts"),
        (lambda: place_two_ranks(star(2, 1), np.array([0, 2])), "slots 0 to 2, expected 0 to 1"),
        (
            lambda: place_two_ranks(star(2, 1), np.array([0])),
            "has its ranks already, expected no others",
        ),
        (lambda: flow(src=5), "src hosts 5 to 5, expected 0 to 1"),
        (lambda: flow(num_bytes=-1), "flow 0: num_bytes -1.0, expected"),
        (lambda: flow(start=float("nan")), "flow 0: start_s nan"),
        (lambda: lower_bound_s(0, 1, 1, 1), "0 ranks"),
        (lambda: lower_bound_s(2, -1, 1, 1), "-1 bytes"),
        (lambda: lower_bound_s(2, 1, 0, 1), "bandwidth 0"),
        (lambda: EndCosts(overhead_s=-1), "end costs: overhead_s = -1: expected greater"),
    ],
)
def test_nonsense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def place_two_ranks(network, placement=None):
    schedule, sizes = one_message()
    cluster = network if placement is None else placed(network, 2, placement)
    simulate_schedule(schedule, cluster, sizes)


def flow(src=0, num_bytes=1.0, start=0.0):
    return simulate_flows(
        star(2, 1.0), np.array([src]), np.array([1]), np.array([num_bytes]), np.array([start])
    )


def test_flow_arrays_of_one_length():
    with pytest.raises(ValueError, match="expected one length"):
        simulate_flows(star(2, 1.0), np.array([0]), np.array([1]), np.array([1.0]), np.zeros(2))


def test_no_flows():
    hosts, numbers = np.empty(0, np.int64), np.empty(0)
    assert len(simulate_flows(star(2, 1.0), hosts, hosts, numbers, numbers)) == 0


@pytest.mark.parametrize("num_bytes", [1.0, 100.0 * MIB])
@pytest.mark.parametrize("world_size", [1, 2, 5, 8, 33])
@pytest.mark.parametrize("case", ALL_REDUCE, ids=str)
def test_nothing_beats_the_lower_bound(case, world_size, num_bytes):
    if case[1].get("server") == "dedicated":
        pytest.skip("a dedicated server is not one of the ranks")
    schedule = load_topology(*case).schedule(world_size)
    time_s = simulate_schedule(
        schedule, star(world_size, 125e6, 25e-6), DenseSizes(num_bytes, schedule.num_chunks)
    ).time_s
    at_once = max(1, count_cost(schedule).most_per_step)
    bound_s = lower_bound_s(world_size, num_bytes, 125e6, 50e-6, messages_at_once=at_once)
    assert time_s >= bound_s * (1 - 1e-9)


def test_lower_bounds():
    assert lower_bound_s(1, 1e9, 1e6, 1.0) == 0
    assert lower_bound_s(8, 0, 1e6, 1.0) == 3
    assert lower_bound_s(9, 0, 1e6, 1.0) == 4
    assert lower_bound_s(9, 0, 1e6, 1.0, messages_at_once=2) == 2
    assert lower_bound_s(4, 1e6, 1e6, 0.1) == 1.5


def test_finished_steps_are_forgotten():
    """Of 64 x 126 transfers only those between the slowest and the fastest rank are kept."""
    world_size = 64
    schedule = load_topology("ring", {}).schedule(world_size)
    factors = np.random.default_rng(0).uniform(0.8, 1.2, 2 * world_size)
    fluid = Fluid(simpy.Environment(), star(world_size, 125e6 * factors, 25e-6))
    progress = ScheduleProgress(fluid, schedule, DenseSizes(1e8, world_size), np.arange(world_size))
    progress.settled()
    fluid.env.run(until=progress.finished)
    flows = progress._agenda.flows
    assert flows.end == 64 * 126
    assert flows.base > 0
    assert len(flows["waiting"]) <= 4096
