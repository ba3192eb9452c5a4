"""Workers that are forked are workers like others, and there at once."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from dgc_topo.workers import LaunchError, Session, run_on
from dgc_topo.workers.forks import ForkedLoopback, can_fork

pytestmark = pytest.mark.skipif(not can_fork(), reason="needs Linux")


def servers_of(process: psutil.Process) -> set[psutil.Process]:
    return {p for p in process.children() if "dgc_topo.workers.fork_server" in p.cmdline()}


def test_forked_workers_serve_like_others_and_a_lost_one_is_named():
    """The server has one thread: a lock that another one held would stay held in a fork."""
    others = servers_of(psutil.Process())
    with ForkedLoopback() as hosts:
        with Session(hosts, 3) as session:
            answers = [
                session.call("tests.workers.jobs:sum_ranks", {"plus": 10}, world_size=size)
                for size in (3, 2, 3)
            ]
            (server,) = servers_of(psutil.Process()) - others
            assert server.num_threads() == 1
            assert sorted(p.pid for p in server.children()) == sorted(a[2] for a in answers[0])
        for size, answer in zip((3, 2, 3), answers, strict=True):
            expected = 10 * size + sum(range(size))
            assert [each[:2] for each in answer] == [[rank, expected] for rank in range(size)]
        assert server.children() == []
        with pytest.raises(LaunchError, match="worker of rank 1 was killed by SIGKILL"):
            run_on(hosts, "tests.workers.jobs:vanish", 1, world_size=2)
        with pytest.raises(LaunchError, match="worker of rank 1 failed with exit") as failure:
            run_on(hosts, "tests.workers.jobs:fail_on", 1, world_size=2)
        assert "ArithmeticError: two and two make five" in str(failure.value)
        draws = run_on(hosts, "tests.workers.jobs:draw", world_size=2)
        assert draws[0] != draws[1]
        for number in (signal.SIGKILL, signal.SIGSTOP):  # it is lost, then frozen
            (server,) = servers_of(psutil.Process()) - others
            server.send_signal(number)
            assert len(run_on(hosts, "tests.workers.jobs:draw", world_size=2)) == 2
            server.wait()
    with pytest.raises(LaunchError, match="it is not up"):
        run_on(hosts, "tests.workers.jobs:draw", world_size=1)


OWNER = """
import time
from dgc_topo.workers import Session
from dgc_topo.workers.forks import ForkedLoopback
with ForkedLoopback() as hosts, Session(hosts, 2) as session:
    session.call("tests.workers.jobs:sum_ranks", {"plus": 0})
    print("up", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("victim", ["owner", "server"])
def test_nothing_is_left_without_the_owner_or_the_server(victim):
    command = [sys.executable, "-B", "-c", OWNER]
    with subprocess.Popen(command, env=dict(os.environ), stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"up\n"
        (server,) = servers_of(psutil.Process(owner.pid))
        workers = server.children()
        try:
            (owner if victim == "owner" else server).send_signal(signal.SIGKILL)
            assert len(workers) == 2
            assert psutil.wait_procs(workers, timeout=60)[1] == []
        finally:
            owner.kill()
        assert psutil.wait_procs([server], timeout=60)[1] == []
