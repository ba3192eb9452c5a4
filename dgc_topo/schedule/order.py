"""The order in which a step's arrivals apply, for the proof and for every run.

All transfers of a step read the state before it.  Arrivals at one rank for one chunk are applied
**in the order in which the step lists them**, one after the other::

    dst = keep * dst + weight * src        # src as it was before the step

A copy therefore replaces all that was listed before it, and later arrivals are added to the copy.
Arrivals at different ranks, or for different chunks, are independent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

from dgc_topo.arrays import IntArray
from dgc_topo.schedule.step import Step, Transfer


def turns(step: Step, num_chunks: int) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield the first arrivals of every rank and chunk, then the second ones, and so on.

    Args:
        step: Transfers whose chunks are below *num_chunks*.
        num_chunks: Number of chunks.

    Yields:
        Positions of transfers in the step, and the chunk of each; no two of a turn arrive at the
        same rank for the same chunk.
    """
    entry, chunk = expand(step)
    target = step.dst[entry] * num_chunks + chunk
    order = np.argsort(target, kind="stable")
    ordered = target[order]
    begins = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(order) else order
    if len(begins) == len(order):
        if len(order):
            yield entry, chunk
        return
    turn = np.empty_like(order)
    turn[order] = np.arange(len(order)) - np.repeat(begins, np.diff(np.r_[begins, len(order)]))
    by_turn = np.argsort(turn, kind="stable")
    for places in np.split(by_turn, np.cumsum(np.bincount(turn))[:-1]):
        yield entry[places], chunk[places]


def unroll(arrivals: Sequence[Transfer]) -> tuple[Fraction, list[Fraction]]:
    """Return the total factors of *arrivals* at one rank and chunk, applied in the order given.

    Returns:
        The exact factor on the receiver's own value, and on the value of each arrival: its weight
        times the keeps of all that follow.
    """
    factor = Fraction(1)
    factors = []
    for transfer in reversed(arrivals):
        factors.append(factor * transfer.weight)
        factor *= transfer.keep
    return factor, factors[::-1]


def expand(step: Step) -> tuple[IntArray, IntArray]:
    """Return, for each chunk of each transfer, the transfer's position and the chunk."""
    entry = np.arange(len(step))
    if not len(step) or step.count.max() == 1:
        return entry, step.chunk
    entry = np.repeat(entry, step.count)
    offset = np.arange(len(entry)) - np.repeat(np.cumsum(step.count) - step.count, step.count)
    return entry, step.chunk[entry] + offset
