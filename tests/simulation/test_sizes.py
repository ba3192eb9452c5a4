"""How many bytes transfers carry."""

import numpy as np
import pytest
import torch

import dgc_topo as dt
from dgc_topo.network import load_fabric, star
from dgc_topo.payload import PlacedPayload, Quotas, SparsePayload
from dgc_topo.runtime import run_in_process
from dgc_topo.runtime.framing import LENGTH_BYTES
from dgc_topo.schedule import Schedule, reduce
from dgc_topo.schedule.contributors import Contributors
from dgc_topo.schedule.cost import count_cost
from dgc_topo.simulation import (
    DenseSizes,
    UnionSizes,
    goal_bound_s,
    independent_growth,
    power_growth,
    simulate_flows,
    simulate_schedule,
)
from dgc_topo.simulation.step_sizes import StepSizes
from dgc_topo.simulation.training import (
    DenseEncoding,
    TrainingStep,
    simulate_training_step,
)
from dgc_topo.simulation.workload_sources import whole
from dgc_topo.topology import load_topology
from dgc_topo.wire.coding import FlatCoding, WireCoding
from tests.schedule.edits import drawn
from tests.simulation.placed import placed
from tests.strategies import ALL_REDUCE

LENGTH, ENTRIES = 10_000, 10


def contributors_by_brute_force(schedule):
    """Per step, per transfer, the number of contributors of every chunk that it carries."""
    merged = [
        [set() if rank in schedule.servers else {rank} for _ in range(schedule.num_chunks)]
        for rank in range(schedule.world_size)
    ]
    for step in schedule.steps():
        before = [[set(chunk) for chunk in rank] for rank in merged]
        sent = []
        for t in step:
            chunks = range(t.chunk, t.chunk_end)
            sent.append([len(before[t.src][chunk]) for chunk in chunks])
            for chunk in chunks:
                arriving = before[t.src][chunk]
                kept = merged[t.dst][chunk] if t.keep else set()
                merged[t.dst][chunk] = kept | arriving
        yield step, sent


def test_contributors_are_counted_in_the_order_listed():
    """A copy among what several ranks write replaces what is listed before it, as in a run."""
    random = np.random.default_rng(5)
    for _ in range(300):
        schedule = drawn(random)
        n, num_chunks, counted = schedule.world_size, schedule.num_chunks, Contributors(schedule)
        merged = np.ones((n, num_chunks), np.int64)
        merged[list(schedule.servers)] = 0
        for step in schedule.steps():
            before = merged.copy()
            given, _, _ = counted.advance(step)
            carried = [before[t.src, c] for t in step for c in range(t.chunk, t.chunk_end)]
            assert given.tolist() == carried
            for t in step:
                for c in range(t.chunk, t.chunk_end):
                    kept = merged[t.dst, c] if t.keep else 0
                    merged[t.dst, c] = kept + (before[t.src, c] if t.weight else 0)
            merged = np.minimum(merged, n - len(schedule.servers))


@pytest.mark.parametrize("world_size", [2, 5, 8])
@pytest.mark.parametrize("case", ALL_REDUCE, ids=str)
def test_sparse_sizes_follow_the_contributors(case, world_size):
    schedule = load_topology(*case).schedule(world_size)
    sizes = UnionSizes(
        schedule,
        length=LENGTH,
        entries=ENTRIES,
        coding=FlatCoding(6),
        dense_bytes=500,
        union_exponent=0.5,
    )
    for _ in range(2):  # a second run starts again from one contributor each
        for index, (step, sent) in enumerate(contributors_by_brute_force(schedule)):
            expected = [
                sum(6 * ENTRIES * c**0.5 + 500 for c in counts) / schedule.num_chunks
                for counts in sent
            ]
            np.testing.assert_allclose(sizes.of_step(index, step).num_bytes, expected)


def test_growth_models():
    contributors = np.array([0, 1, 4, 10**6])
    np.testing.assert_allclose(power_growth(LENGTH, 10, 1.0)(contributors), [0, 10, 40, LENGTH])
    np.testing.assert_allclose(power_growth(LENGTH, 10, 0.0)(contributors), [0, 10, 10, 10])
    grown = independent_growth(LENGTH, 10)(contributors)
    np.testing.assert_allclose(grown[:2], [0, 10])
    np.testing.assert_allclose(grown[2], LENGTH * (1 - (1 - 1e-3) ** 4))
    np.testing.assert_allclose(grown[3], LENGTH)
    np.testing.assert_allclose(independent_growth(5, 5)(np.array([0, 1, 2])), [0, 5, 5])


def test_sparse_mesh_is_an_all_gather_of_ones_own_entries():
    schedule = load_topology("mesh", {}).schedule(4)
    result = simulate_schedule(
        schedule,
        star(4, 1e6),
        UnionSizes(schedule, length=LENGTH, entries=ENTRIES, coding=FlatCoding(8)),
    )
    assert result.time_s == pytest.approx(3 * 8 * ENTRIES / 1e6)
    np.testing.assert_allclose(result.bytes_sent, 3 * 8 * ENTRIES)


