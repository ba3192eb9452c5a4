"""Real namespaces, real links: what the lab promises."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dgc_topo.lab import Lab, LabSpec
from dgc_topo.launch import run_on


def test_functions_run_on_hosts_of_their_own(lab: Lab):
    answers = run_on(lab, "tests.launch.jobs:sum_ranks", {"plus": 1}, world_size=3)
    assert [answer[:2] for answer in answers] == [[rank, 6] for rank in range(3)]


OWNER = """
import json, os, sys, time
from dgc_topo.lab import Lab, LabSpec
with Lab(LabSpec(num_hosts=2, rate_bits_per_s=1e8)) as lab:
    # A process, and a grandchild that has tried to get away.
    away = "import os, time; os.setsid(); os.fork() or time.sleep(600); time.sleep(600)"
    nothing = os.open(os.devnull, os.O_RDWR)
    for rank in range(2):
        lab.start(rank, [sys.executable, "-c", away], dict(os.environ), nothing, nothing)
    print(json.dumps(lab._keeper.pid), flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("victim", ["owner", "keeper"])
def test_nothing_is_left_when_its_owner_or_keeper_is_killed(lab: Lab, victim: str):
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        keeper = json.loads(owner.stdout.readline())
        family = wait_for(lambda: _family(keeper, 6))
        networks = {network for process in family if (network := _network(process))}
        networks.discard(_network(psutil.Process()))
        assert len(networks) == 3  # the switch's and two hosts'
        (owner if victim == "owner" else psutil.Process(keeper)).kill()
        wait_for(lambda: not any(_alive(process) for process in family))
        wait_for(lambda: not networks & _all_networks())
    finally:
        owner.kill()
        owner.communicate()
    assert "port0" not in psutil.net_if_addrs()


def wait_for(condition, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return result


def _family(keeper: int, size: int) -> list[psutil.Process]:
    """Return the keeper and everything below it once that are *size* processes."""
    process = psutil.Process(keeper)
    family = [process, *process.children(recursive=True)]
    return family if len(family) == size else []


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _network(process: psutil.Process) -> str | None:
    try:
        return str(Path(f"/proc/{process.pid}/ns/net").readlink())
    except OSError:
        return None


def _all_networks() -> set[str | None]:
    return {_network(process) for process in psutil.process_iter()}


def test_a_lab_goes_in_good_order(lab: Lab):
    with Lab(LabSpec(num_hosts=1)) as other:
        process = other.start(0, ["sleep", "600"], dict(os.environ), 0, 1)
        assert process.poll() is None
        seen = psutil.Process(process.pid)
        assert seen.cmdline() == ["sleep", "600"]
    wait_for(lambda: not _alive(seen))
    assert other._keeper is not None
    assert other._keeper.returncode == 0  # it was not killed
