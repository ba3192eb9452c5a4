"""How a worker uses the machine it shares with others."""

import os
import resource
import sys

import pytest

from dgc_topo.workers import Loopback, run_on
from dgc_topo.workers.children import nameless_file
from dgc_topo.workers.machine import share_cores
from tests.forked import forked


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="needs Linux's scheduling policies")
def test_workers_that_share_cores_do_not_interrupt_each_other():
    """Gloo's thread, woken by a message, would take the processor from one that holds its lock."""
    cores = len(os.sched_getaffinity(0))
    policies = run_on(forked(), "tests.workers.jobs:policy", world_size=cores // 2 + 1)
    assert set(policies) == {os.SCHED_BATCH}


def test_a_system_that_refuses_a_scheduling_policy_is_left_as_it_is(monkeypatch):
    """Sandboxes forbid it; a run is worth more than what it would save."""
    tried = []

    def refuse(*arguments: object) -> None:
        tried.append(arguments)
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse, raising=False)
    monkeypatch.setattr(os, "SCHED_BATCH", 3, raising=False)
    share_cores(10_000)
    assert len(tried) == 1
    share_cores(None)  # unknown: nothing is guessed
    assert len(tried) == 1


def test_without_a_temporary_folder_workers_print_to_memory(monkeypatch):
    def refuse() -> None:
        raise FileNotFoundError("no usable temporary folder")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with nameless_file() as file:
        file.write(b"said")
        file.seek(0)
        assert file.read() == b"said"


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc's allocator")
def test_memory_that_was_freed_is_kept_for_what_comes_next():
    """Else every merge of sparse messages has the kernel find, and clear, all its pages anew."""
    num_bytes = 20_000_000
    pages = 16 * num_bytes / resource.getpagesize()
    (found,) = run_on(Loopback(), "tests.workers.jobs:faults", num_bytes, world_size=1)
    assert found < 0.01 * pages
