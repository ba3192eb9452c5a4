"""Situations of real scripts: nothing is lost, nobody hangs, all ranks stay alike."""

from functools import partial

import pytest
import torch

from tests.runtime.cluster import Cluster
from tests.training.optimizer import situations
from tests.training.optimizer.test_equality import check_alike, largest_difference
from tests.training.optimizer.training import adamw, backwards, sgd, train

RULES = [
    pytest.param(sgd, {"topology": "ring"}, id="average"),
    pytest.param(sgd, {"topology": "tree", "density": 0.1}, id="momentum correction"),
    pytest.param(adamw, {"topology": "ring", "density": 0.1}, id="update"),
]
GOSSIP = pytest.param(adamw, {"topology": "gossip:graph=ring"}, id="gossip")


@pytest.mark.parametrize(("make", "options"), [*RULES, GOSSIP])
def test_a_batch_in_parts_trains_as_the_whole_batch(cluster: Cluster, make, options):
    whole, parts = (
        cluster.run(3, situations.by_accumulation, make, options, number) for number in (1, 4)
    )
    for one, other in zip(whole, parts, strict=True):
        assert largest_difference(one, other) < 1e-5


def test_no_gradient_is_lost_through_skipped_steps_and_frozen_layers(cluster: Cluster):
    """What was gathered is what moved the parameters, and what waits in the residuals."""
    ranks = cluster.run(3, situations.mass)
    for name in ranks[0]:
        gathered = sum(rank[name].gathered for rank in ranks)
        waiting = sum(rank[name].residual for rank in ranks)
        assert (gathered - waiting + ranks[0][name].moved).abs().max() < 1e-5, name
    assert ranks[0]["first.weight"].while_frozen.abs().max() == 0
    assert ranks[0]["last.weight"].while_frozen.abs().max() > 0
    assert ranks[0]["first.weight"].residual.abs().max() > 0


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(("make", "options"), RULES)
def test_infinity_on_one_rank_skips_the_step_on_all(cluster: Cluster, make, options, scaled):
    """As if it had never been: parameters, moments, residuals and velocities stay."""
    ranks = cluster.run(3, situations.with_infinity, make, options, scaled)
    for rank in ranks:
        assert (rank.changed, rank.state_stayed, rank.skipped_steps) == ([], True, 1)
    check_alike([rank.weights for rank in ranks])
    without = cluster.run(3, situations.with_infinity, make, options, not scaled)
    assert largest_difference(ranks[0].weights, without[0].weights) == 0  # powers of two


def test_in_gossip_infinity_skips_the_step_of_its_own_rank(cluster: Cluster):
    options = {"topology": "gossip:graph=ring"}
    ranks = cluster.run(3, situations.with_infinity, adamw, options, True)
    assert [rank.skipped_steps for rank in ranks] == [0, 1, 0]
    assert all(torch.isfinite(p).all() for rank in ranks for p in rank.weights.values())
    assert ranks[1].state_stayed
    assert ranks[1].changed  # it mixes on


@pytest.mark.parametrize(("make", "options"), RULES)
def test_a_schedule_of_learning_rates_works_made_before_or_after(cluster: Cluster, make, options):
    after, before = (
        cluster.run(2, situations.scheduled, make, options, wrapped) for wrapped in (True, False)
    )
    check_alike([*after, *before])
    [alone] = cluster.run(1, situations.scheduled, make, {**options, "density": 1}, True)
    [plain] = cluster.run(1, situations.scheduled, make, None, True)
    assert largest_difference(alone, plain) == 0
    [constant] = cluster.run(1, train, make, {**options, "density": 1})
    assert largest_difference(constant, plain) > 1e-3


@pytest.mark.parametrize(("make", "options"), [*RULES, GOSSIP])
def test_ranks_may_have_their_parameters_in_another_order(cluster: Cluster, make, options):
    usual = cluster.run(3, train, make, options)
    other = cluster.run(3, train, partial(backwards, make), options)
    assert [largest_difference(*pair) for pair in zip(usual, other, strict=True)] == [0] * 3


@pytest.mark.parametrize("look_ahead", [0.0, 0.5])
def test_steps_of_no_length_leave_every_bit_of_a_float64_model(cluster: Cluster, look_ahead):
    options = {"topology": "ring", "density": 0.3, "look_ahead": look_ahead}
    [(before, after)] = cluster.run(1, situations.at_rest, options)
    assert largest_difference(before, after) == 0


