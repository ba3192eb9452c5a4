"""Start the worker processes of a run on this machine, and end them whatever happens."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import TypeAdapter

from dgc_topo.train.events import Listener, parse_event
from dgc_topo.train.job import Job

_POLL_S = 0.2
_GRACE_S = 10.0  # for the other workers to say what they saw, once one has failed
_END_S = 5.0  # between asking a worker to end and killing it
_TAIL_LINES = 30

JOBS = TypeAdapter(list[Job])


class LaunchError(RuntimeError):
    """A worker process failed; the text says which one and what it printed."""


def launch(jobs: Sequence[Job], listen: Listener) -> None:
    """Run the jobs one after the other on local worker processes, started once for all.

    Args:
        jobs: All of one world size.
        listen: Told of every event, in this process.

    Raises:
        LaunchError: if a worker fails; all others are ended first.
        ValueError: if the jobs differ in their world size.
    """
    world_sizes = {job.train.world_size for job in jobs}
    if len(world_sizes) != 1:
        raise ValueError(f"launch: jobs of world sizes {sorted(world_sizes)}, expected one size")
    with tempfile.TemporaryDirectory(prefix="dgc-topo-") as folder:
        place = Path(folder)
        (place / "jobs.json").write_bytes(JOBS.dump_json(list(jobs)))
        with _workers(place, world_sizes.pop()) as (processes, events):
            _watch(processes, events, listen, place)


@contextmanager
def _workers(place: Path, world_size: int) -> Iterator[tuple[list[subprocess.Popen[bytes]], int]]:
    """Start the workers; on the way out, however that comes, none is left."""
    reading, writing = os.pipe()
    processes: list[subprocess.Popen[bytes]] = []
    try:
        try:
            # One by one, so that those already started are known if the next one fails.
            processes.extend(_start(place, rank, world_size, writing) for rank in range(world_size))
        finally:
            os.close(writing)  # ours; the pipe ends when the workers have ended
        yield processes, reading
    finally:
        _end(processes)
        os.close(reading)


def _start(place: Path, rank: int, world_size: int, events: int) -> subprocess.Popen[bytes]:
    environment = dict(os.environ)
    environment.update(
        RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_RANK=str(rank),
        LOCAL_WORLD_SIZE=str(world_size),
        OMP_NUM_THREADS="1",
        GLOO_SOCKET_IFNAME=_loopback(),
    )
    with (place / f"rank-{rank}.log").open("wb") as log:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "dgc_topo.train.worker",
                str(place),
                str(events),
                str(os.getpid()),
            ],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[events] if rank == 0 else [],
        )


def _loopback() -> str:
    return "lo0" if sys.platform == "darwin" else "lo"


def _watch(
    processes: list[subprocess.Popen[bytes]], events: int, listen: Listener, place: Path
) -> None:
    """Pass events on until all workers have ended well."""
    unfinished = b""
    while any(process.poll() is None for process in processes):
        if select.select([events], [], [], _POLL_S)[0]:
            *lines, unfinished = (unfinished + os.read(events, 1 << 16)).split(b"\n")
            for line in lines:
                listen(parse_event(line))
        if any(process.returncode for process in processes):
            break
    while chunk := _read_rest(events, processes):
        *lines, unfinished = (unfinished + chunk).split(b"\n")
        for line in lines:
            listen(parse_event(line))
    if any(process.returncode for process in processes):
        raise LaunchError(_explain_failure(processes, place))


def _read_rest(events: int, processes: list[subprocess.Popen[bytes]]) -> bytes:
    """Return what is left in the pipe, without waiting for a worker that still runs."""
    waiting = 0.0 if any(process.poll() is None for process in processes) else _POLL_S
    return os.read(events, 1 << 16) if select.select([events], [], [], waiting)[0] else b""


def _explain_failure(processes: list[subprocess.Popen[bytes]], place: Path) -> str:
    """Say which worker failed first and what the others saw of it."""
    first = next(rank for rank, process in enumerate(processes) if process.returncode)
    deadline = time.monotonic() + _GRACE_S
    while time.monotonic() < deadline and any(_still_has_a_say(p) for p in processes):
        time.sleep(_POLL_S)
    failed = [rank for rank, process in enumerate(processes) if process.returncode]
    # A killed worker cannot say anything itself, a worker that lost its peer only says so.
    culprit = min(failed, key=lambda rank: (_lost_its_peer(place, rank), rank != first, rank))
    parts = [f"worker of rank {culprit} {_how(processes[culprit].returncode)}"]
    tail = _log(place, culprit).strip().splitlines()[-_TAIL_LINES:]
    parts += [f"  {line}" for line in tail]
    parts += [
        f"rank {rank} did not answer and was ended"
        for rank, process in enumerate(processes)
        if process.poll() is None
    ]
    for rank in failed:
        if rank != culprit and (lines := _log(place, rank).strip().splitlines()):
            parts.append(f"rank {rank}: {lines[-1]}")
    return "\n".join(parts)


def _still_has_a_say(process: subprocess.Popen[bytes]) -> bool:
    """Whether the worker runs, and is not frozen (where the system tells)."""
    if process.poll() is not None:
        return False
    try:
        state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state not in "Tt"


def _how(returncode: int) -> str:
    if returncode < 0:
        return f"was killed by {signal.Signals(-returncode).name}"
    return f"failed with exit status {returncode}"


def _lost_its_peer(place: Path, rank: int) -> bool:
    return "PeerError" in _log(place, rank)


def _log(place: Path, rank: int) -> str:
    return (place / f"rank-{rank}.log").read_text(errors="replace")


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """End every worker: ask first, then kill."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)  # a stopped process would not hear the next one
            process.terminate()
    deadline = time.monotonic() + _END_S
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
