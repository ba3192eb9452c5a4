"""Workers that communicate with nobody: what a step takes, and when gradients are ready."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
from torch import nn

from dgc_topo.records.measurement import Phases, RecordedProfile
from dgc_topo.training.buckets import Buckets
from dgc_topo.training.models import Task
from dgc_topo.training.overlap import OverlappedStep
from dgc_topo.training.passes import compute_gradients
from dgc_topo.training.profile import BackwardClock, make_profile
from dgc_topo.training.steps import AllReduceStep, StepRecord

_STEPS = 8
_SETTLING_STEPS = 2  # the first ones allocate
_LONE_PHASES = ("compute_s", "compress_s", "update_s")
_PAST_WARM_UP = 1e6  # epochs: the codec is measured at its final density


class Solo(NamedTuple):
    """What a worker alone did (medians over its steps)."""

    step: StepRecord  #: compute, compress and update
    profile: RecordedProfile


def num_steps_alone(task: Task, *, overlaps: bool) -> int:
    """Return how many steps `train_alone` takes."""
    return _num_steps(task) * (2 if overlaps else 1)


def _num_steps(task: Task) -> int:
    return min(_STEPS, task.steps_per_epoch)


def train_alone(
    task: Task,
    model: nn.Module,
    buckets: Buckets,
    loss_scale: float,
    *,
    overlaps: bool = False,
    time_scale: float = 1.0,
    begin_step: Callable[[], None] = lambda: None,
) -> Solo:
    """Train a throw-away model for a few steps that communicate with nobody.

    Args:
        task: Gives the batches.
        model: Changed in its statistics only: the learning rate is 0.
        buckets: Of the model's parameters.
        loss_scale: Of the gradients.
        overlaps: Whether buckets are to be compressed in the backward pass, where less of what that
            takes is in a cache.
        time_scale: See `PhaseClock`.
        begin_step: Called before each step.
    """
    model.train()
    parameters = dict(model.named_parameters())
    step = AllReduceStep(parameters, buckets, None, time_scale=time_scale)
    clock = BackwardClock(parameters)
    done, passes = [], []
    batches = task.batches(0)
    for _ in range(_num_steps(task)):
        begin_step()
        with clock.watching():
            _, compute_s = compute_gradients(
                task, model, batches, loss_scale, clock.begin, time_scale=time_scale
            )
            ready_s = clock.ready_s().items()  # real, unlike the stretched pass
            passes.append({name: time_scale * seconds for name, seconds in ready_s})
        record = step.apply(0, _PAST_WARM_UP, learning_rate=0.0)
        record.compute_s = compute_s
        done.append(record)
    median = _median(done)
    if overlaps:
        overlapped = OverlappedStep(parameters, buckets, None, task, time_scale=time_scale)
        batches, done = task.batches(0), []
        for _ in range(_num_steps(task)):
            begin_step()
            overlapped.begin(0, _PAST_WARM_UP)
            compute_gradients(task, model, batches, loss_scale, time_scale=time_scale)
            done.append(overlapped.apply(0, _PAST_WARM_UP, learning_rate=0.0))
        median.compress_s = _median(done).compress_s
    settled = passes[_SETTLING_STEPS:] or passes
    return Solo(median, make_profile(settled, parameters, median.compute_s))


def _median(done: Sequence[StepRecord]) -> StepRecord:
    settled = done[_SETTLING_STEPS:] or done
    median = StepRecord()
    for phase in _LONE_PHASES:
        setattr(median, phase, float(np.median([getattr(record, phase) for record in settled])))
    return median


def mean_phases(records: Sequence[StepRecord]) -> Phases:
    """Return what workers' steps took that did not communicate, on average."""
    compute_s, compress_s, update_s = (
        fmean(getattr(record, phase) for record in records) for phase in _LONE_PHASES
    )
    return Phases.alone(compute_s=compute_s, compress_s=compress_s, update_s=update_s)
