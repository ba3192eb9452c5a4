"""Push-sum: what is given away adds up, and quotients go to the average, over directed graphs."""

import numpy as np
import pytest
import torch

import dgc_topo as dt
from dgc_topo.mixing import mixing_matrix
from dgc_topo.topology import Topology
from tests.training.averaging.quadratic import Quadratics

PUSH = "gossip:graph=random-push"


def weights(ranks):
    return torch.cat([averager.weight for averager in ranks.averagers])


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 6, 7])
def test_totals_are_kept_and_quotients_agree_on_the_average(num_ranks):
    ranks = Quadratics("push-sum", PUSH, num_ranks)
    ranks.train(5)
    total = ranks.shared().to(torch.float64).sum(0)
    if num_ranks > 3:
        assert ranks.apart() > 0.05
    for _ in range(40):
        ranks.mix()
        assert weights(ranks).to(torch.float64).sum() == pytest.approx(num_ranks, rel=1e-6)
        held = ranks.shared().to(torch.float64).sum(0)
        torch.testing.assert_close(held, total, rtol=1e-5, atol=1e-5)
    assert ranks.apart() < 1e-5
    torch.testing.assert_close(
        ranks.points().to(torch.float64), (total / num_ranks).expand(num_ranks, -1),
        rtol=1e-5, atol=1e-5,
    )  # fmt: skip
    if num_ranks > 3:
        assert weights(ranks).std() > 0.1  # the columns sum to 1, the rows do not


def test_a_step_is_that_of_the_paper():
    ranks = Quadratics("push-sum", PUSH, 5, learning_rate=0.1, momentum=0.5, seed=3)
    x = ranks.shared().to(torch.float64)
    w, velocity = torch.ones(5, 1, dtype=torch.float64), torch.zeros_like(x)
    for iteration in range(6):
        schedule = dt.load_topology(PUSH).schedule(5, iteration=iteration, seed=3)
        mixing = torch.from_numpy(mixing_matrix(schedule))
        gradients = ranks.curvatures * (x / w - ranks.centres)
        velocity = 0.5 * velocity + gradients
        x, w = mixing @ (x - 0.1 * velocity), mixing @ w
        ranks.step()
        torch.testing.assert_close(ranks.shared().to(torch.float64), x, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ranks.points().to(torch.float64), x / w, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("topology", [PUSH, "gossip:graph=one-peer-exponential"])
def test_ranks_come_near_the_optimum_of_all(topology):
    ranks = Quadratics("push-sum", topology, 5)
    ranks.train(120, [0.1, 0.1, 0.02, 0.005])
    assert ranks.off() < 0.05
    alone = (ranks.centres - ranks.optimum()).abs().amax()
    assert alone > 1


def test_over_doubly_stochastic_gossip_weights_stay_one():
    ranks = Quadratics("push-sum", "gossip:graph=one-peer-exponential", 6)
    ranks.train(9)
    assert torch.equal(weights(ranks), torch.ones(6))


def test_half_precision_messages_leave_the_weights_alone():
    ranks = Quadratics("push-sum", PUSH, 5, wire_dtype="bfloat16")
    whole = Quadratics("push-sum", PUSH, 5)
    for each in (ranks, whole):
        each.train(4)
    assert torch.equal(weights(ranks), weights(whole))
    assert 0 < (ranks.shared() - whole.shared()).abs().max() < 0.1


def test_ranks_that_are_left_begin_anew_where_they_are():
    ranks = Quadratics("push-sum", PUSH, 5)
    ranks.train(4)
    points = ranks.points()
    for averager in ranks.averagers:
        averager.renew()
    assert torch.equal(weights(ranks), torch.ones(5))
    assert torch.equal(ranks.points(), points)
    assert torch.equal(ranks.shared(), points)


def test_other_ranks_begin_with_the_quotient_of_the_totals():
    ranks = Quadratics("push-sum", PUSH, 5)
    ranks.train(4)
    states = [averager.state_dict() for averager in ranks.averagers]
    average = ranks.shared().sum(0) / weights(ranks).sum()
    fewer = Quadratics("push-sum", PUSH, 3)
    for place, averager in enumerate(fewer.averagers):
        averager.load_state_dict(states[place])
        averager.resume_from([dict(own) for own in ranks.parameters], states)
    assert torch.equal(weights(fewer), torch.ones(3))
    torch.testing.assert_close(fewer.shared(), average.expand(3, -1))


def test_a_topology_that_leaves_a_rank_nothing_is_refused():
    def schedule(world_size: int) -> dt.Schedule:
        steps = [
            dt.mix(np.r_[1, 0], np.r_[0, 1], weight=np.r_[1, 0], keep=np.r_[1, 0], denominator=1)
        ]
        return dt.Schedule.from_steps(world_size, 1, steps, goal="column-stochastic")

    ranks = Quadratics("push-sum", Topology("takes-all", schedule), 2)
    with pytest.raises(ValueError, match=r"^push-sum: weight 0 .*keeps a share"):
        ranks.step()
