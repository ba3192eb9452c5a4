"""Workers that several tests share."""

from collections.abc import Iterator

import pytest

from tests.runtime.cluster import Cluster


@pytest.fixture(scope="package")
def workers() -> Iterator[Cluster]:
    """Three processes, in groups of one to three."""
    cluster = Cluster(3, (1, 2, 3))
    yield cluster
    cluster.close()
