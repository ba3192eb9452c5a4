"""What a worker process does in a training: all jobs, one after the other."""

from __future__ import annotations

import json
from typing import Any

from dgc_topo.training.events import Event
from dgc_topo.training.job import JOBS
from dgc_topo.training.loop import JobRun
from dgc_topo.training.virtual import VirtualRun
from dgc_topo.workers.group import Worker


def run_jobs(worker: Worker, jobs: Any) -> None:
    """Run the jobs (JSON values, by number), telling every event from rank 0."""

    def tell(event: Event) -> None:
        worker.tell(json.loads(event.model_dump_json()))

    for number, job in JOBS.validate_python(jobs).items():
        if job.train.workers == "virtual":
            VirtualRun(job, number, worker.device, tell).run()
        else:
            JobRun(job, number, worker, tell).run()
