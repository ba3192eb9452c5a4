"""Cases: runs that are measured on real processes and predicted, described once for both.

A case is a schedule, the buffer that it moves, and the number of runs in a row.  Probes are cases
of two ranks, or of pairs and fans of ranks.  They measure point-to-point messages from a few bytes
to 64 MB, and a network is calibrated from them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
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

_INDEX_BYTES = 8  # bytes in memory; messages code them in other ways
_PAIR = 2
_RALLIES = 4  #: round trips of a run

_KB, _MB = 1000, 1_000_000
_BITS = 8
_FEWEST_HOSTS = 2

_PING_PONG_BYTES = (4, _KB, 4 * _KB, 16 * _KB, 64 * _KB, 256 * _KB, _MB, 4 * _MB, 16 * _MB)
_LARGEST_BYTES = 64 * _MB
_RELAY_BYTES = (4 * _KB, 64 * _KB, _MB)
_OTHER_BYTES = (4 * _KB, 64 * _KB, 256 * _KB, _MB, 8 * _MB)
_SPARSE_ELEMENTS = (
    100_000,
    1_000_000,
    4_000_000,
    12_000_000,
    30_000_000,
)  #: elements per entry: 1 % are sent
_SPARSE_DENSITY = 0.01
_EXCHANGES: tuple[ProbeKind, ...] = ("exchange", "reducing-exchange", "mixing-exchange")

#: Total time of a short run's repetitions.
_BLOCK_S = 0.06
_MOST_RUNS = 40
_GUESSED_S = 300e-6  # per message
_GUESSED_BYTES_PER_S = 1.5e9  # of unshaped links


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Probe(_Record):
    """A point-to-point pattern.

    ``ping-pong``: rank 0 to rank 1 and back; the two messages follow each other.
    ``rally``: four times there and back.
    ``relay``: like ping-pong among more ranks: each sends to the next, and the last to rank 0.
    ``exchange``: ranks 0 and 1 send each other different halves of a buffer, so that each half
    can be received at its place.
    ``reducing-exchange``: the same, and both ranks add.
    ``mixing-exchange``: both ranks take the mean, as gossip does.
    ``incast``: every other rank sends a chunk to rank 0.
    ``reducing-incast``: every other rank sends its whole buffer, and rank 0 adds them up.
    ``fan-out``: rank 0 sends a chunk to every other rank.
    ``pairs``: ranks 0 and 1, 2 and 3, ... all exchange at once; on one machine they share its
    cores.
    ``reducing-pairs``: the same, and all ranks add.
    ``rallying-pairs``: eight exchanges in a run, of alternating halves.
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
    """Return a probe's number of chunks, and its steps."""
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
        """Return the schedule of one run."""
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
        """Bytes that a process holds in memory for the buffer."""
        return self.num_bytes


class SparseBuffer(_Record):
    """Entries drawn at random from a buffer of *num_elements*; each rank draws its own."""

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
    """A pattern among ranks, the buffer that it moves, and the number of runs in a row."""

    pattern: Probe | Collective
    world_size: int = Field(ge=2)
    buffer: Buffer
    runs: int = Field(default=1, ge=1, description="in a row, timed together")

    @model_validator(mode="after")
    def _has_a_schedule(self) -> Self:
        self.pattern.schedule(self.world_size)
        return self

    def schedule(self) -> Schedule:
        """Schedule of one run."""
        return self.pattern.schedule(self.world_size)

    @property
    def label(self) -> str:
        """Name in tables."""
        if isinstance(self.pattern, Probe):
            return self.pattern.kind
        name, options = self.pattern.topology.name, self.pattern.topology.plain_options
        given = ", ".join(f"{key}={value}" for key, value in options.items())
        return f"{name} ({given})" if given else name


def probes(num_hosts: int, rate_bits_per_s: float | None) -> list[Case]:
    """Return the probes for links of one rate.

    Args:
        num_hosts: Number of hosts; at least 2.
        rate_bits_per_s: Rate of the links; decides how often short runs are repeated.  None is
            unshaped.

    Raises:
        ValueError: if there are fewer hosts.
    """
    if num_hosts < _FEWEST_HOSTS:
        raise ValueError(f"calibration: {num_hosts} hosts, expected at least {_FEWEST_HOSTS}")
    return list(_probes(num_hosts, rate_bits_per_s))


def _probes(num_hosts: int, rate: float | None) -> Iterator[Case]:
    for num_bytes in (*_PING_PONG_BYTES, _LARGEST_BYTES):
        yield _dense("ping-pong", 2, num_bytes, rate, messages=2)
    fans = [peers + 1 for peers in sorted({2, 4, num_hosts - 1}) if 1 < peers < num_hosts]
    for num_bytes, size in product(_RELAY_BYTES, fans):
        yield _dense("relay", size, num_bytes, rate, messages=size)
    for num_bytes in _OTHER_BYTES:
        for kind in _EXCHANGES:
            yield _dense(kind, 2, num_bytes, rate)
        for size in fans:
            yield _dense("incast", size, num_bytes, rate)
            yield _dense("fan-out", size, num_bytes, rate)
        yield _dense("reducing-incast", fans[-1] if fans else 2, num_bytes / 4, rate)
        for size in (size for size in (4, 8, 16, 32, 64) if size <= num_hosts):
            yield _dense("pairs", size, num_bytes, rate)
    # Costs of starting a run and of each step, where no process ever sleeps.
    for num_bytes, size in product(_RELAY_BYTES, sorted({2, num_hosts - num_hosts % 2})):
        yield _dense("rallying-pairs", size, num_bytes, rate, messages=8)
    yield from _sparse(num_hosts)


def _sparse(num_hosts: int) -> Iterator[Case]:
    """Yield sparse cases: ranks that code and add one after the other, or all at once.

    Each is run only once in a row, as in a training step, so that caches are cold.
    """
    some: list[tuple[ProbeKind, int]] = [("ping-pong", 2), ("rally", 2), ("reducing-incast", 2)]
    if num_hosts > _FEWEST_HOSTS:
        some.append(("reducing-incast", min(4, num_hosts)))  # entries from three ranks are sorted
    crowd = num_hosts - num_hosts % 2
    if crowd > _FEWEST_HOSTS:
        some += [("pairs", crowd), ("reducing-pairs", crowd)]
    for num_elements, (kind, size) in product(_SPARSE_ELEMENTS, some):
        buffer = SparseBuffer(num_elements=num_elements, density=_SPARSE_DENSITY)
        yield Case(pattern=Probe(kind=kind), world_size=size, buffer=buffer, runs=1)


def _dense(
    kind: ProbeKind, world_size: int, num_bytes: float, rate: float | None, messages: int = 1
) -> Case:
    halves = 2 if kind in {*_EXCHANGES, "pairs", "rallying-pairs"} else 1
    buffer = DenseBuffer(num_elements=max(1, int(halves * num_bytes / FLOAT_BYTES)))
    runs = runs_in_a_row(messages, num_bytes, rate)
    return Case(pattern=Probe(kind=kind), world_size=world_size, buffer=buffer, runs=runs)


def runs_in_a_row(messages: int, num_bytes: float, rate_bits_per_s: float | None) -> int:
    """Return the number of runs to time in a row, each of *messages* messages in sequence."""
    bandwidth = _GUESSED_BYTES_PER_S if rate_bits_per_s is None else rate_bits_per_s / _BITS
    one_s = messages * (_GUESSED_S + num_bytes / bandwidth)
    return max(1, min(_MOST_RUNS, round(_BLOCK_S / one_s)))
