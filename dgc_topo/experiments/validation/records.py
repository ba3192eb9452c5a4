"""A validation's folder: a row per case, the records of trainings, the calibration, a plot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt

from dgc_topo.network.calibrated import CalibratedNetwork
from dgc_topo.records.measurement import Measurement
from dgc_topo.records.records import (
    VALIDATION,
    RecordFile,
    ResultsError,
    load_measurements,
    read_records,
)
from dgc_topo.records.room import NETWORK, TRAININGS, OnMoved, make_room
from dgc_topo.units import rate_text

COLLECTIVES, TRAINING_STEPS = "collectives", "training steps"  #: groups of rows

#: Rows with at least this many bytes are large: bandwidth decides their time, not latency.
LARGE_BYTES = 1_000_000


class ValidationRow(BaseModel):
    """Measured time of one case, and the time that the calibrated model had predicted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    group: str = Field(description="collectives, or training steps")
    name: str = Field(description="topology and options")
    world_size: PositiveInt
    rate_bits_per_s: float | None = Field(default=None, description="of the links; None unshaped")
    payload: str = Field(description="dense, or density and elements of a sparse buffer")
    num_bytes: NonNegativeFloat = Field(description="of the buffer; sparse: of one rank's message")
    bytes_sent: NonNegativeFloat = Field(description="by the busiest rank, as the executor counts")
    measured_s: float = Field(gt=0)
    spread: NonNegativeFloat = Field(description="between the quartiles of the rounds, relative")
    attempts: PositiveInt = Field(default=1, description="measurements; more if disturbed")
    rounds: PositiveInt = Field(default=1, description="behind the median")
    in_usual_state: bool = Field(
        default=True, description="whether the machine was as it was when it was calibrated"
    )
    load: NonNegativeFloat = Field(default=0.0, description="load average of the machine")
    predicted_s: float = Field(gt=0)

    @property
    def error(self) -> float:
        """Signed relative error: above 0 if the prediction was too slow."""
        return self.predicted_s / self.measured_s - 1

    @property
    def is_large(self) -> bool:
        """True if the buffer has a megabyte or more."""
        return self.num_bytes >= LARGE_BYTES


class ErrorSummary(NamedTuple):
    """Summary of the absolute errors of some rows."""

    what: str
    num_rows: int
    median: float
    percentile_95: float
    worst: float


def summarize(rows: Sequence[ValidationRow]) -> list[ErrorSummary]:
    """Return a summary per group, rate and size class that has rows."""
    summaries = []
    for group in dict.fromkeys(row.group for row in rows):
        for rate in dict.fromkeys(row.rate_bits_per_s for row in rows):
            here = [r for r in rows if (r.group, r.rate_bits_per_s) == (group, rate)]
            link = rate_text(rate)
            if group == TRAINING_STEPS:
                classes = {"": here}
            else:
                classes = {
                    ", 1 MB and more": [row for row in here if row.is_large],
                    ", below 1 MB": [row for row in here if not row.is_large],
                }
            for size, some in classes.items():
                if some:
                    summaries.append(_summary(f"{group}, {link}{size}", some))
    return summaries


def _summary(what: str, rows: Iterable[ValidationRow]) -> ErrorSummary:
    errors = np.abs([row.error for row in rows])
    return ErrorSummary(
        what,
        len(errors),
        float(np.median(errors)),
        float(np.percentile(errors, 95)),
        float(errors.max()),
    )


class ValidationFolder:
    """Folder of a new validation; earlier results in its place are renamed.

    Rows and trainings are written at once, so that a later failure loses no measurement.

    Args:
        path: Folder to make; it may exist if it is empty or holds earlier results.
        scenario: The scenario's file; its own folder is never renamed.

    Attributes:
        path: The folder.
        aside: New path of the earlier results, if there were any.

    Raises:
        ResultsError: if *path* holds anything else, or another run is writing to it.
    """

    def __init__(self, path: Path, scenario: Path | None = None) -> None:
        self._room = make_room(path, scenario)
        self.path = path
        self._rows = RecordFile.create(path / VALIDATION)
        self._trainings = RecordFile(path / TRAININGS)
        self.aside = self._room.aside

    def restored_on_error(self, told: OnMoved | None = None) -> AbstractContextManager[None]:
        """Put everything back if the code inside fails before anything was measured."""
        return self._room.restored_on_error(self._rows, self._trainings, told=told)

    def keep_network(self, network: CalibratedNetwork) -> None:
        """Write the network that predicts the rows."""
        network.save(self.path / NETWORK)

    def keep_training(self, record: Measurement) -> None:
        """Add the record of a training, from which its row is predicted."""
        (self.path / TRAININGS).touch()
        self._trainings.append(record)
        self._trainings.close()

    def write(self, rows: Iterable[ValidationRow]) -> list[ValidationRow]:
        """Write the rows one by one, and return them."""
        written = []
        try:
            for row in rows:
                self._rows.append(row)
                written.append(row)
        finally:
            self._rows.close()
        return written


def load_rows(path: Path) -> list[ValidationRow]:
    """Return the rows of a validation folder, or of its ``validation.jsonl``.

    If a crash cut off the last line, it is left out with a warning.

    Raises:
        OSError: if there is no such file.
        ResultsError: naming file and line of the first row that is wrong.
    """
    return read_records(path / VALIDATION if path.is_dir() else path, ValidationRow)


def load_trainings(path: Path, rows: Iterable[ValidationRow]) -> list[Measurement]:
    """Return the records of a validation folder's trainings; some may not have a row yet.

    Args:
        path: The folder.
        rows: Its rows, which decide whether trainings are required.

    Raises:
        ResultsError: if there are rows of training steps, but no file of their trainings.
        ValueError: naming the line that is no record.
    """
    file = path / TRAININGS
    if file.is_file():
        return load_measurements(file)
    if any(row.group == TRAINING_STEPS for row in rows):
        raise ResultsError(
            f"{path}: has rows of training steps, but no {TRAININGS} to predict them from"
        )
    return []
