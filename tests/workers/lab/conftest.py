"""A lab with workers, where this machine and this user can have one."""

from collections.abc import Iterator

import pytest

from dgc_topo.workers import Session
from dgc_topo.workers.lab import Lab, LabError, LabSpec

RATE_BITS_PER_S = 100e6


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Four hosts at 100 Mbit/s, shared: whoever changes a link calls ``reset`` afterwards."""
    try:
        lab = Lab(LabSpec(num_hosts=4, rate_bits_per_s=RATE_BITS_PER_S)).__enter__()
    except LabError as error:
        pytest.skip(str(error))
    yield lab
    lab.close()


@pytest.fixture(scope="module")
def workers(lab: Lab) -> Iterator[Session]:
    """A worker on each host; for tests that leave them whole."""
    with Session(lab, 4) as session:
        yield session
