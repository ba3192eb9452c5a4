"""Exact weights: the share of each rank's input in every chunk of every rank.

Weights are whole numbers over one common denominator.  They are kept in the smallest integer type
that certainly holds them, or in Python integers if 64 bits may not suffice: nothing is rounded, and
nothing overflows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from dgc_topo.arrays import IntArray
from dgc_topo.schedule.order import turns
from dgc_topo.schedule.schedule import Schedule
from dgc_topo.schedule.step import Step

#: Arrays of integers of any size, or of Python integers.
Numerators = npt.NDArray[Any]

_BATCH_ENTRIES = 1 << 25  # numbers held at once; larger schedules are followed chunk by chunk
_INTEGERS = (np.int8, np.int16, np.int32, np.int64)


class Weights:
    """Multiples of every rank's input, which the steps of a schedule change.

    Args:
        schedule: At first every contributor holds its own input once.
        num_chunks: Number of chunks that are followed.

    Attributes:
        numerators: Shape (world_size, num_chunks, world_size): entry ``[r, c, i]`` belongs to rank
            i's chunk c inside rank r's chunk c.
        denominator: Divisor of all of them.
    """

    def __init__(self, schedule: Schedule, num_chunks: int) -> None:
        n, own = schedule.world_size, schedule.contributors
        self.numerators: Numerators = np.zeros((n, num_chunks, n), np.int8)
        self.numerators[own, :, own] = 1
        self.denominator = 1
        self._most = 1  # no numerator is larger in magnitude
        self._signed = False  # True if a numerator may be negative

    def of(self, rank: int, chunk: int = 0) -> list[Fraction]:
        """Return the multiple of every rank's input that a rank holds."""
        return [Fraction(n, self.denominator) for n in self.numerators[rank, chunk].tolist()]

    def are(self, expected: IntArray) -> npt.NDArray[np.bool_]:
        """Return a mask of ranks and chunks that hold just *expected* times each rank's input."""
        numerators, wanted = self.numerators, expected.astype(object) * self.denominator
        if _holds(numerators, self.denominator):
            wanted = wanted.astype(numerators.dtype)
        return np.asarray((numerators == wanted).all(axis=2))

    def matrix(self, chunk: int = 0) -> Numerators:
        """Return a chunk's numerators, wide enough for the sums of its rows and columns."""
        most = max(self._most * len(self.numerators), self.denominator)
        return self.numerators[:, chunk].astype(_fitting(most))

    def all(self) -> Numerators:
        """Return all numerators as int64, or else as Python integers."""
        wide = _fitting(max(self._most, self.denominator, np.iinfo(np.int64).max))
        return self.numerators.astype(wide)

    def advance(self, step: Step) -> None:
        """Apply a step, in the order of `dgc_topo.schedule.order`."""
        rounds = list(turns(step, self.numerators.shape[1]))
        d = step.denominator
        if d > 1:
            # A turn that scales existing values divides once more; a keep of 0 or 1 does not.
            scaling = [t for t, _ in rounds[1:] if not np.isin(step.keep[t], (0, d)).all()]
            self._scale(d ** (1 + len(scaling)))
        before, given_most = self.numerators, self._most
        if len(rounds) > 1:
            before = before.copy()
        for entry, chunk in rounds:
            self._apply(step.select(entry), chunk, before, given_most)

    def _apply(self, turn: Step, chunk: IntArray, before: Numerators, given_most: int) -> None:
        """Apply transfers of one chunk each, no two to the same place."""
        num_chunks, n = before.shape[1:]
        given = before.reshape(-1, n)[turn.src * num_chunks + chunk]
        target = turn.dst * num_chunks + chunk
        weight_one = turn.denominator == 1 and (turn.weight == 1).all()
        if weight_one and not turn.keep.any():
            self._write(target, given)
            return
        own = self.numerators.reshape(-1, n)[target]
        peak = self._most * _magnitude(turn.keep) + given_most * _magnitude(turn.weight)
        given = given.astype(_fitting(max(peak, self._most, given_most)), copy=False)
        if weight_one and (turn.keep == 1).all():
            mixed = given + own
        else:
            self._signed |= bool((turn.keep < 0).any() or (turn.weight < 0).any())
            keep, weight = (x[:, None].astype(given.dtype) for x in (turn.keep, turn.weight))
            mixed = (own * keep + given * weight) // turn.denominator
        self._most = max(self._most, _magnitude(mixed) if self._signed else _top(mixed))
        self._write(target, mixed)

    def _scale(self, factor: int) -> None:
        self._most *= factor
        self.denominator *= factor
        self.numerators = self.numerators.astype(_fitting(self._most), copy=False) * factor

    def _write(self, target: IntArray, values: Numerators) -> None:
        """Write numerators where they belong, in integers that hold the largest."""
        wide = _fitting(self._most)
        if np.dtype(wide) != self.numerators.dtype and not _holds(self.numerators, self._most):
            self.numerators = self.numerators.astype(wide)
        self.numerators.reshape(-1, self.numerators.shape[2])[target] = values