@pytest.mark.parametrize(
    ("coding", "merge"),
    [
        (WireCoding(), "union"),
        (WireCoding("run-length", "bfloat16"), "union"),
        (WireCoding(), "reselect"),
        (WireCoding(), "auto"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["ring", "butterfly", "mesh", "tree", "sharded-parameter-server"])
def test_sizes_are_those_of_real_messages(name, coding, merge):
    """Random entries, really encoded, merged and sent in one process."""
    length, entries, world_size = 400_000, 2000, 6
    schedule = load_topology(name).schedule(world_size)
    generator = torch.Generator().manual_seed(1)
    payloads = [
        SparsePayload(
            torch.randperm(length, generator=generator)[:entries].sort().values,
            torch.randn(entries, generator=generator),
            length,
            coding=coding,
            quotas=None if merge == "union" else Quotas((0, length), (entries,), merge),
        )
        for _ in range(world_size)
    ]
    accounts = run_in_process(schedule, payloads)
    sizes = UnionSizes(schedule, length=length, entries=entries, coding=coding, merge=merge)
    for index, step in enumerate(schedule.steps()):
        sent = [sum(s.bytes_sent for s in a.steps if s.index == index) for a in accounts]
        messages = [sum(s.messages_sent for s in a.steps if s.index == index) for a in accounts]
        told = LENGTH_BYTES * sum(messages)  # the transport says how long each is
        expected = sizes.of_step(index, step).num_bytes.sum()
        assert sum(sent) - told == pytest.approx(expected, rel=0.035)


@pytest.mark.parametrize("name", ["ring", "butterfly", "mesh", "tree", "sharded-parameter-server"])
def test_sizes_of_two_passes_are_those_of_real_messages(name):
    length, entries, world_size = 400_000, 2000, 6
    schedule = load_topology(name).schedule(world_size)
    generator = torch.Generator().manual_seed(1)
    payloads = [
        PlacedPayload(
            torch.randperm(length, generator=generator)[:entries].sort().values,
            torch.randn(entries, generator=generator),
            length,
        )
        for _ in range(world_size)
    ]
    accounts = run_in_process(schedule, payloads)
    told = LENGTH_BYTES * sum(each.messages_sent for each in accounts)
    sent = sum(each.bytes_sent for each in accounts)
    found = dt.simulate(schedule, "1gbe", 4 * length, density=entries / length, balance=True)
    assert sent - told == pytest.approx(found.bytes_sent.sum(), rel=0.035)
    assert found.time_s >= found.lower_bound_s


@pytest.mark.parametrize("settings", [{}, {"density": 0.1, "merge": "auto"}], ids=str)
def test_two_passes_are_for_exact_sparse_sums(settings):
    with pytest.raises(ValueError, match=r"^balance: is for exact sparse sums, expected density"):
        dt.simulate("ring", "1gbe", "1MB", world_size=4, balance=True, **settings)


def test_a_server_that_does_not_train_cannot_reselect():
    schedule = load_topology("parameter-server:server=dedicated").schedule(4)
    exact, auto = (
        UnionSizes(schedule, length=LENGTH, entries=10, merge=merge) for merge in ("union", "auto")
    )
    for index, step in enumerate(schedule.steps()):
        assert (exact.of_step(index, step).num_bytes == auto.of_step(index, step).num_bytes).all()
    with pytest.raises(ValueError, match="chunk 0 is completed by a server"):
        UnionSizes(schedule, length=LENGTH, entries=10, merge="reselect")


@pytest.mark.parametrize("topology", ["ring", "sharded-parameter-server", "tree"])
def test_reselection_is_predicted_to_send_less_and_never_below_its_bound(topology):
    times = {}
    for merge in ("union", "reselect"):
        found = dt.simulate(topology, "1gbe", "100MB", world_size=64, density=0.01, merge=merge)
        assert found.time_s >= found.lower_bound_s
        times[merge] = found.time_s
    assert times["reselect"] < 0.8 * times["union"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"merge": "reselect"}, "merge 'reselect': is for sparse sums, expected density below 1"),
        ({"merge": "best", "density": 0.1}, "merge 'best': expected one of union, reselect, auto"),
    ],
)
def test_a_policy_is_for_sparse_sums(settings, message):
    with pytest.raises(ValueError, match=message):
        dt.simulate("ring", "1gbe", 100, world_size=4, **settings)
    with pytest.raises(ValueError, match=message):
        dt.simulate_step("resnet50", "ring", "1gbe", world_size=4, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 0}, "length 0, expected at least 1"),
        ({"entries": -1}, "entries -1, expected 0 to length, 100"),
        ({"entries": float("nan")}, "entries nan"),
        ({"dense_bytes": -5}, "dense_bytes -5, expected 0 or more"),
        ({"union_exponent": 1.5}, "union_exponent 1.5, expected 0 to 1"),
    ],
)
def test_bad_sparse_sizes(settings, message):
    schedule = Schedule.from_steps(2, 1, [reduce(0, 1)], goal="part")
    with pytest.raises(ValueError, match=message):
        UnionSizes(schedule, **({"length": 100, "entries": 1} | settings))


