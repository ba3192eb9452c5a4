"""Scripts of one's own in which a rank does not come, or ends early: the others say which one."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from dgc_topo.liveness import Watched

pytestmark = [
    pytest.mark.skipif(not Watched.is_possible(), reason="needs Linux"),
    pytest.mark.timeout(180),
]

WORLD_SIZE = 3
SCRIPT = """
import os, signal, sys
import torch
import torch.distributed as dist
import dgc_topo as dt
way, stops, ends = sys.argv[1], "stop" in sys.argv, "end" in sys.argv
is_odd = os.environ["RANK"] == "1"
dist.init_process_group("gloo")
layers = torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16), torch.nn.Linear(16, 2)
model = torch.nn.Sequential(*layers)
if is_odd and stops:
    os.kill(os.getpid(), signal.SIGSTOP)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
if way == "hook":
    model = torch.nn.parallel.DistributedDataParallel(model)
    model.register_comm_hook(dt.HookState(model, "ring", density=0.1), dt.hook)
elif way == "gossip":
    optimizer = dt.DistributedOptimizer(optimizer, model, "gossip:graph=ring")
else:
    optimizer = dt.DistributedOptimizer(optimizer, model, "ring", averaging=way)
for step in range(6 if is_odd and ends else 8):
    optimizer.zero_grad()
    model(torch.randn(4, 8)).square().mean().backward()
    optimizer.step()
"""


@contextmanager
def started(tmp_path, *arguments: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start the script's ranks, which write to ``0.log`` and so on; none is left."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with socket.create_server(("127.0.0.1", 0)) as asked:
        port = asked.getsockname()[1]
    own = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    processes = []
    try:
        for rank in range(WORLD_SIZE):
            place = {"RANK": str(rank), "WORLD_SIZE": str(WORLD_SIZE), "OMP_NUM_THREADS": "1"}
            with (tmp_path / f"{rank}.log").open("wb") as log:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, str(script), *arguments],
                        env={**os.environ, **own, **place},
                        stderr=log,
                    )
                )
        yield processes
    finally:
        for each in processes:
            each.kill()
            each.wait()


def test_who_is_frozen_before_the_optimizer_is_made_is_named_and_may_come_late(tmp_path):
    with started(tmp_path, "gossip", "stop") as processes:
        log, end_s = tmp_path / "0.log", time.monotonic() + 90
        while "waits for" not in log.read_text():
            assert time.monotonic() < end_s
            time.sleep(0.1)
        assert "distributed optimizer: rank 0 waits for rank 1, which has not come here" in (
            log.read_text()
        )
        assert psutil.Process(processes[1].pid).status() == psutil.STATUS_STOPPED
        processes[1].send_signal(signal.SIGCONT)
        assert [each.wait(90) for each in processes] == [0] * WORLD_SIZE
        assert "waits for" not in (tmp_path / "2.log").read_text()  # one speaks for all


@pytest.mark.parametrize("way", ["hook", "gossip", "diloco:every=2"])
def test_who_ends_early_is_named_by_all_others(tmp_path, way):
    """Also where DDP itself waits for him: it broadcasts running statistics in each forward."""
    with started(tmp_path, way, "end") as processes:
        assert [each.wait(90) == 0 for each in processes] == [False, True, False]
    for rank in (0, 2):
        said = (tmp_path / f"{rank}.log").read_text()
        assert "rank 1 has ended in training step 5" in said, said