def contributions(schedule: Schedule) -> tuple[Numerators, int]:
    """Return the multiple of each rank's input that every chunk ends up holding.

    Returns:
        Numerators of shape (world_size, num_chunks, world_size) - entry ``[r, c, i]`` belongs to
        rank i's chunk c inside rank r's chunk c - and their common denominator.
    """
    weights = Weights(schedule, schedule.num_chunks)
    for step in schedule.steps():
        weights.advance(step)
    return weights.all(), weights.denominator


def follow(schedule: Schedule) -> Iterator[tuple[IntArray, Weights]]:
    """Follow a schedule to its end, for as many chunks at a time as fit in memory.

    Chunks that always travel together have equal weights, so only the first of them is followed.

    Yields:
        Which chunks are followed, and their weights in the end.
    """
    cuts = _cuts(schedule)
    per_batch = max(1, _BATCH_ENTRIES // schedule.world_size**2)
    for first in range(0, len(cuts) - 1, per_batch):
        window = cuts[first : first + per_batch + 1]
        weights = Weights(schedule, len(window) - 1)
        for step in schedule.steps():
            weights.advance(_cut(step, window))
        yield window[:-1], weights


def states(schedule: Schedule, chunk: int) -> Iterator[tuple[Step, Weights]]:
    """Yield each step, cut to one chunk, and the (same) weights of that chunk after it."""
    weights, window = Weights(schedule, 1), np.array([chunk, chunk + 1])
    for step in schedule.steps():
        seen = _cut(step, window)
        weights.advance(seen)
        yield seen, weights


def last_change(schedule: Schedule, chunk: int, is_wrong: Callable[[Weights], bool]) -> int:
    """Return the step that made a chunk's weights wrong for good; -1 if they began wrong."""
    since, was_wrong = -1, is_wrong(Weights(schedule, 1))
    for index, (_, weights) in enumerate(states(schedule, chunk)):
        if is_wrong(weights) and not was_wrong:
            since = index
        was_wrong = is_wrong(weights)
    return since


def _cuts(schedule: Schedule) -> IntArray:
    """Return the chunks at which transfers begin or end, sorted, with both ends of the buffer."""
    cuts = np.array([0, schedule.num_chunks])
    for step in schedule.steps():
        if len(cuts) > schedule.num_chunks:
            break
        cuts = np.unique(np.concatenate([cuts, step.chunk, step.chunk + step.count]))
    return cuts


def _cut(step: Step, window: IntArray) -> Step:
    """Return the step cut to a window of chunks, which it numbers from 0."""
    if not len(step):
        return step
    start = np.maximum(step.chunk, window[0])
    end = np.minimum(step.chunk + step.count, window[-1])
    inside = end > start
    if not inside.all():
        step, start, end = step.select(inside), start[inside], end[inside]
    if window[-1] - window[0] == len(window) - 1:
        start, end = start - window[0], end - window[0]
    else:
        start, end = np.searchsorted(window, start), np.searchsorted(window, end)
    return replace(step, chunk=start, count=end - start)


def _fitting(most: int) -> type:
    """Return the smallest integers that hold numbers up to *most*: numpy's, or Python's own."""
    return next((kind for kind in _INTEGERS if most <= np.iinfo(kind).max), object)


def _holds(numbers: Numerators, most: int) -> bool:
    return numbers.dtype == object or most <= np.iinfo(numbers.dtype).max


def _top(numbers: Numerators) -> int:
    return int(numbers.max(initial=0))


def _magnitude(numbers: Numerators) -> int:
    """Return the largest magnitude as a Python integer: that of the least int64 is no int64."""
    return max(_top(numbers), -int(numbers.min(initial=0)))