def test_too_many_counters():
    schedule = Schedule(1 << 17, 1 << 17, lambda _: iter(()), goal="part")
    with pytest.raises(ValueError, match="131072 ranks x 131072 chunks, expected at most"):
        UnionSizes(schedule, length=100, entries=1)


@pytest.mark.parametrize("total", [-1.0, float("nan"), float("inf")])
def test_bad_dense_sizes(total):
    with pytest.raises(ValueError, match="total_bytes"):
        DenseSizes(total, 4)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([-1.0], "step 0: rank 0 -> rank 1, chunks 0..0: -1.0 bytes, expected a finite number"),
        ([float("nan")], "nan bytes"),
        ([float("inf")], "inf bytes"),
        ([1.0, 2.0], r"sizes of shape \(2,\), expected \(1,\)"),
    ],
)
def test_sizes_of_a_step_are_checked(returned, message):
    class Sizes:
        def of_step(self, step_index, step):
            return StepSizes(np.array(returned))

    schedule = Schedule.from_steps(2, 1, [reduce(0, 1)], goal="part")
    with pytest.raises(ValueError, match=message):
        simulate_schedule(schedule, star(2, 1e6), Sizes())


def sparse_for(schedule):
    return UnionSizes(schedule, length=LENGTH, entries=ENTRIES)


RING = load_topology("ring").schedule(4)
SERVED = load_topology("parameter-server", {"server": "dedicated"}).schedule(4)


@pytest.mark.parametrize(
    ("sizes", "schedule", "says"),
    [
        (DenseSizes(1e6, 8), RING, "made for 8 chunks, but the schedule has 4"),
        (DenseSizes(1e6, 2), RING, "made for 2 chunks, but the schedule has 4"),
        (sparse_for(load_topology("ring").schedule(8)), RING, "8 chunks, but the schedule has 4"),
        (
            sparse_for(SERVED),
            load_topology("tree").schedule(4),
            "1 servers, but the schedule has 0",
        ),
        (
            sparse_for(load_topology("tree").schedule(8)),
            load_topology("tree").schedule(4),
            "made for 8 ranks, but the schedule has 4",
        ),
        ("100MB", RING, "sizes '100MB': expected a number of bytes, DenseSizes or UnionSizes"),
        (float("nan"), RING, "total_bytes nan"),
        (-1, RING, "total_bytes -1"),
    ],
)
def test_sizes_of_another_schedule_are_refused(sizes, schedule, says):
    with pytest.raises(ValueError, match=says):
        simulate_schedule(schedule, "1gbe", sizes)


def test_sizes_of_another_schedule_are_refused_in_a_stream_of_buckets():
    class Mixed(DenseEncoding):
        def passes(self, bucket, schedule):
            return (DenseSizes(1e6, 8),)

    step = TrainingStep(workload=whole(1.0, 10, 0), encoding=Mixed())
    star_of_4 = load_fabric("1gbe").star(4)
    with pytest.raises(ValueError, match="made for 8 chunks, but the schedule has 4"):
        simulate_training_step(step, RING, star_of_4)


@pytest.mark.parametrize("num_bytes", [100e6, 100_000_000, np.float32(1e8), np.int64(100_000_000)])
def test_a_fabric_and_a_number_of_bytes_just_work(num_bytes):
    fabric = load_fabric("1gbe")
    expected = simulate_schedule(RING, fabric.star(4), DenseSizes(1e8, 4)).time_s
    assert simulate_schedule(RING, fabric, num_bytes).time_s == expected
    assert simulate_schedule(RING, "1gbe", num_bytes).time_s == expected
    hosts = np.array([9, 3, 4, 5])
    assert simulate_schedule(RING, placed(fabric.star(10), 4, hosts), num_bytes).time_s == expected
    ends = np.array([0, 11]), np.array([11, 12])
    flows = fabric.star(13), *ends, np.array([1e6, 1e6]), np.zeros(2)
    assert (simulate_flows("1gbe", *flows[1:]) == simulate_flows(*flows)).all()


@pytest.mark.parametrize("network", [None, 1e9, {"bandwidth": 1}])
def test_what_is_no_network_is_refused(network):
    with pytest.raises(ValueError, match="expected a fabric's name, a file, a networkx"):
        simulate_schedule(RING, network, 1e6)
    with pytest.raises(ValueError, match="2gbe"):
        simulate_schedule(RING, "2gbe", 1e6)


def test_a_cost_of_another_schedule_bounds_nothing():
    with pytest.raises(ValueError, match="cost of 8 ranks and 8 chunks for a schedule of 4 and 4"):
        goal_bound_s(RING, count_cost(load_topology("ring").schedule(8)), 1e6, 1e6, 0.0)
