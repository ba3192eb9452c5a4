"""A rank that is killed or frozen is named by all others, in every phase of a training."""

import ctypes
import multiprocessing as mp
import os
import re
import signal
import socket
import time
from contextlib import suppress
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist

from dgc_topo.experiments.jobs import plan_jobs
from dgc_topo.experiments.scenario import load_scenario
from dgc_topo.liveness import Liveness, Watched
from dgc_topo.payload import DensePayload
from dgc_topo.training.checkpoints.keeping import Keeping
from dgc_topo.training.loop import TrainingRun
from dgc_topo.training.own_group import OwnGroup
from dgc_topo.training.world import ProcessWorld
from dgc_topo.workers.joining import join_workers
from tests.runtime.cluster import PRELOADED
from tests.training.tiny import write_tiny

pytestmark = pytest.mark.skipif(not Watched.is_possible(), reason="needs Linux")

WORLD_SIZE = 3
PATIENCE_S = 100  # for a machine that others use
TOGETHER = 4  # cases at a time, so that the machine is busy, too
KILL, STOP, SLOW = signal.SIGKILL, signal.SIGSTOP, None
SLOW_S = 6  # longer than any silence that is held against a rank


class Case(NamedTuple):
    """What befalls which rank in which phase."""

    topology: str
    victim: int
    how: signal.Signals | None
    phase: str


#: Those of every test run; the others take long.
SHORT = [
    Case("ring", 1, KILL, "in training step 0, while summing gradients over ring"),
    Case("ring", 0, STOP, "in training step 0, while summing gradients over ring"),
    Case("ring", 2, KILL, "in training step 1, while evaluating after epoch 1"),
    Case("ring", 1, SLOW, "in training step 0, while computing gradients"),
]
LONG = [
    Case("ring", 1, KILL, "joining"),
    Case("ring", 2, STOP, "joining"),
    Case("ring", 0, STOP, "connecting to all ranks"),
    Case("ring", 2, KILL, "timing a worker alone"),
    Case("ring", 0, KILL, "in training step 0, while computing gradients"),
    Case("ring", 1, KILL, "in training step 1, while saving a checkpoint"),
    Case("gossip", 2, KILL, "in training step 0, while averaging parameters over gossip"),
    Case("gossip", 1, STOP, "in training step 1, while averaging the model"),
    Case("ring", 1, KILL, "in training step 1, while collecting the records"),
    Case("ring", 2, STOP, "in training step 1, while comparing parameters"),
    Case("a script's own", 1, STOP, "joining"),
    Case("a script's own", 2, KILL, "connecting to all ranks"),
    Case("a script's own", 0, KILL, "in training step 5, while averaging for the test"),
    Case("a script's own", 1, STOP, "in training step 5, while computing"),
]
CASES = [*SHORT, *(pytest.param(case, marks=pytest.mark.long) for case in LONG)]


def strike(self: Liveness, case: Case, step: int | None, phase: str) -> None:
    place = f"in training step {step}, while {phase}" if step is not None else phase
    if place != case.phase:
        return
    if case.how is None:
        ctypes.PyDLL(None).sleep(SLOW_S)  # and holds the interpreter's lock
    else:
        os.kill(os.getpid(), case.how)


def run_job(case: Case, scenario: Path, folder: Path) -> None:
    jobs, _ = plan_jobs(load_scenario(scenario))
    job = next(job for job in jobs if job.topology.name == case.topology)
    with join_workers("cpu", "gloo", timedelta(seconds=60)) as worker:
        keeping = Keeping(folder=folder, resume=False)
        TrainingRun(job, 0, ProcessWorld(worker), lambda _: None, keeping).run()


def run_script() -> None:
    """Do what a hook, or an optimizer, does in a script that made its process group itself."""
    dist.init_process_group("gloo")
    group = OwnGroup("test", "ring")
    for step in range(10):
        group.run(DensePayload(torch.ones(64)), step)


def train(case: Case, rank: int, port: int, scenario: Path, say: Connection) -> None:
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(WORLD_SIZE),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(WORLD_SIZE),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    if rank == case.victim:
        note = Liveness.note

        def note_and_strike(self: Liveness, phase: str, step: int | None = None) -> None:
            note(self, phase, step)
            strike(self, case, self._step, phase)

        Liveness.note = note_and_strike  # type: ignore[method-assign]
    try:
        if case.topology == "a script's own":
            run_script()
        else:
            run_job(case, scenario, scenario.parent / str(port))
        say.send("trained")
    except RuntimeError as error:
        say.send(str(error))
    os._exit(0)


@pytest.fixture(scope="module")
def said(request, tmp_path_factory) -> dict[Case, list[str]]:
    """Return what the survivors say in each case that this run of the tests asks for."""
    path = write_tiny(
        tmp_path_factory.mktemp("lost"),
        *("ring", "gossip"),
        densities=(1.0,),
        steps=2,
        epochs=1,
    )
    items = [item for item in request.session.items if item.path == request.path]
    cases = [item.callspec.params["case"] for item in items]
    heard: dict[Case, list[str]] = {case: [] for case in cases}
    for batch in batched(cases, TOGETHER):
        hear(batch, path, heard)
    return heard


def batched(cases: list[Case], size: int) -> list[list[Case]]:
    return [cases[begin : begin + size] for begin in range(0, len(cases), size)]


def hear(cases: list[Case], path: Path, heard: dict[Case, list[str]]) -> None:
    """Start some cases at once, and note what each survivor says."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    pipes: dict[Any, Case] = {}
    processes = []
    for case in cases:
        with socket.create_server(("127.0.0.1", 0)) as asked:
            port = asked.getsockname()[1]
        for rank in range(WORLD_SIZE):
            ours, theirs = context.Pipe()
            process = context.Process(target=train, args=(case, rank, port, path, theirs))
            process.start()
            processes.append(process)
            theirs.close()
            if rank != case.victim or case.how is SLOW:
                pipes[ours] = case
    deadline = time.monotonic() + PATIENCE_S
    while pipes and (left_s := deadline - time.monotonic()) > 0:
        for pipe in wait(list(pipes), left_s):
            assert isinstance(pipe, Connection)
            with suppress(EOFError):
                heard[pipes.pop(pipe)].append(pipe.recv())
    for process in processes:
        process.kill()
        process.join()


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case.topology}: {case.how and case.how.name} {case.phase}"
)
def test_the_lost_rank_is_named_by_all_with_step_and_phase(said, case: Case):
    if case.how is SLOW:
        assert said[case] == ["trained"] * WORLD_SIZE
        return
    fate = "was lost" if case.how is KILL else "is frozen"
    why = "its process is gone" if case.how is KILL else "stopped by a signal"
    where = case.phase if case.phase.startswith("in ") else f"while {case.phase}"
    assert len(said[case]) == WORLD_SIZE - 1
    for text in said[case]:
        assert re.search(re.escape(f"rank {case.victim} {fate} {where} ({why})"), text), text
