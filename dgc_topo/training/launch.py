"""Starting of training jobs on worker processes, and the events that they send."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from dgc_topo.records.measurement import Measurement
from dgc_topo.training.checkpoints.keeping import Keeping
from dgc_topo.training.job import Job
from dgc_topo.workers import Hosts, Loopback, Session

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


class Finished(_Event):
    """The end of a job."""

    kind: Literal["finished"] = "finished"
    measurement: Measurement


Event = Started | StepDone | Evaluated | Finished
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
) -> None:
    """Run the jobs one after the other on worker processes.

    Processes are started once for all jobs in a row that need as many; virtual workers need one.

    Args:
        jobs: The jobs; an event's job is its place here.
        listen: Receives every event, in this process.
        hosts: Hosts of the workers; this machine's loopback by default.
        keeping: Where checkpoints are kept, and perhaps gone on with; None keeps none.

    Raises:
        LaunchError: if a worker fails; all others are ended first.
        ValueError: if the jobs do not fit the hosts.
    """
    for num_processes, alike in groupby(enumerate(jobs), key=lambda each: each[1].num_processes):
        orders = JobOrders(jobs=dict(alike), keeping=keeping)
        _launch(orders, num_processes, listen, hosts or Loopback())


def _launch(orders: JobOrders, num_processes: int, listen: Listener, hosts: Hosts) -> None:
    def hear(event: Any) -> None:
        known = read_event(event)
        if isinstance(known, Started):
            hosts.begin()
        listen(known)

    train = next(iter(orders.jobs.values())).train
    with Session(
        hosts,
        num_processes,
        device=train.device,
        backend=train.backend,
        timeout_s=train.timeout_s,
    ) as session:
        session.call("dgc_topo.training.loop:run_jobs", orders.model_dump(mode="json"), listen=hear)
