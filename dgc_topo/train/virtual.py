"""Train N virtual workers in one process, with the arithmetic of N real ones, bit for bit.

Every worker has its own data, its own state of the model (hidden state, running statistics, random
numbers) and its own compressor; the schedule runs on their payloads in this process, with the same
messages and merges in the same order.  The parameters exist once: an all-reduce leaves every rank
with the same bits (checked in every step), so what follows the sum is computed once, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import nn

from dgc_topo.compression import Compressor, NonFiniteGradientError
from dgc_topo.execute import run_in_process
from dgc_topo.payload import BundlePayload, DensePayload, Payload, SparsePayload, TernaryPayload
from dgc_topo.results.measurement import Measurement, Quality, QualityPoint
from dgc_topo.schedule import Schedule
from dgc_topo.train.events import Listener, Teller
from dgc_topo.train.job import Job
from dgc_topo.train.models import Batch, Score, Task, running_statistics
from dgc_topo.train.parts import (
    DivergedError,
    TrainingError,
    add_staleness,
    check_loss,
    compressor_of,
    fingerprint,
    flat_statistics,
    learning_rate_at,
    quality_point,
    seed_randoms,
    set_average,
    share_of,
    staleness_of,
    steps_per_epoch,
    task_of,
)
from dgc_topo.train.passes import compute_gradients
from dgc_topo.train.record import Setting, make_measurement
from dgc_topo.train.solo import Solo, train_alone
from dgc_topo.train.steps import (
    PhaseClock,
    StepRecord,
    apply_updates,
    gradients_of,
    note_traffic,
    sparse_entries,
)


class VirtualRun:
    """One job, all its workers in this process.

    A run whose loss is no longer finite ends there, and its record says so: a study wants to know
    what diverges.

    Args:
        job: What to run; its topology must all-reduce.
        number: Its number in the launch.
        device: Where everything is computed.
        listen: Told of progress.

    Raises:
        ValueError: if the topology gossips, or DistributedDataParallel is asked for.
    """

    def __init__(self, job: Job, number: int, device: torch.device, listen: Listener) -> None:
        if job.topology.gossips:
            raise ValueError(
                f"{job.label}: in gossip every rank has parameters of its own, expected an "
                "all-reduce topology with train.workers = 'virtual'"
            )
        if job.compression.uses_ddp:
            raise ValueError(
                f"{job.label}: DistributedDataParallel needs real workers, expected train.workers "
                "= 'processes'"
            )
        self._job = job
        self._teller = Teller(number, listen)
        self._topology = job.topology.load()
        self._schedule = self._scheduled(0)
        self._contributors: list[int] = self._schedule.contributors.tolist()
        places = {rank: place for place, rank in enumerate(self._contributors)}
        self._task = task_of(job, 0, len(places), device)
        self._steps_per_epoch = steps_per_epoch(job.train, self._task)
        self.parameters = dict(self._task.build_model().named_parameters())
        self._ranks = [
            _Rank(job, places.get(rank), len(places), self.parameters, device)
            for rank in range(self._schedule.world_size)
        ]
        self._clock = PhaseClock(device)
        self._step_times_s: list[float] = []

    def run(self) -> Measurement:
        """Train, and return the record.

        Raises:
            TrainingError: if ranks that should agree do not, or nothing could be learnt at all.
        """
        solo = self._measure_solo()
        self._teller.started()
        points: list[QualityPoint] = []
        diverged: int | None = None
        for epoch in range(self._job.train.epochs):
            try:
                self._train_epoch(epoch)
            except DivergedError as error:
                if error.step == 0:
                    raise
                diverged = error.step
            points.append(self._evaluate(epoch))
            if diverged is not None:
                break
        measurement = self._measurement(solo, points, diverged)
        self._teller.finished(measurement)
        return measurement

    def _train_epoch(self, epoch: int) -> None:
        total = self._steps_per_epoch * self._job.train.epochs
        for rank in self._ranks:
            rank.start_epoch(epoch)
        for index in range(self._steps_per_epoch):
            iteration = epoch * self._steps_per_epoch + index
            loss = self._train_step(iteration, iteration / total)
            self._teller.progress(iteration + 1, total, loss)

    def _train_step(self, iteration: int, progress: float) -> float:
        """Return the first worker's loss."""
        epoch = iteration / self._steps_per_epoch
        step = [rank.contribute(epoch, iteration) for rank in self._ranks]
        payloads, records = [each[0] for each in step], [each[1] for each in step]
        schedule = self._scheduled(iteration) if self._topology.varies else self._schedule
        for record, traffic in zip(records, run_in_process(schedule, payloads), strict=True):
            note_traffic(record, traffic)
        self._check_agreement(payloads, iteration)
        first = self._contributors[0]
        self._clock.start()
        updates = self._ranks[first].compressor.finish(payloads[first])
        finish_s = self._clock.lap()
        if self._job.compression.merge == "reselect":  # what was rejected goes back to each rank
            for other, payload in zip(self._ranks, payloads, strict=True):
                if other is not self._ranks[first]:
                    other.compressor.finish(payload)
            self._clock.start()
        rate = learning_rate_at(self._job.train, progress)
        apply_updates(self.parameters, updates, rate)
        update_s = self._clock.lap()
        self._step_times_s.append(sum(r.total_s for r in records) + finish_s + update_s)
        for rank, record in enumerate(records):  # every real rank would have done the same
            record.merged_entries = sparse_entries(payloads[rank])
            record.compress_s += finish_s
            record.update_s = update_s
            self._ranks[rank].records.append(record)
        return records[first].loss

    def _check_agreement(self, payloads: list[Payload], iteration: int) -> None:
        odd = [rank for rank, other in enumerate(payloads) if not _same_bits(payloads[0], other)]
        if odd:
            raise TrainingError(
                f"{self._job.label}: sums of ranks {odd} differ from that of rank 0 in step "
                f"{iteration}, expected all bit-identical"
            )

    def _evaluate(self, epoch: int) -> QualityPoint:
        """Evaluate the workers' average model, part by part as real workers would share it."""
        model = self._average_model()
        begin, num_workers = epoch * self._steps_per_epoch, len(self._contributors)
        shares = []
        for rank in self._ranks:
            score = Score(self._task.metric, 0.0, 0)
            if rank.place is not None:
                score = rank.task.evaluate(model, part=rank.place, num_parts=num_workers)
            done = rank.records[begin:] or rank.records[-1:]  # diverged in an epoch's first step
            shares.append(share_of(score, done, self.parameters))
        point = quality_point(epoch, self._steps_per_epoch, shares, self._contributors)
        if math.isnan(point.value):
            point = point.model_copy(update={"value": math.inf})
        self._teller.evaluated(epoch + 1, self._task.metric, point.value)
        return point

    def _average_model(self) -> nn.Module:
        first = self._ranks[self._contributors[0]]
        if not running_statistics(first.model):
            return first.model
        model = first.task.build_model()
        model.load_state_dict(first.model.state_dict())
        flats = [flat_statistics(self._ranks[rank].model).cpu() for rank in self._contributors]
        set_average(running_statistics(model), flats)
        return model

    def _measure_solo(self) -> Solo:
        model, num_workers = self._task.build_model(), len(self._contributors)
        compressor = compressor_of(self._job, dict(model.named_parameters()), 0, num_workers)
        return train_alone(self._task, model, compressor, 1.0 / num_workers)

    def _measurement(
        self, solo: Solo, points: list[QualityPoint], diverged: int | None
    ) -> Measurement:
        measurement = make_measurement(
            self._job,
            Setting(self._schedule, network="loopback", time_scale=1.0, congestion_control=""),
            [rank.records for rank in self._ranks],
            solo,
            Quality(metric=self._task.metric, points=tuple(points)),
            self._task.batch_samples,
            self.parameters,
        )
        workers = [self._ranks[rank] for rank in self._contributors]
        step_time_s = float(np.median(self._step_times_s))
        samples = len(self._contributors) * self._task.batch_samples
        return measurement.model_copy(
            update={
                "workers": "virtual",
                "step_time_s": step_time_s,
                "samples_per_s": samples / step_time_s,
                "diverged_at_step": diverged,
                "staleness": add_staleness(
                    [staleness_of(self._job, rank.compressor) for rank in workers]
                ),
                "parameters": fingerprint(self.parameters),
            }
        )

    def _scheduled(self, iteration: int) -> Schedule:
        world_size = self._job.train.world_size
        return self._topology.schedule(world_size, iteration=iteration, seed=self._job.seed)


