"""Benchmark of all-reduces: our topologies beside `torch.distributed.all_reduce`, same hosts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from statistics import median, quantiles
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from dgc_topo.plugins import known_topologies
from dgc_topo.topology import OptionValue, Topology, load_topology
from dgc_topo.units import bytes_from
from dgc_topo.workers import Hosts, Session

GLOO = "gloo"  #: `torch.distributed.all_reduce`
ELEMENT_BYTES = 4
_STEP = 10
_MAX_BYTES = 2**34
_MIN_ROUNDS, _MAX_ROUNDS = 3, 100

#: Options that turn a topology into another algorithm; measured in addition to the defaults.
_VARIANTS: Mapping[str, Sequence[Mapping[str, OptionValue]]] = {
    "butterfly": [{"algorithm": "doubling"}],
    "ring": [{"segments": 2}, {"segments": 4}],
}

_STREAM_BYTES = 10_000_000
_SLOWEST = 1.5


class BenchPlan(BaseModel):
    """One measurement, for one world size."""

    model_config = ConfigDict(frozen=True)

    topologies: list[Topology]
    sizes: list[int] = Field(description="bytes of the buffer")
    stream_bytes: int = Field(description="bytes of the one-way stream")
    budget_s: float = Field(description="seconds that the rounds of one size are to take")
    slowest: float = Field(description="a way that takes so many times as long as Gloo runs once")

    def num_rounds(self, round_s: float) -> int:
        """Return the number of runs of each way, if one round of all ways takes *round_s*."""
        return max(_MIN_ROUNDS, min(_MAX_ROUNDS, int(self.budget_s / round_s)))


def sizes_from(text: str) -> list[int]:
    """Return the bytes of every buffer, ascending.

    Args:
        text: Sizes such as ``1kB,1MB``, or ``1kB:40MB`` for steps of a factor 10 from the first
            one on, and the last.

    Raises:
        ValueError: if *text* has another form, or a size is not a multiple of 4 bytes (float32).
    """
    sizes: set[int] = set()
    for part in text.split(","):
        low, colon, high = part.partition(":")
        size = _size(low)
        last = _size(high) if colon else size
        if last < size:
            raise ValueError(f"--bytes {part!r}: expected the smaller size first")
        while size < last:
            sizes.add(size)
            size *= _STEP
        sizes.add(last)
    return sorted(sizes)


def _size(text: str) -> int:
    size = bytes_from(text, "--bytes")
    if not 0 < size <= _MAX_BYTES or size % ELEMENT_BYTES:
        raise ValueError(
            f"--bytes {text!r}: expected a multiple of {ELEMENT_BYTES} bytes, above 0 and at most "
            f"{_MAX_BYTES}"
        )
    return int(size)


def topologies_from(texts: Sequence[str], world_size: int) -> list[Topology]:
    """Return the topologies called ``name`` or ``name:key=value,key=value``.

    Args:
        texts: Empty for all installed ones that are all-reduces of all their ranks.
        world_size: Number of ranks.

    Raises:
        ValueError: if one is unknown, can't run, or isn't an all-reduce of all its ranks.
    """
    if not texts:
        everything = [
            load_topology(name, options)
            for name in known_topologies()
            for options in ({}, *_VARIANTS.get(name, ()))
        ]
        return [topology for topology in everything if _sums(topology, world_size)]
    chosen = [load_topology(text) for text in texts]
    for topology in chosen:
        if not _sums(topology, world_size):
            raise ValueError(
                f"--topology {topology.label}: expected an all-reduce of all its ranks"
            )
    return chosen


def _sums(topology: Topology, world_size: int) -> bool:
    schedule = topology.schedule(world_size)
    return schedule.goal == "all-reduce" and not schedule.servers


class CollectiveRow(BaseModel):
    """Measured time of one way to all-reduce at one size; the ways of one run took turns."""

    model_config = ConfigDict(frozen=True)

    network: str
    world_size: int
    size_bytes: int
    way: str = Field(description="'gloo' for torch's own, or the topology")
    rounds: int = Field(description="1 for a way far slower than Gloo")
    time_s: float = Field(description="median over rounds of the slowest rank's time")
    spread_s: float = Field(description="between the quartiles")
    goodput_bytes_per_s: float = Field(description="of one stream, measured in this run")
    load: float = Field(description="load average over a minute, as the run began")

    @property
    def algbw_bytes_per_s(self) -> float:
        """Algorithm bandwidth: bytes of the buffer over the time."""
        return self.size_bytes / self.time_s

    @property
    def busbw_bytes_per_s(self) -> float:
        """Bandwidth to compare with a link's: algbw * 2(p-1)/p (nccl-tests, PERFORMANCE.md)."""
        return self.algbw_bytes_per_s * 2 * (self.world_size - 1) / self.world_size

    @property
    def bound_s(self) -> float:
        """Seconds that no all-reduce can beat on such links: 2(p-1)/p n / goodput."""
        factor = 2 * (self.world_size - 1) / self.world_size
        return factor * self.size_bytes / self.goodput_bytes_per_s

    def as_json(self) -> dict[str, Any]:
        """Return the record with the numbers derived from it."""
        return self.model_dump() | {
            "algbw_bytes_per_s": self.algbw_bytes_per_s,
            "busbw_bytes_per_s": self.busbw_bytes_per_s,
            "bound_s": self.bound_s,
        }


