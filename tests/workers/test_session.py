"""Functions on real worker processes, over the loopback interface."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest

from benchmarks.survival import living_workers
from dgc_topo.liveness import Loss
from dgc_topo.mixing import mixing_matrix
from dgc_topo.survivors import without
from dgc_topo.topology import load_topology
from dgc_topo.workers import LaunchError, Loopback, Session, run_on
from tests.forked import forked


def workers() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "dgc_topo.workers.worker" in p.cmdline()]


def test_one_session_serves_every_world_size_in_rank_order():
    with Loopback() as hosts, Session(hosts, 3) as session:
        answers = [
            session.call("tests.workers.jobs:sum_ranks", {"plus": 10}, world_size=size)
            for size in (3, 2, 2, 1, 3)
        ]
    for size, answer in zip((3, 2, 2, 1, 3), answers, strict=True):
        expected = 10 * size + sum(range(size))
        assert [each[:2] for each in answer] == [[rank, expected] for rank in range(size)]
        assert [each[2] for each in answer] == [each[2] for each in answers[0][:size]]
    assert workers() == []


def test_what_ranks_tell_is_heard_in_each_ranks_order():
    heard: list[dict[str, int]] = []
    run_on(forked(), "tests.workers.jobs:tell_thrice", 7, world_size=2, listen=heard.append)
    for rank in range(2):
        told = [event for event in heard if event["rank"] == rank]
        assert told == [{"rank": rank, "index": i, "of": 7} for i in range(3)]


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("tests.workers.jobs:no_such", r"tests.workers.jobs has no function 'no_such'"),
        ("no_colon", r"expected 'module:function'"),
    ],
)
def test_a_function_that_is_none_is_named(function, says):
    with pytest.raises(LaunchError, match=says):
        run_on(forked(), function, world_size=2)
    assert living_workers() == []


def test_a_failing_worker_is_named_with_its_last_lines():
    with pytest.raises(LaunchError, match="worker of rank 1 failed with exit status 1") as failure:
        run_on(Loopback(), "tests.workers.jobs:fail_on", 1, world_size=2)
    assert "rank 1 was here" in str(failure.value)
    assert "ArithmeticError: two and two make five" in str(failure.value)
    assert workers() == []


def test_an_error_that_all_ranks_explain_alike_is_said_once_and_without_a_traceback():
    with pytest.raises(LaunchError) as failure:
        run_on(forked(), "tests.workers.jobs:fail_alike", "no room", world_size=2)
    first, second = str(failure.value).splitlines()
    assert first.endswith("failed with exit status 1")
    assert second == "  dgc_topo.files.WriteError: /full: cannot be written: no room"


def test_a_killed_worker_is_named_while_a_lower_rank_is_busy():
    """That one sleeps for longer than a test may take."""
    with Session(Loopback(), 2) as session:
        session.call("tests.workers.jobs:sum_ranks", {"plus": 0})  # both are up
        with pytest.raises(LaunchError) as failure:
            session.call("tests.workers.jobs:vanish_beside_a_sleeper")
    assert workers() == []
    assert str(failure.value).splitlines() == [
        "worker of rank 1 was killed by SIGKILL",
        "  the last words",
    ]


OWNER = """
import signal, time
from dgc_topo.workers import Loopback, Session
with Session(Loopback(), 2) as session:
    for size in (2, 1, 2):
        session.call("tests.workers.jobs:sum_ranks", {"plus": 0}, world_size=size)
    print("up", flush=True)
    time.sleep(600)
"""


def test_nothing_is_left_of_a_launcher_that_is_killed(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-B", "-c", OWNER],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"up\n"
        family = psutil.Process(owner.pid).children()
        owner.kill()
    assert len(family) == 2
    assert psutil.wait_procs(family, timeout=60)[1] == []
    assert list(tmp_path.iterdir()) == []


def test_world_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="world_size 0 on loopback: expected 1"):
        Session(Loopback(), 0)
    with (
        Session(forked(), 1) as session,
        pytest.raises(ValueError, match="world_size 2, expected 1 to 1"),
    ):
        session.call("tests.workers.jobs:sum_ranks", {"plus": 0}, world_size=2)


def test_workers_outlive_the_thread_that_opened_their_session():
    """An executor's threads, as asyncio's and a notebook's, come and go between two calls."""
    session = Session(Loopback(), 2)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(session.__enter__).result()
        pool.submit(session.call, "tests.workers.jobs:sum_ranks", {"plus": 0}).result()
    time.sleep(0.2)  # the thread is gone, and what the kernel sends for it has arrived
    try:
        answer = session.call("tests.workers.jobs:sum_ranks", {"plus": 1})
    finally:
        session.__exit__(None, None, None)
    assert [each[:2] for each in answer] == [[0, 3], [1, 3]]
    assert workers() == []


def test_a_session_that_is_interrupted_while_it_starts_leaves_no_worker(monkeypatch):
    begun, interrupted = threading.Event(), threading.Event()
    start = Loopback.start

    def slowly(*arguments):
        begun.set()
        interrupted.wait(10)  # however late that thread gets its turn
        return start(*arguments)

    def interrupt():
        begun.wait(10)
        signal.raise_signal(signal.SIGINT)
        interrupted.set()

    monkeypatch.setattr(Loopback, "start", slowly)
    # A job that a shell started in the background begins with interrupts ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt), Session(Loopback(), 1):
            pass
    finally:
        signal.signal(signal.SIGINT, before)
    assert workers() == []


def test_survivors_go_on_from_what_they_had_though_one_more_is_lost_meanwhile():
    """Rank 1 is lost in step 1, and rank 2 before it has joined those that are left."""
    told: list[Loss] = []
    order = {"size": 4, "steps": 5, "strikes": {"1": 1}, "dies_meanwhile": 2, "signal": 9}
    with Session(forked(), 4) as session:
        found = session.call("tests.workers.jobs:gossip_without_the_lost", order, go_on=told.append)
    assert {loss.rank for loss in told} == {1, 2}
    gossip = load_topology("gossip", graph="exponential")
    whole = mixing_matrix(gossip.schedule(4))
    left = mixing_matrix(without(gossip, [1, 2], 4).schedule(2))
    expected = np.linalg.matrix_power(left, 3) @ (whole @ np.arange(4))[[0, 3]]
    assert [each[:3] for each in found] == [[0, 0, [0, 3]], [3, 1, [0, 3]]]
    for each, value in zip(found, expected, strict=True):
        assert each[3] == pytest.approx([value] * 5)


def test_a_call_that_does_not_go_on_names_the_lost_one():
    order = {"size": 2, "steps": 2, "strikes": {"1": 1}, "dies_meanwhile": None, "signal": 9}
    with (
        Session(forked(), 2) as session,
        pytest.raises(LaunchError, match="worker of rank 1 was killed by SIGKILL"),
    ):
        session.call("tests.workers.jobs:gossip_without_the_lost", order)
