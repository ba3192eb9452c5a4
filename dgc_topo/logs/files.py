"""Logs of steps and evaluations as CSV files."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, fields
from pathlib import Path
from typing import TextIO

from dgc_topo.files import write_whole
from dgc_topo.logs.callbacks import EvaluationInfo, StepInfo

STEPS, EVALUATIONS = "steps.csv", "evaluations.csv"


class CsvLog:
    """A callback that writes ``steps.csv`` and ``evaluations.csv``, one row at a time.

    A training that goes on, or is run again, replaces the rows from its first step on; earlier ones
    stay.

    Args:
        folder: Folder for the files; made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._steps = _Table(folder / STEPS, [field.name for field in fields(StepInfo)])
        names = [field.name for field in fields(EvaluationInfo)]
        self._evaluations = _Table(folder / EVALUATIONS, names)
        self._first: int | None = None

    def on_step(self, step: StepInfo) -> None:
        """Write a row."""
        if self._first is None:
            self._first = step.step
            self._steps.begin(step.step)
            self._evaluations.begin(step.step)
        self._steps.write(asdict(step))

    def on_evaluation(self, evaluation: EvaluationInfo) -> None:
        """Write a row."""
        if self._first is None:  # nothing was trained before
            self._first = evaluation.step
            self._evaluations.begin(evaluation.step)
        self._evaluations.write(asdict(evaluation))

    def close(self) -> None:
        """Close the files."""
        self._steps.close()
        self._evaluations.close()


class _Table:
    """A CSV file with a head, whose rows have a column ``step``."""

    def __init__(self, path: Path, columns: list[str]) -> None:
        self._path, self._columns = path, columns
        self._file: TextIO | None = None

    def begin(self, step: int) -> None:
        """Keep the rows before a step, and open the file to add others."""
        kept = io.StringIO(newline="")
        writer = csv.DictWriter(kept, self._columns)
        writer.writeheader()
        writer.writerows(row for row in self._rows() if int(row["step"]) < step)
        write_whole(self._path, kept.getvalue())
        # By line, so that a killed training has lost no row.
        self._file = self._path.open("a", buffering=1, encoding="utf-8", newline="")

    def _rows(self) -> list[dict[str, str]]:
        """Return the whole rows that are there; the last one may be torn."""
        if not self._path.exists():
            return []
        with self._path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, restval=""))
        columns = self._columns
        return [r for r in rows if list(r) == columns and r["step"].isdecimal() and None not in r]

    def write(self, row: dict[str, object]) -> None:
        if self._file is not None:
            csv.DictWriter(self._file, self._columns).writerow(row)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
