"""What a run tells while it works: JSON objects, from rank 0."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from dgc_topo.records.measurement import Measurement

_TELL_EVERY_S = 0.1


class _Event(BaseModel):
    # A perplexity may be infinite: JSON knows that only as text.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")
    job: int = Field(ge=0, description="number of the job in the launch")


class Started(_Event):
    """A job's training begins; what comes before it was building and timing one worker."""

    kind: Literal["started"] = "started"


class Progress(_Event):
    """A training step was done."""

    kind: Literal["progress"] = "progress"
    step: int
    total_steps: int
    loss: float


class Evaluated(_Event):
    """An epoch was done and the model evaluated."""

    kind: Literal["evaluated"] = "evaluated"
    epoch: int
    metric: str
    value: float


class Finished(_Event):
    """A job was done."""

    kind: Literal["finished"] = "finished"
    measurement: Measurement


Event = Started | Progress | Evaluated | Finished
Listener = Callable[[Event], None]

_ADAPTER: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


def read_event(value: Any) -> Event:
    """Return the event that was made this JSON value."""
    return _ADAPTER.validate_python(value)


class Teller:
    """Tells of one job; of its steps only now and then: whoever listens may share these cores.

    Args:
        job: Number of the job in the launch.
        listen: Is told.
    """

    def __init__(self, job: int, listen: Listener) -> None:
        self._job, self._listen = job, listen
        self._last_told_s = -math.inf

    def started(self) -> None:
        """Tell that training begins."""
        self._listen(Started(job=self._job))

    def progress(self, step: int, total_steps: int, loss: float) -> None:
        """Tell that *step* steps are done."""
        now = time.monotonic()
        if step == total_steps or now - self._last_told_s >= _TELL_EVERY_S:
            self._last_told_s = now
            self._listen(Progress(job=self._job, step=step, total_steps=total_steps, loss=loss))

    def evaluated(self, epoch: int, metric: str, value: float) -> None:
        """Tell what an evaluation gave."""
        self._listen(Evaluated(job=self._job, epoch=epoch, metric=metric, value=value))

    def finished(self, measurement: Measurement) -> None:
        """Tell the record of the job."""
        self._listen(Finished(job=self._job, measurement=measurement))
