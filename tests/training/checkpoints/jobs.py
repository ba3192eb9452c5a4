"""Functions that tests run in worker processes."""

from pathlib import Path
from typing import Any

import pytest

from dgc_topo.training.checkpoints.keeping import Keeping
from dgc_topo.training.checks import fingerprint
from dgc_topo.training.job import Job
from dgc_topo.training.loop import TrainingRun
from dgc_topo.training.world import ProcessWorld
from dgc_topo.workers.group import Worker
from tests.training.checkpoints.runs import Stop, changed, jobs_of, stop_at

OVERLAP: dict[str, Any] = {"train": {"overlap": True, "bucket_mib": 0.02}}
POWERSGD = {"method": "ddp-powersgd", "powersgd_rank": 2, "powersgd_start_step": 3}
KINDS: dict[str, dict[str, Any]] = {
    "ddp": {"densities": (1.0,), "compression": {"method": "ddp"}},
    "ddp-powersgd": {"densities": (1.0,), "compression": POWERSGD},
    "gossip": {"topologies": ("gossip?graph = 'random-matching'",), "densities": (1.0,)},
    "overlap": {"densities": (0.02,), **OVERLAP},
}


def stop_and_go_on(worker: Worker, argument: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return the fingerprints of every kind's parameters: never stopped, and gone on."""
    folder = Path(argument["folder"]) / str(worker.rank)
    folder.mkdir()
    found = {}
    for kind, how in KINDS.items():
        given = dict(how)
        topologies = given.pop("topologies", ("ring",))
        (job,) = jobs_of(folder, *topologies, steps=argument["steps"], **given)
        job = changed(job, checkpoint_every=4)
        keeping = Keeping(folder=Path(argument["folder"]) / kind, resume=True)
        whole = _parameters(worker, job, None)
        _parameters(worker, job, keeping, stop=argument["stop"])
        found[kind] = whole, _parameters(worker, job, keeping)
    return found


def _parameters(worker: Worker, job: Job, keeping: Keeping | None, stop: int | None = None) -> str:
    """Return the fingerprint of this rank's parameters after a training."""
    training = TrainingRun(job, 0, ProcessWorld(worker), lambda _: None, keeping)
    stop_at(training, stop)
    if stop is None:
        training.run()
    else:
        with pytest.raises(Stop):
            training.run()
    return fingerprint(training.parameters)
