"""Gossip without the lost ranks keeps its promise, its links and its speed."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dgc_topo as dt
from dgc_topo.mixing import check_gossip, mixing_matrix
from dgc_topo.payload import DensePayload
from dgc_topo.runtime import run_in_process
from dgc_topo.schedule import ScheduleError
from dgc_topo.schedule.weights import contributions
from tests.strategies import GOSSIP, GRAPHS, PUSH, examples

SYMMETRIC = ["ring", "torus", "complete"]


@st.composite
def losses(draw, graphs=GRAPHS, most=12):
    """A topology of gossip, its world size, and the ranks that it loses."""
    topology = dt.load_topology("gossip", graph=draw(st.sampled_from(graphs)))
    n = draw(st.integers(2, most))
    lost = draw(st.sets(st.integers(0, n - 1), min_size=1, max_size=n - 1))
    return topology, n, sorted(lost)


@examples(60)
@given(losses(), st.integers(0, 20), st.integers(0, 3))
def test_weights_are_those_of_a_walk_that_skips_the_lost(loss, iteration, seed):
    """W[s, s] + W[s, l] (1 - W[l, l])^-1 W[l, s], and rows and columns of exactly 1."""
    topology, n, lost = loss
    whole = topology.schedule(n, iteration=iteration, seed=seed)
    left = [rank for rank in range(n) if rank not in lost]
    numerators, denominator = contributions(dt.without(whole, lost))
    exact = numerators[:, 0].astype(object)
    assert (exact >= 0).all()
    assert (exact.sum(0) == denominator).all()
    assert (exact.sum(1) == denominator).all()
    w = mixing_matrix(whole)
    # Lost ranks that hear of nobody else pass nothing on: any generalised inverse will do.
    inverse = np.linalg.pinv(np.eye(len(lost)) - w[np.ix_(lost, lost)])
    walk = w[np.ix_(left, lost)] @ inverse @ w[np.ix_(lost, left)]
    expected = w[np.ix_(left, left)] + walk
    np.testing.assert_allclose(exact.astype(float) / denominator, expected, atol=1e-9)


@examples(60)
@given(losses())
def test_what_is_left_is_proved_again(loss):
    topology, n, lost = loss
    left = dt.without(topology, lost, n)
    proof = dt.prove(left, n - len(lost))
    assert proof.goal == "doubly-stochastic"
    assert str(lost)[1:-1] in proof.label
    assert left.varies == topology.varies


@examples(40)
@given(losses(SYMMETRIC, 16))
def test_fewer_ranks_agree_no_slower(loss):
    """The gap of a reversible chain watched on a part is no smaller (Aldous & Fill, chapter 3)."""
    topology, n, lost = loss
    before = np.linalg.eigvalsh(mixing_matrix(topology.schedule(n)))
    after = np.linalg.eigvalsh(mixing_matrix(dt.without(topology.schedule(n), lost)))
    if len(after) > 1:
        assert after[-2] <= before[-2] + 1e-12


@pytest.mark.parametrize("n", [2, 5, 9])
def test_a_complete_graph_stays_complete(n):
    complete = dt.load_topology("gossip", graph="complete")
    for count in range(1, n):
        smaller = mixing_matrix(complete.schedule(n - count))
        left = mixing_matrix(dt.without(complete.schedule(n), range(count)))
        assert (left == smaller).all()


@examples(40)
@given(losses(), st.data())
def test_who_is_lost_first_makes_no_difference(loss, data):
    topology, n, lost = loss
    schedule = topology.schedule(n, iteration=3)
    split = data.draw(st.integers(0, len(lost)))
    first = lost[:split]
    left = [rank for rank in range(n) if rank not in first]
    then = [left.index(rank) for rank in lost[split:]]
    both = dt.without(dt.without(schedule, first), then)
    at_once = dt.without(schedule, lost)
    assert np.array_equal(mixing_matrix(both), mixing_matrix(at_once))


@examples(40)
@given(losses(), st.integers(0, 2**31))
def test_a_run_keeps_the_survivors_sum(loss, seed):
    topology, n, lost = loss
    schedule = dt.without(topology, lost, n).schedule(n - len(lost), iteration=1)
    generator = torch.Generator().manual_seed(seed)
    before = torch.rand(schedule.world_size, 7, generator=generator)
    payloads = [DensePayload(row.clone(), goals=frozenset({"doubly-stochastic"})) for row in before]
    run_in_process(schedule, payloads)
    after = torch.stack([payload.buffer for payload in payloads])
    torch.testing.assert_close(after.sum(0), before.sum(0))
    expected = torch.from_numpy(mixing_matrix(schedule)).float() @ before
    torch.testing.assert_close(after, expected)


@pytest.mark.parametrize(("name", "options"), GOSSIP + PUSH)
def test_the_simulator_takes_it(name, options):
    left = dt.without(dt.load_topology(name, options), [1, 2], world_size=8)
    assert dt.simulate(left, "1gbe", "1MB", world_size=6).time_s > 0


def test_ranks_that_only_met_through_the_lost_one_are_named():
    """Ranks 0 and 1 average, then 1 and 2: without rank 1, none hears of the other."""

    def schedule(world_size, iteration=0):
        a, b = (0, 1) if iteration % 2 else (1, 2)
        step = dt.mix(np.r_[a, b], np.r_[b, a], weight=1, denominator=2)
        return dt.Schedule.from_steps(world_size, 1, [step], goal="doubly-stochastic")

    pairs = dt.Topology("pairs", schedule)
    check_gossip(pairs, 3)
    with pytest.raises(ScheduleError, match=r"not connected .* ranks \[0\]"):
        dt.prove(dt.without(pairs, [1], world_size=3), 2)


def test_push_sum_keeps_its_columns():
    """Each rank gives a third to the next and a third to the one after it; rank 0 gives halves."""
    step = dt.mix(
        np.r_[3, 0, 1, 2, 0, 3],
        np.r_[0, 1, 2, 3, 2, 1],
        weight=np.r_[2, 2, 3, 3, 2, 2],
        denominator=6,
        keep=np.r_[2, 3, 3, 2, 6, 6],
    )
    pushes = dt.Schedule.from_steps(4, 1, [step], goal="column-stochastic")
    left = mixing_matrix(dt.without(pushes, [1]))
    np.testing.assert_allclose(left.sum(0), 1)
    assert abs(left.sum(1) - 1).max() > 0.1


def test_several_steps_and_chunks_become_one():
    halves = dt.mix(np.r_[0, 1, 2, 3], np.r_[1, 0, 3, 2], 0, 2, weight=1, denominator=2)
    across = dt.mix(np.r_[0, 2, 1, 3], np.r_[2, 0, 3, 1], 0, 2, weight=1, denominator=2)
    both = dt.Schedule.from_steps(4, 2, [halves, across], goal="doubly-stochastic")
    left = dt.without(both, [0])
    assert len(list(left.steps())) == 1
    assert left.num_chunks == 2
    assert (mixing_matrix(left) == np.full((3, 3), 1 / 3)).all()


def test_what_cannot_be_is_refused():
    gossip = dt.load_topology("gossip")
    with pytest.raises(ScheduleError, match=r"is all-reduce, expected one of gossip"):
        dt.without("ring", [0], world_size=4)
    with pytest.raises(ScheduleError, match=r"ranks \[4\]: expected ranks 0 to 3"):
        dt.without(gossip, [4], world_size=4)
    with pytest.raises(ScheduleError, match="expected one of 2 to remain"):
        dt.without(gossip.schedule(2), [0, 1])
    with pytest.raises(ValueError, match="no world_size"):
        dt.without("gossip", [0])  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="world_size 5, expected 4"):
        dt.without(gossip.schedule(4), [0], world_size=5)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="world_size 4, expected 3, the survivors"):
        dt.without(gossip, [0], world_size=4).schedule(4)
    apart = dt.gather(
        [
            dt.mix(np.r_[0, 1], np.r_[1, 0], 0, weight=1, denominator=2),
            dt.copy(np.r_[0, 1], np.r_[1, 0], 1),
        ]
    )
    odd = dt.Schedule.from_steps(2, 2, [apart], goal="doubly-stochastic")
    with pytest.raises(ScheduleError, match="chunks mix differently"):
        dt.without(odd, [0])


def test_weights_too_fine_to_be_written_are_refused():
    far = dt.load_topology("gossip", graph="exponential").schedule(64)
    with pytest.raises(ScheduleError, match=r"denominator .*, expected below 2\*\*62"):
        dt.without(far, range(0, 64, 2))
