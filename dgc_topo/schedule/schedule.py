"""The `Schedule`: steps of transfers between ranks, and ways to compose schedules.

All transfers of a step read the state *before* that step, so two ranks may swap a chunk.  A rank
waits only for its own transfers; there is no global barrier, so ranks may drift.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from html import escape
from typing import Literal, get_args

import numpy as np

from dgc_topo.arrays import IntArray
from dgc_topo.schedule.grid import Grid, grid_of
from dgc_topo.schedule.step import ScheduleError, Step, check_is_step, copy, gather, reduce

#: Promise of a schedule.  Stochastic: the rows (and columns) of its mixing matrix sum to 1.
Goal = Literal["all-reduce", "doubly-stochastic", "column-stochastic", "part"]

#: Most chunks of a buffer; the largest buffers have not many more elements.
MAX_CHUNKS = 2**31 - 1

#: Yields, step by step, at least every transfer that touches one of the given ranks.
StepsOf = Callable[[IntArray], Iterator[Step]]


@dataclass(frozen=True, slots=True)
class RankStep:
    """One rank's part in one step.

    Attributes:
        index: The step's number in the whole schedule.
        sends: Transfers whose source is this rank.
        receives: Transfers whose destination is this rank, in the order listed.
    """

    index: int
    sends: Step
    receives: Step


@dataclass(frozen=True, slots=True)
class Schedule:
    """A collective among *world_size* ranks over *num_chunks* chunks of one buffer.

    Attributes:
        world_size: Number of ranks.
        num_chunks: Number of chunks; where a chunk begins and ends is the payload's business.
        steps_of: Function of a sorted array of ranks that yields the steps lazily.  It must yield
            every step, holding at least the transfers that touch those ranks, in the same order
            whatever the ranks (see `dgc_topo.schedule.order`); transfers that touch none of them
            may be left out (then a rank's own view costs what the rank does).
        goal: Promise of the schedule; ``part`` is a building block that promises nothing.
        servers: Ranks that relay but contribute nothing of their own.

    Raises:
        ScheduleError: if a size is impossible, the goal is unknown, a server is not a rank, or
            all ranks are servers.

    Example:
        >>> swap = dt.Schedule.from_steps(2, 1, [dt.reduce([0, 1], [1, 0])])
        >>> dt.prove(swap)
        Proof(schedule with 2 ranks: all-reduce: ...)
    """

    world_size: int
    num_chunks: int
    steps_of: StepsOf
    goal: Goal = "all-reduce"
    servers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.world_size < 1 or not 1 <= self.num_chunks <= MAX_CHUNKS:
            raise ScheduleError(
                f"schedule of {self.world_size} ranks and {self.num_chunks} chunks: "
                f"expected at least one of each, and at most {MAX_CHUNKS} chunks"
            )
        if self.goal not in get_args(Goal):
            close = difflib.get_close_matches(str(self.goal), get_args(Goal), n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            expected = ", ".join(get_args(Goal))
            raise ScheduleError(f"goal {self.goal!r}: unknown{hint}, expected one of {expected}")
        object.__setattr__(self, "servers", tuple(self.servers))  # a list has no hash
        serving = set(self.servers)
        if not all(0 <= server < self.world_size for server in serving):
            raise ScheduleError(
                f"servers {self.servers}: expected ranks from 0 to {self.world_size - 1}"
            )
        if len(serving) == self.world_size:
            raise ScheduleError(f"servers {self.servers}: expected a rank that contributes as well")

    def __repr__(self) -> str:
        servers = f", servers {self.servers}" if self.servers else ""
        return f"Schedule({self.goal}, {self.world_size} ranks, {self.num_chunks} chunks{servers})"

    def _repr_html_(self) -> str:
        return f"{escape(repr(self))}{self.grid(most=16).to_html()}"

    @classmethod
    def from_steps(
        cls,
        world_size: int,
        num_chunks: int,
        steps: Iterable[Step],
        *,
        goal: Goal = "all-reduce",
        servers: tuple[int, ...] = (),
    ) -> Schedule:
        """Return a schedule of the given steps, kept in memory."""
        kept = tuple(steps)
        schedule = cls(world_size, num_chunks, lambda _: iter(kept), goal, servers)
        for _ in schedule.steps():  # check here rather than at the first use
            pass
        return schedule

    @property
    def contributors(self) -> IntArray:
        """Ranks whose input counts, shape (world_size - number of servers,)."""
        return np.setdiff1d(np.arange(self.world_size), np.asarray(self.servers, np.int64))

    def steps(self) -> Iterator[Step]:
        """Yield the steps of all ranks.

        Raises:
            ScheduleError: naming the first transfer that does not fit the schedule.
        """
        for index, step in enumerate(self.steps_of(np.arange(self.world_size))):
            self._check(index, step)
            yield step

    def grid(self, *, mark: tuple[int, int] | None = None, most: int = 12) -> Grid:
        """Return a table with a row per step and a column per rank: what each rank sends.

        Args:
            mark: A (step, rank) to point at; the table shows the steps and ranks around it.
            most: Most rows, and most ranks.
        """
        return grid_of(self.steps(), self.world_size, mark=mark, most=most)

    def for_rank(self, rank: int) -> Iterator[RankStep]:
        """Yield the steps of *rank*, leaving out the steps in which it does nothing.

        Raises:
            ScheduleError: if there is no such rank, or a transfer does not fit the schedule.
        """
        if not 0 <= rank < self.world_size:
            raise ScheduleError(f"rank {rank}: expected 0 to {self.world_size - 1}")
        for index, step in enumerate(self.steps_of(np.array([rank]))):
            self._check(index, step)
            sends, receives = step.src == rank, step.dst == rank
            if sends.any() or receives.any():
                yield RankStep(index, step.select(sends), step.select(receives))

    def _check(self, index: int, step: Step) -> None:
        check_is_step(index, step)
        outside = (
            (step.src >= self.world_size)
            | (step.dst >= self.world_size)
            | (step.count > self.num_chunks - step.chunk)  # their sum may exceed 64 bits
        )
        if outside.any():
            shape = f"{self.world_size} ranks x {self.num_chunks} chunks"
            raise ScheduleError(
                f"step {index}: {step[int(np.argmax(outside))]} does not fit {shape}"
            )


def then(*schedules: Schedule, goal: Goal = "part", servers: tuple[int, ...] = ()) -> Schedule:
    """Return the schedules one after the other, on chunks fine enough for all of them."""
    world_size = _common_world_size(schedules)
    num_chunks = math.lcm(*(schedule.num_chunks for schedule in schedules))
    parts = [refine(schedule, num_chunks // schedule.num_chunks) for schedule in schedules]

    def steps_of(ranks: IntArray) -> Iterator[Step]:
        for part in parts:
            yield from part.steps_of(ranks)

    return Schedule(world_size, num_chunks, steps_of, goal, servers)


def beside(*schedules: Schedule, goal: Goal = "part", servers: tuple[int, ...] = ()) -> Schedule:
    """Return the schedules running at the same time, each on an equal share of the buffer."""
    world_size = _common_world_size(schedules)
    share = math.lcm(*(schedule.num_chunks for schedule in schedules))
    parts = [refine(schedule, share // schedule.num_chunks) for schedule in schedules]

    def steps_of(ranks: IntArray) -> Iterator[Step]:
        running = [
            (offset * share, iter(part.steps_of(ranks))) for offset, part in enumerate(parts)
        ]
        while True:
            now = [(offset, next(steps, None)) for offset, steps in running]
            moved = [replace(s, chunk=s.chunk + offset) for offset, s in now if s is not None]
            if not moved:
                return
            yield gather(moved)

    return Schedule(world_size, share * len(parts), steps_of, goal, servers)


def refine(schedule: Schedule, factor: int) -> Schedule:
    """Return the same schedule with every chunk cut into *factor* chunks."""
    if factor == 1:
        return schedule

    def steps_of(ranks: IntArray) -> Iterator[Step]:
        for step in schedule.steps_of(ranks):
            yield replace(step, chunk=step.chunk * factor, count=step.count * factor)

    return replace(schedule, num_chunks=schedule.num_chunks * factor, steps_of=steps_of)


def place(schedule: Schedule, ranks: IntArray, world_size: int) -> Schedule:
    """Return *schedule* run by the given *ranks* (rank ``i`` becomes ``ranks[i]``).

    Args:
        schedule: A schedule of ``len(ranks)`` ranks.
        ranks: Its ranks in the larger world, sorted and distinct.
        world_size: Size of the larger world; the other ranks do nothing.
    """
    if len(ranks) != schedule.world_size or (np.diff(ranks) <= 0).any():
        raise ScheduleError(
            f"place: {len(ranks)} ranks for a schedule of {schedule.world_size}, "
            "expected as many, sorted and distinct"
        )

    def steps_of(wanted: IntArray) -> Iterator[Step]:
        inner = np.searchsorted(ranks, np.intersect1d(ranks, wanted, assume_unique=True))
        for step in schedule.steps_of(inner):
            yield replace(step, src=ranks[step.src], dst=ranks[step.dst])

    return Schedule(world_size, schedule.num_chunks, steps_of, "part")


def fold(world_size: int, of_power: Callable[[int], Schedule]) -> Schedule:
    """Return an all-reduce for any world size, made from all-reduces for powers of two.

    With p the largest power of two in *world_size*, rank p + i adds its buffer to rank i's before
    and takes the result from it after.

    Args:
        world_size: Any number of ranks.
        of_power: Function that builds the all-reduce of a power of two.
    """
    power = 1 << (world_size.bit_length() - 1)
    inner = of_power(power)
    if power == world_size:
        return inner

    def between(ranks: IntArray) -> IntArray:
        extra = np.union1d(ranks[ranks >= power], ranks[ranks < world_size - power] + power)
        return extra.astype(np.int64)

    def fold_in(ranks: IntArray) -> Iterator[Step]:
        yield reduce(between(ranks), between(ranks) - power)

    def fold_out(ranks: IntArray) -> Iterator[Step]:
        yield copy(between(ranks) - power, between(ranks))

    return then(
        Schedule(world_size, 1, fold_in, "part"),
        place(inner, np.arange(power), world_size),
        Schedule(world_size, 1, fold_out, "part"),
        goal="all-reduce",
    )


def _common_world_size(schedules: tuple[Schedule, ...]) -> int:
    sizes = sorted({schedule.world_size for schedule in schedules})
    if len(sizes) != 1:
        raise ScheduleError(f"composition of world sizes {sizes}: expected one size")
    return sizes[0]
