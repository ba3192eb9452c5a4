"""Worker processes for all tests here, and a world of one in the test's own process."""

from collections.abc import Iterator

import pytest
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from tests.runtime.cluster import Cluster


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    workers = Cluster(4, [1, 2, 3, 4])
    yield workers
    workers.close()


@pytest.fixture
def alone() -> Iterator[None]:
    """Make this process the only rank."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()
