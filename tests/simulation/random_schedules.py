"""Random schedules and sizes of their transfers, as hypothesis strategies.

Every strategy in `SCHEDULES` draws worlds of a few ranks.  Random transfers are drawn as one number
each, because drawing costs more time than simulating does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import hypothesis.strategies as st
import numpy as np

from dgc_topo.arrays import IntArray
from dgc_topo.schedule import Schedule, Step, beside, copy, fold, place, reduce, then
from dgc_topo.simulation import DenseSizes, Sizes, UnionSizes
from dgc_topo.simulation.step_sizes import Merging, StepSizes
from dgc_topo.topology import load_topology
from tests.strategies import ALL_REDUCE, GOSSIP

T = TypeVar("T")

MOST_RANKS = 7
CHUNKS = 3

#: Numerators of the kinds of transfers, over 2: add, replace, mix, and one that changes nothing.
KEEP, WEIGHT = np.array([2, 0, 1, 2]), np.array([2, 2, 1, 0])


def step_of(codes: list[int], world_size: int) -> Step:
    """Return the transfers that numbers stand for: two ranks, chunks and a kind each."""
    left, src = np.divmod(np.array(codes, np.int64), world_size)
    left, ahead = np.divmod(left, world_size - 1)
    left, chunk = np.divmod(left, CHUNKS - 1)
    kind, more = np.divmod(left, 2)
    dst = (src + 1 + ahead) % world_size
    return Step(src, dst, chunk, 1 + more, KEEP[kind % 4], WEIGHT[kind % 4], 2)


def some(things: st.SearchStrategy[T], least: int, most: int) -> st.SearchStrategy[list[T]]:
    """Lists of any length alike; those of `st.lists` are short."""
    return st.integers(least, most).flatmap(
        lambda length: st.lists(things, min_size=length, max_size=length)
    )


def free(world_size: int, most_steps: int = 6) -> st.SearchStrategy[Schedule]:
    """Any transfers: several of a pair, several pairs of a rank, ranks with nothing to do."""
    number = st.integers(0, world_size * (world_size - 1) * (CHUNKS - 1) * 2 * 4 - 1)
    return some(some(number, 0, 8), 1, most_steps).map(
        lambda steps: Schedule.from_steps(
            world_size, CHUNKS, [step_of(step, world_size) for step in steps], goal="part"
        )
    )


WORLDS = st.integers(2, MOST_RANKS)


@st.composite
def one_by_one(draw: st.DrawFn) -> Schedule:
    """Each rank sends to one other at most, and receives from one: swaps, cycles, lone pairs."""
    world_size = draw(WORLDS)
    ranks = np.arange(world_size)
    steps = []
    for to in draw(some(st.permutations(range(world_size)), 0, 6)):
        dst = np.array(to)
        moves = dst != ranks
        steps.append(reduce(ranks[moves], dst[moves]))
    return Schedule.from_steps(world_size, 1, steps, goal="part")


@st.composite
def chains(draw: st.DrawFn) -> Schedule:
    """A pipeline: chunk after chunk from rank to rank, to the end and perhaps back."""
    world_size, num_chunks = draw(WORLDS), draw(st.integers(1, 4))
    there = np.arange(world_size)
    legs = [there, there[::-1]][: draw(st.integers(1, 2))]
    steps: list[Step] = []
    for leg in legs:
        for number in range(num_chunks + world_size - 2):
            chunk = number - np.arange(world_size - 1)
            now = (chunk >= 0) & (chunk < num_chunks)
            steps.append(copy(leg[:-1][now], leg[1:][now], chunk[now]))
    return Schedule.from_steps(world_size, num_chunks, steps, goal="part")


@st.composite
def sub_worlds(draw: st.DrawFn) -> Schedule:
    """Groups that know nothing of each other, at the same time or in turn, and perhaps all."""
    sizes = draw(st.lists(st.integers(2, 3), min_size=2, max_size=3))
    world_size = sum(sizes) + draw(st.integers(0, 1))
    ranks = np.array(draw(st.permutations(range(world_size))))
    parts = []
    for size, end in zip(sizes, np.cumsum(sizes), strict=True):
        mine = np.sort(ranks[end - size : end])
        parts.append(place(draw(free(size, 3)), mine, world_size))
    together = draw(st.sampled_from([then, beside]))(*parts)
    return then(together, draw(free(world_size, 2))) if draw(st.booleans()) else together


@cache  # to find an installed topology takes longer than to simulate it
def shipped_schedule(number: int, world_size: int, iteration: int = 0) -> Schedule:
    name, options = [*ALL_REDUCE, *GOSSIP][number]
    return load_topology(name, options).schedule(world_size, iteration=iteration, seed=3)


SHIPPED = st.integers(0, len(ALL_REDUCE) + len(GOSSIP) - 1)


def shipped() -> st.SearchStrategy[Schedule]:
    """A built-in topology with its options."""
    return st.builds(shipped_schedule, SHIPPED, st.integers(2, 9), st.integers(0, 2))


@st.composite
def composed(draw: st.DrawFn) -> Schedule:
    """Built-in topologies one after the other, side by side, on some of the ranks, or folded."""
    world_size = draw(st.integers(2, 6))
    how = draw(st.sampled_from(["then", "beside", "place", "fold"]))
    one = shipped_schedule(draw(SHIPPED), world_size)
    if how == "fold":
        return fold(world_size, lambda power: shipped_schedule(2, power))  # sharded servers
    other = shipped_schedule(draw(SHIPPED), world_size)
    if how == "place":
        ranks = draw(st.permutations(range(world_size + 2)))[:world_size]
        one = place(one, np.sort(np.array(ranks)), world_size + 2)
        return then(one, draw(free(world_size + 2, 2)))
    return (then if how == "then" else beside)(one, other)


SCHEDULES: dict[str, st.SearchStrategy[Schedule]] = {
    "free": WORLDS.flatmap(free),
    "one by one": one_by_one(),
    "chains": chains(),
    "sub-worlds": sub_worlds(),
    "shipped": shipped(),
    "composed": composed(),
}


@dataclass(frozen=True)
class OwnSizes:
    """Bytes that differ from transfer to transfer, many of them zero; perhaps coded entries."""

    seed: int
    largest: float
    is_coded: bool

    def of_step(self, step_index: int, step: Step) -> StepSizes:
        rng = np.random.default_rng([self.seed, step_index])
        num_bytes = rng.choice([0.0, 1.0, self.largest, self.largest / 3], len(step))
        num_bytes *= rng.integers(1, 8, len(step))
        if not self.is_coded:
            return StepSizes(num_bytes)
        read: IntArray = rng.integers(0, 3, len(step))
        return StepSizes(num_bytes, lambda: Merging(num_bytes * read, read > 1))


BYTES = st.sampled_from([300.0, 0.0, 1.0, 5000.0, 7e6])


@st.composite
def sizes_for(draw: st.DrawFn, schedule: Schedule) -> Sizes:
    """Dense slices, sparse unions, or any bytes for each transfer."""
    how = draw(st.sampled_from(["dense", "own", "union"]))
    if how == "dense":
        return DenseSizes(draw(BYTES), schedule.num_chunks)
    if how == "own":
        return OwnSizes(draw(st.integers(0, 99)), draw(BYTES), draw(st.booleans()))
    return UnionSizes(
        schedule,
        length=1000,
        entries=draw(st.sampled_from([40.0, 0.0, 1.0, 1000.0])),
        union_exponent=draw(st.sampled_from([None, 0.0, 0.5, 1.0])),
        dense_bytes=draw(st.sampled_from([0.0, 60.0])),
    )


@st.composite
def schedules_and_sizes(
    draw: st.DrawFn, schedules: st.SearchStrategy[Schedule]
) -> tuple[Schedule, Sizes]:
    schedule = draw(schedules)
    return schedule, draw(sizes_for(schedule))
