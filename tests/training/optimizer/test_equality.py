"""At density 1 the distributed optimizer is plain data parallel; below, it is what it says."""

import pytest
import torch
from torch import Tensor

from tests.runtime.cluster import Cluster
from tests.training.optimizer.training import (
    adamw,
    nesterov,
    rmsprop,
    sgd,
    train,
    train_plainly,
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
