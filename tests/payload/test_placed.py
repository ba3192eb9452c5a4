"""Sums in two passes: the exact sum on every rank, from chunks of equal numbers of entries."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgc_topo.payload import SUM, BundlePayload, DensePayload, PlacedPayload, SparsePayload
from dgc_topo.payload.placed import PlacesPayload
from dgc_topo.runtime import run_in_process
from dgc_topo.topology import load_topology
from dgc_topo.wire.coding import WIRE_DTYPES, WireCoding
from dgc_topo.wire.scales import rounded
from tests.strategies import ALL_REDUCE, examples, topologies

LENGTH = 90


def own_entries(rng, k):
    """Entries near the beginning, more often than not, with values that add up exactly."""
    places = np.flatnonzero(rng.random(LENGTH) < k * np.linspace(0.1, 0, LENGTH))
    values = rng.integers(-5, 6, len(places)).astype(np.float32)
    return torch.from_numpy(places), torch.from_numpy(values)


@examples(30)
@given(
    topology=st.sampled_from(topologies(ALL_REDUCE)),
    world_size=st.integers(1, 9),
    k=st.integers(0, 12),
    wire_dtype=st.sampled_from(WIRE_DTYPES),
    seed=st.integers(0, 2**31),
)
def test_ranks_agree_on_the_whole_sum(topology, world_size, k, wire_dtype, seed):
    if "server" in topology.options:
        world_size = max(world_size, 2)
    schedule = topology.schedule(world_size)
    coding, rng = WireCoding(wire_dtype=wire_dtype), np.random.default_rng(seed)
    if coding.is_coarse and schedule.servers:
        return  # refused: a server has no residual
    parts, dense, payloads = [], [], []
    for rank in range(world_size):
        # A rank now and then has nothing to send.
        idle = rank in schedule.servers or rng.random() < 0.2
        indices, values = own_entries(rng, 0 if idle else k)
        scales = None
        if coding.is_coarse:
            values, scales = rounded(indices, values, (30, 60), wire_dtype)
        parts.append(PlacedPayload(indices, values, LENGTH, coding=coding, scales=scales))
        dense.append(DensePayload(torch.full((3,), rank + 1.0), goals=SUM))
        payloads.append(BundlePayload([parts[-1], dense[-1]]))
    exact = torch.stack([part.to_dense() for part in parts]).sum(0)
    run_in_process(schedule, payloads)
    total = parts[0].to_dense()
    assert all(part.to_dense().equal(total) for part in parts)
    for part in parts:
        taken = part.take_back()
        if taken is not None:
            total.index_add_(0, *taken)
    torch.testing.assert_close(total, exact, rtol=0, atol=1e-4 if coding.is_coarse else 0)
    in_order = world_size * (world_size + 1) / 2
    assert dense[0].buffer.tolist() == [in_order] * 3


@pytest.mark.parametrize("name", ["sharded-parameter-server", "ring", "butterfly"])
def test_the_busiest_rank_sends_hardly_more_values_than_the_others(name):
    schedule, length = load_topology(name).schedule(8), 40_000
    skew = {}
    for kind in (SparsePayload, PlacedPayload):
        rng, payloads = np.random.default_rng(5), []
        for _ in range(8):
            places = np.unique((rng.beta(1, 6, 600) * length).astype(np.int64))
            values = torch.from_numpy(rng.standard_normal(len(places)).astype(np.float32))
            payloads.append(kind(torch.from_numpy(places), values, length))
        accounts = run_in_process(schedule, payloads)
        skew[kind] = over_the_mean([each.bytes_sent for each in accounts])
    second = [each.steps[len(each.steps) // 2 :] for each in accounts]
    assert over_the_mean([sum(step.bytes_sent for step in steps) for steps in second]) < 1.05
    assert skew[PlacedPayload] < 1 + 0.6 * (skew[SparsePayload] - 1)
    assert skew[SparsePayload] > 1.2


def over_the_mean(sent):
    """Return what the busiest sends over the mean."""
    return max(sent) / np.mean(sent)


def test_complete_chunks_travel_without_indices():
    schedule = load_topology("sharded-parameter-server").schedule(4)
    indices = [torch.arange(rank, 4000, 40) for rank in range(4)]
    payloads = [PlacedPayload(each, torch.ones(len(each)), 4000) for each in indices]
    *_, last = run_in_process(schedule, payloads)[0].steps
    assert last.bytes_sent <= 3 * (100 * 4 + 12 + 8)


def test_places_are_united_whatever_the_values_are():
    schedule = load_topology("butterfly:algorithm=doubling").schedule(4)
    payloads = [PlacesPayload(torch.tensor([rank, 4]), 6) for rank in range(4)]
    run_in_process(schedule, payloads)
    assert all(payload.indices.tolist() == [0, 1, 2, 3, 4] for payload in payloads)


def test_not_a_number_stays_one():
    schedule = load_topology("ring").schedule(3)
    values = [torch.tensor([1.0, value]) for value in (2.0, torch.nan, -torch.inf)]
    payloads = [PlacedPayload(torch.tensor([1, 7]), each, 9) for each in values]
    run_in_process(schedule, payloads)
    for payload in payloads:
        assert payload.values[0] == 3
        assert payload.values[1].isnan()


def test_a_second_run_begins_with_the_sum():
    schedule = load_topology("ring").schedule(3)
    payloads = [PlacedPayload(torch.tensor([rank]), torch.ones(1), 9) for rank in range(3)]
    for factor in (1.0, 3.0):
        run_in_process(schedule, payloads)
        assert payloads[1].to_dense()[:4].tolist() == [factor, factor, factor, 0]
