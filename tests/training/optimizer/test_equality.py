"""At density 1 the distributed optimizer is plain data parallel; below, it is what it says."""

import pytest
import torch
from torch import Tensor

from tests.runtime.cluster import Cluster
from tests.training.averaging.test_own_rule import ELASTIC
from tests.training.optimizer.by_hand import (
    averaged_by_hand,
    dgc_by_hand,
    gossip_by_hand,
    local_sgd_by_hand,
    push_sum_by_hand,
    train_plainly,
    updates_by_hand,
)
from tests.training.optimizer.training import (
    adamw,
    nesterov,
    one_group,
    rmsprop,
    sgd,
    train,
    train_shared,
)


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def check_alike(ranks: list[dict[str, Tensor]]) -> None:
    for other in ranks[1:]:
        assert all(torch.equal(ranks[0][name], other[name]) for name in ranks[0])


@pytest.mark.parametrize("make", [sgd, nesterov, adamw, rmsprop])
@pytest.mark.parametrize(("world_size", "topology"), [(1, "ring"), (3, "tree"), (4, "butterfly")])
def test_density_1_is_plain_data_parallel_training(cluster: Cluster, make, world_size, topology):
    """Tied, frozen, unused and sometimes unused parameters included; all ranks bit for bit.

    The judge of rounding is plain training that adds the ranks' gradients backwards.
    """
    ranks = cluster.run(world_size, train, make, {"topology": topology})
    [plain] = cluster.run(1, train_plainly, make, world_size)
    [backwards] = cluster.run(1, train_plainly, make, world_size, None, -1)
    noise = largest_difference(plain, backwards)
    check_alike(ranks)
    assert largest_difference(ranks[0], plain) <= 10 * noise
    assert noise < 1e-5


@pytest.mark.parametrize("clip_norm", [0.2, 1e9])
def test_sgd_below_density_1_is_deep_gradient_compression(cluster: Cluster, clip_norm):
    """Written out over DGC itself, its warm-up in steps; clipping is of the whole gradient."""
    options = {"topology": "ring", "density": 0.1, "warm_up_steps": 4, "clip_norm": clip_norm}
    ranks = cluster.run(3, train, one_group, options)
    [by_hand] = cluster.run(1, dgc_by_hand, 3, "ring", 0.1, clip_norm)
    check_alike(ranks)
    assert largest_difference(ranks[0], by_hand) < 1e-6  # clipped before or after division by 3


@pytest.mark.parametrize("look_ahead", [0.0, 0.5])
def test_adamw_below_density_1_sends_what_it_changed(cluster: Cluster, look_ahead):
    """Bit for bit; with look-ahead ranks part, and what they share stays alike."""
    options = {"topology": "butterfly", "density": 0.1, "warm_up_steps": 4}
    ranks = cluster.run(4, train_shared, adamw, {**options, "look_ahead": look_ahead})
    own, shared = ([rank[place] for rank in ranks] for place in (0, 1))
    [by_hand] = cluster.run(1, updates_by_hand, 4, "butterfly", 0.1, look_ahead)
    check_alike(shared)
    assert largest_difference(shared[0], by_hand) == 0
    assert (largest_difference(own[0], shared[0]) > 1e-3) == (look_ahead > 0)


@pytest.mark.parametrize("make", [nesterov, adamw])
def test_gossip_is_d_psgd_by_the_mixing_matrix(cluster: Cluster, make):
    topology = "gossip:graph=ring"
    ranks = cluster.run(4, train_shared, make, {"topology": topology})
    own, shared = ([rank[place] for rank in ranks] for place in (0, 1))
    [by_hand] = cluster.run(1, gossip_by_hand, make, 4, topology)
    for one, other in zip(own, by_hand, strict=True):
        assert largest_difference(one, other) < 2e-5
    assert largest_difference(own[0], own[2]) > 1e-3  # their own models
    check_alike(shared)
    mean = {name: torch.stack([each[name] for each in own]).mean(0) for name in own[0]}
    assert largest_difference(shared[0], mean) < 1e-6


@pytest.mark.parametrize("look_ahead", [0.0, 0.5])
def test_updates_in_every_step_are_what_adamw_below_density_1_does_anyway(
    cluster: Cluster, look_ahead
):
    usual = {"topology": "tree", "density": 0.1}
    named = {**usual, "averaging": f"updates:look_ahead={look_ahead}"}
    found = cluster.run(3, train_shared, adamw, named)
    expected = cluster.run(3, train_shared, adamw, {**usual, "look_ahead": look_ahead})
    for one, other in zip(found, expected, strict=True):
        for own, as_usual in zip(one, other, strict=True):
            assert largest_difference(own, as_usual) == 0


