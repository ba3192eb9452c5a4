"""Re-selection: equal bits on all ranks, no mass lost, the largest kept, over every topology."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgc_topo.payload import MIXTURE, SUM, BundlePayload, DensePayload, Quotas, SparsePayload
from dgc_topo.payload.shares import Shares
from dgc_topo.runtime import run_in_process
from dgc_topo.schedule import Schedule, copy, gather, reduce
from dgc_topo.schedule.completion import completion_of
from dgc_topo.topology import load_topology
from dgc_topo.wire.coding import DENSE_DTYPES, WireCoding
from tests.strategies import ALL_REDUCE, examples, smallest_world, topologies


def drawn_entries(rng, length, k):
    indices = np.sort(rng.choice(length, min(k, length), replace=False))
    # Few different magnitudes, so that there are ties.
    values = rng.integers(1, 6, len(indices)) * rng.choice([-1.0, 1.0], len(indices))
    return torch.from_numpy(indices), torch.from_numpy(values.astype(np.float32))


def payloads_of(schedule, length, k, seed=3, **settings):
    rng, made = np.random.default_rng(seed), []
    for rank in range(schedule.world_size):
        indices, values = drawn_entries(rng, length, 0 if rank in schedule.servers else k)
        made.append(SparsePayload(indices, values, length, **settings))
    return made


def one_range(length, k):
    return Quotas((0, length), (k,))


def back(payload):
    total = torch.zeros(payload.length)
    taken = payload.take_back()
    if taken is not None:
        total[taken.indices] = taken.values
    assert payload.take_back() is None
    return total


@examples(60)
@given(
    topology=st.sampled_from(topologies(ALL_REDUCE)),
    world_size=st.integers(1, 11),
    sizes=st.tuples(st.integers(1, 90), st.integers(0, 12), st.integers(1, 4)),
    merge=st.sampled_from(["reselect", "auto"]),
    wire_dtype=st.sampled_from(DENSE_DTYPES),
    seed=st.integers(0, 2**31),
)
def test_ranks_agree_nothing_is_lost_and_no_quota_is_exceeded(
    topology, world_size, sizes, merge, wire_dtype, seed
):
    length, k, groups = sizes
    schedule = topology.schedule(max(world_size, smallest_world(topology)))
    if schedule.servers:
        merge = "auto"
    rng = np.random.default_rng(seed)
    offsets = (0, *np.sort(rng.integers(0, length, groups - 1)).tolist(), length)
    # No group is to keep more than it has elements: an empty one keeps nothing.
    wanted = np.minimum(rng.integers(0, 1 + k, groups), np.diff(offsets))
    counts = tuple(wanted.tolist())
    quotas = Quotas(offsets, counts, merge)
    coding = WireCoding(wire_dtype=wire_dtype)
    payloads = payloads_of(schedule, length, k, seed, quotas=quotas, coding=coding)
    everything = sum(payload.to_dense() for payload in payloads)
    run_in_process(schedule, payloads)
    for payload in payloads[1:]:
        assert payload.to_dense().equal(payloads[0].to_dense())
    total = payloads[0].to_dense()
    assert (total + sum(map(back, payloads))).equal(everything)  # small integers are exact
    found = completion_of(schedule)
    completes = found.keeper >= 0
    if (completes & (found.is_passed_on | (merge == "reselect"))).all():
        for begin, end, count in zip(offsets, offsets[1:], counts, strict=False):
            inside = (payloads[0].indices >= begin) & (payloads[0].indices < end)
            assert int(inside.sum()) <= count
    else:
        assert total.equal(everything)


ONE_CHUNK = ["tree", "mesh", "parameter-server", "butterfly:algorithm=doubling"]


@pytest.mark.parametrize("name", ONE_CHUNK)
def test_one_chunk_keeps_the_largest_of_the_whole_sum_and_of_equals_the_first(name):
    schedule = load_topology(name).schedule(8)
    payloads = payloads_of(schedule, 200, 20, quotas=one_range(200, 20))
    everything = sum(payload.to_dense() for payload in payloads)
    run_in_process(schedule, payloads)
    order = torch.sort(everything.abs(), descending=True, stable=True).indices[:20]
    assert payloads[0].indices.equal(order.sort().values)
    keepers = [rank for rank, payload in enumerate(payloads) if payload.take_back() is not None]
    assert keepers == [0]


def test_every_chunk_keeps_its_share_and_one_owner_takes_back_the_rest():
    schedule = load_topology("sharded-parameter-server").schedule(4)
    payloads = payloads_of(schedule, 400, 40, quotas=one_range(400, 40))
    run_in_process(schedule, payloads)
    for rank, payload in enumerate(payloads):
        in_chunk = (payload.indices >= 100 * rank) & (payload.indices < 100 * (rank + 1))
        assert int(in_chunk.sum()) == 10
        taken = payload.take_back()
        assert taken is not None
        assert (taken.indices // 100 == rank).all()


def test_the_owner_prunes_before_it_sends():
    schedule = load_topology("sharded-parameter-server").schedule(8)
    sent = {}
    for merge in ("union", "reselect"):
        quotas = one_range(10_000, 100) if merge == "reselect" else None
        payloads = payloads_of(schedule, 10_000, 100, quotas=quotas)
        gathered = [traffic.steps[1] for traffic in run_in_process(schedule, payloads)]
        sent[merge] = max(step.bytes_sent for step in gathered)
    assert sent["reselect"] < sent["union"] / 5


@pytest.mark.parametrize("encoding", ["auto", "int32", "rice"])
@pytest.mark.parametrize(("density", "world_size"), [(0.25, 2), (0.0625, 7), (0.01, 5)])
def test_auto_sends_no_more_than_any_other_policy_nor_than_the_dense_buffer(
    encoding, density, world_size
):
    """At the densities of a warm-up, too, over every topology."""
    length = 1000
    k = round(density * length)
    for topology in topologies(ALL_REDUCE):
        schedule = topology.schedule(world_size)
        sent = {}
        for merge in ("union", "reselect", "auto"):
            if merge == "reselect" and schedule.servers:
                continue
            quotas = None if merge == "union" else Quotas((0, length), (k,), merge)
            coding = WireCoding(encoding)
            payloads = payloads_of(schedule, length, k, quotas=quotas, coding=coding)
            sent[merge] = [each.bytes_sent for each in run_in_process(schedule, payloads)]
        dense = [DensePayload(torch.zeros(length), goals=SUM) for _ in payloads]
        accounts = run_in_process(schedule, dense)
        headers = 20 * max(
            each.messages_sent for each in accounts
        )  # and what each says of its size
        auto = max(sent.pop("auto"))
        assert auto <= min(max(other) for other in sent.values())
        assert auto <= max(each.bytes_sent for each in accounts) + headers


def test_a_schedule_of_the_users_own():
    """Rank 0 completes the chunk at once; the others by a detour, by a copy of what was kept."""
    steps = [
        gather([reduce(1, 0), reduce(2, 0)]),
        copy(0, 2),
        copy(2, 1),
    ]
    schedule = Schedule.from_steps(3, 1, steps)
    payloads = payloads_of(schedule, 50, 10, quotas=one_range(50, 10))
    everything = sum(payload.to_dense() for payload in payloads)
    run_in_process(schedule, payloads)
    assert all(payload.to_dense().equal(payloads[0].to_dense()) for payload in payloads)
    assert payloads[0].num_entries == 10
    assert (payloads[0].to_dense() + back(payloads[0])).equal(everything)


def test_parts_of_a_bundle_reselect():
    schedule = load_topology("ring").schedule(3)
    parts = payloads_of(schedule, 60, 9, quotas=one_range(60, 9))
    run_in_process(schedule, [BundlePayload([part]) for part in parts])
    assert parts[0].num_entries <= 9


def test_shares_of_any_cut_add_up():
    quotas = Quotas((0, 10, 10, 47, 100), (3, 0, 7, 1))
    for num_chunks in (1, 3, 8, 100):
        bounds = np.arange(num_chunks + 1) * 100 // num_chunks
        shares = np.diff(quotas.before(bounds))
        assert shares.sum() == 11
        assert (shares >= 0).all()
    assert quotas.before(np.array([0, 10, 47, 100])).tolist() == [0, 3, 10, 11]
    assert Quotas((0,), ()).before(np.array([0, 0])).tolist() == [0, 0]


@examples(60)
@given(
    ranges=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 60)), min_size=1, max_size=6),
    num_chunks=st.integers(1, 40),
    cells=st.lists(st.integers(1, 1000), min_size=1, max_size=9),
    has_shares=st.booleans(),
)
def test_chunks_cut_by_quotas_keep_equal_numbers(ranges, num_chunks, cells, has_shares):
    ranges = [(size, min(size, count)) for size, count in ranges]
    sizes, counts = zip(*ranges, strict=True)
    offsets = (0, *np.cumsum(sizes).tolist())
    edges = np.unique(np.linspace(0, offsets[-1], len(cells) + 1).astype(np.int64))
    shares = Shares(edges, np.array(cells[: len(edges) - 1])) if has_shares else None
    quotas = Quotas(offsets, counts, shares=shares)
    bounds = quotas.bounds(offsets[-1], num_chunks)
    assert (bounds[0], bounds[-1], len(bounds)) == (0, offsets[-1], num_chunks + 1)
    assert (np.diff(bounds) >= 0).all()
    kept = np.diff(quotas.before(np.array(bounds)))
    assert kept.sum() == sum(counts)
    if not has_shares:  # an element keeps at most itself
        assert np.abs(kept - sum(counts) / num_chunks).max() <= 2.001


def test_no_owner_sends_more_than_its_part_of_the_quota():
    """Equal slices would give the owner of the small, dense range most of it."""
    schedule = load_topology("sharded-parameter-server").schedule(8)
    quotas = Quotas((0, 100, 1000), (80, 10))
    given = payloads_of(schedule, 1000, 90, quotas=quotas, bounds_of=quotas.bounds)
    run_in_process(schedule, given)
    kept = np.diff(quotas.before(np.array(quotas.bounds(1000, 8))))
    assert kept.max() - kept.min() <= 2
    assert given[0].num_entries <= 90


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Quotas((0, 5), ()), r"^quotas: 0 counts of 2 offsets, expected offsets that rise"),
        (lambda: Quotas((0, 5), (-1,)), "^quotas: 1 counts of 2"),
        (lambda: Quotas((1, 5), (1,)), "^quotas: 1 counts"),
        (lambda: Quotas((0, 5, 3), (1, 1)), "^quotas: 2 counts"),
        (lambda: Quotas((0, 5), (1,), "union"), "^quotas: merge 'union', expected 'reselect' or"),
        (lambda: sparse(quotas=Quotas((0, 5), (1,))), "^sparse payload: quotas for 5 elements"),
        (
            lambda: sparse(quotas=one_range(8, 1), goals=MIXTURE),
            "expected those for 8 .* sum$",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, error):
    with pytest.raises(ValueError, match=error):
        make()


def sparse(**settings):
    return SparsePayload(torch.tensor([1]), torch.ones(1), 8, **settings)
