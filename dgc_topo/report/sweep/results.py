"""`Sweep`: the records of a sweep with their pictures, findings and page; `sweep` makes one."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

from dgc_topo.experiments.sweep import SweepRecords
from dgc_topo.experiments.sweep import sweep as sweep_records
from dgc_topo.files import write_whole
from dgc_topo.records.origin import kept_run
from dgc_topo.records.records import ResultsError
from dgc_topo.records.room import REPORT

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_Arguments = ParamSpec("_Arguments")


class Sweep(SweepRecords):
    """Predictions for all combinations of a sweep's axes, or those that are there so far.

    Attributes:
        rows: One record per combination.
        path: Folder or file of the records; None if they are in memory only.

    Example:
        >>> made = dt.sweep("ring", [2, 4], "1gbe", "resnet50", output="rings")
        >>> dt.Sweep.load("rings")
        Sweep('rings': 2 training steps)
        >>> figure = made.plot("scaling")
    """

    def plot(self, name: str, rows: pd.DataFrame | None = None) -> Figure:
        """Draw a picture, which a notebook shows.

        Args:
            name: One of

                - ``time``, ``speedup``: over bandwidth (or network), a line per topology and
                  density; of collectives, ``speedup`` is the bus bandwidth;
                - ``fastest``: the map of the fastest topology and density over bandwidth and ranks;
                - ``fastest-by-density``: the fastest topology over bandwidth and density;
                - ``compression-gain``, ``break-even``: where compression pays, and where it stops;
                - ``scaling``: the speed-up over the number of ranks;
                - ``over-latency``, ``over-slow-host``, ``over-slow-rank``,
                  ``over-hosts-per-rack``, ``over-oversubscription``, ``over-passes``,
                  ``over-local-steps``, ``over-bytes``: the time over another axis.
            rows: Some rows of `to_frame`, to draw these only; what varies in them beyond what a
                picture has room for is held, and named in its title.

        Returns:
            The figure; one that says so if what the picture shows does not vary.

        Raises:
            ValueError: if there is no such picture.
        """
        from dgc_topo.report.sweep.pictures import draw  # noqa: PLC0415  # takes matplotlib

        return draw(self.to_frame() if rows is None else rows, name)

    def findings(self) -> list[str]:
        """Return sentences: the best way per network, the break-even, the worst choice."""
        from dgc_topo.report.sweep.findings import findings  # noqa: PLC0415  # takes pandas

        return findings(self.to_frame())

    def report(self) -> Path:
        """Write ``report.html`` into the sweep's folder, and return its path.

        Raises:
            ResultsError: if the sweep has no folder, or one of its files is unreadable.
        """
        from dgc_topo.report.pages import again_command  # noqa: PLC0415  # takes matplotlib
        from dgc_topo.report.sweep.page import sweep_page  # noqa: PLC0415

        if self.path is None or not self.path.is_dir():
            where = "the sweep is in memory" if self.path is None else f"{self.path}: a file"
            raise ResultsError(f"{where}, expected a folder: give dt.sweep an output")
        origin, text = kept_run(self.path)
        page = sweep_page(
            self.to_frame(),
            origin.scenario if origin else self.path.resolve().name,
            origin=origin,
            again=again_command(self.path, origin) if origin else "",
            scenario_text=text,
        )
        write_whole(self.path / REPORT, page)
        return self.path / REPORT


def _with_pictures(make: Callable[_Arguments, SweepRecords]) -> Callable[_Arguments, Sweep]:
    @wraps(make)
    def made(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Sweep:
        found = make(*args, **kwargs)
        return Sweep(found.rows, found.path)

    return made


#: See `dgc_topo.experiments.sweep.sweep`, which needs no report.
sweep = _with_pictures(sweep_records)
