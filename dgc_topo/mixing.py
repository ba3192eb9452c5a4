"""Proofs about gossip: mixing matrices, connected ranks, and the spectral gap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from dgc_topo.arrays import IntArray
from dgc_topo.schedule import Goal, Schedule, ScheduleError
from dgc_topo.schedule.views import check_made_alike, check_views, same_transfers
from dgc_topo.schedule.weights import Weights, follow, last_change
from dgc_topo.topology import Topology

Matrix = npt.NDArray[np.float64]

#: Rounding error of a distance that an iteration brings from 1 to exactly 0.
_ROUNDING = 1e-12
#: Spectral gap that is none but for rounding; thousands of ranks on a ring have a hundred times it.
_NO_GAP = 1e-9


class Mixing(NamedTuple):
    """Gossip that has been proved.

    Attributes:
        iterations: Number of iterations after which every rank has reached every other.
        spectral_gap: As in `Contraction`.
        matrix: Mixing matrix of the first iteration.
    """

    iterations: int
    spectral_gap: float
    matrix: Matrix


def proved_iterations(
    topology: Topology, world_size: int, *, seed: int = 0
) -> Iterator[tuple[str, Schedule]]:
    """Yield the schedules that a proof follows, each with its name for errors.

    A topology that never changes yields one schedule; others yield a small multiple of
    log(*world_size*).

    Raises:
        ScheduleError: if a later iteration has another goal or other servers than the first, or
            building the first again gives another schedule.
    """
    first = topology.schedule(world_size, seed=seed)
    for iteration in range(8 * world_size.bit_length() + 8 if topology.varies else 1):
        schedule = topology.schedule(world_size, iteration=iteration, seed=seed)
        where = f"{topology.label}, iteration {iteration}"
        promised = (schedule.goal, schedule.servers)
        if promised != (first.goal, first.servers):
            raise ScheduleError(
                f"{where}: goal and servers {promised}, expected {first.goal, first.servers} as "
                "in iteration 0"
            )
        if iteration == 0:
            check_made_alike(topology.label, first, schedule)
        yield where, schedule


def check_gossip(topology: Topology, world_size: int, *, seed: int = 0) -> Mixing:
    """Prove that the mixing keeps its stochastic promise and, in time, connects all ranks.

    Raises:
        ScheduleError: naming the iteration, rank, chunk and step whose weights are wrong, or the
            ranks that never hear of each other.
    """
    goal = topology.schedule(world_size, seed=seed).goal
    reached = np.zeros((world_size, world_size), bool)
    contraction = Contraction(world_size, goal)
    connected_after = iterations = 0
    first: Matrix | None = None
    parts: IntArray = np.arange(world_size)  # number of each rank's strongly connected part
    before = None
    for where, schedule in proved_iterations(topology, world_size, seed=seed):
        if before is None or not _same(before, schedule):
            before = schedule
            check_views(schedule, iteration=iterations)
            matrix = mixing_matrix(schedule, where=where)
            reached |= matrix != 0
            parts = np.asarray(
                connected_components(csr_array(reached), connection="strong")[1], np.int64
            )
        contraction.add(matrix)
        iterations += 1
        first = matrix if first is None else first
        if not connected_after and not parts.any():
            connected_after = iterations
    if connected_after and first is not None:
        gap = contraction.spectral_gap()
        if gap < _NO_GAP and not contraction.shrinks():
            raise ScheduleError(
                f"{topology.label}: does not mix over {iterations} iterations: "
                "values move between ranks and never come closer; expected ranks that keep a "
                "part of their own"
            )
        return Mixing(connected_after, gap, first)
    apart = np.flatnonzero(parts == np.argmin(np.bincount(parts)))
    raise ScheduleError(
        f"{topology.label}: not connected over {iterations} iterations: ranks "
        f"{apart[:8].tolist()} do not both reach and hear everyone else; expected one strongly "
        "connected graph"
    )


def mixing_matrix(schedule: Schedule, *, where: str = "schedule") -> Matrix:
    """Return W, where ``W[i, j]`` is the weight of rank j's value in rank i's, after checking it.

    Raises:
        ScheduleError: naming rank, chunk and step, if chunks mix differently, or a row (rank) or
            column that is promised to sum to 1 does not, or a weight is negative.
    """
    first = None
    for chunks, weights in follow(schedule):
        first = first or weights
        _check_chunks(schedule, first, weights, chunks.tolist(), where)
    assert first is not None  # a schedule has at least one chunk
    _check_sums(schedule, first, 0, where)
    if schedule.goal == "doubly-stochastic":
        _check_sums(schedule, first, 1, where)
    matrix = first.matrix()
    if (matrix < 0).any():
        i, j = np.argwhere(matrix < 0)[0].tolist()
        since = _since(schedule, 0, lambda w: w.numerators[i, 0, j] < 0)
        raise ScheduleError(
            f"{where}: rank {i}, chunk 0: takes a negative share of rank {j}, {since}"
        )
    return (matrix / first.denominator).astype(np.float64)


class Contraction:
    """Factor by which one iteration brings the ranks nearer to each other.

    For a doubly stochastic W that never changes, a distance from the average shrinks by at most the
    second singular value of W.  For matrices that change, the factor is the geometric mean of the
    factor of their product.  For a column-stochastic W, under which ranks agree on shares other
    than the average, it is the second largest magnitude of the eigenvalues, in the long run.

    Args:
        world_size: Number of ranks.
        goal: Promise that the matrices keep.
    """

    def __init__(self, world_size: int, goal: Goal) -> None:
        self._goal = goal
        self._same: Matrix | None = None  # the matrix of all iterations, until one differs
        self._count = 0
        # What the matrices make of a distance of 1 from the average, scaled so that nothing drowns
        # in rounding, and the logarithm of the scale.
        self._distances: Matrix = np.eye(world_size) - 1 / world_size
        self._log = 0.0

    def add(self, matrix: Matrix) -> None:
        """Add an iteration's matrix; a repeated matrix costs little."""
        if self._count == 0:
            self._same = matrix
        elif self._same is not None and not np.array_equal(matrix, self._same):
            for _ in range(self._count):
                self._apply(self._same)
            self._same = None
        self._count += 1
        if self._same is None:
            self._apply(matrix)

    def spectral_gap(self) -> float:
        """Return 1 minus the factor of an iteration."""
        if self._same is not None:
            distances = self._same - self._same.mean(axis=1, keepdims=True)
            if self._goal == "column-stochastic":
                return 1 - float(np.abs(np.linalg.eigvals(distances)).max())
            return 1 - float(np.linalg.norm(distances, 2))
        final = float(np.linalg.norm(self._distances, 2))
        return 1 - float(np.exp((self._log + np.log(final)) / self._count)) if final else 1.0

    def shrinks(self) -> bool:
        """Return True if every distance shrinks in the long run, though one iteration may keep it.

        A matrix may average pairs and then change their places: one iteration keeps some distances
        (its spectral gap is 0), many do not.  That is decided by eigenvalues, which cost more.
        """
        distances, log = self._distances, self._log
        if self._same is not None:
            distances, log = self._same - self._same.mean(axis=1, keepdims=True), 0.0
        return float(np.abs(np.linalg.eigvals(distances)).max()) * float(np.exp(log)) < 1 - _NO_GAP

    def _apply(self, matrix: Matrix) -> None:
        moved = matrix @ self._distances
        moved -= moved.mean(axis=0)  # 0 but for rounding
        size = float(np.linalg.norm(moved))
        if size <= _ROUNDING * float(np.linalg.norm(self._distances)):
            self._distances = np.zeros_like(moved)  # full agreement
            return
        self._distances = moved / size
        self._log += float(np.log(size))


