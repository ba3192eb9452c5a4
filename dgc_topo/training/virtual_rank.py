"""One rank among the virtual workers of a process: its data, model state and compressor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from dgc_topo.compression.gradients import NonFiniteGradientError
from dgc_topo.payload import Payload
from dgc_topo.training.errors import DivergedError, check_loss
from dgc_topo.training.evaluation import Share, share_of
from dgc_topo.training.job import Job
from dgc_topo.training.models import Batch, LearningTask, Score
from dgc_topo.training.parts import buckets_of, learning_task_of, seed_randoms
from dgc_topo.training.passes import compute_gradients
from dgc_topo.training.steps import PhaseClock, StepRecord, gradients_of, sparse_entries


class VirtualRank:
    """What one rank has of its own.

    Args:
        job: What is run.
        rank: Its number, for errors.
        place: Among the ranks that train; None only serves.
        num_workers: Ranks that train.
        parameters: Shared by all ranks.
        device: Where everything is computed.
    """

    def __init__(
        self,
        job: Job,
        rank: int,
        place: int | None,
        num_workers: int,
        parameters: Mapping[str, nn.Parameter],
        device: torch.device,
    ) -> None:
        self._job, self._rank, self.place, self._num_workers = job, rank, place, num_workers
        self._parameters = parameters
        self.task: LearningTask = learning_task_of(job, place or 0, num_workers, device)
        self.model = self.task.build_model()
        _adopt(self.model, parameters)
        self.model.train()
        self.buckets = buckets_of(job, parameters, place or 0, num_workers)
        self.records: list[StepRecord] = []
        self._randoms = _Randoms(job.seed, place or 0, device)
        self._batches: Iterator[Batch] = iter(())
        self._clock = PhaseClock(device)

    def start_epoch(self, epoch: int) -> None:
        """Begin with the epoch's first batch."""
        self._batches = self.task.batches(epoch)

    def contribute(self, epoch: float, iteration: int) -> tuple[list[Payload], StepRecord]:
        """Return the rank's payload per bucket for one step, and what it has noted so far.

        Raises:
            DivergedError: if the loss or a gradient is not finite.
        """
        record = StepRecord()
        if self.place is not None:
            self._compute(record, iteration)
        self._clock.start()
        self.buckets.set_progress(epoch)
        record.density = self.buckets.density
        payloads = self._compress(iteration)
        record.entries = sparse_entries(*payloads)
        if self.place is not None:
            record.encoded_bytes = self.buckets.encoded_bytes(payloads)
        record.compress_s = self._clock.lap()
        return payloads, record

    def share(self, model: nn.Module, begin: int) -> Share:
        """Return what it knows of an epoch, evaluating *model* on its part of the test set.

        Args:
            model: The workers' average.
            begin: The epoch's first step.
        """
        score = Score(self.task.metric, 0.0, 0)
        if self.place is not None:
            score = self.task.evaluate(model, part=self.place, num_parts=self._num_workers)
        done = self.records[begin:] or self.records[-1:]  # diverged in an epoch's first step
        return share_of(score, done, self._parameters)

    def _compute(self, record: StepRecord, iteration: int) -> None:
        scale = 1.0 / self._num_workers
        with self._randoms:
            found = compute_gradients(self.task, self.model, self._batches, scale)
        record.loss, record.compute_s = found
        check_loss(self._job, record.loss, self._rank, iteration)

    def _compress(self, iteration: int) -> list[Payload]:
        if self.place is None:
            return self.buckets.neutral()
        try:
            return self.buckets.compress(gradients_of(self._parameters))
        except NonFiniteGradientError as error:
            raise DivergedError(f"{self._job.label}: {error}", iteration) from error


class _Randoms:
    """One worker's random numbers: its own while the block runs, put away afterwards."""

    def __init__(self, seed: int, place: int, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        seed_randoms(seed, place)
        self.__exit__()

    def __enter__(self) -> None:
        torch.set_rng_state(self._cpu_state)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda_state, self._cuda)

    def __exit__(self, *_: object) -> None:
        self._cpu_state = torch.get_rng_state()
        if self._cuda is not None:
            self._cuda_state = torch.cuda.get_rng_state(self._cuda)


def _adopt(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
    """Make *model* compute with *parameters* instead of its own."""
    for name, parameter in parameters.items():
        path, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(path), attribute, parameter)
