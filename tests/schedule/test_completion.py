"""Completion by counts is completion by exact weights, for every all-reduce."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgc_topo.schedule import Schedule, copy, gather, reduce
from dgc_topo.schedule.completion import completion_of
from dgc_topo.schedule.weights import Weights
from dgc_topo.topology import load_topology
from tests.strategies import ALL_REDUCE, smallest_world, topologies


def by_exact_weights(schedule):
    """Step and number of merges by which a chunk becomes complete, unless a complete one came."""
    shape = schedule.world_size, schedule.num_chunks
    expected = np.isin(np.arange(schedule.world_size), schedule.contributors).astype(np.int64)
    steps, merges, merged = np.full(shape, -1), np.zeros(shape, int), np.zeros(shape, int)
    passed_on = np.zeros(schedule.num_chunks, bool)
    weights = Weights(schedule, schedule.num_chunks)
    for index, step in enumerate(schedule.steps()):
        before = weights.are(expected)
        came_whole = np.zeros(shape, bool)
        touched = np.zeros(shape, bool)
        for t in step:
            run = slice(t.chunk, t.chunk_end)
            touched[t.dst, run] = True
            came_whole[t.dst, run] |= before[t.src, run]
            passed_on[run] |= before[t.src, run]
        weights.advance(step)
        merged += touched
        new = weights.are(expected) & ~before & touched & ~came_whole
        steps[new], merges[new] = index, merged[new]
    return steps, merges, passed_on


@settings(max_examples=60)
@given(topology=st.sampled_from(topologies(ALL_REDUCE)), world_size=st.integers(1, 13))
def test_counts_find_what_exact_weights_find(topology, world_size):
    schedule = topology.schedule(max(world_size, smallest_world(topology)))
    found = completion_of(schedule)
    steps, merges, passed_on = by_exact_weights(schedule)
    assert (found.step == steps).all()
    assert (found.merge == merges).all()
    assert (found.is_passed_on == passed_on).all()
    for chunk, keeper in enumerate(found.keeper):
        first = [(s, r) for r, s in enumerate(steps[:, chunk]) if s >= 0]
        first = [(s, r) for s, r in first if r not in schedule.servers]
        assert keeper == (min(first)[1] if first else -1)


@pytest.mark.parametrize(
    ("name", "completers"),
    [
        ("ring", 1),
        ("butterfly", 1),
        ("tree", 1),
        ("parameter-server", 1),
        ("sharded-parameter-server", 1),
        ("mesh", 8),
        ("butterfly:algorithm=doubling", 8),
    ],
)
def test_each_chunk_completes_at_one_rank_or_at_all(name, completers):
    found = completion_of(load_topology(name).schedule(8))
    assert ((found.step >= 0).sum(axis=0) == completers).all()
    assert (found.keeper >= 0).all()
    assert found.is_passed_on.all() == (completers == 1)


def test_a_dedicated_server_keeps_nothing():
    found = completion_of(load_topology("parameter-server:server=dedicated").schedule(4))
    assert found.step[:, 0].tolist() == [-1, -1, -1, 0]
    assert found.keeper.tolist() == [-1]


def test_a_copy_of_a_part_and_a_reduce_of_the_rest_complete_a_chunk():
    """Rank 2 gets the sum of 0 and 1 by a copy, and then its own, from where it was kept."""
    steps = [
        gather([reduce(0, 1), copy(2, 3)]),
        gather([copy(1, 2), reduce(1, 3)]),
        gather([reduce(3, 0, 0), copy(3, 1), copy(3, 2)]),
    ]
    found = completion_of(Schedule.from_steps(4, 1, steps, servers=(3,)))
    assert found.step[:, 0].tolist() == [-1, -1, -1, 1]