def _same(one: Schedule, other: Schedule) -> bool:
    """Return True if two schedules list the same transfers."""
    return one.num_chunks == other.num_chunks and all(
        a is not None and b is not None and same_transfers(a, b)
        for a, b in zip_longest(one.steps(), other.steps())
    )


def _check_chunks(
    schedule: Schedule, first: Weights, weights: Weights, chunks: list[int], where: str
) -> None:
    """Refuse chunks that mix differently from the first."""
    expected, found = first.numerators[:, :1], weights.numerators
    if first.denominator != weights.denominator:
        expected = expected.astype(object) * weights.denominator
        found = found.astype(object) * first.denominator
    if not (expected != found).any():
        return
    rank, place, _ = np.argwhere(expected != found)[0].tolist()
    row = first.of(rank)
    since = _since(schedule, chunks[place], lambda w: w.of(rank) != row)
    raise ScheduleError(
        f"{where}: rank {rank}, chunk {chunks[place]}: mixes differently from chunk 0, {since}"
    )


def _check_sums(schedule: Schedule, first: Weights, axis: int, where: str) -> None:
    """Refuse sums of weights that are not 1: those of a rank's value (axis 0), or at a rank (1)."""

    def wrong(weights: Weights) -> npt.NDArray[np.bool_]:
        return np.asarray(weights.matrix().sum(axis=axis) != weights.denominator)

    if not wrong(first).any():
        return
    rank = int(np.argmax(wrong(first)))
    total = Fraction(int(first.matrix().sum(axis=axis)[rank]), first.denominator)
    what = f"what is given of rank {rank}" if axis == 0 else f"what rank {rank} receives"
    step = last_change(schedule, 0, lambda weights: bool(wrong(weights)[rank]))
    raise ScheduleError(
        f"{where}: rank {rank}, chunk 0: weights of {what} sum to {total}, expected 1 "
        f"({schedule.goal}), {_step_text(step)}\n{schedule.grid(mark=(max(step, 0), rank))}"
    )


def _since(schedule: Schedule, chunk: int, is_wrong: Callable[[Weights], bool]) -> str:
    return _step_text(last_change(schedule, chunk, is_wrong))


def _step_text(step: int) -> str:
    return f"since step {step}" if step >= 0 else "before step 0"
