"""How a worker uses the machine it shares with others."""

import os

import pytest

from dgc_topo.launch import Loopback, run_on


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="needs Linux's scheduling policies")
def test_workers_that_share_cores_do_not_interrupt_each_other():
    """Gloo's thread, woken by a message, would take the processor from one that holds its lock."""
    cores = len(os.sched_getaffinity(0))
    policies = run_on(Loopback(), "tests.launch.jobs:policy", world_size=cores // 2 + 1)
    assert set(policies) == {os.SCHED_BATCH}
