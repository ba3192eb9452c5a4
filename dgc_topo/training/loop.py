"""The training loop for the ranks of a world in this process, up to the job's record.

Processes and virtual workers run the same loop: see `World`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from dgc_topo.compression.accumulation import Staleness
from dgc_topo.compression.gradients import NonFiniteGradientError
from dgc_topo.records.measurement import Measurement, Phases
from dgc_topo.records.quality import Quality, StalenessCounts
from dgc_topo.runtime import PeerError
from dgc_topo.runtime.connections import sent_bytes
from dgc_topo.training.agreement import check_agreement, shared_model
from dgc_topo.training.checkpoints.keeper import Keeper
from dgc_topo.training.checkpoints.keeping import Keeping
from dgc_topo.training.checkpoints.state import Progress
from dgc_topo.training.checks import DivergedError
from dgc_topo.training.evaluation import Share, quality_point, share_of
from dgc_topo.training.job import Job
from dgc_topo.training.launch import Event, EventSender, JobOrders, Listener
from dgc_topo.training.models import LearningTask
from dgc_topo.training.rank import StepRecord, TrainingRank
from dgc_topo.training.record import Findings, add_staleness, make_measurement
from dgc_topo.training.settings import Timetable
from dgc_topo.training.solo import (
    LoneStep,
    Solo,
    Trial,
    mean_phases,
    num_steps_alone,
    slowest_phases,
    train_alone,
)
from dgc_topo.training.strategies import ranks_of, strategy_of
from dgc_topo.training.survival import go_on_without
from dgc_topo.training.world import World, world_of
from dgc_topo.workers.group import GroupPeerError, Worker


def run_jobs(worker: Worker, orders: Any) -> None:
    """Carry out orders (as JSON) in a worker process; rank 0 sends every event."""

    def tell(event: Event) -> None:
        worker.tell(json.loads(event.model_dump_json()))

    wanted = JobOrders.model_validate(orders)
    for number, job in wanted.jobs.items():
        measurement = TrainingRun(job, number, world_of(job, worker), tell, wanted.keeping).run()
        if measurement.lost_ranks:  # the next job needs all of them: the launcher starts it anew
            return


class TrainingRun:
    """One job, for the ranks of a world that are here.

    Args:
        job: The job, the same in every process.
        number: Its number in the launch.
        world: All ranks.
        listen: Receives the events; called where rank 0 is.
        keeping: Where the state is kept; None keeps nothing.
    """

    def __init__(
        self,
        job: Job,
        number: int,
        world: World,
        listen: Listener,
        keeping: Keeping | None = None,
    ) -> None:
        self._job, self._number, self._world = job, number, world
        self._listen, self._keeping = listen, keeping
        self._topology = job.topology
        self._schedule = self._topology.schedule(world.world_size, seed=job.seed)
        self._contributors: list[int] = self._schedule.contributors.tolist()
        self._rule = job.rule
        self._ranks = ranks_of(job, world, self._contributors)
        self._task, self._model = self._ranks[0].task, self._ranks[0].model
        self.parameters = self._ranks[0].parameters
        self._timetable = Timetable(job.train, self._task.steps_per_epoch)
        self._progress = Progress(steps_per_epoch=self._timetable.steps_per_epoch)
        self._connect()

    def _connect(self) -> None:
        """Make all that depends on which ranks there are; their state stays in the ranks."""
        is_first = 0 in self._world.ranks
        self._events = EventSender(
            self._number,
            self._listen if is_first else lambda _: None,
            every_step=bool(self._job.train.log),
        )
        self._strategy = strategy_of(
            self._job, self._topology, self._world, self._ranks, self._timetable.num_steps
        )
        self._keeper = Keeper(self._job, self._world, self._ranks, self._strategy, self._keeping)

    def run(self) -> Measurement:
        """Train, and return the record, the same in every process.

        Virtual workers stop when their loss is no longer finite, and the record says so.

        Raises:
            TrainingError: if the first loss is not finite, or that of processes at any time, or
                ranks that should agree do not.
            RuntimeError: naming a peer that is lost or frozen.
            CheckpointError: if it should go on from a checkpoint that is broken or does not fit.
            UnsavedError: if a checkpoint cannot be written.
        """
        with self._world.naming_losses():
            return self._run()

    def _run(self) -> Measurement:
        self._progress, refused = self._keeper.resume(self._progress)
        progress = self._progress
        solo = progress.solo = progress.solo or self._measure_solo()
        if not progress.resumed_at:
            progress.crowd = self._measure_crowd()
        self._events.started(progress.step, refused)
        diverged_at_step = self._train()
        own = [rank.records for rank in self._ranks]
        found = Findings(
            schedule=self._schedule,
            congestion_control=self._world.congestion_control(
                self._what("asking for the connections")
            ),
            records=self._world.gather(list[StepRecord], own, self._what("collecting the records")),
            first_recorded=progress.first_recorded,
            steps_per_epoch=progress.steps_per_epoch,
            solo=solo,
            crowd_phases=self._progress.crowd,
            quality=self._quality(),
            models=self._keeper.model_files(self._progress),
            lost=self._progress.lost,
            resumed_at=self._progress.resumed_at,
            diverged_at_step=diverged_at_step,
            batch_samples=self._ranks[0].all_samples,
            parameters=self.parameters,
            fingerprint=check_agreement(
                self._world, self._ranks, self._what("comparing parameters")
            ),
            staleness=self._gather_staleness(),
        )
        measurement = make_measurement(self._job, self._world, found)
        self._events.finished(measurement)
        return measurement

    def _train(self) -> int | None:
        """Train all that is left, perhaps with fewer ranks in the end; see `_train_epochs`."""
        losses: list[RuntimeError] = []
        while True:
            try:
                if not losses or self._go_on_without_lost():
                    return self._train_epochs()
            except (PeerError, GroupPeerError) as error:
                losses.append(error)
            else:
                raise losses[-1]

    def _go_on_without_lost(self) -> bool:
        """Go on with the ranks that are left; return False if that is not wanted."""
        left = go_on_without(self._job, self._world, self._progress)
        if left is None:
            return False
        self._topology, self._progress = left
        self._schedule = self._topology.schedule(self._world.world_size, seed=self._job.seed)
        self._contributors = self._schedule.contributors.tolist()
        for rank, number in zip(self._ranks, self._world.ranks, strict=True):
            rank.renumber(number, self._world.world_size)
            rank.averager.renew()
        self._connect()
        return True

    def _train_epochs(self) -> int | None:
        """Train all epochs that are left; return the step that diverged, if one did."""
        progress, diverged_at_step = self._progress, None
        learns = isinstance(self._task, LearningTask)
        begun = progress.step // progress.steps_per_epoch
        # A rank that was lost in an evaluation has cut it short for all.
        first = min(begun, len(progress.points)) if learns else begun
        for epoch in range(first, self._timetable.num_epochs):
            try:
                self._train_epoch(epoch)
            except DivergedError as error:
                # A process cannot tell its peers in the middle of a step.
                if error.step == 0 or self._world.kind == "processes":
                    raise
                diverged_at_step = error.step
            if isinstance(self._task, LearningTask):
                self._evaluate(self._task, epoch)
            if diverged_at_step is not None:
                break
            self._keeper.epoch_done(progress)
        return diverged_at_step

    def _train_epoch(self, epoch: int) -> None:
        progress, steps = self._progress, self._timetable.steps(epoch)
        for rank in self._ranks:
            rank.begin_epoch(epoch, progress.step - steps.start)
        while progress.step < steps.stop:
            self._train_step(progress.step)
            progress.step += 1
            self._strategy.check()
            if progress.step < steps.stop:
                self._keeper.step_done(progress)

    def _train_step(self, iteration: int) -> None:
        interface = self._world.interface
        interface_bytes = math.nan if interface is None else sent_bytes(interface)
        self._world.note("computing gradients", iteration)
        learning_rate = self._timetable.learning_rate_at(iteration)
        self._strategy.begin(iteration, self._timetable.epochs_before(iteration), learning_rate)
        computed = []
        for rank in self._ranks:
            scale, forward = self._world.time_scale, self._strategy.forward
            try:
                with self._strategy.turn_of(rank):
                    computed.append(rank.compute(forward, iteration, scale, interface_bytes))
                self._strategy.contribute(rank)
            except NonFiniteGradientError as error:
                raise DivergedError(f"{self._job.label}: {error}", iteration) from error
        summing = "averaging" if self._rule.is_local else "summing"
        self._world.note(f"{summing} {self._rule.sends} over {self._topology.label}")
        records = self._strategy.apply(computed)
        for rank, record in zip(self._ranks, records, strict=True):
            rank.records.append(record)
        first = next((rank.records[-1] for rank in self._ranks if rank.trains), records[0])
        self._events.progress(
            iteration + 1,
            self._timetable.num_steps,
            first.loss,
            epoch=self._timetable.epochs_before(iteration + 1),
            learning_rate=learning_rate,
            density=first.density,
            bytes_sent=first.bytes_sent,
            step_s=first.total_s,
        )

    def _evaluate(self, task: LearningTask, epoch: int) -> None:
        """Evaluate the workers' average model, each worker on its share of the test set."""
        what = self._what("averaging the model")
        model = shared_model(self._world, self._ranks, self._contributors, what)
        first = self._timetable.steps(epoch).start
        first = max(first - self._progress.first_recorded, 0)
        what = self._what(f"evaluating after epoch {epoch + 1}")
        own_too = self._job.train.evaluate_ranks and self._rule.is_local
        own = [
            # A rank may have diverged in an epoch's first step.
            share_of(rank, task, model, rank.records[first:] or rank.records[-1:], own_too=own_too)
            for rank in self._ranks
        ]
        shares = self._world.gather(Share, own, what)
        steps = self._timetable.steps_per_epoch
        is_local = self._rule.is_local
        point = quality_point(epoch, steps, shares, self._contributors, is_local=is_local)
        self._events.evaluated(epoch + 1, task.metric, point.value)
        self._progress.points.append(point)
        self._keeper.evaluated(self._progress, model, rises=task.higher_is_better)

    def _quality(self) -> Quality | None:
        if not isinstance(self._task, LearningTask):
            return None
        return Quality(metric=self._task.metric, points=tuple(self._progress.points))

    def _gather_staleness(self) -> StalenessCounts | None:
        if not self._job.compression.track_ages:
            return None
        own = [found for rank in self._ranks if (found := rank.staleness()) is not None]
        return add_staleness(self._world.gather(Staleness, own, self._what("counting waits")))

    def _measure_solo(self) -> Solo:
        """Time a worker with a largest batch, alone on the machine: the others wait."""
        first = self._contributors[self._job.train.largest_place]
        what = self._what("timing a worker alone")
        own = [self._train_alone(rank).solo for rank in self._ranks if rank.rank == first]
        self._world.barrier(what)
        (solo,) = self._world.gather(Solo, own, what)
        return solo

    def _measure_crowd(self) -> Phases | None:
        """Time a worker while all others work on the same machine, too.

        As in a training, steps begin together if there is an exchange in each, and workers drift
        apart if not.  None if it is not known that they share one machine (only a lab's do), or
        there is one worker only.
        """
        if self._world.interface is None or len(self._contributors) == 1:
            return None
        what = self._what("timing all workers at once")
        every = self._ranks[0].rule.every

        def meet() -> None:
            self._world.barrier(what)

        own: list[tuple[LoneStep, ...]] = []
        if every > 1:
            meet()
        for rank in self._ranks:
            if rank.trains:
                trial = self._train_alone(rank, meet) if every == 1 else self._train_alone(rank)
                own.append(trial.steps)
            elif every == 1:
                for _ in range(num_steps_alone(self._task, overlaps=self._overlaps)):
                    meet()
        workers = self._world.gather(tuple[LoneStep, ...], own, what)
        return slowest_phases(workers) if every == 1 else mean_phases(workers, every)

    def _train_alone(
        self, rank: TrainingRank, begin_step: Callable[[], None] = lambda: None
    ) -> Trial:
        carried = rank.task.state_dict()  # a trial is no part of the training
        found = train_alone(
            rank.throw_away_copy(),
            overlaps=self._overlaps,
            time_scale=self._world.time_scale,
            begin_step=begin_step,
        )
        rank.task.load_state_dict(carried)
        return found

    @property
    def _overlaps(self) -> bool:
        return self._job.bucket_bytes is not None

    def _what(self, doing: str) -> str:
        """Note what is done from now on, and return it for errors."""
        self._world.note(doing)
        return f"topology {self._topology.label}, {doing}"