def bench_collectives(
    hosts: Hosts,
    world_sizes: Sequence[int],
    sizes: Sequence[int],
    topologies: Sequence[str] = (),
    budget_s: float = 5.0,
) -> Iterator[CollectiveRow]:
    """Yield one row per way and size; the rows of a world size come once it is measured.

    Args:
        hosts: Hosts, already running.
        world_sizes: Numbers of ranks.
        sizes: Bytes of the buffer, multiples of 4.
        topologies: Texts for `topologies_from`; by default all that are all-reduces.
        budget_s: Seconds for the rounds of one size, unless 3 rounds take longer.

    Raises:
        ValueError: if a topology can't be measured, or *world_sizes* don't fit the hosts.
        LaunchError: if a worker fails, for example because a result is wrong.
    """
    plans = {n: _plan(topologies_from(topologies, n), sizes, budget_s) for n in world_sizes}
    with Session(hosts, max(world_sizes)) as session:
        for world_size, plan in plans.items():
            load = os.getloadavg()[0]
            argument = plan.model_dump(mode="json")
            answers = session.call(
                "dgc_topo.experiments.bench.workers:measure", argument, world_size=world_size
            )
            yield from _rows(hosts.name, world_size, sizes, answers[0], load)


def best(rows: Sequence[CollectiveRow]) -> tuple[CollectiveRow, CollectiveRow]:
    """Return our fastest row and Gloo's row, for one size and world size."""
    ours = min((row for row in rows if row.way != GLOO), key=lambda row: row.time_s)
    return ours, next(row for row in rows if row.way == GLOO)


def _plan(topologies: Sequence[Topology], sizes: Sequence[int], budget_s: float) -> BenchPlan:
    return BenchPlan(
        topologies=list(topologies),
        sizes=list(sizes),
        stream_bytes=min(_STREAM_BYTES, max(sizes)),
        budget_s=budget_s,
        slowest=_SLOWEST,
    )


def _rows(
    network: str, world_size: int, sizes: Sequence[int], answer: Mapping[str, Any], load: float
) -> list[CollectiveRow]:
    return [
        CollectiveRow(
            network=network,
            world_size=world_size,
            size_bytes=size,
            way=way,
            rounds=len(times),
            time_s=median(times),
            spread_s=_spread(times),
            goodput_bytes_per_s=answer["goodput_bytes_per_s"],
            load=load,
        )
        for size, by_way in zip(sizes, answer["times_s"], strict=True)
        for way, times in by_way.items()
    ]


def _spread(times: Sequence[float]) -> float:
    if len(times) == 1:
        return 0.0
    low, _, high = quantiles(times, n=4)
    return high - low
