"""Train N virtual workers in one process, with the arithmetic of N real ones, bit for bit.

Every worker has its own data, its own state of the model (hidden state, running statistics, random
numbers) and its own compressor; the schedule runs on their payloads in this process, with the same
messages and merges in the same order.  The parameters exist once: an all-reduce leaves every rank
with the same bits (checked in every step), so what follows the sum is computed once, too.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from dgc_topo.payload import Payload
from dgc_topo.records.measurement import Measurement, Quality, QualityPoint
from dgc_topo.runtime import run_in_process
from dgc_topo.schedule import Schedule
from dgc_topo.training.agreement import fingerprint, same_bits
from dgc_topo.training.errors import DivergedError, TrainingError
from dgc_topo.training.evaluation import flat_statistics, quality_point, with_average_statistics
from dgc_topo.training.events import Listener, Teller
from dgc_topo.training.job import Job
from dgc_topo.training.models import running_statistics
from dgc_topo.training.parts import buckets_of, learning_task_of
from dgc_topo.training.record import Setting, add_staleness, make_measurement, staleness_of
from dgc_topo.training.solo import Solo, train_alone
from dgc_topo.training.steps import PhaseClock, apply_updates, note_traffic, sparse_entries
from dgc_topo.training.timetable import Timetable
from dgc_topo.training.virtual_rank import VirtualRank


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
        self._topology = job.topology
        self._schedule = self._scheduled(0)
        self._contributors: list[int] = self._schedule.contributors.tolist()
        places = {rank: place for place, rank in enumerate(self._contributors)}
        self._task = learning_task_of(job, 0, len(places), device)
        self._timetable = Timetable(job.train, self._task)
        self.parameters = dict(self._task.build_model().named_parameters())
        self._ranks = [
            VirtualRank(job, rank, places.get(rank), len(places), self.parameters, device)
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
        for epoch in range(self._timetable.num_epochs):
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
        for rank in self._ranks:
            rank.start_epoch(epoch)
        for iteration in self._timetable.steps(epoch):
            loss = self._train_step(iteration)
            self._teller.progress(iteration + 1, self._timetable.num_steps, loss)

    def _train_step(self, iteration: int) -> float:
        """Return the first worker's loss."""
        epoch = self._timetable.epochs_before(iteration)
        step = [rank.contribute(epoch, iteration) for rank in self._ranks]
        payloads, records = [each[0] for each in step], [each[1] for each in step]
        schedule = self._scheduled(iteration) if self._topology.varies else self._schedule
        for bucket in map(list, zip(*payloads, strict=True)):
            for record, traffic in zip(records, run_in_process(schedule, bucket), strict=True):
                note_traffic(record, traffic)
            self._check_agreement(bucket, iteration)
        first = self._contributors[0]
        self._clock.start()
        updates = self._ranks[first].buckets.finish(payloads[first])
        finish_s = self._clock.lap()
        if self._job.compression.merge == "reselect":  # what was rejected goes back to each rank
            for other, summed in zip(self._ranks, payloads, strict=True):
                if other is not self._ranks[first]:
                    other.buckets.finish(summed)
            self._clock.start()
        apply_updates(self.parameters, updates, self._timetable.learning_rate_at(iteration))
        update_s = self._clock.lap()
        self._step_times_s.append(sum(r.total_s for r in records) + finish_s + update_s)
        for rank, record in enumerate(records):  # every real rank would have done the same
            record.merged_entries = sparse_entries(*payloads[rank])
            record.compress_s += finish_s
            record.update_s = update_s
            self._ranks[rank].records.append(record)
        return records[first].loss

    def _check_agreement(self, payloads: list[Payload], iteration: int) -> None:
        odd = [rank for rank, other in enumerate(payloads) if not same_bits(payloads[0], other)]
        if odd:
            raise TrainingError(
                f"{self._job.label}: sums of ranks {odd} differ from that of rank 0 in step "
                f"{iteration}, expected all bit-identical"
            )

    def _evaluate(self, epoch: int) -> QualityPoint:
        """Evaluate the workers' average model, part by part as real workers would share it."""
        model = self._average_model()
        steps = self._timetable.steps(epoch)
        shares = [rank.share(model, steps.start) for rank in self._ranks]
        point = quality_point(epoch, len(steps), shares, self._contributors)
        if math.isnan(point.value):
            point = point.model_copy(update={"value": math.inf})
        self._teller.evaluated(epoch + 1, self._task.metric, point.value)
        return point

    def _average_model(self) -> nn.Module:
        first = self._ranks[self._contributors[0]]
        if not running_statistics(first.model):
            return first.model
        flats = [flat_statistics(self._ranks[rank].model).cpu() for rank in self._contributors]
        return with_average_statistics(first.task, first.model, flats)

    def _measure_solo(self) -> Solo:
        model, num_workers = self._task.build_model(), len(self._contributors)
        buckets = buckets_of(self._job, dict(model.named_parameters()), 0, num_workers)
        overlaps = self._job.bucket_bytes is not None
        return train_alone(self._task, model, buckets, 1.0 / num_workers, overlaps=overlaps)

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
                    [staleness_of(self._job, rank.buckets) for rank in workers]
                ),
                "parameters": fingerprint(self.parameters),
            }
        )

    def _scheduled(self, iteration: int) -> Schedule:
        world_size = self._job.train.world_size
        return self._topology.schedule(world_size, iteration=iteration, seed=self._job.seed)