class _Rank:
    """What one rank has of its own.

    Args:
        job: What is run.
        place: Among the ranks that train; None only serves.
        num_workers: Ranks that train.
        parameters: Shared by all ranks.
        device: Where everything is computed.
    """

    def __init__(
        self,
        job: Job,
        place: int | None,
        num_workers: int,
        parameters: Mapping[str, nn.Parameter],
        device: torch.device,
    ) -> None:
        self._job, self.place, self._num_workers = job, place, num_workers
        self._parameters = parameters
        self.task: Task = task_of(job, place or 0, num_workers, device)
        self.model = self.task.build_model()
        _share(self.model, parameters)
        self.model.train()
        self.compressor: Compressor = compressor_of(job, parameters, place or 0, num_workers)
        self.records: list[StepRecord] = []
        self._randoms = _Randoms(job.seed, place or 0, device)
        self._batches: Iterator[Batch] = iter(())
        self._clock = PhaseClock(device)

    def start_epoch(self, epoch: int) -> None:
        """Begin with the epoch's first batch."""
        self._batches = self.task.batches(epoch)

    def contribute(self, epoch: float, iteration: int) -> tuple[Payload, StepRecord]:
        """Return the rank's payload for one step, and what it has noted so far.

        Raises:
            DivergedError: if the loss or a gradient is not finite.
        """
        record = StepRecord()
        if self.place is not None:
            self._compute(record, iteration)
        self._clock.start()
        self.compressor.set_progress(epoch)
        record.density = self.compressor.density
        payload = self._compress(iteration)
        record.entries = sparse_entries(payload)
        if self.place is not None:
            record.encoded_bytes = self.compressor.encoded_bytes(payload)
        record.compress_s = self._clock.lap()
        return payload, record

    def _compute(self, record: StepRecord, iteration: int) -> None:
        scale = 1.0 / self._num_workers
        with self._randoms:
            found = compute_gradients(self.task, self.model, self._batches, scale)
        record.loss, record.compute_s = found
        check_loss(self._job, record.loss, self.place or 0, iteration)

    def _compress(self, iteration: int) -> Payload:
        if self.place is None:
            return self.compressor.neutral()
        try:
            return self.compressor.compress(gradients_of(self._parameters))
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


def _share(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
    """Make *model* compute with *parameters* instead of its own."""
    for name, parameter in parameters.items():
        path, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(path), attribute, parameter)


def _same_bits(first: Payload, second: Payload) -> bool:
    match first, second:
        case BundlePayload(), BundlePayload():
            return all(map(_same_bits, first.parts, second.parts))
        case DensePayload(), DensePayload():
            return torch.equal(_bits(first.buffer), _bits(second.buffer))
        case SparsePayload(), SparsePayload() if torch.equal(first.indices, second.indices):
            return torch.equal(_bits(first.values), _bits(second.values))
        case (SparsePayload() | TernaryPayload(), SparsePayload() | TernaryPayload()):
            # A run that arrived dense has entries of 0, too: where the entries are says nothing.
            return torch.equal(_bits(first.to_dense()), _bits(second.to_dense()))
    return False


def _bits(values: torch.Tensor) -> torch.Tensor:
    return values.view(torch.int32)  # NaN equals NaN
