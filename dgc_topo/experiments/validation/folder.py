"""A validation on disk: its rows and trainings (JSON Lines), the calibration and a plot."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path

from dgc_topo.experiments.validation.rows import TRAINING_STEPS, Row
from dgc_topo.network.calibrated import CalibratedNetwork
from dgc_topo.records.measurement import Measurement
from dgc_topo.records.records import (
    VALIDATION,
    RecordFile,
    ResultsError,
    load_measurements,
    read_records,
)
from dgc_topo.records.room import NETWORK, TRAININGS, Told, make_room


class ValidationFolder:
    """A new validation; earlier results at its place are renamed.

    Rows and trainings are written as they come, so that what was measured is not lost if anything
    fails later.

    Args:
        path: Folder to make; it may exist if it is empty or holds earlier results.
        scenario: The file of the scenario, whose own folder is never renamed.

    Attributes:
        aside: Where the earlier results are now, if there were any.

    Raises:
        ResultsError: if *path* holds anything else, or another run is writing to it.
    """

    def __init__(self, path: Path, scenario: Path | None = None) -> None:
        self._room = make_room(path, scenario)
        self._path = path
        self._rows = RecordFile.create(path / VALIDATION)
        self._trainings = RecordFile(path / TRAININGS)
        self.aside = self._room.aside

    def or_as_it_was(self, told: Told | None = None) -> AbstractContextManager[None]:
        """Leave everything as it was if what is done now fails before anything was measured."""
        return self._room.or_as_it_was(self._rows, self._trainings, told=told)

    def keep_network(self, network: CalibratedNetwork) -> None:
        """Write the network that predicts the rows."""
        network.save(self._path / NETWORK)

    def keep_training(self, record: Measurement) -> None:
        """Add the record of a training, from which its row is predicted."""
        (self._path / TRAININGS).touch()
        self._trainings.append(record)
        self._trainings.close()

    def write(self, rows: Iterable[Row]) -> list[Row]:
        """Write the rows one by one, and return them."""
        written = []
        try:
            for row in rows:
                self._rows.append(row)
                written.append(row)
        finally:
            self._rows.close()
        return written


def load_rows(path: Path) -> list[Row]:
    """Return the rows of a validation folder, or of its ``validation.jsonl``.

    A last line that was cut off by a crash is left out with a warning.

    Raises:
        OSError: if there is no such file.
        ResultsError: naming file and line of the first row that is wrong.
    """
    return read_records(path / VALIDATION if path.is_dir() else path, Row)


def load_trainings(path: Path, rows: Iterable[Row]) -> list[Measurement]:
    """Return the trainings of a validation folder, some of which have no row if it was cut short.

    Args:
        path: The folder.
        rows: Its rows, so that trainings are missed.

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
