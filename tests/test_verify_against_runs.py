"""The proof accepts a schedule if and only if it runs right: a run in process is the judge."""

import re
from contextlib import nullcontext
from typing import get_args

import numpy as np
import pytest
import torch

from dgc_topo.mixing import mixing_matrix
from dgc_topo.payload import DensePayload
from dgc_topo.proof import check_all_reduce
from dgc_topo.runtime import run_in_process
from dgc_topo.schedule import Goal, Schedule, ScheduleError
from dgc_topo.schedule.weights import contributions
from dgc_topo.topology import Topology
from tests.schedule.edits import drawn, drawn_sum, edited
from tests.strategies import ALL_REDUCE, GOSSIP, parts, smallest_world, topologies

ANY: frozenset[Goal] = frozenset(get_args(Goal))
NUM_DRAWN, NUM_EDITED = 2_000, 500  #: in each part
#: A refusal names rank, chunk, and the step: or how many there are, if none brings anything.
PLACE = re.compile(r"rank \d+, chunk \d+: .*(step \d+|of \d+ steps)")


def run(schedule: Schedule) -> np.ndarray:
    """Return what every rank and chunk holds of each rank's input, in a run on unit vectors.

    Shape (world_size, num_chunks, world_size).
    """
    n, num_chunks = schedule.world_size, schedule.num_chunks
    held = torch.eye(n).repeat_interleave(num_chunks, 0).view(n, num_chunks * n)
    held[list(schedule.servers)] = 0
    run_in_process(schedule, [DensePayload(row, goals=ANY) for row in held])
    return held.view(n, num_chunks, n).numpy().astype(np.float64)


def sums(schedule: Schedule, held: np.ndarray) -> bool:
    """Return whether everyone holds each contribution once."""
    expected = np.isin(np.arange(schedule.world_size), schedule.contributors)
    return bool((abs(held - expected) < 1e-4).all())


def mixes(held: np.ndarray) -> bool:
    """Return whether all chunks are mixed alike, by a doubly stochastic matrix."""
    matrix = held[:, 0]
    wrong = [held - held[:, :1], matrix.sum(0) - 1, matrix.sum(1) - 1, np.minimum(matrix, 0)]
    return all((abs(part) < 1e-4).all() for part in wrong)


def agree(schedule: Schedule) -> bool:
    """Return whether the schedule is right, as its proof and its run agree that it is (not)."""
    held = run(schedule)
    is_right = sums(schedule, held) if schedule.goal == "all-reduce" else mixes(held)
    check = check_all_reduce if schedule.goal == "all-reduce" else mixing_matrix
    if is_right:
        check(schedule)
        return True
    with pytest.raises(ScheduleError) as refused:
        check(schedule)
    assert PLACE.search(str(refused.value)), str(refused.value)
    return False


@pytest.mark.parametrize("part", parts(3, 10))
def test_weights_are_what_a_run_leaves_of_any_schedule(part):
    random, right = np.random.default_rng(part), 0
    for number in range(NUM_DRAWN):
        if number % 4:
            schedule = drawn(random)
            held, (weights, denominator) = run(schedule), contributions(schedule)
            np.testing.assert_array_equal(held, (weights / denominator).astype(np.float64))
            with nullcontext() if sums(schedule, held) else pytest.raises(ScheduleError):
                check_all_reduce(schedule)
        else:
            schedule = drawn_sum(random)
            changed = edited(schedule, random) if number % 8 else schedule
            right += agree(changed or schedule)
    assert NUM_DRAWN / 8 <= right < NUM_DRAWN / 4


BY_NAME: dict[str, list[Topology]] = {}
for topology in topologies(ALL_REDUCE + GOSSIP):
    BY_NAME.setdefault(topology.name, []).append(topology)


@pytest.mark.parametrize("part", parts(1, 4))
@pytest.mark.parametrize("name", BY_NAME)
def test_edited_topologies_are_accepted_if_they_run_right(name, part):
    random, tried, right = np.random.default_rng(part), 0, 0
    while tried < NUM_EDITED:
        topology = BY_NAME[name][random.integers(len(BY_NAME[name]))]
        world_size = int(random.integers(max(2, smallest_world(topology)), 5))
        schedule = topology.schedule(world_size, seed=tried)
        changed = edited(schedule, random)
        if changed is not None:
            right += agree(changed)
            tried += 1
    assert 0 < right < tried
