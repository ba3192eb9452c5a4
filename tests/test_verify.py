"""Every topology is what it says; schedules that are not are refused with the place."""

import numpy as np
import pytest

from dgc_topo.cost import count_cost
from dgc_topo.mixing import check_gossip, mixing_matrix
from dgc_topo.schedule import Goal, Schedule, ScheduleError, Step, copy, mix, reduce
from dgc_topo.schedule.text import format_schedule, parse_schedule
from dgc_topo.schedule.weights import contributions
from dgc_topo.topology import Topology, load_topology
from dgc_topo.verify import check_all_reduce, verify
from tests.strategies import ALL_REDUCE, GOSSIP, smallest_world, topologies

WORLD_SIZES = [*range(1, 34), 64]
EVERY = topologies(ALL_REDUCE + GOSSIP)


@pytest.mark.parametrize("topology", EVERY, ids=lambda t: t.label)
def test_every_topology_keeps_its_promise_at_every_world_size(topology):
    for world_size in WORLD_SIZES:
        if world_size >= smallest_world(topology):
            proof = verify(topology, world_size)
            if topology.name != "gossip":
                assert proof.cost.buffers_sent >= proof.bytes_bound - 1e-12
                assert proof.cost.num_steps >= proof.step_bound


@pytest.mark.parametrize("topology", EVERY, ids=lambda t: t.label)
@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8, 13, 16])
def test_a_ranks_own_view_is_the_whole_schedule_filtered(topology, world_size):
    if world_size < smallest_world(topology):
        return
    for iteration in (0, 1):
        schedule = topology.schedule(world_size, iteration=iteration)
        steps = list(schedule.steps())
        for rank in range(world_size):
            views = {view.index: view for view in schedule.for_rank(rank)}
            for index, step in enumerate(steps):
                view = views.get(index)
                assert list(view.sends if view else []) == [t for t in step if t.src == rank]
                assert list(view.receives if view else []) == [t for t in step if t.dst == rank]


@pytest.mark.parametrize("topology", topologies(ALL_REDUCE), ids=lambda t: t.label)
def test_a_ranks_own_view_costs_what_the_rank_does(topology):
    """Transfers generated for one rank stay within a few times those it takes part in."""
    schedule = topology.schedule(96)
    steps = list(schedule.steps())
    for rank in (1, 37, 95):
        generated = sum(len(step) for step in schedule.steps_of(np.array([rank])))
        own = sum(int(((s.src == rank) | (s.dst == rank)).sum()) for s in steps)
        assert generated <= 4 * own + 3 * len(steps)


def formulas(n: int) -> dict[str, tuple[int, float]]:
    """(steps, buffers the busiest rank sends), from the literature, for n a power of two."""
    lg = n.bit_length() - 1
    optimal = 2 * (n - 1) / n
    return {
        "parameter-server": (2, n - 1),
        "parameter-server(server=dedicated)": (2, n - 1),
        "sharded-parameter-server": (2, optimal),
        "tree": (2 * lg, lg),
        "butterfly": (2 * lg, optimal),
        "butterfly(order=far)": (2 * lg, optimal),
        "butterfly(algorithm=doubling)": (lg, lg),
        "ring": (2 * (n - 1), optimal),
        "ring(segments=3)": (2 * (n - 1), optimal),
        "mesh": (1, n - 1),
    }


@pytest.mark.parametrize("n", [2, 4, 8, 16, 32, 64])
def test_costs_equal_the_closed_forms(n):
    for topology in topologies(ALL_REDUCE):
        if topology.label in formulas(n):
            cost = count_cost(topology.schedule(n))
            assert (cost.num_steps, cost.buffers_sent) == formulas(n)[topology.label]


def test_near_first_halving_keeps_the_large_messages_between_neighbours():
    for order, largest_at in (("near", 1), ("far", 8)):
        first = next(load_topology("butterfly", {"order": order}).schedule(16).steps())
        assert set(abs(first.src - first.dst)) == {largest_at}
        assert set(first.count) == {8}


def test_large_schedules_are_proved_in_batches(monkeypatch):
    monkeypatch.setattr("dgc_topo.schedule.weights._BATCH_ENTRIES", 3 * 12 * 12)
    check_all_reduce(load_topology("ring").schedule(12))
    broken = parse_schedule(
        format_schedule(load_topology("ring").schedule(12)).replace(
            "3 -> 4 chunk 7 reduce", "3 -> 4 chunk 7 copy"
        )
    )
    with pytest.raises(ScheduleError, match="chunk 7"):
        check_all_reduce(broken)


def edited_tree(old: str, new: str) -> Schedule:
    text = format_schedule(load_topology("tree").schedule(4))
    assert old in text
    return parse_schedule(text.replace(old, new))


