"""Ranks that come to differ in the middle of a training: all are told at once, and in what."""

import pytest

from tests.runtime.cluster import Cluster
from tests.training.optimizer import differing
from tests.training.optimizer.training import adamw, sgd

RULES = [
    pytest.param(sgd, {"topology": "ring"}, id="average"),
    pytest.param(sgd, {"topology": "ring", "wire_dtype": "bfloat16"}, id="average in 16 bits"),
    pytest.param(sgd, {"topology": "tree", "density": 0.1}, id="momentum correction"),
    pytest.param(adamw, {"topology": "ring", "density": 0.1}, id="update"),
]


EXPECTED = {
    "frozen": ("last.weight is ", ", trained", " on rank 1, "),
    "loaded": ("step is 1 on rank 1, 2 on ranks 0, 2",),
    "rate": ("lr of parameter group 0 is 0.5 on rank 1, 0.",),
}


@pytest.mark.parametrize("kind", EXPECTED)
@pytest.mark.parametrize(("make", "options"), RULES)
def test_a_rank_that_goes_another_way_is_named_on_all(cluster: Cluster, make, options, kind):
    """A layer frozen there alone, an older snapshot loaded, or another learning rate."""
    found = cluster.run(3, differing.error_of, make, options, kind, 1)
    assert [steps for _, steps in found] == [2, 1 if kind == "loaded" else 2, 2]
    for text, _ in found:
        assert all(part in text for part in EXPECTED[kind])


GOSSIP = [
    pytest.param(sgd, {"topology": "gossip:graph=ring"}, "frozen", id="frozen"),
    pytest.param(sgd, {"topology": "gossip:graph=ring"}, "loaded", id="loaded"),
    pytest.param(adamw, {"topology": "gossip:graph=ring"}, "rate", id="rate"),
    pytest.param(
        sgd,
        {"topology": "gossip:graph=ring", "averaging": "choco", "density": 0.1},
        "frozen",
        id="frozen, compressed",
    ),
]


@pytest.mark.parametrize(("make", "options", "kind"), GOSSIP)
def test_over_gossip_he_is_named_on_ranks_that_do_not_hear_from_him(
    cluster: Cluster, make, options, kind
):
    """Rank 3 has no message with rank 1; it waits for its neighbours, which have stopped."""
    for text, _ in cluster.run(4, differing.error_of, make, options, kind, 1):
        assert all(part in text for part in EXPECTED[kind])


@pytest.mark.parametrize("odd", [1, 3])
def test_beside_a_dedicated_server_he_is_named_even_if_he_is_it(cluster: Cluster, odd):
    options = {"topology": "parameter-server:server=dedicated"}
    for text, steps in cluster.run(4, differing.error_of, sgd, options, "frozen", odd):
        assert "last.weight is " in text
        assert f" on rank {odd}, " in text
        assert steps == 2


def test_other_learning_rates_and_settings_are_named_at_the_start(cluster: Cluster):
    for texts in cluster.run(4, differing.made_with_others):
        assert "lr of parameter group 1 is 0.4 on rank 1, 0.2 on ranks 0, 2, 3" in texts[0]
        assert "clip_norm is 2.0 on rank 1, 1.0 on ranks 0, 2, 3" in texts[1]
        assert 'rule is "diloco:every=3" on rank 1, ' in texts[2]


def test_a_schedule_of_learning_rates_that_all_ranks_follow_is_no_difference(cluster: Cluster):
    assert cluster.run(3, differing.scheduled) == [4] * 3


@pytest.mark.parametrize(
    "options", [{"density": 0.1}, {"density": 0.1, "averaging": "sparse-loco:every=2"}]
)
def test_parameters_set_on_one_rank_alone_are_named_on_all(cluster: Cluster, options):
    """Where a rule keeps what ranks share, one rank's own would be lost, or part them."""
    for text, _ in cluster.run(3, differing.error_of, adamw, options, "set", 1):
        assert "parameters were set by the script is true on rank 1, false on rank" in text


@pytest.mark.parametrize("density", [1.0, 0.2])
def test_parameters_added_on_one_rank_alone_are_named_on_all(cluster: Cluster, density):
    for text, _ in cluster.run(3, differing.added, density, 2):
        assert "first.weight is " in text
        assert "trained" in text
        assert "on rank 2" in text
    assert cluster.run(3, differing.added, density, None) == [("", True)] * 3
