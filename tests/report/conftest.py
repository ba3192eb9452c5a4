import pytest

from dgc_topo.records.measurement import Measurement
from tests.report.synthetic import measurements


@pytest.fixture(scope="session")
def records() -> list[Measurement]:
    return measurements()
