"""One pool of worker processes for all tests here."""

from collections.abc import Iterator

import pytest

from tests.runtime.cluster import Cluster

WORLD_SIZES = [1, 2, 3, 4, 5, 8]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    workers = Cluster(max(WORLD_SIZES), WORLD_SIZES)
    yield workers
    workers.close()
