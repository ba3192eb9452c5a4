"""Run training jobs on worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from dgc_topo.training.events import Listener, Started, read_event
from dgc_topo.training.job import JOBS, Job
from dgc_topo.workers import Hosts, LaunchError, Loopback, Session

__all__ = ["LaunchError", "launch"]


def launch(jobs: Sequence[Job], listen: Listener, hosts: Hosts | None = None) -> None:
    """Run the jobs one after the other on worker processes.

    Processes are started once for all jobs in a row that need as many; virtual workers need one.

    Args:
        jobs: What to run; an event's job is its place here.
        listen: OnMoved of every event, in this process.
        hosts: Where; this machine's loopback by default.

    Raises:
        LaunchError: if a worker fails; all others are ended first.
        ValueError: if the jobs do not fit the hosts.
    """
    for num_processes, alike in groupby(enumerate(jobs), key=lambda each: each[1].num_processes):
        _launch(dict(alike), num_processes, listen, hosts or Loopback())


def _launch(jobs: dict[int, Job], num_processes: int, listen: Listener, hosts: Hosts) -> None:
    def hear(event: Any) -> None:
        known = read_event(event)
        if isinstance(known, Started):
            hosts.begin()
        listen(known)

    train = next(iter(jobs.values())).train
    with Session(
        hosts,
        num_processes,
        device=train.device,
        backend=train.backend,
        timeout_s=train.timeout_s,
    ) as session:
        orders = JOBS.dump_python(jobs, mode="json")
        session.call("dgc_topo.training.loop:run_jobs", orders, listen=hear)
