"""Workers for tests with FSDP2."""

from collections.abc import Iterator

import pytest

from tests.runtime.cluster import Cluster


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    """Four processes, two by two."""
    found = Cluster(4, [4])
    yield found
    found.close()
