import pytest

from dgc_topo.results.measurement import Measurement
from tests.results.synthetic import measurements


@pytest.fixture(scope="session")
def records() -> list[Measurement]:
    return measurements()
