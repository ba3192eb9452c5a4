"""Every topology is what it says; schedules that are not are refused with the place."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from dgc_topo.mixing import mixing_matrix
from dgc_topo.proof import check_all_reduce, prove
from dgc_topo.schedule import (
    Goal,
    Schedule,
    ScheduleError,
    copy,
    gather,
    mix,
    reduce,
    refine,
)
from dgc_topo.schedule.cost import count_cost
from dgc_topo.schedule.text import format_schedule, parse_schedule
from dgc_topo.schedule.weights import contributions, follow
from dgc_topo.topology import Topology, load_topology
from tests.strategies import ALL_REDUCE, GOSSIP, PUSH, smallest_world, topologies

WORLD_SIZES = [*range(1, 34), 64]
EVERY = topologies(ALL_REDUCE + GOSSIP + PUSH)


@pytest.mark.parametrize("topology", EVERY, ids=lambda t: t.label)
def test_every_topology_keeps_its_promise_at_every_world_size(topology):
    for world_size in WORLD_SIZES:
        if world_size >= smallest_world(topology):
            proof = prove(topology, world_size)
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


@pytest.mark.parametrize("topology", EVERY, ids=lambda t: t.label)
def test_large_schedules_are_proved_in_batches(topology, monkeypatch):
    """Whatever the batch, its weights are those of the whole."""
    for world_size in (2, 3, 6, 7, 8):
        schedule = topology.schedule(world_size)
        whole, denominator = contributions(schedule)
        for num_chunks in (1, 2, 5):
            monkeypatch.setattr(
                "dgc_topo.schedule.weights._BATCH_ENTRIES", num_chunks * world_size**2
            )
            followed = []
            for chunks, weights in follow(schedule):
                assert len(chunks) <= num_chunks
                followed += chunks.tolist()
                exact = weights.numerators.astype(object) * denominator
                assert (exact == whole[:, chunks].astype(object) * weights.denominator).all()
            bounds = [*followed, schedule.num_chunks]
            assert followed[0] == 0
            for first, end in pairwise(bounds):  # what is left out is like what is followed
                assert (whole[:, first:end] == whole[:, [first]]).all()
        prove(topology, world_size)


def test_a_fault_in_any_batch_is_found(monkeypatch):
    monkeypatch.setattr("dgc_topo.schedule.weights._BATCH_ENTRIES", 3 * 12 * 12)
    ring = format_schedule(load_topology("ring").schedule(12))
    for chunk in (0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11):  # rank 4 begins with chunk 4
        good, bad = (f"3 -> 4 chunk {chunk} {kind}\n" for kind in ("reduce", "copy"))
        assert good in ring
        with pytest.raises(ScheduleError, match=rf"chunk {chunk}: .* step \d+"):
            check_all_reduce(parse_schedule(ring.replace(good, bad)))


def test_chunks_that_no_transfer_tells_apart_cost_nothing():
    ring = refine(load_topology("ring").schedule(3), 700_000_000)
    check_all_reduce(ring)
    half = Schedule.from_steps(2, 2**31 - 1, [copy(0, 1, 5, 2**31 - 6)])
    with pytest.raises(ScheduleError, match=r"rank 0, chunk 0: .* no step sends that chunk"):
        check_all_reduce(half)


@pytest.mark.parametrize(("name", "sizes"), [("butterfly", (258, 384)), ("hierarchical", (330,))])
def test_sizes_that_take_several_batches_are_proved(name, sizes, monkeypatch):
    monkeypatch.setattr("dgc_topo.schedule.weights._BATCH_ENTRIES", 1 << 24)
    for world_size in sizes:
        check_all_reduce(load_topology(name).schedule(world_size))


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


def test_weights_are_exact_whatever_their_sign_and_size():
    """Against Fractions, one transfer after the other."""
    random = np.random.default_rng(3)
    for _ in range(60):
        steps, held = [], [[Fraction(int(i == r)) for i in range(3)] for r in range(3)]
        for _ in range(12):
            parts, before = [], [list(row) for row in held]
            for _ in range(random.integers(1, 4)):
                src, dst = random.permutation(3)[:2].tolist()
                d = int(random.integers(1, 4)) ** int(random.integers(1, 20))
                keep, weight = (int(x) for x in random.integers(-2 * d, 2 * d + 1, 2))
                parts.append(mix(src, dst, keep=keep, weight=weight, denominator=d))
                held[dst] = [
                    Fraction(keep, d) * mine + Fraction(weight, d) * theirs
                    for mine, theirs in zip(held[dst], before[src], strict=True)
                ]
            try:
                steps.append(gather(parts))
            except ScheduleError:  # no common denominator in 62 bits
                held = before
        weights, denominator = contributions(Schedule.from_steps(3, 1, steps, goal="part"))
        assert [[Fraction(w, denominator) for w in row] for row in weights[:, 0].tolist()] == held


def test_a_share_that_no_float_holds_is_refused_in_words():
    steps = [reduce(np.r_[0, 1], np.r_[1, 0]) for _ in range(1100)]
    with pytest.raises(ScheduleError, match=r"ends with 6\.\d+e\+330 times the input of rank 0"):
        check_all_reduce(Schedule.from_steps(2, 1, steps))
    shrinking = [mix(0, 1, weight=1, denominator=3, keep=1)] * 800
    matrix = [mix(np.r_[0, 1], np.r_[1, 0], weight=1, denominator=3) for _ in range(800)]
    assert (
        mixing_matrix(Schedule.from_steps(2, 1, matrix, goal="doubly-stochastic")).tolist()
        == [[0.5, 0.5]] * 2
    )
    with pytest.raises(ScheduleError, match="what is given of rank 0"):
        mixing_matrix(Schedule.from_steps(2, 1, shrinking, goal="doubly-stochastic"))


def test_an_all_reduce_that_changes_is_proved_in_its_iterations():
    def schedule(world_size, iteration):
        root = iteration % world_size
        others = np.setdiff1d(np.arange(world_size), [root])
        back = copy(np.full_like(others, root), others)
        steps = [reduce(others, np.full_like(others, root)), back]
        return Schedule.from_steps(world_size, 1, steps[: 1 if iteration == wrong_in else 2])

    wrong_in = -1
    assert "in each of 32 iterations" in prove(Topology("turns", schedule), 5).claim
    wrong_in = 7
    with pytest.raises(ScheduleError, match="turns, iteration 7: rank 0, chunk 0: "):
        prove(Topology("turns", schedule), 5)


def test_what_is_promised_may_not_change():
    def schedule(world_size, iteration):
        goal: Goal = "doubly-stochastic" if iteration == 3 else "all-reduce"
        steps = [reduce(np.r_[0, 1], np.r_[1, 0])]
        return Schedule.from_steps(world_size, 1, steps, goal=goal)

    with pytest.raises(ScheduleError, match=r"iteration 3: .*doubly-stochastic.* expected .*all"):
        prove(Topology("fickle", schedule), 2)


def test_a_schedule_is_proved_as_a_topology_is():
    ring = load_topology("ring").schedule(4)
    proof = prove(ring)
    assert (proof.label, proof.world_size) == ("schedule", 4)
    assert proof.claim == prove("ring", 4).claim
    with pytest.raises(ValueError, match="world_size 5, expected 4"):
        prove(ring, 5)
    with pytest.raises(ValueError, match="no world_size, expected a number of ranks"):
        prove("ring")
    broken = Schedule.from_steps(2, 1, [reduce(0, 1)])
    with pytest.raises(ScheduleError, match="rank 0, chunk 0: ends with 0 times the input"):
        prove(broken)


def test_a_proof_shows_itself():
    proof = prove("ring", 4)
    assert repr(proof) == f"Proof(ring with 4 ranks: {proof.claim})"
    assert "2(n-1)/n" in proof._repr_html_()
    assert proof.weights() == []
    gossip = prove("gossip", 4)
    assert gossip.spectral_gap == pytest.approx(2 / 3)
    assert gossip.weights()[0] == ["0.3333", "0.3333", ".", "0.3333"]
    assert "<td>0.3333</td>" in gossip._repr_html_()
    assert prove("gossip", 40).weights() == []


def test_a_schedule_shows_itself():
    mesh = load_topology("mesh").schedule(20)
    assert repr(mesh) == "Schedule(all-reduce, 20 ranks, 1 chunks)"
    html = mesh._repr_html_()
    assert html.count("<th>") == 17  # 16 ranks
    assert "more steps or ranks are not shown" in html
    assert "+3&gt;1 adds chunk 3 to rank 1" in html
    assert "not shown" not in load_topology("ring").schedule(3)._repr_html_()