@pytest.mark.parametrize(
    ("schedule", "says"),
    [
        (
            edited_tree("  2 -> 0 chunk 0 reduce\n", "  1 -> 0 chunk 0 reduce\n"),
            r"rank 0, chunk 0: .*2 times the input of rank 1.*step 1 counts it more than once",
        ),
        (
            edited_tree("  2 -> 3 chunk 0 copy\n", ""),
            r"rank 3, chunk 0: .*0 times the input of rank 0.*no step sends",
        ),
        (
            edited_tree("2 -> 0 chunk 0 reduce", "2 -> 0 chunk 0 copy"),
            r"rank 0, chunk 0: .*0 times the input of rank 0.*step 1 is the last",
        ),
        (Schedule.from_steps(2, 1, [reduce(0, 1)]), "rank 0, chunk 0"),
        (Schedule.from_steps(3, 1, []), "0 times the input of rank 1"),
        (
            Schedule.from_steps(2, 2, [reduce(np.r_[0, 1], np.r_[1, 0])]),
            "rank 0, chunk 1",
        ),
    ],
)
def test_a_wrong_all_reduce_is_refused_with_rank_chunk_and_step(schedule, says):
    with pytest.raises(ScheduleError, match=says) as refused:
        check_all_reduce(schedule)
    assert "rank 0" in str(refused.value).splitlines()[1]  # the grid


def test_the_grid_marks_the_place():
    with pytest.raises(ScheduleError) as refused:
        check_all_reduce(edited_tree("  2 -> 0 chunk 0 reduce\n", "  1 -> 0 chunk 0 reduce\n"))
    marked = [line for line in str(refused.value).splitlines() if "<-- here, rank 0" in line]
    assert len(marked) == 1
    assert marked[0].startswith("step 1")


def gossip_of(*steps: Step, goal: Goal = "doubly-stochastic") -> Topology:
    return Topology("test", lambda world_size: Schedule.from_steps(world_size, 1, steps, goal=goal))


def half(src, dst):
    return mix(np.array(src), np.array(dst), weight=1, denominator=2)


def test_mixing_that_is_not_doubly_stochastic_is_refused():
    with pytest.raises(ScheduleError, match="what is given of rank 0 sum to 3/2"):
        check_gossip(gossip_of(half([0], [1])), 3)


def test_column_stochastic_mixing_need_not_keep_rows():
    """Push: rank 0 gives its halves to both others, who give theirs back to rank 0."""
    steps = [mix(np.r_[1, 0], np.r_[0, 1], weight=1, denominator=2, keep=np.r_[2, 1])]
    with pytest.raises(ScheduleError, match="what is given of rank 0 sum to 3/2"):
        mixing_matrix(Schedule.from_steps(2, 1, steps, goal="column-stochastic"))
    steps = [mix(np.r_[1, 0], np.r_[0, 1], weight=np.r_[2, 1], denominator=3, keep=np.r_[2, 1])]
    matrix = mixing_matrix(Schedule.from_steps(2, 1, steps, goal="column-stochastic"))
    assert matrix.sum(axis=0).tolist() == [1, 1]
    assert matrix.sum(axis=1).tolist() != [1, 1]
    with pytest.raises(ScheduleError, match="what rank 0 receives sum to 4/3"):
        mixing_matrix(Schedule.from_steps(2, 1, steps, goal="doubly-stochastic"))


def test_unconnected_mixing_is_refused():
    with pytest.raises(ScheduleError, match=r"not connected .* ranks \[2\]"):
        check_gossip(gossip_of(half([0, 1], [1, 0])), 3)


def test_gossip_weights_stay_exact_beyond_64_bits():
    steps = [mix(np.r_[0, 1], np.r_[1, 0], weight=1, denominator=3) for _ in range(60)]
    weights, denominator = contributions(Schedule.from_steps(2, 1, steps, goal="part"))
    assert denominator == 3**60
    assert weights[0, 0].sum() == denominator


def test_random_matchings_agree_between_ranks_and_differ_between_iterations():
    gossip = load_topology("gossip", {"graph": "random-matching"})
    texts = [format_schedule(gossip.schedule(8, iteration=i, seed=3)) for i in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


def test_copying_over_what_arrived_in_the_same_step_loses_it():
    lossy = Schedule.from_steps(
        3, 1, [copy(np.r_[1, 2], np.r_[0, 0]), copy(np.r_[0, 0], np.r_[1, 2])]
    )
    with pytest.raises(ScheduleError, match="rank 0, chunk 0"):
        check_all_reduce(lossy)


def test_a_schedule_that_doubles_forever_is_counted_exactly():
    steps = [reduce(np.r_[0, 1], np.r_[1, 0]) for _ in range(80)]
    weights, _ = contributions(Schedule.from_steps(2, 1, steps, goal="part"))
    assert weights[0, 0].tolist() == [2**79, 2**79]
