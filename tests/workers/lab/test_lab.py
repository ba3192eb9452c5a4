"""Real namespaces, real links: what the lab promises."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dgc_topo.workers import run_on
from dgc_topo.workers.lab import Lab, LabChange, LabError, LabSpec
from dgc_topo.workers.lab.command import run_command

pytestmark = pytest.mark.alone


def test_functions_run_on_hosts_of_their_own(lab: Lab):
    answers = run_on(lab, "tests.workers.jobs:sum_ranks", {"plus": 1}, world_size=3)
    assert [answer[:2] for answer in answers] == [[rank, 6] for rank in range(3)]


OWNER = """
import json, os, sys, time
from dgc_topo.workers.lab import Lab, LabSpec
with Lab(LabSpec(num_hosts=2, rate_bits_per_s=1e8)) as lab:
    # A process, and a grandchild that has tried to get away.
    away = "import os, time; os.setsid(); os.fork() or time.sleep(600); time.sleep(600)"
    nothing = os.open(os.devnull, os.O_RDWR)
    for rank in range(2):
        lab.start(rank, [sys.executable, "-c", away], dict(os.environ), nothing, nothing)
    print(json.dumps(lab._daemon.pid), flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("victim", ["owner", "daemon"])
def test_nothing_is_left_when_its_owner_or_keeper_is_killed(lab: Lab, victim: str):
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        daemon = json.loads(owner.stdout.readline())
        family = wait_for(lambda: _family(daemon, 6))
        networks = {network for process in family if (network := _network(process))}
        networks.discard(_network(psutil.Process()))
        assert len(networks) == 3  # the switch's and two hosts'
        (owner if victim == "owner" else psutil.Process(daemon)).kill()
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


def _family(daemon: int, size: int) -> list[psutil.Process]:
    """Return the daemon and everything below it once that are *size* processes."""
    process = psutil.Process(daemon)
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


def test_commands_and_environments_may_be_as_large_as_the_kernel_takes(lab: Lab):
    environment = {**os.environ, "A": "a" * 120_000, "B": "b" * 120_000}
    command = [sys.executable, "-c", "import os, sys; sys.exit(len(os.environ['B']) != 120_000)"]
    nothing = os.open(os.devnull, os.O_RDWR)
    try:
        process = lab.start(0, [*command, "c" * 120_000], environment, nothing, nothing)
        assert process.wait(30) == 0
        with pytest.raises(LabError, match="Argument list too long"):
            lab.start(0, ["true", "c" * 140_000], environment, nothing, nothing)
        with pytest.raises(LabError, match="null byte"):
            lab.start(0, ["true", "\0"], environment, nothing, nothing)
    finally:
        os.close(nothing)


UNPLUG = """
from pyroute2 import IPRoute
with IPRoute() as route:
    route.link("del", ifname="eth0")
__import__("time").sleep(600)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="inside, only root may take an interface away")
def test_a_timed_change_that_fails_is_an_error(lab: Lab):
    change = LabChange(at_s=1.5, host=0, action="rate", rate_bits_per_s=5e7)
    with Lab(LabSpec(num_hosts=1, rate_bits_per_s=1e8, changes=(change,))) as other:
        says = r"lab: link change 'rate' of host 0 at 1.5 s: the kernel refuses: No such device"
        with pytest.raises(LabError, match=says):
            run_command(other, [sys.executable, "-c", UNPLUG], lambda *_: None)


def test_rates_that_no_queue_can_have_are_refused(lab: Lab):
    with Lab(LabSpec(num_hosts=1, queue_s=1)) as other:
        with pytest.raises(ValueError, match="lab: set_rate: rate 20 Gbit/s with queue_s 1: a"):
            other.set_rate(0, 20e9)
        assert len(other.counters()) == 1  # it is still up


def test_a_lab_goes_in_good_order(lab: Lab):
    with Lab(LabSpec(num_hosts=1)) as other:
        process = other.start(0, ["sleep", "600"], dict(os.environ), 0, 1)
        assert process.poll() is None
        seen = psutil.Process(process.pid)
        assert seen.cmdline() == ["sleep", "600"]
    wait_for(lambda: not _alive(seen))
    assert other._daemon is not None
    assert other._daemon.returncode == 0  # it was not killed
