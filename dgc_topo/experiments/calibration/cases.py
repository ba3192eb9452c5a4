"""What is measured on real processes and predicted for them: the same case, described once.

A case is a schedule and what flows over it, run several times in a row.  Probes are cases of two
ranks, or of pairs and fans of them: point-to-point facts, from which a network is calibrated.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from dgc_topo.schedule import Schedule, Step, copy, mix, reduce
from dgc_topo.sizes import FLOAT_BYTES, entries_of
from dgc_topo.topology import Topology

ProbeKind = Literal[
    "ping-pong",
    "rally",
    "relay",
    "exchange",
    "reducing-exchange",
    "mixing-exchange",
    "incast",
    "reducing-incast",
    "fan-out",
    "pairs",
    "reducing-pairs",
    "rallying-pairs",
]

_INDEX_BYTES = 8  # in memory; the wire has other ways
_PAIR = 2
_RALLIES = 4  #: there and back


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Probe(_Record):
    """A point-to-point pattern.

    ``ping-pong``: rank 0 to rank 1 and back, so a run is two messages one after the other.
    ``rally``: four times there and back.  ``relay``: as ping-pong, among more ranks: from each to
    the next, and from the last to rank 0.
    ``exchange``: ranks 0 and 1 send each other half a buffer, other halves, so that what arrives
    can be received where it belongs.  ``reducing-exchange``: the same, and both add up.
    ``mixing-exchange``: they take the mean, as gossip does.  ``incast``: every other rank sends a
    chunk to rank 0.  ``reducing-incast``: every other rank sends all of its buffer, and rank 0 adds
    it up.  ``fan-out``: every other rank gets one from it.  ``pairs``: ranks 0 and 1, 2 and 3, ...
    all exchange at once, which on one machine have to share its cores.  ``reducing-pairs``: the
    same, and all add up.  ``rallying-pairs``: eight times in a run, halves in turn.
    """

    kind: ProbeKind

    def schedule(self, world_size: int) -> Schedule:
        """Return one run.

        Raises:
            ValueError: if *world_size* does not fit the kind.
        """
        is_of_two = self.kind in {"ping-pong", "rally"} or self.kind.endswith("exchange")
        is_odd = self.kind.endswith("pairs") and world_size % _PAIR
        if world_size < _PAIR or is_odd or (is_of_two and world_size > _PAIR):
            raise ValueError(f"probe {self.kind}: world_size {world_size} does not fit it")
        num_chunks, steps = _steps_of(self.kind, world_size)
        return Schedule.from_steps(world_size, num_chunks, steps, goal="part")


def _steps_of(kind: ProbeKind, world_size: int) -> tuple[int, list[Step]]:
    """Return how many chunks a probe has, and its steps."""
    others = np.arange(1, world_size)
    hub = np.zeros_like(others)
    if kind in {"ping-pong", "rally", "relay"}:
        hops = (_RALLIES if kind == "rally" else 1) * world_size
        return 1, [copy(hop % world_size, (hop + 1) % world_size) for hop in range(hops)]
    if kind == "reducing-incast":
        return 1, [reduce(others, hub)]
    if kind in {"incast", "fan-out"}:
        ends = (others, hub) if kind == "incast" else (hub, others)
        return len(others), [copy(*ends, others - 1)]
    first = np.arange(0, world_size, _PAIR)
    here, there = np.concatenate([first, first + 1]), np.concatenate([first + 1, first])
    half = here % _PAIR
    if kind in {"reducing-exchange", "reducing-pairs"}:
        return _PAIR, [reduce(here, there, half)]
    if kind == "mixing-exchange":
        return _PAIR, [mix(here, there, half, weight=1, denominator=_PAIR)]
    times = 2 * _RALLIES if kind == "rallying-pairs" else 1
    return _PAIR, [copy(here, there, (half + time) % _PAIR) for time in range(times)]


class Collective(_Record):
    """A topology's schedule."""

    topology: Topology

    def schedule(self, world_size: int) -> Schedule:
        """Return one run."""
        return self.topology.schedule(world_size)


class DenseBuffer(_Record):
    """A dense float32 buffer."""

    kind: Literal["dense"] = "dense"
    num_elements: int = Field(ge=1)

    @property
    def num_bytes(self) -> int:
        """Bytes of the buffer."""
        return FLOAT_BYTES * self.num_elements

    @property
    def held_bytes(self) -> int:
        """Bytes that a process holds in memory for it."""
        return self.num_bytes


class SparseBuffer(_Record):
    """Entries drawn at random from a buffer of *num_elements*, other ones on every rank."""

    kind: Literal["sparse"] = "sparse"
    num_elements: int = Field(ge=1)
    density: float = Field(gt=0, le=1)

    @property
    def num_entries(self) -> int:
        """Entries of each rank."""
        return entries_of(self.num_elements, self.density)

    @property
    def held_bytes(self) -> int:
        """Bytes that a process holds in memory for its own entries."""
        return (_INDEX_BYTES + FLOAT_BYTES) * self.num_entries


Buffer = Annotated[DenseBuffer | SparseBuffer, Field(discriminator="kind")]


class Case(_Record):
    """A pattern among ranks, what flows over it, and how often in a row."""

    pattern: Probe | Collective
    world_size: int = Field(ge=2)
    buffer: Buffer
    runs: int = Field(default=1, ge=1, description="in a row, timed together")

    @model_validator(mode="after")
    def _has_a_schedule(self) -> Self:
        self.pattern.schedule(self.world_size)
        return self

    def schedule(self) -> Schedule:
        """Return one run's schedule."""
        return self.pattern.schedule(self.world_size)

    @property
    def label(self) -> str:
        """What tables call it."""
        if isinstance(self.pattern, Probe):
            return self.pattern.kind
        name, options = self.pattern.topology.name, self.pattern.topology.plain_options
        given = ", ".join(f"{key}={value}" for key, value in options.items())
        return f"{name} ({given})" if given else name
