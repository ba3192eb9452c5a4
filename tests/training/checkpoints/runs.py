"""Trainings in this process that stop after some steps, and go on."""

from pathlib import Path

import torch

from dgc_topo.records.measurement import Measurement
from dgc_topo.training.checkpoints.keeping import Keeping
from dgc_topo.training.job import Job
from dgc_topo.training.loop import TrainingRun
from dgc_topo.training.world import VirtualWorld
from tests.training.test_virtual import jobs_of, virtual

__all__ = ["Stop", "changed", "jobs_of", "stopped", "train", "virtual"]


class Stop(BaseException):
    """An interrupt."""


def changed(job: Job, **train) -> Job:
    """Return the job with other settings in ``[train]``."""
    return job.model_copy(update={"train": job.train.model_copy(update=train)})


def train(
    job: Job, folder: Path | None = None, *, resume: bool = False, stop: int | None = None
) -> Measurement:
    """Train on virtual workers here; *stop* raises `Stop` as soon as so many steps are done."""
    torch.set_num_threads(1)
    job = virtual(job)
    keeping = None if folder is None else Keeping(folder=folder, resume=resume)
    world = VirtualWorld(job, torch.device("cpu"))
    training = TrainingRun(job, 0, world, lambda _: None, keeping)
    stop_at(training, stop)
    return training.run()


def stop_at(training: TrainingRun, stop: int | None) -> None:
    """Make a training raise `Stop` when it is going to do step *stop*, counted from 0."""
    step = training._train_step

    def step_or_stop(iteration: int) -> None:
        if iteration == stop:
            raise Stop
        step(iteration)

    training._train_step = step_or_stop  # type: ignore[method-assign]


def stopped(job: Job, folder: Path, stop: int, *, resume: bool = False) -> None:
    """Train until *stop* steps are done, no further."""
    try:
        train(job, folder, resume=resume, stop=stop)
    except Stop:
        return
    raise AssertionError("the training is shorter than that")
