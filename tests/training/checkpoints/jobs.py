"""Functions that tests run in worker processes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import distributed_c10d

import dgc_topo as dt
from dgc_topo.liveness import Liveness, Loss, Position, make_current
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


def save_own(worker: Worker, folder: str) -> list[float]:
    """Save a compressor with residuals of this rank's own; return them."""
    model, dgc = _own_model(worker)
    torch.manual_seed(worker.rank)
    gradients = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    dgc.finish(dgc.compress(gradients))
    dt.save(folder, model=model, dgc=dgc, step=1)
    with pytest.raises(OSError, match=r"rank 1: .*cannot be made"):
        dt.save(folder if worker.rank != 1 else "/proc/nowhere", model=model, dgc=dgc, step=2)
    own = torch.Generator().manual_seed(worker.rank)
    dt.save(f"{folder}-own", generator=own)
    dt.save(f"{folder}-place", place=worker.rank)
    return _residual(dgc)


def save_residual(worker: Worker, folder: str) -> list[float]:
    """Save a compressor with a residual; return it."""
    model, dgc = _own_model(worker)
    gradients = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    dgc.finish(dgc.compress(gradients))
    dt.save(folder, dgc=dgc)
    return _residual(dgc)


def load_residual(worker: Worker, folder: str) -> list[float]:
    """Return the residual that this rank takes over."""
    _, dgc = _own_model(worker)
    dt.load(folder, dgc=dgc)
    return _residual(dgc)


def load_own(worker: Worker, folder: str) -> list[float]:
    """Return the residual that this rank takes over."""
    model, dgc = _own_model(worker)
    assert dt.load(folder, model=model, dgc=dgc, step=0) == {"step": 1}
    dt.load(f"{folder}-own", generator=(generator := torch.Generator()))
    assert generator.initial_seed() == worker.rank
    with pytest.raises(ValueError, match="place: differs between the 3 ranks"):
        dt.load(f"{folder}-place", place=0)
    return _residual(dgc)


def fail_alone(worker: Worker, folder: str) -> list[str]:
    """Return the errors of saving and loading that fail on rank 1 alone."""
    odd = worker.rank == 1
    model, dgc = _own_model(worker)
    other = torch.nn.Linear(21, 10) if odd else model
    dt.save(folder, model=model, dgc=dgc)
    attempts: list[Callable[[], Any]] = [
        lambda: dt.save(folder, model=model, note=object() if odd else 1),
        lambda: dt.load(folder, model=other, dgc=dgc),
        lambda: dt.load(folder, model=model, **{"optimizer" if odd else "dgc": dgc}),
        lambda: dt.load(folder, model=model, dgc=_Unfit() if odd else dgc),
    ]
    said = []
    for attempt in attempts:
        torch.nn.init.ones_(model.get_parameter("weight"))
        before = fingerprint(dict(model.named_parameters()))
        with pytest.raises(ValueError, match=r".") as error:
            attempt()
        assert fingerprint(dict(model.named_parameters())) == before
        said.append(str(error.value))
    return said


class _Unfit:
    """Takes no other state than it has."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        if state:  # it can be put back
            raise ValueError(f"unfit for {sorted(state)[:1]}")


class Told(Liveness):
    """Hears that rank 1 is lost: its machine is silent, so no connection has closed."""

    @property
    def loss(self) -> Loss:
        return Loss(1, Position(7, "computing"), "silent", "nothing heard of it")

    def verdict(self, wait_s: float) -> Loss:
        del wait_s
        return self.loss


def save_without_rank_1(worker: Worker, folder: str) -> str:
    """Return the error of rank 0 that saves alone; rank 1 waits for its end."""
    store = distributed_c10d._get_default_store()
    if worker.rank == 1:
        store.wait(["saved"])
        return ""
    make_current(Told())
    try:
        dt.save(folder, step=1)
    except RuntimeError as error:
        return str(error)
    finally:
        store.set("saved", "")
    raise AssertionError("a checkpoint of one rank of two")


def _own_model(worker: Worker) -> tuple[torch.nn.Module, dt.DGC]:
    torch.manual_seed(0)
    model = torch.nn.Linear(20, 10)
    return model, dt.DGC(model, num_workers=worker.world_size, density=0.1, warm_up="none")


def _residual(dgc: dt.DGC) -> list[float]:
    values: list[float] = dgc.residuals()["weight"].flatten().tolist()
    return values


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
