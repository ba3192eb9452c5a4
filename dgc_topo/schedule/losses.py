"""Shares of what a rank loses from its partial sums that the final sum lacks.

A rank that rounds a partial sum loses something.  In a ring that is lost to the result, once; in a
doubling butterfly other ranks hold the same partial sum and lose the same, of which the result
lacks only one.  How much of a rank's chunk before a step goes into the result that rank 0 ends
with follows from the steps, backwards: ``dst = keep * dst + weight * src`` makes the share of
*src* grow by ``weight`` times that of *dst*, whose own share shrinks to ``keep`` of it.  At any
step the result is the sum of all ranks' chunks, each times its share.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from dgc_topo.arrays import FloatArray
from dgc_topo.schedule.order import turns
from dgc_topo.schedule.schedule import Schedule
from dgc_topo.schedule.step import Step


@lru_cache(maxsize=8)
def losses_of(schedule: Schedule) -> tuple[tuple[tuple[float, ...], ...], ...]:
    """Return the shares of what each rank rounds away, for an all-reduce.

    Returns:
        By rank, chunk and number of steps in which something has arrived for this chunk: the share
        of it when the rank first sends it then, and at last that of the result.
    """
    steps = list(schedule.steps())
    shares = _shares(schedule, steps)
    found: list[list[list[float]]] = [
        [[] for _ in range(schedule.num_chunks)] for _ in range(schedule.world_size)
    ]
    merges = np.zeros((schedule.world_size, schedule.num_chunks), np.int64)
    for step, share in zip(steps, shares, strict=False):
        cells = [(entry, chunk) for entry, chunk in turns(step, schedule.num_chunks)]
        for entry, chunk in cells:
            for sender, at in zip(step.src[entry].tolist(), chunk.tolist(), strict=True):
                _note(found[sender][at], int(merges[sender, at]), share[sender, at])
        if cells:  # the first turn has all places where something arrives
            entry, chunk = cells[0]
            merges[step.dst[entry], chunk] += 1
    for rank, chunks in enumerate(found):
        for at, noted in enumerate(chunks):
            _note(noted, int(merges[rank, at]), shares[-1][rank, at])
    return tuple(tuple(tuple(noted) for noted in chunks) for chunks in found)


def _shares(schedule: Schedule, steps: Sequence[Step]) -> list[FloatArray]:
    """Return how much of each rank's chunks before each step, and at last, is in the result."""
    ends = np.zeros((schedule.world_size, schedule.num_chunks))
    ends[0] = 1.0
    shares = [ends]
    for step in reversed(steps):
        after = shares[-1].copy()
        given = np.zeros_like(after)
        for entry, chunk in reversed(list(turns(step, schedule.num_chunks))):
            src, dst = step.src[entry], step.dst[entry]
            arrived = after[dst, chunk]
            np.add.at(given, (src, chunk), step.weight[entry] / step.denominator * arrived)
            after[dst, chunk] = step.keep[entry] / step.denominator * arrived
        shares.append(after + given)
    return shares[::-1]


def _note(noted: list[float], merges: int, share: float) -> None:
    """Note a share unless one is known; what is never sent is never rounded."""
    if len(noted) <= merges:
        noted += [0.0] * (merges - len(noted)) + [float(share)]
