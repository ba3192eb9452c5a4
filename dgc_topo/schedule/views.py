"""Checks that each rank's own steps agree with the steps of the whole schedule.

A proof reads the steps of all ranks; a run reads those of one rank.  If a schedule makes the two in
different ways, it could be proved and still hang or compute something else.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import NoReturn

import numpy as np

from dgc_topo.arrays import IntArray
from dgc_topo.schedule.schedule import RankStep, Schedule
from dgc_topo.schedule.step import ScheduleError, Step, Transfer

#: Most steps of single ranks to compare; in larger schedules only some ranks are compared.
_RANK_STEPS = 1 << 11
_LEAST_RANKS = 4
_WHOLE_ITERATIONS = 2


def check_views(schedule: Schedule, *, iteration: int = 0) -> None:
    """Prove that ranks' own steps are those of the whole schedule, transfer by transfer, in order.

    All ranks are compared if ranks times steps are at most 2048 (a ring of 32).  In a larger
    schedule, and from the third iteration on, servers and some ranks spread evenly from the first
    to the last are compared: as many as fit that number of steps, and at least 4.

    Args:
        schedule: The schedule that is proved.
        iteration: Its iteration.

    Raises:
        ScheduleError: naming the rank, the step and the first transfer that differs.
    """
    views = [(rank, schedule.for_rank(rank)) for rank in _compared(schedule, iteration)]
    following = [next(view, None) for _, view in views]
    for index, step in enumerate(schedule.steps()):
        for place, (rank, view) in enumerate(views):
            found = following[place]
            if found is not None and found.index == index:
                following[place] = next(view, None)
                _compare(rank, index, step, found)
            elif (missed := (step.src == rank) | (step.dst == rank)).any():
                _refuse(rank, index, None, step[int(np.argmax(missed))])
    for (rank, _), found in zip(views, following, strict=True):
        if found is not None:
            _refuse(rank, found.index, next(iter([*found.sends, *found.receives])), None)


def check_made_alike(where: str, first: Schedule, again: Schedule) -> None:
    """Refuse a topology that makes other steps when it is built again, as every rank does.

    Raises:
        ScheduleError: naming *where*, the step and the first transfer that differs.
    """
    if first.num_chunks != again.num_chunks:
        _refuse_again(where, f"{first.num_chunks} chunks", f"{again.num_chunks} chunks")
    for index, (one, other) in enumerate(zip_longest(first.steps(), again.steps())):
        if one is None or other is None or not same_transfers(one, other):
            for before, now in zip_longest(one or (), other or ()):
                if before != now:
                    _refuse_again(where, f"step {index}: {_text(before)}", _text(now))


def _refuse_again(where: str, before: str, now: str) -> NoReturn:
    raise ScheduleError(
        f"{where}: {before}, and {now} when made again; expected the same each time, as every rank "
        "makes its own: draw from the arguments `seed` and `iteration` alone"
    )


def _compared(schedule: Schedule, iteration: int) -> list[int]:
    n, count = schedule.world_size, _LEAST_RANKS
    if iteration < _WHOLE_ITERATIONS:
        count = max(count, _RANK_STEPS // max(1, sum(1 for _ in schedule.steps())))
    spread: IntArray = np.linspace(0, n - 1, min(n, count)).astype(np.int64)
    return sorted({*spread.tolist(), *schedule.servers[:count]})


def _compare(rank: int, index: int, step: Step, found: RankStep) -> None:
    for ends, own in ((step.src, found.sends), (step.dst, found.receives)):
        whole = step.select(ends == rank)
        if not same_transfers(whole, own):
            for expected, told in zip_longest(whole, own):
                if expected != told:
                    _refuse(rank, index, told, expected)


def _refuse(rank: int, index: int, told: Transfer | None, expected: Transfer | None) -> NoReturn:
    raise ScheduleError(
        f"rank {rank}, step {index}: steps_of([{rank}]) has {_text(told)}, expected "
        f"{_text(expected)}, as steps_of yields for all ranks"
    )


def same_transfers(one: Step, other: Step) -> bool:
    """Return True if two steps list the same transfers in the same order."""
    if one.denominator != other.denominator:
        return list(one) == list(other)
    names = ("src", "dst", "chunk", "count", "keep", "weight")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def _text(transfer: Transfer | None) -> str:
    if transfer is None:
        return "no transfer"
    return f"{transfer} (keep {transfer.keep}, weight {transfer.weight})"
