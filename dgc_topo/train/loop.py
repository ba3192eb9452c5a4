"""Run one job on this rank: build, train, evaluate, and make the record."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from dgc_topo.compression import DGC, Compressor, Dense, DGCConfig
from dgc_topo.execute import Communicator, DistributedTransport
from dgc_topo.launch.group import Worker
from dgc_topo.launch.sockets import congestion_controls, sent_bytes
from dgc_topo.results.measurement import Measurement, Quality, QualityPoint
from dgc_topo.train.data import Shard
from dgc_topo.train.events import Evaluated, Event, Finished, Listener, Progress, Started
from dgc_topo.train.job import Job
from dgc_topo.train.models import Batch, Score, Task, make_task, running_statistics
from dgc_topo.train.passes import compute_gradients
from dgc_topo.train.record import Setting, make_measurement
from dgc_topo.train.solo import Solo, train_alone
from dgc_topo.train.steps import AllReduceStep, GossipStep, StepRecord, Strategy

_TELL_EVERY_S = 0.1
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class TrainingError(RuntimeError):
    """Training went wrong in a way that no result may hide."""


class JobRun:
    """One job on one rank.

    Args:
        job: What to run, the same on every rank.
        number: Its number in the launch.
        worker: This process.
        listen: Told of progress; only rank 0 calls it.
    """

    def __init__(self, job: Job, number: int, worker: Worker, listen: Listener) -> None:
        self._job, self._number, self._worker, self._listen = job, number, worker, listen
        self._topology = job.topology.load()
        self._schedule = self._topology.schedule(worker.world_size, seed=job.seed)
        contributors = self._schedule.contributors.tolist()
        self._num_workers = len(contributors)
        self._trains = worker.rank in contributors
        self._gossip = job.topology.gossips
        # A server holds the first worker's place for the shapes of things; it draws no batch.
        place = contributors.index(worker.rank) if self._trains else 0
        self._task = _make_task(job, worker, place, self._num_workers)
        self._model = self._task.build_model()
        self._parameters = dict(self._model.named_parameters())
        self._compressor = self._make_compressor(self._parameters)
        self._communicator = Communicator(
            self._topology, DistributedTransport(timeout=worker.timeout), seed=job.seed
        )
        self._strategy = self._make_strategy()
        self._last_told = -math.inf

    def run(self) -> Measurement:
        """Train, and return the record (the same on every rank).

        Raises:
            TrainingError: if the loss is no longer finite, or ranks that should agree do not.
            PeerError: if a peer is lost or frozen.
        """
        solo = self._measure_solo()
        self._tell(Started(job=self._number))
        points: list[QualityPoint] = []
        records: list[StepRecord] = []
        for epoch in range(self._job.train.epochs):
            records.extend(self._train_epoch(epoch))
            points.append(self._evaluate(epoch, records))
        self._check_agreement()
        measurement = make_measurement(
            self._job,
            self._setting(),
            self._worker.gather(records, self._what("collecting the records")),
            solo,
            Quality(metric=self._task.metric, points=tuple(points)),
            self._task.batch_samples,
            self._parameters,
        )
        self._tell(Finished(job=self._number, measurement=measurement))
        return measurement

    @property
    def _steps_per_epoch(self) -> int:
        limit = self._job.train.max_steps_per_epoch
        steps = self._task.steps_per_epoch
        return steps if limit is None else min(steps, limit)

    def _train_epoch(self, epoch: int) -> Iterator[StepRecord]:
        self._model.train()
        total = self._steps_per_epoch * self._job.train.epochs
        batches = self._task.batches(epoch) if self._trains else None
        for index in range(self._steps_per_epoch):
            iteration = epoch * self._steps_per_epoch + index
            yield self._train_step(batches, iteration, total)

    def _train_step(
        self, batches: Iterator[Batch] | None, iteration: int, total: int
    ) -> StepRecord:
        loss, compute_s = 0.0, 0.0
        interface = self._worker.interface
        counted = math.nan if interface is None else sent_bytes(interface)
        if batches is not None:
            loss, compute_s = compute_gradients(
                self._task,
                self._model,
                batches,
                self._loss_scale,
                time_scale=self._worker.time_scale,
            )
            if not math.isfinite(loss):
                raise TrainingError(
                    f"{self._job.label}: loss is {loss} on rank {self._worker.rank} at step "
                    f"{iteration}: training diverged; try a smaller learning_rate"
                )
        record = self._strategy.apply(
            iteration, iteration / self._steps_per_epoch, self._learning_rate(iteration / total)
        )
        record.compute_s, record.loss, record.interface_bytes = compute_s, loss, counted
        self._tell_progress(iteration + 1, total, loss)
        return record

    @property
    def _loss_scale(self) -> float:
        """Makes gradients sum to their mean over the workers; in gossip nothing is summed."""
        return 1.0 if self._gossip else 1.0 / self._num_workers

    def _learning_rate(self, progress: float) -> float:
        rate = self._job.train.learning_rate
        if self._job.train.learning_rate_decay == "cosine":
            return rate * 0.5 * (1 + math.cos(math.pi * progress))
        return rate

    def _evaluate(self, epoch: int, records: list[StepRecord]) -> QualityPoint:
        """Evaluate the workers' average model, each worker on its share of the test set."""
        model = self._average_model()
        score = Score(self._task.metric, 0.0, 0)
        if self._trains:
            shard = self._task.shard
            score = self._task.evaluate(model, part=shard.rank, num_parts=self._num_workers)
        losses = [record.loss for record in records[-self._steps_per_epoch :]]
        sums = self._worker.sum(
            torch.tensor([score.total, score.count, np.mean(losses)], dtype=torch.float64),
            self._what(f"evaluation after epoch {epoch + 1}"),
        )
        value = Score(self._task.metric, float(sums[0]), int(sums[1])).value
        self._tell(Evaluated(job=self._number, epoch=epoch + 1, metric=score.metric, value=value))
        return QualityPoint(
            epoch=epoch + 1,
            step=len(records),
            value=value,
            train_loss=float(sums[2]) / self._num_workers,
        )

    def _average_model(self) -> nn.Module:
        """Return a model with all ranks' average parameters (gossip) and running statistics."""
        averaged = self._averaged_of(self._model)
        if not averaged:
            return self._model
        share = 1.0 / self._num_workers if self._trains else 0.0
        flat = self._worker.sum(
            torch.cat([t.reshape(-1) for t in averaged]) * share, self._what("averaging the model")
        )
        model = self._task.build_model()
        model.load_state_dict(self._model.state_dict())
        parts = torch.split(flat, [t.numel() for t in averaged])
        for target, part in zip(self._averaged_of(model), parts, strict=True):
            target.copy_(part.view_as(target))
        return model

    def _averaged_of(self, model: nn.Module) -> list[Tensor]:
        parameters = [p.detach() for p in model.parameters()] if self._gossip else []
        return [*running_statistics(model), *parameters]

    def _check_agreement(self) -> None:
        """Every rank must hold the same parameters, bit for bit, after an all-reduce training."""
        if self._gossip:
            return
        prints = self._worker.gather(_fingerprint(self._model), self._what("comparing parameters"))
        odd = [rank for rank, value in enumerate(prints) if value != prints[0]]
        if odd:
            raise TrainingError(
                f"{self._job.label}: parameters of ranks {odd} differ from those of rank 0 after "
                "training, expected all bit-identical"
            )

    def _measure_solo(self) -> Solo:
        """Return what the first worker does while it has the machine to itself: the others wait."""
        solo: Solo | None = None
        first = int(self._schedule.contributors[0])
        if self._worker.rank == first:
            model = self._task.build_model()
            compressor = self._make_compressor(dict(model.named_parameters()))
            solo = train_alone(
                self._task, model, compressor, self._loss_scale, self._worker.time_scale
            )
        what = self._what("timing a worker alone")
        self._worker.barrier(what)
        gathered: Solo = self._worker.gather(solo, what)[first]
        return gathered

    def _setting(self) -> Setting:
        used = self._worker.gather(congestion_controls(), self._what("asking for the connections"))
        return Setting(
            self._schedule,
            network=self._worker.network,
            time_scale=self._worker.time_scale,
            congestion_control=", ".join(sorted({name for names in used for name in names})),
        )

    def _make_strategy(self) -> Strategy:
        scale = self._worker.time_scale
        if self._gossip:
            dtype = _DTYPES[self._job.compression.wire_dtype]
            return GossipStep(
                self._parameters, self._compressor, self._communicator, dtype, time_scale=scale
            )
        return AllReduceStep(
            self._parameters,
            self._compressor,
            self._communicator,
            trains=self._trains,
            time_scale=scale,
        )

    def _make_compressor(self, parameters: dict[str, nn.Parameter]) -> Compressor:
        """Return DGC below density 1, else dense; gossip applies it to the rank's own gradient."""
        train, compression = self._job.train, self._job.compression
        if self._job.density == 1:
            return Dense(
                parameters,
                momentum=train.momentum,
                nesterov=train.nesterov,
                weight_decay=train.weight_decay,
                decoupled_weight_decay=compression.weight_decay_mode == "decoupled",
                clip_norm=train.clip_norm,
                wire_dtype=torch.float32 if self._gossip else _DTYPES[compression.wire_dtype],
            )
        config = DGCConfig(
            density=self._job.density,
            momentum=train.momentum,
            nesterov=train.nesterov,
            selection=compression.selection,
            scope=compression.scope,
            merge=compression.merge,
            masking=compression.masking,
            clear_velocities=compression.clear_velocities,
            clear_every_steps=compression.clear_every_steps,
            clip_norm=train.clip_norm,
            weight_decay=train.weight_decay,
            weight_decay_mode=compression.weight_decay_mode,
            warm_up=compression.warm_up,
            warm_up_epochs=compression.warm_up_epochs,
            wire_dtype=compression.wire_dtype,
            index_encoding=compression.index_encoding,
        )
        return DGC(parameters, num_workers=self._num_workers, config=config)

    def _what(self, doing: str) -> str:
        return f"topology {self._topology.label}, {doing}"

    def _tell_progress(self, step: int, total: int, loss: float) -> None:
        """Tell now and then: whoever listens may share these cores."""
        now = time.monotonic()
        if step == total or now - self._last_told >= _TELL_EVERY_S:
            self._last_told = now
            self._tell(Progress(job=self._number, step=step, total_steps=total, loss=loss))

    def _tell(self, event: Event) -> None:
        if self._worker.rank == 0:
            self._listen(event)


def _make_task(job: Job, worker: Worker, place: int, num_workers: int) -> Task:
    shard = Shard(
        rank=place,
        num_workers=num_workers,
        batch_size=job.train.batch_size_per_worker,
        seed=job.seed,
    )
    return make_task(
        job.train.dataset,
        job.train.model,
        shard,
        options=job.train.options,
        root=job.train.data_path,
        device=worker.device,
    )


def _fingerprint(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
