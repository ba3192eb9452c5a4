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


@pytest.mark.parametrize("kind", ["frozen", "loaded"])
@pytest.mark.parametrize(("make", "options"), RULES)
def test_a_rank_that_goes_another_way_is_named_on_all(cluster: Cluster, make, options, kind):
    """A layer frozen there alone, or an older snapshot loaded there alone."""
    expected = {
        "frozen": ("last.weight", "trained", "on rank 1"),
        "loaded": ("step is 1 on rank 1, 2 on rank 0",),
    }
    found = cluster.run(3, differing.error_of, make, options, kind, 1)
    assert [steps for _, steps in found] == [2, 2 if kind == "frozen" else 1, 2]
    for text, _ in found:
        assert all(part in text for part in expected[kind])


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
