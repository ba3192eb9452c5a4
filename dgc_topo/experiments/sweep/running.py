"""Running a sweep: predict what has no record yet, and keep every record at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from dgc_topo.experiments.sweep.grid import SweepGrid
from dgc_topo.experiments.sweep.prediction import Predictor
from dgc_topo.experiments.sweep.processes import predict_points
from dgc_topo.experiments.sweep.result import SweepRecords
from dgc_topo.experiments.sweep.rows import SweepRow
from dgc_topo.experiments.sweep.store import SweepStore, SweptScenario


class SweepObserver(Protocol):
    """Listener that is told about a sweep's progress."""

    def moved(self, folder: Path, aside: Path) -> None:
        """Note that earlier results in the same place have been renamed."""

    def begin(self, total: int, done: int) -> None:
        """Note how many rows there will be, and how many are there already."""

    def advance(self, count: int) -> None:
        """Note that so many more rows are there."""


class SilentSweep:
    """Observer that ignores everything."""

    def moved(self, folder: Path, aside: Path) -> None:
        """Ignore it."""

    def begin(self, total: int, done: int) -> None:
        """Ignore it."""

    def advance(self, count: int) -> None:
        """Ignore it."""


def run_grid(
    grid: SweepGrid,
    folder: Path | None = None,
    scenario: SweptScenario | None = None,
    processes: int | None = None,
    observer: SweepObserver | None = None,
) -> SweepRecords:
    """Predict all points of a grid that have no record yet.

    Args:
        grid: The grid.
        folder: Folder of the records; None keeps them in memory.
        scenario: Scenario that the grid comes from.
        processes: See `predict_points`.
        observer: Is told about progress.

    Raises:
        ValueError: if no point can be predicted.
        ResultsError: if there is no room for the records.
        LaunchError: if a worker fails.
    """
    predictor, told = Predictor(grid), observer or SilentSweep()
    reasons = [predictor.why_not(point) for point in grid.points]
    if all(reasons):
        raise ValueError(f"sweep: nothing can be predicted: {reasons[0]}")
    jobs = [predictor.job(point) for point in grid.points]
    if folder is None:
        rows: dict[str, SweepRow] = {}
        _fill(_Memory(rows), predictor, reasons, jobs, processes, told)
        return SweepRecords([rows[job] for job in jobs])
    _refuse_what_has_no_name(grid)
    store = SweepStore(folder, predictor.kind, jobs, scenario, told.moved)
    try:
        with store.restored_on_error():
            _fill(store, predictor, reasons, jobs, processes, told)
        store.finish()
    finally:
        store.close()
    return SweepRecords([store.rows[job] for job in jobs], folder)


class _Memory:
    """Records in memory only."""

    def __init__(self, rows: dict[str, SweepRow]) -> None:
        self.rows = rows

    def append(self, rows: Sequence[SweepRow]) -> None:
        """Keep them."""
        self.rows |= {row.job: row for row in rows}


def _fill(
    store: SweepStore | _Memory,
    predictor: Predictor,
    reasons: Sequence[str],
    jobs: Sequence[str],
    processes: int | None,
    told: SweepObserver,
) -> None:
    """Make all records that are missing, first those of what cannot be predicted."""
    points = predictor.grid.points
    missing = [number for number, job in enumerate(jobs) if job not in store.rows]
    told.begin(len(jobs), len(jobs) - len(missing))
    left_out = [number for number in missing if reasons[number]]
    store.append([predictor.skipped(points[number], reasons[number]) for number in left_out])
    told.advance(len(left_out))
    possible = [number for number in missing if not reasons[number]]
    for rows in predict_points(predictor, possible, processes):
        store.append(rows)
        told.advance(len(rows))


def _refuse_what_has_no_name(grid: SweepGrid) -> None:
    unnamed = [network.name for network in grid.networks if not network.digest]
    if unnamed:
        raise ValueError(
            f"network: {unnamed[0]} was made in Python, so that records cannot tell it from "
            "others; expected a name or a file, or no output"
        )
