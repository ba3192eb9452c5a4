"""Processors as resources: CPU time per byte, cores that processes share, acknowledgements."""

import math

import numpy as np
import pytest
import simpy

from dgc_topo.network import EndCosts, star
from dgc_topo.schedule import Schedule, copy, reduce
from dgc_topo.simulation import (
    DenseSizes,
    Fluid,
    UnionSizes,
    sharing,
    simulate_flows,
    simulate_schedule,
)
from dgc_topo.simulation.run import run_to_end
from dgc_topo.simulation.training.stream import BucketStream
from dgc_topo.topology import load_topology
from dgc_topo.wire.coding import WireCoding

WIDE = 1e24  # links that never matter
MB = 1e6


def run(topology, world_size, num_bytes, bandwidth=WIDE, **costs):
    schedule = load_topology(topology).schedule(world_size)
    network = star(world_size, bandwidth, costs=EndCosts(**costs))
    return simulate_schedule(schedule, network, DenseSizes(num_bytes, schedule.num_chunks))


@pytest.fixture(params=["arrays", "components"])
def way_of_sharing(request, monkeypatch):
    monkeypatch.setattr(sharing, "PATIENCE", {"arrays": 99, "components": 0}[request.param])


@pytest.mark.usefixtures("way_of_sharing")
@pytest.mark.parametrize("world_size", [2, 3, 4, 8])
def test_a_ring_on_enough_cores_is_bound_by_each_process(world_size):
    result = run("ring", world_size, 8 * MB, send_s_per_byte=2e-9, receive_s_per_byte=3e-9)
    each_way = 2 * (world_size - 1) / world_size * 8 * MB
    assert result.time_s == pytest.approx(each_way * 5e-9, rel=1e-9)
    assert result.bounds.bound_by.startswith("host 0 CPU")
    assert result.bounds.cpu_s == pytest.approx(result.time_s, rel=1e-9)


@pytest.mark.usefixtures("way_of_sharing")
@pytest.mark.parametrize(("cores", "slower"), [(1, 8), (2, 4), (4, 2), (8, 1), (16, 1)])
def test_processes_share_the_cores_of_their_machine(cores, slower):
    alone = run("ring", 8, 8 * MB, send_s_per_byte=2e-9, receive_s_per_byte=2e-9)
    shared = run(
        "ring",
        8,
        8 * MB,
        send_s_per_byte=2e-9,
        receive_s_per_byte=2e-9,
        cores_per_machine=cores,
        hosts_per_machine=8,
    )
    assert shared.time_s == pytest.approx(slower * alone.time_s, rel=1e-9)
    assert shared.bounds.bound_by.startswith("machine 0 CPU" if cores < 8 else "host 0 CPU")


def test_hosts_of_other_machines_are_left_alone():
    """Two machines of two hosts and one core each; only the first one's hosts are busy."""
    costs = EndCosts(send_s_per_byte=1e-9, cores_per_machine=1, hosts_per_machine=2)
    network = star(4, WIDE, costs=costs)
    src, dst = np.array([0, 1, 2]), np.array([2, 3, 1])
    finish = simulate_flows(network, src, dst, np.full(3, MB), np.zeros(3))
    np.testing.assert_allclose(finish, [2e-3, 2e-3, 1e-3], rtol=1e-9)


@pytest.mark.parametrize("cores", [1.0, 2.0, None])
def test_a_narrow_link_and_a_slow_processor_take_the_slower_one(cores):
    """Per byte a link takes 8 ns, two processes 2 ns each of a machine's cores."""
    costs = {"send_s_per_byte": 1e-9, "receive_s_per_byte": 1e-9, "cores_per_machine": cores}
    result = run("ring", 4, 4 * MB, bandwidth=125 * MB, hosts_per_machine=4, **costs)
    each_way = 6 * MB
    assert result.time_s == pytest.approx(
        each_way * max(8e-9, 4 * 2e-9 / (cores or math.inf)), rel=1e-9
    )


