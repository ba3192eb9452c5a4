"""One local worker process, started by `dgc_topo.train.launch`."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from datetime import timedelta
from pathlib import Path

from dgc_topo.train.events import Event
from dgc_topo.train.group import join_workers
from dgc_topo.train.launch import JOBS
from dgc_topo.train.loop import JobRun

_PR_SET_PDEATHSIG = 1


def main(place: Path, events: int, parent: int) -> None:
    """Run all jobs in ``place/jobs.json``.

    Args:
        place: Folder that the launcher and all workers share.
        events: File descriptor for events; only rank 0 has it.
        parent: Process id of the launcher; the worker ends with it.
    """
    _die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the launcher's to handle
    jobs = JOBS.validate_json((place / "jobs.json").read_bytes())

    def tell(event: Event) -> None:
        line = event.model_dump_json().encode() + b"\n"
        while line:  # a pipe may take less than it is given
            line = line[os.write(events, line) :]

    train = jobs[0].train
    rendezvous = f"file://{(place / 'rendezvous').resolve()}"
    with join_workers(
        train.device, train.backend, timedelta(seconds=train.timeout_s), rendezvous
    ) as worker:
        for number, job in enumerate(jobs):
            JobRun(job, number, worker, tell).run()


def _die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the launcher dies, even by SIGKILL (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            sys.exit("the launcher is gone")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    except Exception:  # noqa: BLE001 - said at once, whatever it is
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # leaving in good order might wait for peers that are gone
