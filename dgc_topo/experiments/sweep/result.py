"""`SweepRecords`: predictions for all combinations of many settings, as one frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from dgc_topo.experiments.sweep.rows import SweepRow, frame_of_rows
from dgc_topo.experiments.sweep.store import read_rows
from dgc_topo.text import html_facts

if TYPE_CHECKING:
    import pandas as pd


class SweepRecords:
    """Predictions for all combinations of a sweep's axes, or those that are there so far.

    Attributes:
        rows: One record per combination.
        path: Folder or file of the records; None if they are in memory only.

    """

    def __init__(self, rows: Sequence[SweepRow], path: str | Path | None = None) -> None:
        self.rows = tuple(rows)
        self.path = None if path is None else Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Return the sweep in a folder or file, finished or not.

        Raises:
            ResultsError: naming the file, if there is none, or a record is wrong.
        """
        return cls(read_rows(path), path)

    @property
    def skipped(self) -> tuple[SweepRow, ...]:
        """Records of combinations that cannot be, with the reason."""
        return tuple(row for row in self.rows if row.skipped)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per combination: settings, results, and why it was skipped.

        Columns are the fields of the records, with units in their names; see ``help`` of
        `dgc_topo.experiments.sweep.rows`.  What was skipped has NaN or None for its results.
        """
        return frame_of_rows(self.rows, type(self.rows[0]) if self.rows else SweepRow)

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.rows)

    def __iter__(self) -> Iterator[SweepRow]:
        """Yield the records."""
        return iter(self.rows)

    def __repr__(self) -> str:
        """Return the path, and how many records there are."""
        where = f"{str(self.path)!r}: " if self.path else ""
        return f"Sweep({where}{self._count_text()})"

    def _count_text(self) -> str:
        of_steps = any(row.workload is not None for row in self.rows)
        skipped = f", {len(self.skipped):,} skipped" if self.skipped else ""
        return f"{len(self.rows):,} {'training steps' if of_steps else 'collectives'}{skipped}"

    def _repr_html_(self) -> str:
        axes: dict[str, list[object]] = {}
        for name in type(self.rows[0]).setting_columns() if self.rows else ():
            axes[name] = list(dict.fromkeys(getattr(row, name) for row in self.rows))
        texts = {name: _span_text(values) for name, values in axes.items() if len(values) > 1}
        return html_facts(f"Sweep: {self._count_text()}", texts)


def _span_text(values: list[object]) -> str:
    shown = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    few = 8
    if len(shown) > few:
        shown = [*shown[: few // 2], "...", *shown[-2:]]
    return f"{len(values)}: {', '.join(shown)}"
