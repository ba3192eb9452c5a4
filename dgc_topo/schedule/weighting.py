"""Weighted contributions: a schedule after which every rank's input counts its own number of times.

Unequal machines take unequal shares of a batch, and their gradients have to count as much.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from math import gcd

import numpy as np

from dgc_topo.arrays import BoolArray, IntArray
from dgc_topo.scalars import plain_int
from dgc_topo.schedule.order import expand
from dgc_topo.schedule.schedule import Schedule
from dgc_topo.schedule.step import MOST, ScheduleError, Step
from dgc_topo.schedule.survivors import rows_of, step_of_rows


def weighted(schedule: Schedule, weights: Sequence[int]) -> Schedule:
    """Return *schedule* with each contribution weighted exactly, where it is first added or sent.

    An all-reduce becomes ``sum(weights[i] * x[i])``; `dgc_topo.prove` proves it if it is told the
    same weights.  What a transfer carries stays as it is: the receiver multiplies.  Making one
    rank's view costs as much as that of all ranks.

    Gossip leaves the weighted mean where it is, and goes to it: of W it makes
    ``I - D (I - W)`` with ``D[i, i] = min(weights) / weights[i]``, so a rank that counts more moves
    less.  It is one step then, between the same ranks.

    Args:
        schedule: Schedule whose contributors start with inputs of their own, or doubly stochastic
            gossip.
        weights: Whole numbers from 1, one per contributor, in the order of ranks.  A factor common
            to all is left out, so that equal weights change nothing.

    Raises:
        ScheduleError: if there are not so many weights, or one is below 1; or if directed gossip
            is to be weighted, or chunks mix differently.

    Example:
        >>> ring = dt.load_topology("ring").schedule(3)
        >>> dt.prove(dt.weighted(ring, [2, 2, 1]), weights=[2, 2, 1])
        Proof(schedule with 3 ranks: all-reduce: ... weighted 2, 2, 1)
    """
    factors = factors_of(schedule, weights)
    if (factors[schedule.contributors] == 1).all():
        return schedule
    if schedule.goal == "column-stochastic":
        raise ScheduleError(
            "weights of column-stochastic gossip: it keeps sums, whatever its ranks count, "
            "expected an all-reduce, or doubly stochastic gossip"
        )
    if schedule.goal == "doubly-stochastic":
        return _weighted_gossip(schedule, factors)

    def steps_of(ranks: IntArray) -> Iterator[Step]:
        is_raw = np.ones((schedule.world_size, schedule.num_chunks), np.bool_)
        for step in schedule.steps():
            scaled = _scaled(step, factors, is_raw)
            touches = np.isin(scaled.src, ranks) | np.isin(scaled.dst, ranks)
            yield scaled if touches.all() else scaled.select(touches)

    return replace(schedule, steps_of=steps_of)


def _weighted_gossip(schedule: Schedule, factors: IntArray) -> Schedule:
    rows = rows_of(schedule, "weighted")
    for rank, row in rows.items():
        share = Fraction(int(factors.min()), int(factors[rank]))
        own = 1 - share * (1 - row.get(rank, Fraction(0)))
        rows[rank] = {other: share * value for other, value in row.items()} | {rank: own}
    step = step_of_rows(rows, range(schedule.world_size), schedule.num_chunks, "weighted")

    def steps_of(ranks: IntArray) -> Iterator[Step]:
        if len(step):
            yield step.select(np.isin(step.src, ranks) | np.isin(step.dst, ranks))

    return replace(schedule, steps_of=steps_of)


def factors_of(schedule: Schedule, weights: Sequence[int]) -> IntArray:
    """Return each rank's weight, shape (world_size,), in lowest terms; 1 for servers.

    Raises:
        ScheduleError: if there are not as many weights as contributors, or one is below 1.
    """
    own = schedule.contributors
    try:
        plain = [plain_int("weights", weight, least=1) for weight in weights]
    except ValueError as error:
        raise ScheduleError(str(error)) from error
    if len(plain) != len(own):
        raise ScheduleError(f"weights {plain}: expected {len(own)}, one per rank that contributes")
    common = gcd(*plain)
    if max(plain) // common > MOST:
        raise ScheduleError(f"weights {plain}: expected at most {MOST}")
    factors = np.ones(schedule.world_size, np.int64)
    factors[own] = [weight // common for weight in plain]
    return factors


def _scaled(step: Step, factors: IntArray, is_raw: BoolArray) -> Step:
    """Return a step that weighs inputs which nothing was added to yet, and note what it changes.

    Args:
        step: The step.
        factors: Weight of each rank's input.
        is_raw: Mask of the chunks that are still inputs, shape (world_size, num_chunks); updated.
    """
    entry, chunk = expand(step)
    place = step.dst[entry] * is_raw.shape[1] + chunk
    _, first = np.unique(place, return_index=True)  # arrivals apply in the order listed
    is_first = np.zeros(len(entry), np.bool_)
    is_first[first] = True
    keeps = np.where(is_first & is_raw[step.dst[entry], chunk], factors[step.dst[entry]], 1)
    sends = np.where(is_raw[step.src[entry], chunk], factors[step.src[entry]], 1)
    is_raw[step.dst[entry], chunk] = False
    ends = np.cumsum(step.count) - 1
    if not (_alike(keeps, entry, ends) and _alike(sends, entry, ends)):
        one = step.select(entry)
        step = replace(one, chunk=chunk, count=np.ones_like(chunk))
        ends = np.arange(len(entry))
    return replace(step, keep=step.keep * keeps[ends], weight=step.weight * sends[ends])


def _alike(values: IntArray, entry: IntArray, ends: IntArray) -> bool:
    """Return True if all chunks of each transfer have one value."""
    return bool((values == values[ends][entry]).all())
