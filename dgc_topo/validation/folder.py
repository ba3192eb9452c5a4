"""A validation on disk: its rows and trainings (JSON Lines), the calibration and a plot."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dgc_topo.calibration.model import CalibratedNetwork
from dgc_topo.results.measurement import Measurement
from dgc_topo.results.records import (
    VALIDATION,
    RecordFile,
    ResultsError,
    load_measurements,
    lock,
)
from dgc_topo.results.room import make_room
from dgc_topo.validation.report import error_figure
from dgc_topo.validation.rows import TRAINING_STEPS, Row

TRAININGS = "trainings.jsonl"
NETWORK = "network.toml"
PLOT = "predicted-against-measured.svg"


class ValidationFolder:
    """A new validation; earlier results at its place are renamed.

    Rows and trainings are written as they come, so that what was measured is not lost if anything
    fails later.

    Args:
        path: Folder to make; it may exist if it is empty or holds earlier results.

    Raises:
        ResultsError: if *path* holds anything else, or another run is writing to it.
    """

    def __init__(self, path: Path) -> None:
        make_room(path)
        self._path = path
        (path / VALIDATION).touch()
        self._rows = open(lock(path / VALIDATION), "w", encoding="utf-8")  # noqa: PTH123, SIM115

    def keep_network(self, network: CalibratedNetwork) -> None:
        """Write the network that predicts the rows."""
        network.save(self._path / NETWORK)

    def keep_training(self, record: Measurement) -> None:
        """Add the record of a training, from which its row is predicted."""
        file = self._path / TRAININGS
        file.touch()
        records = RecordFile(file)
        records.append(record)
        records.close()

    def write(self, rows: Iterable[Row]) -> list[Row]:
        """Write the rows one by one, then the plot of those that there are, and return them."""
        written = []
        try:
            with self._rows as file:
                for row in rows:
                    file.write(f"{row.model_dump_json()}\n")
                    file.flush()
                    written.append(row)
        finally:
            figure = error_figure(written)
            figure.savefig(self._path / PLOT, bbox_inches="tight", metadata={"Date": None})
        return written


def load_rows(path: Path) -> list[Row]:
    """Return the rows of a validation folder, or of its ``validation.jsonl``.

    Raises:
        OSError: if there is no such file.
        ValueError: naming the line that is no row.
    """
    path = path / VALIDATION if path.is_dir() else path
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows.append(Row.model_validate_json(line))
        except ValueError as error:
            raise ValueError(f"{path}: line {number}: {error}") from error
    return rows


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
