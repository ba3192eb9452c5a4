"""How a worker uses the machine it shares with others."""

import os
import resource
import sys

import pytest

from dgc_topo.launch import Loopback, run_on


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="needs Linux's scheduling policies")
def test_workers_that_share_cores_do_not_interrupt_each_other():
    """Gloo's thread, woken by a message, would take the processor from one that holds its lock."""
    cores = len(os.sched_getaffinity(0))
    policies = run_on(Loopback(), "tests.launch.jobs:policy", world_size=cores // 2 + 1)
    assert set(policies) == {os.SCHED_BATCH}


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc's allocator")
def test_memory_that_was_freed_is_kept_for_what_comes_next():
    """Else every merge of sparse messages has the kernel find, and clear, all its pages anew."""
    num_bytes = 20_000_000
    pages = 16 * num_bytes / resource.getpagesize()
    (found,) = run_on(Loopback(), "tests.launch.jobs:faults", num_bytes, world_size=1)
    assert found < 0.01 * pages
