"""Weighted contributions: proved exactly, and summed alike on all ranks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dgc_topo as dt
from dgc_topo.payload import DensePayload, SparsePayload
from dgc_topo.proof import check_all_reduce
from dgc_topo.runtime import run_in_process
from dgc_topo.schedule import ScheduleError
from dgc_topo.schedule.views import check_views
from dgc_topo.training.checks import same_bits
from tests.strategies import ALL_REDUCE, examples, smallest_world, topologies

TOPOLOGIES = topologies(ALL_REDUCE)


@st.composite
def cases(draw):
    topology = draw(st.sampled_from(TOPOLOGIES))
    schedule = topology.schedule(draw(st.integers(smallest_world(topology), 9)))
    many = len(schedule.contributors)
    return schedule, draw(st.lists(st.integers(1, 7), min_size=many, max_size=many))


@examples(60)
@given(case=cases())
def test_every_all_reduce_can_be_weighted_and_proved(case):
    schedule, weights = case
    made = dt.weighted(schedule, weights)
    check_all_reduce(made, weights)
    check_views(made)
    if len(set(weights)) > 1:
        with pytest.raises(ScheduleError, match="times the input of rank"):
            check_all_reduce(made)
        with pytest.raises(ScheduleError, match="times the input of rank"):
            check_all_reduce(schedule, weights)
    else:
        assert made is schedule


@examples(40)
@given(case=cases(), seed=st.integers(0, 100))
def test_all_ranks_end_with_the_same_bits_of_the_weighted_sum(case, seed):
    schedule, weights = case
    made, own = dt.weighted(schedule, weights), schedule.contributors.tolist()
    rng = np.random.default_rng(seed)
    inputs = np.zeros((schedule.world_size, 37), np.float32)
    inputs[own] = rng.standard_normal((len(own), 37)).astype(np.float32)
    dense = [DensePayload(torch.tensor(row)) for row in inputs]
    run_in_process(made, dense)
    expected = (np.array(weights) // np.gcd.reduce(weights)) @ inputs[own].astype(np.float64)
    for payload in dense:
        assert torch.equal(payload.buffer, dense[0].buffer)
    assert dense[0].buffer.numpy() == pytest.approx(expected, abs=1e-4)
    kept = [torch.tensor(np.flatnonzero(rng.random(37) < 0.3 * row.any())) for row in inputs]
    sparse = [
        SparsePayload(at, torch.tensor(row)[at], 37) for row, at in zip(inputs, kept, strict=True)
    ]
    run_in_process(made, sparse)
    sums = np.zeros(37)
    for rank, weight in zip(own, weights, strict=True):
        sums[kept[rank]] += weight // np.gcd.reduce(weights) * inputs[rank][kept[rank]]
    # A run that arrived dense has entries of 0, too, so only the dense sums agree on all ranks.
    assert all(same_bits(found, sparse[0]) for found in sparse)
    assert sparse[0].to_dense().numpy() == pytest.approx(sums, abs=1e-4)


def test_what_is_sent_stays_the_same():
    schedule = dt.load_topology("ring").schedule(5)
    made = dt.weighted(schedule, [1, 2, 3, 4, 5])
    for before, after in zip(schedule.steps(), made.steps(), strict=True):
        for name in ("src", "dst", "chunk", "count"):
            np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ([1, 2], "expected 3, one per rank that contributes"),
        ([1, 0, 2], "expected 1 or more"),
        ([1, 0.5, 2], "expected a whole number"),
    ],
)
def test_weights_that_make_no_sense_are_refused(weights, says):
    schedule = dt.load_topology("ring").schedule(3)
    with pytest.raises(ScheduleError, match=says):
        dt.weighted(schedule, weights)
    with pytest.raises(ScheduleError, match=says):
        dt.prove(schedule, weights=weights)


def test_topologies_and_gossip_of_equal_ranks_are_not_proved_with_weights():
    with pytest.raises(ValueError, match="expected a schedule"):
        dt.prove("ring", 3, weights=[1, 1, 2])
    with pytest.raises(
        ValueError, match="rank 0: counts 4/3 times in the weighted sum of all, expected 1"
    ):
        dt.prove(dt.load_topology("gossip").schedule(3), weights=[1, 1, 2])


def test_a_chunk_that_is_partly_an_input_is_cut():
    """Rank 1 gets one chunk, then sends both: only the other one is still its own input."""
    steps = [dt.reduce(0, 1, 0), dt.copy(1, 0, 0, 2), dt.reduce(0, 1, 1)]
    made = dt.weighted(dt.Schedule.from_steps(2, 2, steps, goal="part"), [3, 5])
    (sent,) = list(made.steps())[1:2]
    assert [(t.chunk, t.count, int(t.weight)) for t in sent] == [(0, 1, 1), (1, 1, 5)]
