"""D-PSGD: parameters are mixed by the schedule's weights, and each rank keeps its own step."""

import pytest
import torch

from dgc_topo.mixing import mixing_matrix
from tests.training.averaging.quadratic import (
    Rank,
    Ranks,
    adamw,
    close,
    grad_of,
    momentum,
    same,
    sgd,
)


@pytest.mark.parametrize("make", [sgd, momentum, adamw])
@pytest.mark.parametrize("graph", ["ring", "complete", "one-peer-exponential"])
@pytest.mark.parametrize("num_ranks", [1, 3, 6])
def test_ranks_mix_by_the_matrix_and_step_by_the_gradient_before(graph, num_ranks, make):
    topology = f"gossip:graph={graph}"
    found = Ranks("d-psgd", num_ranks, topology=topology, make=make).train(4)
    ranks = [Rank(number, make) for number in range(num_ranks)]
    for step in range(4):
        schedule = found.topology.schedule(num_ranks, iteration=step, seed=1)
        weights = torch.tensor(mixing_matrix(schedule)).double()
        for rank in ranks:
            rank.compute(step)
        before = [rank.values() for rank in ranks]
        for i, rank in enumerate(ranks):
            with torch.no_grad():
                for name, p in rank.parameters.items():
                    values = torch.stack([each[name].double() for each in before])
                    p.copy_(torch.tensordot(weights[i], values, dims=1))
            rank.move()
    for own, expected in zip(found.ranks, ranks, strict=True):
        assert close(own.values(), expected.values(), atol=1e-5)


@pytest.mark.parametrize("num_ranks", [3, 5, 6, 7])
def test_on_a_complete_graph_it_is_an_all_reduce_of_parameters(num_ranks):
    """Without gradients all ranks hold the mean after one exchange."""
    ranks = Ranks("d-psgd", num_ranks, topology="gossip:graph=complete").train(3)
    before = [rank.values() for rank in ranks.ranks]
    for rank in ranks.ranks:
        rank.optimizer.param_groups[0]["lr"] = 0.0
    assert not same(before[0], before[1])
    ranks.train(1)
    mean = {name: torch.stack([each[name] for each in before]).mean(0) for name in before[0]}
    assert all(close(rank.values(), mean) for rank in ranks.ranks)


def test_with_an_exchange_in_every_third_step_each_one_meets_the_next_peers():
    """The schedule changes from exchange to exchange, not from step to step."""
    ranks = Ranks("d-psgd:every=3", 8, topology="gossip:graph=one-peer-exponential")
    for rank in ranks.ranks:
        rank.optimizer.param_groups[0]["lr"] = 0.0
        with torch.no_grad():
            for name, p in rank.parameters.items():
                p.copy_(rank.target[name])
    ranks.train(9)  # three exchanges: with the peers at distance 1, 2 and 4
    mean = {n: torch.stack([r.target[n] for r in ranks.ranks]).mean(0) for n in ("weight", "bias")}
    assert all(close(rank.values(), mean) for rank in ranks.ranks)


def test_the_mean_of_the_ranks_moves_by_the_mean_step():
    ranks = Ranks("d-psgd", 6, topology="gossip:graph=ring")
    for step in range(4):
        before = ranks.shared()
        for rank in ranks.ranks:
            rank.compute(step)
        steps = [{n: -0.1 * grad_of(p) for n, p in r.parameters.items()} for r in ranks.ranks]
        expected = {n: before[n] + sum(s[n].double() for s in steps) / 6 for n in before}
        ranks.train(1)
        assert close(ranks.shared(), expected)
