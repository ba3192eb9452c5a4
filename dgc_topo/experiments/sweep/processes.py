"""Predictions of many points: in worker processes, or in this one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from itertools import groupby

from dgc_topo.experiments.sweep.grid import SweepGrid
from dgc_topo.experiments.sweep.prediction import Predictor
from dgc_topo.experiments.sweep.rows import SweepRow
from dgc_topo.experiments.sweep.serving import packed
from dgc_topo.records.environment import num_cores
from dgc_topo.workers import Loopback
from dgc_topo.workers.worker_pool import WorkerPool

_FEW = 200  # predictions that may take less time than starting processes does
_PATIENCE_S = 2.0  # after which they do not
_AT_ONCE = 32  # points that a worker is given, at most
_AHEAD = 2  # lots that a worker has, so that it never waits
_SHARES = 8  # lots of each worker, at least, so that all end together


def predict_points(
    predictor: Predictor, numbers: Sequence[int], processes: int | None
) -> Iterator[list[SweepRow]]:
    """Yield the records of points as they are ready.

    Args:
        predictor: Predictor in this process.
        numbers: Points to predict.
        processes: Worker processes; 0 predicts in this one.  By default one per core, unless a few
            points are soon done here.  Networks and topologies that only this process has are
            predicted in it.

    Raises:
        LaunchError: if a worker fails.
    """
    if processes is None:
        processes = num_cores()
        if len(numbers) <= _FEW:
            numbers = yield from _begin_here(predictor, numbers)
    packet = _packed(predictor) if processes and numbers else None
    if packet is None:
        yield from predictor.lots(numbers)
    else:
        yield from _predict_elsewhere(predictor, packet, numbers, processes)


def _begin_here(
    predictor: Predictor, numbers: Sequence[int]
) -> Generator[list[SweepRow], None, Sequence[int]]:
    """Yield the records of points for a while; return the points that are left."""
    until_s, done = time.monotonic() + _PATIENCE_S, 0
    for rows in predictor.lots(numbers):
        yield rows
        done += len(rows)
        if time.monotonic() > until_s:
            break
    return numbers[done:]


def _packed(predictor: Predictor) -> str | None:
    """Return the grid for other processes; None if it holds something only this one can have."""
    try:
        return packed(predictor.grid)
    except Exception:  # noqa: BLE001 - pickle raises what it likes
        return None


def _predict_elsewhere(
    predictor: Predictor, packet: str, numbers: Sequence[int], processes: int
) -> Iterator[list[SweepRow]]:
    shares, waiting = _Shares(predictor.grid, numbers, processes), 0
    with WorkerPool(Loopback(), processes, "dgc_topo.experiments.sweep.serving") as pool:

        def give(worker: int, count: int) -> int:
            lots = shares.next_of(worker, count)
            for lot in lots:
                pool.send(worker, lot)
            return len(lots)

        for worker in range(processes):
            pool.send(worker, packet)
            waiting += give(worker, _AHEAD)
        for worker, what, lines in pool.messages():
            if what == "rows":
                yield [predictor.kind.model_validate_json(line) for line in lines]
                continue
            waiting += give(worker, 1) - 1
            if not waiting:
                return


class _Shares:
    """Lots of points for workers, each of one topology and world size.

    A worker keeps to its own schedules as long as there are some that nobody has.
    """

    def __init__(self, grid: SweepGrid, numbers: Sequence[int], workers: int) -> None:
        points, size = grid.points, max(1, min(_AT_ONCE, len(numbers) // (_SHARES * workers)))

        def schedule_of(number: int) -> tuple[object, int]:
            return points[number].topology, points[number].world_size

        self._free = deque(_lots(list(group), size) for _, group in groupby(numbers, schedule_of))
        self._of_worker: dict[int, deque[list[int]]] = {}

    def next_of(self, worker: int, count: int) -> list[list[int]]:
        """Return the next lots of a worker, at most *count*, and none if all are given."""
        return [lot for _ in range(count) if (lot := self._next(worker))]

    def _next(self, worker: int) -> list[int]:
        if not self._of_worker.get(worker):
            if self._free:
                self._of_worker[worker] = self._free.popleft()
            else:  # help whoever has most to do
                self._of_worker[worker] = max(self._of_worker.values(), key=len, default=deque())
        own = self._of_worker[worker]
        return own.popleft() if own else []


def _lots(numbers: list[int], size: int) -> deque[list[int]]:
    return deque(numbers[at : at + size] for at in range(0, len(numbers), size))