@pytest.mark.usefixtures("way_of_sharing")
@pytest.mark.parametrize("cores", [1, 2, 4])
def test_overheads_and_additions_are_work_that_shares_cores(cores):
    """A butterfly of 4: 2 steps; in each, everybody posts 2 messages and adds what arrives."""
    result = run(
        "butterfly",
        4,
        4 * MB,
        overhead_s=1e-4,
        step_overhead_s=3e-4,
        start_overhead_s=7e-4,
        reduce_s_per_byte=1e-9,
        cores_per_machine=cores,
        hosts_per_machine=4,
    )
    schedule = load_topology("butterfly").schedule(4)
    added = sum(
        int((step.count * (step.keep != 0))[step.dst == 0].sum()) for step in schedule.steps()
    )
    num_steps = sum(1 for _ in schedule.steps())
    alone_s = 7e-4 + num_steps * (3e-4 + 2 * 1e-4) + added / schedule.num_chunks * 4 * MB * 1e-9
    assert result.time_s == pytest.approx(alone_s * 4 / cores, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "merges"),
    [("gossip", 1), ("mesh", 1), ("sharded-parameter-server", 1), ("ring", 0), ("butterfly", 0)],
)
@pytest.mark.parametrize("cores", [None, 2])
def test_what_meets_at_one_place_or_has_weights_is_merged_at_once(name, merges, cores):
    """A shard has three messages at one place; a ring adds one at a time, the short way."""
    alone = run(name, 4, MB, joint_merge_s=1e-3, cores_per_machine=cores, hosts_per_machine=4)
    assert alone.time_s == pytest.approx(merges * 1e-3 * 4 / (cores or 4), rel=1e-9, abs=1e-9)
    assert alone.bounds.cpu_s == pytest.approx(alone.time_s, rel=1e-9, abs=1e-12)


def test_without_shared_processors_a_step_overhead_is_a_delay():
    result = run("ring", 4, 4 * MB, bandwidth=1e9, step_overhead_s=1e-3, start_overhead_s=5e-4)
    assert result.time_s == pytest.approx(6.5e-3 + 6 * MB / 1e9, rel=1e-9)
    assert result.bounds.cpu_s == pytest.approx(6.5e-3)


@pytest.mark.parametrize("cores", [None, 64])
def test_a_rank_that_is_ready_late_begins_late(cores):
    """Its first step is read while it still computes; without and with shared processors."""
    schedule = load_topology("ring").schedule(3)
    ready_s = np.array([[0.0, 0.0, 0.01]] * 2)
    ends = []
    for start_s in (0.0, 3e-3):
        costs = EndCosts(overhead_s=1e-5, start_overhead_s=start_s, cores_per_machine=cores)
        fluid = Fluid(simpy.Environment(), star(3, WIDE, costs=costs))
        sizes = [DenseSizes(MB, schedule.num_chunks)] * 2
        stream = BucketStream(fluid, [schedule] * 2, sizes, ready_s, np.arange(3))
        run_to_end(stream, fluid, None, ())
        ends.append(float(stream.end_s.max()))
    assert ends[0] > 0.01
    assert ends[1] - ends[0] == pytest.approx(2 * 3e-3, rel=1e-6)


def test_one_busy_rank_does_not_slow_its_neighbours_down_while_cores_are_free():
    """Rank 0 adds up what three others send: one of two cores is enough for it."""
    others = np.arange(1, 4)
    schedule = Schedule.from_steps(4, 1, [reduce(others, np.zeros(3, np.int64))], goal="part")
    costs = EndCosts(reduce_s_per_byte=1e-9, cores_per_machine=2, hosts_per_machine=4)
    result = simulate_schedule(schedule, star(4, WIDE, costs=costs), DenseSizes(MB, 1))
    assert result.finish_s[0] == pytest.approx(3e-3, rel=1e-6)
    assert (result.finish_s[1:] < 1e-6).all()


def test_sparse_messages_are_encoded_before_and_merged_after():
    """A tree of 2: rank 1 encodes, rank 0 reads and adds to its own; then the union goes back."""
    schedule = load_topology("tree").schedule(2)
    sizes = UnionSizes(schedule, length=10_000, entries=100, union_exponent=1.0)
    one, union = (
        float(WireCoding().expected_bytes(np.array([10_000.0]), np.array([float(entries)]))[0])
        for entries in (100, 200)
    )
    costs = EndCosts(code_s_per_byte=2e-9, merge_s_per_byte=3e-9)
    result = simulate_schedule(schedule, star(2, WIDE, costs=costs), sizes)
    expected = 2 * one * 2e-9 + 2 * one * 3e-9 + 2 * union * 2e-9
    assert result.time_s == pytest.approx(expected, rel=1e-9)
    dense = simulate_schedule(schedule, star(2, WIDE, costs=costs), DenseSizes(MB, 1))
    assert dense.time_s < 1e-9  # dense messages are sent as they are


@pytest.mark.parametrize("entries", [1000, 20_000])
@pytest.mark.parametrize("senders", [1, 3])
def test_many_entries_of_three_places_and_more_are_sorted_and_others_merged(entries, senders):
    others = np.arange(1, senders + 1)
    step = reduce(others, np.zeros(senders, np.int64))
    schedule = Schedule.from_steps(senders + 1, 1, [step], goal="part")
    sizes = UnionSizes(schedule, length=10_000_000, entries=entries)
    one = float(WireCoding().expected_bytes(np.array([1e7]), np.array([float(entries)]))[0])
    costs = EndCosts(merge_s_per_byte=3e-9, sort_s_per_byte=7e-9)
    result = simulate_schedule(schedule, star(senders + 1, WIDE, costs=costs), sizes)
    per_byte_s = 7e-9 if senders == 3 and entries == 20_000 else 3e-9
    assert result.time_s == pytest.approx((senders + 1) * one * per_byte_s, rel=1e-3)