@pytest.mark.parametrize("make", [sgd, adamw])
def test_push_sum_is_what_the_shares_say(cluster: Cluster, make):
    """Over a directed graph that changes; what is shared is the sum of all x over that of w."""
    options = {"topology": "gossip:graph=random-push", "averaging": "push-sum"}
    ranks = cluster.run(4, train_shared, make, options)
    [by_hand] = cluster.run(1, push_sum_by_hand, make, 4, "gossip:graph=random-push")
    for (own, _), other in zip(ranks, by_hand, strict=True):
        assert largest_difference(own, other) < 1e-4
    check_alike([shared for _, shared in ranks])
    assert largest_difference(ranks[0][0], ranks[1][0]) > 1e-3


def test_dgc_over_gossip_at_density_1_is_d_psgd_and_below_it_ranks_still_agree(cluster: Cluster):
    options = {"topology": "gossip:graph=ring", "averaging": "dgc-gossip"}
    ranks = cluster.run(4, train, sgd, options)
    [by_hand] = cluster.run(1, gossip_by_hand, sgd, 4, "gossip:graph=ring")
    for own, other in zip(ranks, by_hand, strict=True):
        assert largest_difference(own, other) < 1e-5
    ranks = cluster.run(3, train_shared, sgd, {**options, "density": 0.2})
    check_alike([shared for _, shared in ranks])
    mean = {n: torch.stack([own[n] for own, _ in ranks]).mean(0) for n in ranks[0][0]}
    assert largest_difference(ranks[0][1], mean) < 1e-6
    assert largest_difference(ranks[0][0], ranks[1][0]) > 1e-3


@pytest.mark.parametrize("make", [nesterov, adamw])
@pytest.mark.parametrize("every", [2, 4])
def test_local_sgd_is_the_mean_of_the_models_after_every_round(cluster: Cluster, make, every):
    """Six steps: three whole rounds, or one and a half."""
    options = {"topology": "butterfly", "averaging": f"local-sgd:every={every}"}
    ranks = cluster.run(3, train_shared, make, options)
    own, shared = ([rank[place] for rank in ranks] for place in (0, 1))
    [by_hand] = cluster.run(1, local_sgd_by_hand, make, 3, every)
    for one, other in zip(own, by_hand, strict=True):
        assert largest_difference(one, other) < 1e-5
    check_alike(shared)
    mean = {name: torch.stack([each[name] for each in own]).mean(0) for name in own[0]}
    assert largest_difference(shared[0], mean) < 1e-6
    assert (largest_difference(own[0], own[2]) > 1e-3) == (every == 4)


@pytest.mark.parametrize(
    ("rule", "topology", "density"),
    [
        ("diloco:every=2", "tree", 0.1),
        ("push-sum", "gossip:graph=random-push", 1.0),
        ("choco", "gossip:graph=ring", 0.1),
        ("dgc-gossip", "gossip:graph=ring", 0.1),
        ("no-loco:every=2", "gossip:graph=random-matching", 1.0),
        ("diloco:every=2,participation=0.6", "ring", 0.2),
        ("d-psgd:participation=0.6", "gossip:graph=ring", 1.0),
        ("diloco:every=2,left_out=1@1", "ring", 0.2),
        (f"{ELASTIC}:every=2,pull=0.7", "butterfly", 1.0),
    ],
)
def test_every_rule_does_on_ranks_what_it_says_in_one_process(
    cluster: Cluster, rule, topology, density
):
    """Bit for bit; what is in the model is where the next gradient is taken."""
    options = {"topology": topology, "density": density, "averaging": rule}
    ranks = cluster.run(3, train, nesterov, options)
    [by_hand] = cluster.run(1, averaged_by_hand, nesterov, 3, topology, rule, density)
    for one, other in zip(ranks, by_hand, strict=True):
        assert largest_difference(one, other) == 0


@pytest.mark.parametrize("make", [sgd, adamw])
def test_at_density_1_clipping_is_that_of_the_mean(cluster: Cluster, make):
    ranks = cluster.run(3, train, make, {"topology": "tree", "clip_norm": 0.05})
    [plain] = cluster.run(1, train_plainly, make, 3, 0.05)
    [unclipped] = cluster.run(1, train_plainly, make, 3)
    assert largest_difference(ranks[0], plain) < 1e-5
    assert largest_difference(plain, unclipped) > 1e-3
