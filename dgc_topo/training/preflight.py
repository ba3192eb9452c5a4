"""Checks of trainings before any worker starts: options, and the user's own code on some samples.

What comes with the package is checked by name.  Models, data and losses from files are tried: the
model is built, and goes forward and backward once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from dgc_topo.python_files import CodeError, explained
from dgc_topo.training.data import SampleDataset, Shard, TextDataset
from dgc_topo.training.data.samples import TensorSamples, describe
from dgc_topo.training.job import Job
from dgc_topo.training.learning import learning_task, shard_of
from dgc_topo.training.learning_rates import DECAYS
from dgc_topo.training.models import (
    Batch,
    LearningTask,
    LossTask,
    SampleTask,
    check_task_options,
)
from dgc_topo.training.models.sample_tasks import IGNORED
from dgc_topo.training.models.task import evaluating
from dgc_topo.training.optimizers import check_optimizer
from dgc_topo.training.own_code import is_own
from dgc_topo.training.settings import Timetable, TrainSection
from dgc_topo.workers.machine import choose_device

_ANY_STEPS = 10  # per epoch, for decays that take any number of them
_SAMPLES = 2  # batch normalisation needs as many
_MIN_DIMS = 2  # samples and classes


def check_jobs(jobs: Iterable[Job], *, local_rank: int = 0) -> None:
    """Refuse trainings that could not begin.

    Args:
        jobs: The trainings.
        local_rank: Number of this process on its machine, for the device to try them on.

    Raises:
        ValueError: naming the key of ``[train]``, what is wrong, and what was expected.
    """
    seen: list[tuple[TrainSection, int]] = []
    for job in jobs:
        schedule = job.topology.schedule(job.train.world_size, seed=job.seed)
        _check_shares(job)
        case = job.train, len(schedule.contributors)
        if case not in seen:
            seen.append(case)
            _check(job.train, shard_of(job.train, job.seed, 0, case[1]), local_rank)


def _check_shares(job: Job) -> None:
    """Refuse unequal batches where workers cannot count unequally."""
    if not job.train.batch_shares:
        return
    why = ""
    if job.compression.uses_ddp:
        why = f"method {job.compression.method!r} leaves the sum to DistributedDataParallel"
    elif job.train.on_lost_rank == "continue":
        why = "with on_lost_rank = 'continue', shares of those that are left are not defined"
    elif job.rule.code is not None and job.topology.goal == "column-stochastic":
        why = (
            f"{job.rule.label} over {job.topology.label}: directed gossip keeps sums, and only the "
            "rule itself could weigh what its ranks add to them"
        )
    if why:
        raise ValueError(f"train.batch_shares: {why}; expected no such key, or another way")


def _check(train: TrainSection, shard: Shard, local_rank: int) -> None:
    check_optimizer(train)
    if not any(map(is_own, (train.dataset, train.model, train.loss))):
        _check_rates(train, _steps_of_data(train, shard))
        if train.emulates:
            return
        try:
            check_task_options(train.model, train.options)
        except ValueError as error:
            raise ValueError(f"train.options: {error}") from error
        return
    task = learning_task(train, shard, choose_device(train.device, local_rank))
    _check_rates(train, task.steps_per_epoch)
    _Trial(train, task).run()


def _steps_of_data(train: TrainSection, shard: Shard) -> int:
    """Return the steps that go through shipped data once, as far as the learning rates ask."""
    if train.learning_rate_decay in DECAYS or train.emulates:
        return train.max_steps_per_epoch or _ANY_STEPS
    return learning_task(train, shard, torch.device("cpu")).steps_per_epoch


def _check_rates(train: TrainSection, steps_of_data: int) -> None:
    try:
        Timetable(train, steps_of_data).learning_rate_at(0)
    except ValueError as error:
        raise ValueError(f"train.{error}") from error


class _Trial:
    """A step with a few samples.

    Args:
        train: Section that names the code.
        task: The task that came of it.
    """

    def __init__(self, train: TrainSection, task: LearningTask) -> None:
        self._task = task
        self._model_key = f"train.model: {train.model}"
        self._loss_key = f"train.loss: {train.loss}" if train.loss else self._model_key

    def run(self) -> None:
        """Go forward with samples of every part, and backward with the first ones.

        Raises:
            CodeError: if the user's code fails, or shapes or types do not fit together.
        """
        model = self._task.build_model()
        for name, parameter in model.named_parameters():
            if parameter.dtype != torch.float32:
                raise CodeError(
                    f"{self._model_key}: parameter {name!r} is {describe(parameter)}, expected "
                    "float32"
                )
        batches = _few(self._task)
        for batch in batches:
            with evaluating(model):
                self._go_forward(model, batch)
        model.train()
        with explained(self._model_key, " in a training step"):
            self._loss(model, _first_of(batches[0])).backward()  # type: ignore[no-untyped-call]

    def _go_forward(self, model: nn.Module, batch: Batch) -> None:
        if isinstance(self._task.dataset, TextDataset):
            with explained(self._model_key, f" for tokens {describe(batch.inputs)}"):
                self._loss(model, batch)
            return
        with explained(self._model_key, f" for inputs {describe(batch.inputs)}"):
            outputs = model(batch.inputs)
        if not isinstance(self._task, LossTask):
            self._check_classes(outputs, batch.targets)
        self._loss(model, batch)

    def _loss(self, model: nn.Module, batch: Batch) -> Tensor:
        with explained(self._loss_key, f" for targets {describe(batch.targets)}"):
            loss: Any = self._task.loss(model, batch)
        if not isinstance(loss, Tensor) or loss.dim() or not loss.is_floating_point():
            raise CodeError(
                f"{self._loss_key}: loss is {describe(loss)}, expected the mean over the samples, "
                "a float tensor of shape ()"
            )
        if not torch.isfinite(loss):
            raise CodeError(
                f"{self._loss_key}: loss is {loss.item()} at the start{_not_finite(batch)}, "
                "expected a finite number"
            )
        return loss

    def _check_classes(self, outputs: Any, targets: Tensor) -> None:
        """Refuse outputs and targets that cross-entropy cannot compare."""
        if targets.dtype != torch.int64:
            raise CodeError(
                f"train.dataset: targets are {describe(targets)}, expected classes (int64), or a "
                "loss of your own (train.loss)"
            )
        for part, label in _odd_labels(self._task, targets):
            raise CodeError(
                f"train.dataset: {part} set: a target is {label}, expected classes from 0, or "
                f"{IGNORED} for what is to be left out"
            )
        classes = _num_classes(self._task, targets)
        shape = (len(targets), classes, *targets.shape[1:])
        found = tuple(outputs.shape) if isinstance(outputs, Tensor) else ()
        fits = len(found) >= _MIN_DIMS and (found[0], *found[2:]) == (shape[0], *shape[2:])
        if not fits or found[1] < classes:
            raise CodeError(
                f"{self._model_key}: outputs are {describe(outputs)}, expected shape {shape}: "
                f"samples, classes (at least {classes}: targets go up to {classes - 1})"
            )


def _num_classes(task: LearningTask, targets: Tensor) -> int:
    found = int(targets.max()) + 1
    if not isinstance(task.dataset, SampleDataset):
        return max(found, getattr(task.dataset, "num_classes", 0))
    known = [split.num_classes for split in (task.dataset.train, task.dataset.test)]
    return max(found, *(count or 0 for count in known))


def _odd_labels(task: LearningTask, some: Tensor) -> Iterator[tuple[str, int]]:
    """Yield the parts of a data set with targets that are no classes, and one of those.

    Args:
        task: The task; all targets of a set in memory are looked at.
        some: Targets that were drawn.
    """
    looked_at = [("train or test", some)]
    if isinstance(task.dataset, SampleDataset):
        for part, split in (("train", task.dataset.train), ("test", task.dataset.test)):
            if isinstance(split, TensorSamples):
                looked_at.insert(0, (part, split.targets))
    for part, targets in looked_at:
        odd = targets[(targets < 0) & (targets != IGNORED)]
        if odd.numel():
            yield part, int(odd[0])


def _not_finite(batch: Batch) -> str:
    """Return a note that says where a batch holds NaN or infinity, if it does."""
    for name, values in (("inputs", batch.inputs), ("targets", batch.targets)):
        if isinstance(values, Tensor) and values.is_floating_point():
            odd = values[~torch.isfinite(values)]
            if odd.numel():
                return f", and train.dataset: {name} hold {odd[0].item()}"
    return ""


def _first_of(batch: Batch) -> Batch:
    """Return the first samples of a batch, as many as a step needs."""
    inputs = tree_map_only(Tensor, lambda each: each[:_SAMPLES], batch.inputs)
    return Batch(inputs, batch.targets[:_SAMPLES], first=True)


def _few(task: LearningTask) -> list[Batch]:
    """Return a few samples to learn from and, of the user's own data, a few to test on."""
    if not isinstance(task, SampleTask):
        return [_first_of(next(task.batches(0)))]
    batches = []
    for part, split in (("train", task.dataset.train), ("test", task.dataset.test)):
        where = f"{task.dataset.name}: {part} set"
        with explained(where):
            samples = split.gather(split.telling())
        if not isinstance(samples.targets, Tensor):
            raise CodeError(f"{where}: targets are {describe(samples.targets)}, expected tensors")
        batches.append(task.batch(samples))
    return batches
