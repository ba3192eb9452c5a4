"""NoLoCo: DiLoCo whose ranks mix with a few others; over a complete graph it is DiLoCo."""

import pytest
import torch

import dgc_topo as dt
from dgc_topo.mixing import mixing_matrix
from tests.training.averaging.quadratic import Quadratics, flat

OPTIONS = "every=3,outer_learning_rate=0.7,outer_momentum=0.6"


@pytest.mark.parametrize(
    "options", [OPTIONS, f"{OPTIONS},nesterov=false", "every=2,outer_momentum=0.0"]
)
@pytest.mark.parametrize("num_ranks", [1, 3, 4, 7])
def test_over_a_complete_graph_it_is_diloco(options, num_ranks):
    found = Quadratics(f"no-loco:{options}", "gossip:graph=complete", num_ranks, momentum=0.5)
    expected = Quadratics(f"diloco:{options}", "ring", num_ranks, momentum=0.5)
    for _ in range(9):
        found.step()
        expected.step()
        torch.testing.assert_close(found.shared(), expected.shared(), rtol=1e-5, atol=1e-5)


PUBLISHED = f"{OPTIONS},nesterov=false,mixes_momentum=false"


@pytest.mark.parametrize("num_ranks", [1, 3, 6])
def test_the_published_step_is_diloco_without_nesterov_over_a_complete_graph(num_ranks):
    found = Quadratics(f"no-loco:{PUBLISHED}", "gossip:graph=complete", num_ranks, momentum=0.5)
    expected = Quadratics(f"diloco:{OPTIONS},nesterov=false", "ring", num_ranks, momentum=0.5)
    for _ in range(9):
        found.step()
        expected.step()
        torch.testing.assert_close(found.shared(), expected.shared(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("step", [0.5, 1.0])
def test_the_published_step_leaves_momentum_with_its_rank(step):
    """By hand, one round in which pairs meet: m = b m + lr mean(d) + step (mean(s) - s)."""
    rule = f"no-loco:{PUBLISHED},consensus_step={step}"
    ranks = Quadratics(rule, "gossip:graph=random-matching", 4, seed=2).train(3)
    anchors = torch.stack([flat(a._anchor) for a in ranks.averagers])
    momenta = torch.stack([flat(a._outer.momentum()) for a in ranks.averagers])
    assert anchors.std(0).max() > 1e-3
    matrix = mixing_matrix(ranks.topology.schedule(4, iteration=1, seed=2))
    mix = torch.from_numpy(matrix).float()
    ranks.train(2)
    for rank, averager in enumerate(ranks.averagers):
        ranks.compute(rank)
        averager.prepare()
        averager.move()
    changes = torch.stack([flat(own) for own in ranks.parameters]) - anchors
    momenta = 0.6 * momenta + 0.7 * mix @ changes + step * (mix @ anchors - anchors)
    ranks.exchange(1)
    found = torch.stack([flat(a._anchor) for a in ranks.averagers])
    torch.testing.assert_close(found, anchors + momenta, rtol=1e-5, atol=1e-5)
    kept = torch.stack([flat(a._outer.momentum()) for a in ranks.averagers])
    torch.testing.assert_close(kept, momenta, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("graph", ["random-matching", "ring", "complete"])
def test_without_momentum_the_published_step_is_the_mixture_of_own_steps(graph):
    """s + lr mean(d) + (mean(s) - s) = mean(s + lr d): both forms are one then."""
    options, topology = "every=2,outer_momentum=0,nesterov=false", f"gossip:graph={graph}"
    found = Quadratics(f"no-loco:{options},mixes_momentum=false", topology, 5, momentum=0.5)
    expected = Quadratics(f"no-loco:{options}", topology, 5, momentum=0.5)
    for _ in range(9):
        found.step()
        expected.step()
        torch.testing.assert_close(found.shared(), expected.shared(), rtol=1e-5, atol=1e-5)


def test_options_that_would_do_nothing_are_refused():
    with pytest.raises(ValueError, match=r"consensus_step = 0.5 with mixes_momentum = true"):
        dt.load_averaging("no-loco:consensus_step=0.5")
    with pytest.raises(ValueError, match="mixes_momentum = false with nesterov = true"):
        dt.load_averaging("no-loco:mixes_momentum=false")


@pytest.mark.parametrize("graph", ["random-matching", "one-peer-exponential", "ring"])
def test_ranks_come_near_the_optimum_of_all(graph):
    ranks = Quadratics(f"no-loco:{OPTIONS}", f"gossip:graph={graph}", 5)
    ranks.train(180, [0.1, 0.03, 0.01])
    assert ranks.off() < 0.1


def test_means_of_anchor_and_momentum_are_kept():
    """The mean over the ranks moves as one rank would that made the mean change."""
    ranks = Quadratics(f"no-loco:{OPTIONS}", "gossip:graph=random-matching", 5)
    for _ in range(4):
        anchors = [dict(averager._anchor) for averager in ranks.averagers]
        before = {name: torch.stack([a[name] for a in anchors]).mean(0) for name in anchors[0]}
        momenta = [averager._outer.momentum() for averager in ranks.averagers]
        momentum = {n: torch.stack([m[n] for m in momenta]).mean(0) for n in momenta[0]}
        for step in range(3):
            for rank, averager in enumerate(ranks.averagers):
                ranks.compute(rank)
                averager.prepare()
                averager.move()
            if step < 2:
                ranks.iteration += 1
        for name, anchor in before.items():
            mean = torch.stack([own[name].detach() for own in ranks.parameters]).mean(0)
            change = mean - anchor
            momentum[name] = 0.6 * momentum[name] + change
            before[name] = anchor + 0.7 * (change + 0.6 * momentum[name])
        ranks.exchange(ranks.iteration // 3)
        ranks.iteration += 1
        for name, expected in before.items():
            found = torch.stack([a._anchor[name] for a in ranks.averagers]).mean(0)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
