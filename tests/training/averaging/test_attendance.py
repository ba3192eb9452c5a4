"""Ranks that are left out of an exchange, and ranks that count unequally."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dgc_topo as dt
from dgc_topo.averaging import Attendance
from dgc_topo.schedule.weights import contributions
from dgc_topo.topology import Topology
from tests.strategies import ALL_REDUCE, GRAPHS
from tests.training.averaging.quadratic import SIZE, Quadratics, Ranks, close, momentum, same, sgd

PUSH = "gossip:graph=random-push"


def matrix_of(schedule) -> list[list[Fraction]]:
    """Return the exact weights of a schedule's first chunk."""
    numerators, denominator = contributions(schedule)
    return [[Fraction(int(each), denominator) for each in row] for row in numerators[:, 0]]


@settings(max_examples=40)
@given(
    num_ranks=st.integers(1, 9),
    share=st.sampled_from([0.1, 0.5, 0.51, 0.75, 1.0]),
    goal=st.sampled_from(["all-reduce", "doubly-stochastic"]),
    seed=st.integers(0, 5),
    drawn=st.lists(st.integers(1, 5), min_size=9, max_size=9),
)
def test_those_who_take_part_count_one_together(num_ranks, share, goal, seed, drawn):
    weights = tuple(drawn[:num_ranks])
    who = Attendance(num_ranks, share, goal, seed, weights)
    seen: set[int] = set()
    for exchange in range(8):
        here = who.of(exchange).tolist()
        assert len(here) == who.count >= max(1, (num_ranks // 2 + 1) * (goal == "all-reduce"))
        assert sum(who.shares(exchange)) == 1
        total = Fraction(sum(weights))
        for rank, counts in zip(here, who.shares(exchange), strict=True):
            assert counts == who.renormalised(exchange) * weights[rank] / total
        if goal == "all-reduce":
            behind = set(who.behind(exchange).tolist())
            assert set(who.givers(exchange).tolist()) <= set(here) - behind
            assert len(who.givers(exchange)) == len(behind)
            assert behind <= set(here)
        seen |= set(here)
    assert len(seen) > who.count or who.count == num_ranks or num_ranks > 2


@pytest.mark.parametrize("graph", [*GRAPHS, "random-push"])
@pytest.mark.parametrize("num_ranks", [3, 6, 7])
def test_gossip_without_some_ranks_mixes_the_others_exactly(graph, num_ranks):
    topology = dt.load_topology(f"gossip:graph={graph}")
    weights = () if graph == "random-push" else tuple(range(1, num_ranks + 1))
    for shares in {(), weights}:
        who = Attendance(num_ranks, 0.6, topology.goal, 2, shares)
        for exchange in range(4):
            schedule = who.arranged(topology).schedule(num_ranks, iteration=exchange, seed=2)
            here = who.of(exchange).tolist()
            matrix = matrix_of(schedule)
            counts = shares or (1,) * num_ranks
            for rank in range(num_ranks):
                if rank not in here:
                    assert matrix[rank] == [0] * num_ranks  # a rank that only serves begins with 0
                    continue
                assert all(
                    matrix[rank][other] == 0 for other in range(num_ranks) if other not in here
                )
                if graph != "random-push":
                    assert sum(matrix[rank]) == 1
                assert sum(counts[i] * matrix[i][rank] for i in here) == counts[rank]


@pytest.mark.parametrize("case", ALL_REDUCE, ids=str)
@pytest.mark.parametrize("num_ranks", [3, 5, 6])
def test_an_all_reduce_without_some_ranks_sums_the_others_exactly(case, num_ranks):
    topology = dt.load_topology(*case)
    rule = dt.load_averaging("local-sgd:participation=0.6")
    if topology.has_servers:
        assert "only serve" in str(rule.refusal_of(topology))
        return
    who = rule.attendance(topology, num_ranks, 3)
    for exchange in range(3):
        schedule = who.arranged(topology).schedule(num_ranks, iteration=exchange)
        here = who.of(exchange)
        assert schedule.contributors.tolist() == here.tolist()
        numerators, denominator = contributions(schedule)
        expected = np.zeros(num_ranks, np.int64)
        expected[here] = denominator
        assert (numerators[here] == expected).all()


def test_named_ranks_are_left_out_of_named_exchanges():
    rule = dt.load_averaging("local-sgd:left_out=3@4+1@2-5+0@6-+3@1-/3")
    who = rule.attendance(dt.load_topology("ring"), 5, 0)
    out = [sorted({0, 1, 2, 3, 4} - set(who.of(number).tolist())) for number in range(9)]
    assert out == [[], [3], [1], [1], [1, 3], [1], [0], [0, 3], [0]]
    assert who.behind(2).tolist() == [3]
    assert str(rule) == "local-sgd:every=10,left_out=3@4+1@2-5+0@6-+3@1-/3"
    assert dt.load_averaging(str(rule)) == rule
    assert dt.load_averaging("local-sgd:left_out=").left_out == ""


@pytest.mark.parametrize("goal", ["all-reduce", "doubly-stochastic"])
@pytest.mark.parametrize("name", ["local-sgd:every=2", "d-psgd:every=2"])
def test_a_rank_that_is_known_to_be_out_is_one_that_was_drawn(goal, name):
    """The same exchanges without the same ranks, named instead of drawn, end with the same bits."""
    if (goal == "all-reduce") != name.startswith("local-sgd"):
        return
    topology = "ring" if goal == "all-reduce" else "gossip:graph=complete"
    drawn = Ranks(f"{name},participation=0.75", 5, topology=topology).attendance
    named = "+".join(
        f"{rank}@{number}"
        for number in range(3)
        for rank in sorted(set(range(5)) - set(drawn.of(number).tolist()))
    )
    ranks = [
        Ranks(f"{name},{how}", 5, topology=topology).train(6)
        for how in ("participation=0.75", f"left_out={named}")
    ]
    for one, other in zip(ranks[0].ranks, ranks[1].ranks, strict=True):
        assert same(one.values(), other.values())


@pytest.mark.parametrize(
    ("left_out", "says"),
    [
        ("3", r"left_out: '3', expected RANK@EXCHANGES, such as 3@4"),
        ("3@4-2", "left_out: '3@4-2': no exchange at all"),
        ("3@4-9/0", "no exchange at all"),
        ("3@4++1@2", "left_out: '', expected RANK@"),
        ("-1@2", "expected RANK@EXCHANGES"),
        ("1@2,participation=0.75", "left_out with participation 0.75, expected one of both"),
    ],
)
def test_what_names_no_exchange_is_refused(left_out, says):
    with pytest.raises(ValueError, match=says):
        dt.load_averaging(f"d-psgd:left_out={left_out}")
    with pytest.raises(ValueError, match=r"expected RANK@EXCHANGES"):
        dt.load_averaging("d-psgd", left_out=3)


@pytest.mark.parametrize(
    ("left_out", "says"),
    [
        ("4@2", "left_out: rank 4 of 4, expected 0 to 3"),
        ("0@0+1@1+2@2+3@3", "left_out: all 4 ranks are at some time, expected at least one"),
        ("1@5-9/2", "3 of 4 ranks take part in some exchange: mine: 3 ranks, expected an even"),
    ],
)
def test_ranks_that_cannot_be_left_out_are_refused_before_the_training(left_out, says):
    def of_pairs(world_size):
        if world_size % 2:
            raise ValueError(f"{world_size} ranks, expected an even number")
        return dt.load_topology("ring").schedule(world_size)

    rule, topology = dt.load_averaging(f"local-sgd:left_out={left_out}"), Topology("mine", of_pairs)
    with pytest.raises(ValueError, match=says):
        rule.attendance(topology, 4, 0).arranged(topology)


def test_weighted_gossip_is_proved_and_a_wrong_weight_is_named():
    schedule = dt.load_topology("gossip:graph=torus").schedule(6)
    weighted = dt.weighted(schedule, [2, 2, 1, 3, 1, 1])
    assert "weighted mean of all ranks stays" in str(dt.prove(weighted, weights=[2, 2, 1, 3, 1, 1]))
    with pytest.raises(ValueError, match=r"rank \d: counts .* times in the weighted sum of all"):
        dt.prove(weighted, weights=[1, 2, 1, 3, 1, 1])
    with pytest.raises(ValueError, match="weights of column-stochastic gossip"):
        dt.weighted(dt.load_topology(PUSH).schedule(3), [2, 1, 1])


@pytest.mark.parametrize("make", [sgd, momentum])
def test_a_round_of_local_sgd_is_the_mean_of_those_who_were_there(make):
    """By hand: a rank that was left out goes on where it is, and counts from its last start."""
    found = Ranks("local-sgd:every=2,participation=0.6", 5, make=make)
    plain = Ranks("local-sgd:every=1000000", 5, make=make)
    starts = [rank.values() for rank in plain.ranks]
    anchor = plain.ranks[0].values()
    for exchange in range(6):
        found.train(2)
        plain.train(2)
        here = found.attendance.of(exchange).tolist()
        assert len(here) == 3
        ends = {rank: plain.ranks[rank].values() for rank in here}
        for name in anchor:
            changes = [ends[rank][name] - starts[rank][name] for rank in here]
            anchor[name] = anchor[name] + sum(changes) / len(here)
        for rank in here:
            starts[rank] = {name: value.clone() for name, value in anchor.items()}
            for name, value in anchor.items():
                plain.ranks[rank].parameters[name].data.copy_(value)
        for own, other in zip(found.ranks, plain.ranks, strict=True):
            assert close(own.values(), other.values(), atol=1e-5)
        assert all(same(found.ranks[rank].values(), found.ranks[here[0]].values()) for rank in here)


@pytest.mark.parametrize(
    "rule", ["d-psgd", "push-sum", "no-loco:every=1,outer_momentum=0,outer_learning_rate=1"]
)
def test_a_rank_that_is_left_out_of_gossip_keeps_what_it_has(rule):
    separator = "," if ":" in rule else ":"
    topology = PUSH if rule == "push-sum" else "gossip:graph=ring"
    ranks = Quadratics(f"{rule}{separator}participation=0.5", topology, 6).train(3)
    before, sums = ranks.points(), ranks.shared().sum(0)
    out = sorted(set(range(6)) - set(ranks.attendance.of(3).tolist()))
    assert len(out) == 3
    ranks.mix()
    assert torch.equal(ranks.points()[out], before[out])
    assert torch.allclose(ranks.shared().sum(0), sums, atol=1e-5)
    for _ in range(60):
        ranks.mix()
    assert ranks.apart() < 1e-3


@pytest.mark.parametrize("density", [1.0, 0.2])
@pytest.mark.parametrize("momentum_", [0.0, 0.6])
def test_nothing_that_a_rank_did_while_it_was_left_out_is_lost(density, momentum_):
    """Its changes count once, in the round of its return; all anchors are one again at the end."""
    rule = f"diloco:every=2,participation=0.7,outer_learning_rate=1,outer_momentum={momentum_}"
    ranks = Ranks(rule, 5, density=density)
    ranks.train(40)
    last = ranks.attendance.of(19).tolist()
    anchors = [ranks.averagers[rank].alike() for rank in last]
    for other in anchors[1:]:
        assert same(anchors[0], other)
    target = {
        name: torch.stack([rank.target[name] for rank in ranks.ranks]).mean(0)
        for name in ranks.ranks[0].target
    }
    if density == 1:
        assert close(ranks.shared(), target, atol=0.8)


@pytest.mark.parametrize(
    ("rule", "topology"),
    [
        ("local-sgd:every=1", "ring"),
        ("d-psgd", "gossip:graph=exponential"),
        ("d-psgd", "gossip:graph=random-matching"),
        ("push-sum", PUSH),
        ("push-sum", "gossip:graph=ring"),
        ("choco:consensus_step=0.5", "gossip:graph=ring"),
        ("dgc-gossip:consensus_step=0.5", "gossip:graph=complete"),
        ("no-loco:every=2,outer_learning_rate=1,outer_momentum=0", "gossip:graph=ring"),
    ],
)
def test_ranks_that_count_more_pull_more(rule, topology):
    """The weighted mean moves by the weighted mean of the gradients, and by nothing else."""
    weights = torch.tensor([4, 4, 2, 1, 1])
    ranks = Quadratics(rule, topology, 5, weights=weights.tolist(), seed=4)
    every = ranks.rule.every
    for _ in range(6):
        before, moved = ranks.shared_mean(), torch.zeros(SIZE)
        for _ in range(every):
            gradients = ranks.curvatures * (ranks.points() - ranks.centres)
            moved -= 0.1 * (weights.view(-1, 1) * gradients).sum(0) / weights.sum()
            ranks.step()
        assert torch.allclose(ranks.shared_mean(), before + moved, atol=1e-5)
    assert moved.abs().max() > 1e-3
    assert ranks.apart() > 1e-4 or topology == "ring"


@pytest.mark.parametrize("rule", ["d-psgd", "push-sum"])
def test_ranks_with_weights_go_to_the_least_weighted_sum(rule):
    weights = [4, 4, 2, 1, 1]
    ranks = Quadratics(rule, "gossip:graph=complete", 5, weights=weights, seed=4)
    ranks.train(300, [0.3, 0.1, 0.03])
    factors = torch.tensor(weights).view(-1, 1) * ranks.curvatures
    optimum = (factors * ranks.centres).sum(0) / factors.sum(0)
    assert torch.allclose(ranks.shared_mean(), optimum, atol=0.1)
    assert float((ranks.optimum() - optimum).abs().max()) > 0.2


def test_what_messages_cannot_hold_bit_for_bit_is_refused_at_the_start():
    rule = "local-sgd:participation=0.6"
    assert Ranks(rule, 3, dtype=torch.bfloat16).train(20).shared()
    with pytest.raises(ValueError, match=r"left out of exchanges: weight is torch.float64, expec"):
        Ranks(rule, 3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("rule", "topology", "says"),
    [
        ("gradients:participation=0.5", "ring", "share the parameters, expected all ranks in"),
        ("choco:participation=0.5", "gossip", "all that it ever sent, expected all ranks in every"),
        ("gradients:left_out=1@4", "ring", "left_out 1@4 over ring: all ranks share the param"),
        ("dgc-gossip:left_out=1@4", "gossip", "a sum of all that it ever sent, expected all"),
        ("local-sgd:left_out=1@4", "parameter-server:server=dedicated", "only serve, expected one"),
        ("diloco:participation=0.5", "ring", "expected above 0.5: those who were left out"),
    ],
)
def test_what_cannot_do_without_a_rank_says_why(rule, topology, says):
    refusal = dt.load_averaging(rule).refusal_of(dt.load_topology(topology))
    assert refusal is not None
    assert says in refusal