def test_a_layer_that_gets_frozen_goes_back_to_what_all_ranks_share(cluster: Cluster):
    trained, frozen, again = zip(*cluster.run(3, situations.frozen_ahead), strict=True)
    check_alike([{"weight": weight} for weight in frozen])
    for stages in (trained, again):
        assert largest_difference({"": stages[0]}, {"": stages[1]}) > 1e-4


def test_after_a_failure_every_step_refuses_and_names_it(cluster: Cluster):
    zero, one, two = cluster.run(3, situations.one_stays_away)
    assert one == []
    assert "rank 1" in zero[0] + two[0]  # one waited for it, the other for the first
    for errors in (zero, two):
        first, second, third = errors
        assert first.startswith("PeerError")
        assert second == third
        assert "RuntimeError: distributed optimizer: unusable after an earlier error" in second
        assert first.partition(": ")[2] in second


@pytest.mark.parametrize(
    ("make", "parts"),
    [(adamw, ("AdamW", "SGD")), (situations.sgd_of_less, ("last.bias", ", trained"))],
    ids=["another optimizer", "fewer parameters"],
)
def test_ranks_that_differ_are_refused_before_anything_is_touched(cluster: Cluster, make, parts):
    for text, stayed in cluster.run(3, situations.they_differ, make):
        assert all(part in text for part in parts)
        assert stayed


def test_parameters_may_be_added(cluster: Cluster):
    assert cluster.run(2, situations.groups_added) == [(2, True)] * 2


@pytest.mark.parametrize(("make", "options"), RULES)
def test_a_dedicated_server_adds_nothing_and_follows(cluster: Cluster, make, options):
    """Two ranks and their server are two ranks."""
    served = {**options, "topology": "parameter-server:server=dedicated"}
    ranks = cluster.run(3, train, make, served)
    check_alike(ranks)
    alone = cluster.run(2, train, make, options, "cpu", 3)
    assert largest_difference(ranks[0], alone[0]) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("density", [1, 0.2])
@pytest.mark.parametrize("make", [situations.slow_sgd, situations.adagrad])
def test_sparse_gradients_layouts_and_types_are_taken_as_they_are(
    cluster: Cluster, make, density, dtype
):
    options = {"topology": "ring", "density": density, "clip_norm": 1.0}
    ranks = cluster.run(2, situations.odd, make, options, False, dtype)
    check_alike(ranks)
    if dtype == torch.float64:  # bfloat16 adds repeated words in another order
        sparse = cluster.run(2, situations.odd, make, options, True, dtype)
        check_alike(sparse)
        assert largest_difference(ranks[0], sparse[0]) < 1e-6


def test_buffers_of_every_kind_of_memory_are_made_equal(cluster: Cluster):
    """Also those that were made with expand, where an element stands for several."""
    expected = dict(situations.Buffers(2.0).named_buffers())
    for found, stayed in cluster.run(3, situations.odd_buffers):
        assert all(stayed)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], each) for name, each in expected.items())


def test_ranks_that_start_again_do_not_meet_those_before(cluster: Cluster):
    """Torchrun's store still has the addresses of sentinels that are gone."""
    (first, second), *others = cluster.run(3, situations.starts)
    assert others == [(first, second)] * 2
    assert first != second


#: Rules that keep a copy of the parameters.
KEEPING = [
    {"topology": "ring", "density": 0.1},
    {"topology": "ring", "density": 0.1, "look_ahead": 0.5},
    {"topology": "tree", "density": 0.1, "averaging": "sparse-loco:every=2"},
    {"topology": "ring", "averaging": "diloco:every=2"},
    {"topology": "gossip:graph=random-push", "averaging": "push-sum"},
    {"topology": "gossip:graph=ring", "averaging": "no-loco:every=2"},
]


@pytest.mark.parametrize("options", KEEPING)
def test_what_the_script_does_to_parameters_between_steps_stays(cluster: Cluster, options):
    """Weights that are clipped, or loaded, are where training goes on from, at once."""
    for largest in cluster.run(3, situations.clipped, adamw, options):
        assert max(largest) < 0.15  # steps are of 0.01
    found = cluster.run(3, situations.loaded, adamw, options, 0.0)
    assert max(distance for _, distance in found) < 0.5
    if "gossip" not in options["topology"]:
        check_alike([weights for weights, _ in found])
        found = cluster.run(3, situations.loaded, adamw, options, 1.0)
        assert max(distance for _, distance in found) < 0.5  # the first rank's count
        check_alike([weights for weights, _ in found])
