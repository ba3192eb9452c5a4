"""The distributed optimizer on a GPU that several ranks share, over Gloo."""

import pytest

from tests.runtime.cluster import Cluster
from tests.training.optimizer import situations, snapshots
from tests.training.optimizer.test_equality import check_alike, largest_difference
from tests.training.optimizer.test_situations import GOSSIP, RULES
from tests.training.optimizer.test_snapshots import AHEAD
from tests.training.optimizer.training import train

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(("make", "options"), RULES)
def test_training_is_that_on_a_cpu(cluster: Cluster, make, options):
    ranks = cluster.run(2, train, make, options, "cuda")
    on_cpu = cluster.run(2, train, make, options)
    check_alike(ranks)
    assert largest_difference(ranks[0], on_cpu[0]) < 1e-3


@pytest.mark.parametrize(("make", "options"), [*RULES, AHEAD, GOSSIP])
def test_resumed_is_never_stopped_bit_for_bit(cluster: Cluster, make, options):
    for weights, state in cluster.run(2, snapshots.resumed, make, options, "cuda"):
        assert weights
        assert state


@pytest.mark.parametrize(("make", "options"), RULES)
def test_infinity_on_one_rank_skips_the_step_on_all(cluster: Cluster, make, options):
    for rank in cluster.run(2, situations.with_infinity, make, options, True, "cuda"):
        assert (rank.changed, rank.state_stayed, rank.skipped_steps) == ([], True, 1)
