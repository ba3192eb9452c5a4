"""Starting of training jobs on worker processes, and the events that they send."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import groupby
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from dgc_topo.liveness import Loss
from dgc_topo.records.measurement import Measurement
from dgc_topo.training.checkpoints.keeping import Keeping
from dgc_topo.training.job import Job
from dgc_topo.workers import Hosts, LaunchError, Loopback, Session
from dgc_topo.workers.forks import ForkedLoopback, can_fork

_SEND_EVERY_S = 0.1


class _Event(BaseModel):
    # A perplexity may be infinite: JSON knows that only as text.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")
    job: int = Field(ge=0, description="number of the job in the launch")


class Started(_Event):
    """The beginning of a job's training, after one worker was built and timed.

    Attributes:
        step: Steps done already: those before the checkpoint from which it goes on.
        refused: Newer checkpoints that are of no use, and why.
    """

    kind: Literal["started"] = "started"
    step: int = 0
    refused: tuple[str, ...] = ()


class StepDone(_Event):
    """The end of a training step; what only logs want may be missing."""

    kind: Literal["progress"] = "progress"
    step: int
    total_steps: int
    loss: float
    epoch: float | None = None
    learning_rate: float | None = None
    density: float | None = None
    bytes_sent: float | None = None
    step_s: float | None = None


class Evaluated(_Event):
    """The evaluation after an epoch."""

    kind: Literal["evaluated"] = "evaluated"
    epoch: int
    metric: str
    value: float


class Lost(_Event):
    """The loss of a worker, after which the launch goes on.

    Attributes:
        text: Which one, in which step and phase, and how that was seen.
        restart: Number of the restart that follows, from 1; None if the others go on without it.
        max_restarts: Most restarts of the launch.
    """

    kind: Literal["lost"] = "lost"
    text: str
    restart: int | None
    max_restarts: int


class Finished(_Event):
    """The end of a job."""

    kind: Literal["finished"] = "finished"
    measurement: Measurement

    def after(self, restarts: int, lost_steps: int | None) -> Finished:
        """Return the event with a record that says what happened on the way."""
        counted = {"restarts": restarts, "lost_steps": lost_steps}
        return self.model_copy(update={"measurement": self.measurement.model_copy(update=counted)})


Event = Started | StepDone | Evaluated | Lost | Finished
Listener = Callable[[Event], None]

_ADAPTER: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


def read_event(value: Any) -> Event:
    """Return the event that became this JSON value."""
    return _ADAPTER.validate_python(value)


class EventSender:
    """A sender of one job's events.

    Those of its steps only now and then, because whoever listens may share these cores.

    Args:
        job: Number of the job in the launch.
        listen: Receives them.
        every_step: True to send all of its steps, for logs.
    """

    def __init__(self, job: int, listen: Listener, *, every_step: bool = False) -> None:
        self._job, self._listen, self._every_step = job, listen, every_step
        self._last_sent_s = -math.inf

    def started(self, step: int, refused: Sequence[str]) -> None:
        """Send that training begins, or goes on; see `Started`."""
        self._listen(Started(job=self._job, step=step, refused=tuple(refused)))

    def progress(self, step: int, total_steps: int, loss: float, **facts: float) -> None:
        """Send that *step* steps are done, and other facts of a `StepDone`."""
        now = time.monotonic()
        is_due = step == total_steps or now - self._last_sent_s >= _SEND_EVERY_S
        if is_due or self._every_step:
            self._last_sent_s = now
            about = {"step": step, "total_steps": total_steps, "loss": loss}
            self._listen(StepDone(job=self._job, **about, **facts))

    def evaluated(self, epoch: int, metric: str, value: float) -> None:
        """Send the result of an evaluation."""
        self._listen(Evaluated(job=self._job, epoch=epoch, metric=metric, value=value))

    def finished(self, measurement: Measurement) -> None:
        """Send the record of the job."""
        self._listen(Finished(job=self._job, measurement=measurement))


class JobOrders(BaseModel):
    """JobOrders for the workers.

    Attributes:
        jobs: By number.
        keeping: See `launch`.
    """

    jobs: dict[int, Job]
    keeping: Keeping | None = None


def launch(
    jobs: Sequence[Job],
    listen: Listener,
    hosts: Hosts | None = None,
    keeping: Keeping | None = None,
    *,
    max_restarts: int = 0,
) -> None:
    """Run the jobs one after the other on worker processes.

    Processes are started once for all jobs in a row that need as many; virtual workers need one.
    When a worker is killed or frozen, all are ended and started again, if restarts are left; they
    go on from the newest checkpoint of the job, or begin it anew.

    Args:
        jobs: The jobs; an event's job is its place here.
        listen: Receives every event, in this process.
        hosts: Hosts of the workers; this machine's loopback by default.
        keeping: Where checkpoints are kept, and perhaps gone on with; None keeps none.
        max_restarts: Most restarts, of all jobs together.

    Raises:
        LaunchError: if a worker fails; all others are ended first.
        ValueError: if the jobs do not fit the hosts.
    """
    restarts = Restarts(listen, max_restarts)
    with _loopback(restarts=max_restarts > 0) if hosts is None else nullcontext(hosts) as own:
        for _, alike in groupby(enumerate(jobs), key=lambda each: each[1].num_processes):
            _launch(JobOrders(jobs=dict(alike), keeping=keeping), restarts, own)


def _loopback(*, restarts: bool) -> Loopback:
    """Return the loopback of this machine, where workers are soon replaced if they may have to."""
    return ForkedLoopback(["dgc_topo.training.loop"]) if restarts and can_fork() else Loopback()


def _launch(orders: JobOrders, restarts: Restarts, hosts: Hosts) -> None:
    while orders.jobs:
        try:
            _call(orders, restarts, hosts)
        except LaunchError as error:
            restarts.after(error, min(orders.jobs))
            if orders.keeping is not None:
                orders.keeping = orders.keeping.model_copy(update={"resume": True})


def _call(orders: JobOrders, restarts: Restarts, hosts: Hosts) -> None:
    """Run the jobs on new processes; those that finish leave the orders."""

    def hear(value: Any) -> None:
        event = read_event(value)
        if isinstance(event, Started):
            hosts.begin()
        restarts.hear(event)
        if isinstance(event, Finished):
            del orders.jobs[event.job]

    job = next(iter(orders.jobs.values()))
    if isinstance(hosts, ForkedLoopback):
        hosts.prepare("dgc_topo.training.learning:preload", job.train.model_dump(mode="json"))
    with Session(
        hosts,
        job.num_processes,
        device=job.train.device,
        backend=job.train.backend,
        timeout_s=job.train.timeout_s,
    ) as session:
        goes_on = all(job.train.on_lost_rank == "continue" for job in orders.jobs.values())
        session.call(
            "dgc_topo.training.loop:run_jobs",
            orders.model_dump(mode="json"),
            listen=hear,
            go_on=partial(restarts.go_on, orders) if goes_on else None,
        )


class Restarts:
    """The restarts of a launch: how many, and how many steps each job has repeated.

    Args:
        listen: Receives every event; records that pass say what happened to their jobs.
        most: Most restarts.

    Attributes:
        lost_steps: Steps of the present job that were repeated.
    """

    def __init__(self, listen: Listener, most: int) -> None:
        self._listen, self._most, self._count = listen, most, 0
        self._of_job = self.lost_steps = 0
        self._reached: int | None = None  # steps that it had done when a worker was lost

    def hear(self, event: Event) -> None:
        """Pass an event on."""
        if isinstance(event, Started) and self._reached is not None:
            self.lost_steps += max(0, self._reached - event.step)
            self._reached = None
        if isinstance(event, Finished):
            event = event.after(self._of_job, self.lost_steps)
            self._of_job, self.lost_steps, self._reached = 0, 0, None
        self._listen(event)

    def go_on(self, orders: JobOrders, loss: Loss) -> None:
        """Say that the job goes on without a worker."""
        job, most = min(orders.jobs), self._most
        self._listen(Lost(job=job, text=str(loss), restart=None, max_restarts=most))

    def after(self, error: LaunchError, job: int) -> None:
        """Count a restart after an error.

        Args:
            error: The error.
            job: Number of the job that it hit.

        Raises:
            LaunchError: the same one if no worker was lost, or one that says the limit.
        """
        if error.loss is None or not self._most:
            raise error
        if self._count == self._most:
            limit = LaunchError(
                f"{error}\nafter {self._count} restarts (--max-restarts {self._most})"
            )
            limit.loss = error.loss
            raise limit from error
        self._count += 1
        self._of_job += 1
        # A worker that is lost on its way to the step it had reached has not lost more.
        self._reached = max(self._reached or 0, error.loss.place.step or 0)
        text = str(error.loss)
        self._listen(Lost(job=job, text=text, restart=self._count, max_restarts=self._most))
