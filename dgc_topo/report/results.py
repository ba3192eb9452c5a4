"""Results of a scenario, as one object to ask and to show in a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dgc_topo.records.configuration import measured, predicted
from dgc_topo.records.folder import ResultsFolder
from dgc_topo.records.frame import to_frame, to_quality_frame
from dgc_topo.records.measurement import Measurement
from dgc_topo.records.records import load_measurements

if TYPE_CHECKING:
    import pandas as pd

_FOLDER = Path("results")  # where commands put them


class Results:
    """Records of one results folder, measured and predicted.

    Attributes:
        path: The folder, or a file of records.
        records: All of them, in the order in which they were made.
    """

    def __init__(self, path: str | Path) -> None:
        """Read the records.

        Raises:
            ResultsError: if there are none to be read, naming file and line.
        """
        self.path = Path(path)
        self.records: tuple[Measurement, ...] = tuple(load_measurements(path))

    def __repr__(self) -> str:
        """Return the path, and how many records there are."""
        counts = f"{len(self.measured)} measured, {len(self.predicted)} predicted"
        return f"Results({str(self.path)!r}: {counts})"

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.records)

    def __iter__(self) -> Iterator[Measurement]:
        """Yield the records."""
        return iter(self.records)

    @property
    def measured(self) -> list[Measurement]:
        """Records of real runs."""
        return measured(self.records)

    @property
    def predicted(self) -> list[Measurement]:
        """Records of simulations."""
        return predicted(self.records)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per record, units in the names of columns; see `records.frame`."""
        return to_frame(self.records)

    def to_quality_frame(self) -> pd.DataFrame:
        """Return one row per evaluation of a training: quality and loss after each epoch."""
        return to_quality_frame(self.records)

    def findings(self) -> list[str]:
        """Return sentences: findings, and what the numbers assume."""
        from dgc_topo.report.summary import summarise  # noqa: PLC0415  # reading needs no tables

        return summarise(self.records)[1]

    def report(self) -> Path:
        """Write ``report.html`` into the folder, and return its path.

        Raises:
            ResultsError: if this is no results folder.
        """
        from dgc_topo.report.report import write_report  # noqa: PLC0415  # takes matplotlib

        return write_report(ResultsFolder(self.path))

    def _repr_html_(self) -> str:
        """Return the comparison table."""
        from dgc_topo.report.summary import summarise  # noqa: PLC0415
        from dgc_topo.report.table import html_table  # noqa: PLC0415

        return html_table(summarise(self.records)[0])


def load_results(path_or_name: str | Path) -> Results:
    """Return results: of a folder or file, or of ``results/NAME`` where commands put them.

    Args:
        path_or_name: A path, or a name such as ``quickstart``, which has no slash and no suffix.

    Raises:
        ResultsError: if there are none to be read.
    """
    path = Path(path_or_name)
    is_name = str(path_or_name) == path.name and not path.suffix
    named = _FOLDER / path
    return Results(named if is_name and (named.is_dir() or not path.exists()) else path)