def test_what_goes_to_many_is_encoded_once():
    """A hub that has everything: four readers get the same message, made once."""
    others = np.arange(1, 5)
    schedule = Schedule.from_steps(5, 1, [copy(np.zeros(4, np.int64), others)], goal="part")
    sizes = UnionSizes(schedule, length=10_000, entries=100)
    one = float(WireCoding().expected_bytes(np.array([10_000.0]), np.array([100.0]))[0])
    result = simulate_schedule(schedule, star(5, WIDE, costs=EndCosts(code_s_per_byte=2e-9)), sizes)
    assert result.time_s == pytest.approx(2 * one * 2e-9, rel=1e-6)


@pytest.mark.parametrize("hops", [1, 2, 3, 6])
def test_messages_cost_more_to_code_the_longer_a_rank_has_not(hops):
    """There and back: hop 1 is rank 0's first to make and rank 1's to read, hop 2 the reverse."""
    steps = [copy(hop % 2, (hop + 1) % 2) for hop in range(hops)]
    schedule = Schedule.from_steps(2, 1, steps, goal="part")
    sizes = UnionSizes(schedule, length=10_000, entries=100)
    costs = EndCosts(code_s_per_message=1e-3, cold_code_s=0.25, cooling_s=0.1)
    now_s, last_s = 0.0, [-math.inf] * 4
    for hop in range(hops):
        for kind in (hop % 2, 2 + (hop + 1) % 2):  # one makes it, the other reads it
            now_s += 1e-3 + 0.25 * (1 - math.exp((last_s[kind] - now_s) / 0.1))
            last_s[kind] = now_s
    result = simulate_schedule(schedule, star(2, WIDE, costs=costs), sizes)
    assert result.time_s == pytest.approx(now_s, rel=1e-6)


def test_ranks_that_code_at_the_same_time_find_their_own_caches_cold():
    """As many ranks as are handled in arrays, all of which make a message and read one."""
    size, steps = 16, []
    for hop in (1, 2):
        src = np.arange(size)
        steps.append(copy(src, (src + hop) % size))
    sizes = UnionSizes(
        schedule := Schedule.from_steps(size, 1, steps, goal="part"), length=10_000, entries=100
    )
    costs = EndCosts(code_s_per_message=1e-3, cold_code_s=0.25, cooling_s=0.1)
    made_s = 1e-3 + 0.25 * (1 - math.exp(-0.251 / 0.1))  # it has read for so long
    read_s = 1e-3 + 0.25 * (1 - math.exp(-made_s / 0.1))
    result = simulate_schedule(schedule, star(size, WIDE, costs=costs), sizes)
    assert result.time_s == pytest.approx(2 * 0.251 + made_s + read_s, rel=1e-6)


def test_acknowledgements_take_their_share_of_the_way_back():
    """An exchange is slower by the share; one way alone is not."""
    network = star(2, 100 * MB, costs=EndCosts(reverse_share=0.05))
    one_way = simulate_flows(network, np.array([0]), np.array([1]), np.array([MB]), np.zeros(1))
    both = simulate_flows(network, np.array([0, 1]), np.array([1, 0]), np.full(2, MB), np.zeros(2))
    np.testing.assert_allclose(one_way, 0.01, rtol=1e-9)
    np.testing.assert_allclose(both, 0.0105, rtol=1e-9)


@pytest.mark.parametrize("name", ["ring", "butterfly", "tree", "parameter-server"])
def test_infinitely_many_cores_change_nothing(name):
    """Costs that are delays, and the same costs as work on processors nobody has to share."""
    costs = {"overhead_s": 0.0, "step_overhead_s": 1e-4, "reduce_s_per_byte": 1e-9}
    delays = run(name, 6, MB, bandwidth=100 * MB, **costs)
    shared = run(name, 6, MB, bandwidth=100 * MB, **costs, cores_per_machine=1000)
    assert shared.time_s == pytest.approx(delays.time_s, rel=1e-9)


@pytest.mark.parametrize(
    ("key", "value"),
    [("send_s_per_byte", -1.0), ("cores_per_machine", 0.0), ("reverse_share", math.inf)],
)
def test_impossible_costs_are_refused(key, value):
    with pytest.raises(ValueError, match=f"end costs: {key} = {value}"):
        EndCosts(**{key: value})
