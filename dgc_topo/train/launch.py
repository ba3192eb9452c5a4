"""Run training jobs on worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dgc_topo.launch import Hosts, LaunchError, Loopback, Session
from dgc_topo.train.events import Listener, Started, read_event
from dgc_topo.train.job import JOBS, Job

__all__ = ["LaunchError", "launch"]


def launch(jobs: Sequence[Job], listen: Listener, hosts: Hosts | None = None) -> None:
    """Run the jobs one after the other on worker processes, started once for all.

    Args:
        jobs: All of one world size.
        listen: Told of every event, in this process.
        hosts: Where; this machine's loopback by default.

    Raises:
        LaunchError: if a worker fails; all others are ended first.
        ValueError: if the jobs differ in their world size, or do not fit the hosts.
    """
    world_sizes = {job.train.world_size for job in jobs}
    if len(world_sizes) != 1:
        raise ValueError(f"launch: jobs of world sizes {sorted(world_sizes)}, expected one size")

    def hear(event: Any) -> None:
        known = read_event(event)
        if isinstance(known, Started):
            place.begin()
        listen(known)

    place = hosts or Loopback()
    train = jobs[0].train
    with Session(
        place,
        world_sizes.pop(),
        device=train.device,
        backend=train.backend,
        timeout_s=train.timeout_s,
    ) as session:
        orders = JOBS.dump_python(list(jobs), mode="json")
        session.call("dgc_topo.train.worker:run_jobs", orders, listen=hear)
