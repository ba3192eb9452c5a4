"""What a run tells while it works: JSON objects, from rank 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from dgc_topo.results.measurement import Measurement


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
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
