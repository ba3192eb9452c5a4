"""Gossip among survivors: a schedule of mixing without the ranks that are gone.

What a lost rank would have passed on goes directly from those who gave it to those who took it::

    W' = W[s, s] + W[s, l] (1 - W[l, l])^-1 W[l, s]        s: survivors, l: the lost

This is the stochastic complement (Meyer, "Stochastic complementation, uncoupling Markov chains, and
the theory of nearly reducible systems", SIAM Review 31, 1989): the ranks that a value visits in W,
with the visits to the lost left out.  Rows and columns that summed to 1 still do, symmetric weights
stay symmetric, and ranks that reached each other still do: a ring closes over its gap.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

import numpy as np

from dgc_topo.arrays import IntArray
from dgc_topo.schedule.schedule import Goal, Schedule
from dgc_topo.schedule.step import MOST, ScheduleError, Step, mix
from dgc_topo.schedule.weights import Weights, follow

_MIXING: frozenset[Goal] = frozenset({"doubly-stochastic", "column-stochastic"})

#: Weights other than 0, by the rank that takes and the rank that gives.
Rows = dict[int, dict[int, Fraction]]


def without(schedule: Schedule, lost: Iterable[int]) -> Schedule:
    """Return a schedule of gossip among the ranks that are left, in one step.

    Args:
        schedule: Mixes, doubly or column stochastic.
        lost: Ranks that are gone.

    Returns:
        A schedule with the same promise for the survivors; its rank i is the i-th of them.

    Raises:
        ScheduleError: if the schedule does not mix, a rank is none of its or nobody is left, chunks
            mix differently, or the weights have no common denominator below 2**62.
    """
    left = survivors(schedule.world_size, lost)
    gone = sorted(set(range(schedule.world_size)) - set(left))
    where = f"without ranks {gone}"
    if schedule.goal not in _MIXING:
        raise ScheduleError(
            f"{where}: the schedule is {schedule.goal}, expected one of gossip: some ranks have "
            "summed what a lost one gave, and others have not; build the topology for fewer ranks"
        )
    rows = rows_of(schedule, where)
    for rank in gone:
        _take_out(rows, rank)
    step = step_of_rows(rows, left, schedule.num_chunks, where)

    def steps_of(ranks: IntArray) -> Iterator[Step]:
        if len(left) > 1:
            yield step.select(np.isin(step.src, ranks) | np.isin(step.dst, ranks))

    return Schedule(len(left), schedule.num_chunks, steps_of, goal=schedule.goal)


def survivors(world_size: int, lost: Iterable[int]) -> list[int]:
    """Return the ranks that are left, rising.

    Raises:
        ScheduleError: if a lost rank is none of the world's, or nobody is left.
    """
    gone = set(lost)
    if not gone <= set(range(world_size)):
        raise ScheduleError(f"without ranks {sorted(gone)}: expected ranks 0 to {world_size - 1}")
    if len(gone) == world_size:
        raise ScheduleError(f"without ranks {sorted(gone)}: expected one of {world_size} to remain")
    return [rank for rank in range(world_size) if rank not in gone]


def rows_of(schedule: Schedule, where: str) -> Rows:
    """Return the weights of a whole run of the schedule.

    Raises:
        ScheduleError: if chunks mix differently.
    """
    first: Weights | None = None
    for _, weights in follow(schedule):
        first = first or weights
        expected, found = first.numerators[:, :1], weights.numerators
        if weights.denominator != first.denominator or (expected != found).any():
            raise ScheduleError(f"{where}: chunks mix differently, expected all alike")
    assert first is not None  # a schedule has at least one chunk
    matrix, denominator = first.matrix(), first.denominator
    return {
        rank: {
            other: Fraction(int(row[other]), denominator) for other in np.flatnonzero(row).tolist()
        }
        for rank, row in enumerate(matrix)
    }


def _take_out(rows: Rows, rank: int) -> None:
    """Take a rank out of the weights: one step of Gaussian elimination, in exact numbers.

    Whatever the order, taking out one rank after the other gives the complement of all.
    """
    given = rows.pop(rank)
    own = given.pop(rank, Fraction(0))
    for row in rows.values():
        # A rank that keeps all of its own gives nothing, and takes nothing.
        if taken := row.pop(rank, None):
            for source, share in given.items():
                row[source] = row.get(source, Fraction(0)) + taken * share / (1 - own)


def step_of_rows(rows: Rows, left: Sequence[int], num_chunks: int, where: str) -> Step:
    """Return the step with the weights of the ranks that are left.

    Raises:
        ScheduleError: if they have no common denominator below 2**62.
    """
    weights = [share for row in rows.values() for share in row.values()]
    denominator = math.lcm(*(share.denominator for share in weights))
    if denominator > MOST:
        raise ScheduleError(
            f"{where}: weights with the denominator {denominator:.3g}, expected below 2**62"
        )
    number = {rank: at for at, rank in enumerate(left)}
    entries = [
        (number[source], number[rank], int(share * denominator))
        for rank, row in rows.items()
        for source, share in sorted(row.items())
        if source != rank
    ]
    src, dst, weight = np.array(entries, np.int64).reshape(-1, 3).T.copy()
    own = np.array([int(rows[rank].get(rank, 0) * denominator) for rank in left], np.int64)
    return mixing(src, dst, weight, own, denominator=denominator, count=num_chunks)


def mixing(
    src: IntArray, dst: IntArray, weight: IntArray, own: IntArray, *, denominator: int, count: int
) -> Step:
    """Return the step after which each rank holds a weighted sum of its own and others' values.

    Args:
        src: Sending rank of each message; messages are sorted by receiver.
        dst: Receiving rank of each.
        weight: Numerator of the sender's share in the receiver's sum.
        own: Numerator of each rank's own share, by rank.
        denominator: Divisor of all of them.
        count: Number of chunks of the buffer.
    """
    # A receiver's first arrival brings its own share in, the others then add to it.
    first = np.ones(len(dst), bool)
    first[1:] = dst[1:] != dst[:-1]
    keep = np.where(first, own[dst], denominator)
    return mix(src, dst, count=count, weight=weight, keep=keep, denominator=denominator)
