"""Run one job on this rank: build, train, evaluate, and make the record."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import torch
from torch import nn

from dgc_topo.compression.accumulation import Staleness
from dgc_topo.records.measurement import (
    Measurement,
    Phases,
    Quality,
    QualityPoint,
    StalenessCounts,
)
from dgc_topo.runtime import Communicator, DistributedTransport
from dgc_topo.runtime.connections import congestion_controls, sent_bytes
from dgc_topo.training.agreement import fingerprint
from dgc_topo.training.buckets import Buckets
from dgc_topo.training.ddp import DdpStep, check_powersgd
from dgc_topo.training.errors import TrainingError, check_loss
from dgc_topo.training.evaluation import (
    Share,
    flat_statistics,
    quality_point,
    set_average,
    share_of,
    with_average_statistics,
)
from dgc_topo.training.events import Listener, Teller
from dgc_topo.training.job import Job
from dgc_topo.training.models import Batch, LearningTask, Score, running_statistics
from dgc_topo.training.overlap import OverlappedStep
from dgc_topo.training.parts import buckets_of, seed_randoms, task_of
from dgc_topo.training.passes import compute_gradients
from dgc_topo.training.record import Setting, add_staleness, make_measurement, staleness_of
from dgc_topo.training.solo import Solo, mean_phases, num_steps_alone, train_alone
from dgc_topo.training.steps import AllReduceStep, GossipStep, StepRecord, Strategy
from dgc_topo.training.timetable import Timetable
from dgc_topo.wire.tensors import TORCH_DTYPES
from dgc_topo.workers.group import Worker


class JobRun:
    """One job on one rank.

    Args:
        job: What to run, the same on every rank.
        number: Its number in the launch.
        worker: This process.
        listen: Told of progress; only rank 0 calls it.
    """

    def __init__(self, job: Job, number: int, worker: Worker, listen: Listener) -> None:
        self._job, self._worker = job, worker
        self._teller = Teller(number, listen if worker.rank == 0 else lambda _: None)
        self._topology = job.topology
        self._schedule = self._topology.schedule(worker.world_size, seed=job.seed)
        self._contributors: list[int] = self._schedule.contributors.tolist()
        self._num_workers = len(self._contributors)
        self._trains = worker.rank in self._contributors
        self._gossip = self._topology.gossips
        # A server holds the first worker's place for the shapes of things; it draws no batch.
        self._place = self._contributors.index(worker.rank) if self._trains else 0
        self._task = task_of(job, self._place, self._num_workers, worker.device)
        self._timetable = Timetable(job.train, self._task)
        self._model = self._task.build_model()
        self._parameters = dict(self._model.named_parameters())
        self._buckets = self._make_buckets(self._parameters)
        transport = DistributedTransport(timeout=worker.timeout)
        # The jobs are compared already, or come from one launcher.
        self._communicator = Communicator(self._topology, transport, seed=job.seed, compare=False)
        self._strategy = self._make_strategy()
        self._forward = self._strategy.forward or self._model

    def run(self) -> Measurement:
        """Train, and return the record (the same on every rank).

        Raises:
            TrainingError: if the loss is no longer finite, or ranks that should agree do not.
            PeerError: if a peer is lost or frozen.
        """
        solo = self._measure_solo()
        crowd = self._measure_crowd()
        self._teller.started()
        seed_randoms(self._job.seed, self._place)
        points: list[QualityPoint] = []
        records: list[StepRecord] = []
        for epoch in range(self._timetable.num_epochs):
            done = list(self._train_epoch(epoch))
            records.extend(done)
            if isinstance(self._task, LearningTask):
                points.append(self._evaluate(self._task, epoch, done))
        agreed = self._check_agreement()
        measurement = make_measurement(
            self._job,
            self._setting(),
            self._worker.gather(list[StepRecord], records, self._what("collecting the records")),
            solo,
            self._quality(points),
            self._task.batch_samples,
            self._parameters,
        )
        found = {"parameters": agreed, "staleness": self._staleness(), "crowd_phases": crowd}
        measurement = measurement.model_copy(update=found)
        self._teller.finished(measurement)
        return measurement

    def _train_epoch(self, epoch: int) -> Iterator[StepRecord]:
        self._model.train()
        batches = self._task.batches(epoch) if self._trains else None
        for iteration in self._timetable.steps(epoch):
            yield self._train_step(batches, iteration)

    def _train_step(self, batches: Iterator[Batch] | None, iteration: int) -> StepRecord:
        loss, compute_s = 0.0, 0.0
        interface = self._worker.interface
        counted = math.nan if interface is None else sent_bytes(interface)
        epoch = self._timetable.epochs_before(iteration)
        self._strategy.begin(iteration, epoch)
        if batches is not None:
            loss, compute_s = compute_gradients(
                self._task,
                self._forward,
                batches,
                self._loss_scale,
                time_scale=self._worker.time_scale,
            )
            check_loss(self._job, loss, self._worker.rank, iteration)
        learning_rate = self._timetable.learning_rate_at(iteration)
        record = self._strategy.apply(iteration, epoch, learning_rate)
        record.compute_s += compute_s
        record.loss, record.interface_bytes = loss, counted
        self._teller.progress(iteration + 1, self._timetable.num_steps, loss)
        return record

    @property
    def _loss_scale(self) -> float:
        """Makes gradients sum to their mean over the workers.

        In gossip nothing is summed, and DDP takes the mean itself.
        """
        return 1.0 if self._gossip or self._job.compression.uses_ddp else 1.0 / self._num_workers

    def _evaluate(self, task: LearningTask, epoch: int, done: Sequence[StepRecord]) -> QualityPoint:
        """Evaluate the workers' average model, each worker on its share of the test set."""
        model = self._average_model()
        score = Score(task.metric, 0.0, 0)
        if self._trains:
            score = task.evaluate(model, part=self._place, num_parts=self._num_workers)
        what = self._what(f"evaluation after epoch {epoch + 1}")
        shares = self._worker.gather(Share, share_of(score, done, self._parameters), what)
        steps_per_epoch = self._timetable.steps_per_epoch
        point = quality_point(epoch, steps_per_epoch, shares, self._contributors)
        self._teller.evaluated(epoch + 1, task.metric, point.value)
        return point

    def _quality(self, points: Sequence[QualityPoint]) -> Quality | None:
        if not isinstance(self._task, LearningTask):
            return None
        return Quality(metric=self._task.metric, points=tuple(points))

    def _average_model(self) -> nn.Module:
        """Return a model with all ranks' average parameters (gossip) and running statistics."""
        if not self._gossip and not running_statistics(self._model):
            return self._model
        what = self._what("averaging the model")
        flats = self._worker.gather_tensors(flat_statistics(self._model).cpu(), what)
        workers = [flats[rank] for rank in self._contributors]
        model = with_average_statistics(self._task, self._model, workers)
        if self._gossip:
            self._average_parameters(model, what)
        return model

    def _average_parameters(self, model: nn.Module, what: str) -> None:
        targets = [p.detach() for p in model.parameters()]
        share = 1.0 / self._num_workers if self._trains else 0.0
        total = self._worker.sum(torch.cat([t.reshape(-1) for t in targets]) * share, what)
        set_average(targets, [total])

    def _staleness(self) -> StalenessCounts | None:
        if not self._job.compression.track_ages:
            return None
        own = staleness_of(self._job, self._buckets) if self._trains else None
        known = [] if own is None else [own]
        found = self._worker.gather(list[Staleness], known, self._what("counting waits"))
        return add_staleness(list(chain.from_iterable(found)))

    def _check_agreement(self) -> str | None:
        """Every rank must hold the same parameters, bit for bit, after an all-reduce training.

        Returns:
            Their fingerprint; None after gossip.
        """
        if self._gossip:
            return None
        own = fingerprint(self._parameters)
        prints = self._worker.gather(str, own, self._what("comparing parameters"))
        odd = [rank for rank, value in enumerate(prints) if value != prints[0]]
        if odd:
            raise TrainingError(
                f"{self._job.label}: parameters of ranks {odd} differ from those of rank 0 after "
                "training, expected all bit-identical"
            )
        return own

    def _measure_solo(self) -> Solo:
        """Return what the first worker does while it has the machine to itself: the others wait."""
        first = self._contributors[0]
        solo = [self._train_alone()] if self._worker.rank == first else []
        what = self._what("timing a worker alone")
        self._worker.barrier(what)
        return self._worker.gather(list[Solo], solo, what)[first][0]

    def _measure_crowd(self) -> Phases | None:
        """Return what a worker does while all others do so, too, on the machine that they share.

        Their steps begin together, as those of a training do.  None if it is not known that they
        share one (only a lab's do), or there is one worker only.
        """
        if self._worker.interface is None or self._num_workers == 1:
            return None
        what = self._what("timing all workers at once")
        own: list[StepRecord] = []
        if self._trains:
            own = [self._train_alone(lambda: self._worker.barrier(what)).step]
        else:
            for _ in range(num_steps_alone(self._task, overlaps=self._overlaps)):
                self._worker.barrier(what)
        found = self._worker.gather(list[StepRecord], own, what)
        return mean_phases(list(chain.from_iterable(found)))

    def _train_alone(self, begin_step: Callable[[], None] = lambda: None) -> Solo:
        model = self._task.build_model()
        return train_alone(
            self._task,
            model,
            self._make_buckets(dict(model.named_parameters())),
            self._loss_scale,
            overlaps=self._overlaps,
            time_scale=self._worker.time_scale,
            begin_step=begin_step,
        )

    @property
    def _overlaps(self) -> bool:
        return self._job.bucket_bytes is not None

    def _setting(self) -> Setting:
        what = self._what("asking for the connections")
        used = self._worker.gather(list[str], congestion_controls(), what)
        return Setting(
            self._schedule,
            network=self._worker.network,
            time_scale=self._worker.time_scale,
            congestion_control=", ".join(sorted({name for names in used for name in names})),
        )

    def _make_strategy(self) -> Strategy:
        scale = self._worker.time_scale
        if self._job.compression.uses_ddp:
            check_powersgd(self._job, self._timetable.num_steps)
            return DdpStep(self._model, self._job.train, self._job.compression, self._task, scale)
        if self._gossip:
            dtype = TORCH_DTYPES[self._job.compression.wire_dtype]
            return GossipStep(
                self._parameters, self._buckets, self._communicator, dtype, time_scale=scale
            )
        if self._overlaps:
            return OverlappedStep(
                self._parameters,
                self._buckets,
                self._communicator,
                self._task,
                trains=self._trains,
                time_scale=scale,
            )
        return AllReduceStep(
            self._parameters,
            self._buckets,
            self._communicator,
            trains=self._trains,
            time_scale=scale,
        )

    def _make_buckets(self, parameters: dict[str, nn.Parameter]) -> Buckets:
        return buckets_of(
            self._job, parameters, self._place, self._num_workers, gossip=self._gossip
        )

    def _what(self, doing: str) -> str:
        return f"topology {self._topology.label}, {doing}"
