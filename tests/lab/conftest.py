"""A lab, where this machine and this user can have one."""

from collections.abc import Iterator

import pytest

from dgc_topo.lab import Lab, LabError, LabSpec

RATE_BITS_PER_S = 100e6


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Four hosts at 100 Mbit/s, shared: whoever changes a link calls ``begin`` afterwards."""
    try:
        lab = Lab(LabSpec(num_hosts=4, rate_bits_per_s=RATE_BITS_PER_S)).__enter__()
    except LabError as error:
        pytest.skip(str(error))
    yield lab
    lab.close()
