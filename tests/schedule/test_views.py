"""What a rank is told to do is what the whole schedule says of it."""

import numpy as np
import pytest

from dgc_topo.proof import check_all_reduce, prove
from dgc_topo.schedule import Goal, Schedule, ScheduleError, copy, gather, reduce
from dgc_topo.schedule.views import check_views
from dgc_topo.topology import Topology, load_topology


def ring_that_tells(rank: int, change) -> Schedule:
    """Return a ring of 4 whose *rank* is told other steps than all ranks together are."""
    ring = load_topology("ring").schedule(4)

    def steps_of(ranks):
        steps = list(ring.steps_of(ranks))
        return change(steps) if ranks.tolist() == [rank] else steps

    return Schedule(4, 4, steps_of)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda steps: steps[:-1],
            r"step 5: steps_of\(\[2\]\) has no transfer, expected rank 1",
        ),
        (lambda steps: [*steps, steps[0]], r"step 6: .* has rank 2 -> rank 3.*, expected no"),
        (lambda steps: [steps[1], steps[0], *steps[2:]], "step 0: .* has rank 2 -> .* expected"),
        (
            lambda steps: [copy(2, 3, 2), *steps[1:]],
            r"step 0: .*keep 0, .* expected .*keep 1, w",
        ),
        (lambda steps: [steps[0].select([1]), *steps[1:]], "step 0: .* has no transfer, expected"),
        (
            lambda steps: [gather([s, s]) for s in steps],
            "step 0: .* has rank 2 -> .* expected no",
        ),
    ],
)
def test_a_rank_that_is_told_something_else_is_named(change, says):
    broken = ring_that_tells(2, change)
    check_all_reduce(broken)  # all ranks together do it right
    with pytest.raises(ScheduleError, match=f"^rank [12], {says}"):
        prove(Topology("told", lambda world_size: broken), 4)


def test_the_order_of_arrivals_is_part_of_what_a_rank_is_told():
    both = [reduce(1, 0), copy(2, 0)]

    def steps_of(ranks):
        yield gather(both if len(ranks) > 1 else both[::-1])
        yield copy(np.r_[0, 0], np.r_[1, 2])

    with pytest.raises(ScheduleError, match=r"rank 0, step 0: .* has rank 2 -> .* expected rank 1"):
        check_views(Schedule(3, 1, steps_of))


def test_views_of_large_worlds_are_compared_from_the_first_rank_to_the_last():
    for rank in (0, 299):
        ring = load_topology("ring").schedule(300)

        def steps_of(ranks, rank=rank, ring=ring):
            return iter(()) if ranks.tolist() == [rank] else ring.steps_of(ranks)

        with pytest.raises(ScheduleError, match=f"rank {rank}, step 0"):
            check_views(Schedule(300, 300, steps_of))


def drawn_anew(random: np.random.Generator, goal: Goal, world_size: int) -> Schedule:
    first, *others = random.permutation(world_size)
    steps = [reduce(np.array(others), first), copy(first, np.array(others))]
    return Schedule.from_steps(world_size, 1, steps, goal=goal)


@pytest.mark.parametrize("goal", ["all-reduce", "doubly-stochastic"])
def test_a_topology_that_draws_without_the_seed_is_refused(goal):
    """Each schedule may be right; but every rank would run another one."""
    random = np.random.default_rng(0)
    careless = Topology("drawn", lambda world_size: drawn_anew(random, goal, world_size))
    if goal == "all-reduce":
        check_all_reduce(careless.schedule(8))
    with pytest.raises(ScheduleError, match=r"^drawn: step 0: rank \d .* rank \d .* made again"):
        prove(careless, 8)


def test_a_topology_that_cuts_otherwise_each_time_is_refused():
    sizes = iter(range(1, 10))
    growing = Topology("cut", lambda n: Schedule.from_steps(n, next(sizes), [], goal="all-reduce"))
    with pytest.raises(ScheduleError, match=r"^cut: \d chunks, and \d chunks when made again"):
        prove(growing, 1)
