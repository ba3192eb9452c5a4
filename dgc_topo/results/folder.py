"""A results folder: the scenario, what it gave, the machine it ran on and the report."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from dgc_topo.results.environment import Environment, describe_environment
from dgc_topo.results.measurement import Measurement
from dgc_topo.results.records import (
    HINT,
    MEASUREMENTS,
    RecordFile,
    ResultsError,
    first_problem,
    load_measurements,
    why_missing,
)
from dgc_topo.results.room import make_room

__all__ = ["Origin", "ResultsError", "ResultsFolder", "load_measurements"]


class Origin(BaseModel):
    """Where results come from: the content of ``environment.json``."""

    model_config = ConfigDict(frozen=True)

    scenario: str
    created: datetime
    environment: Environment


class ResultsFolder:
    """One run's results on disk.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: str | Path) -> None:
        """Open an existing results folder.

        Raises:
            ResultsError: if *path* is not a results folder.
        """
        self.path = Path(path)
        self._records = RecordFile(self.measurements_path)
        if not self.measurements_path.is_file():
            raise ResultsError(f"{self.path}: {why_missing(self.path)}")

    @classmethod
    def create(cls, path: str | Path, scenario_text: str, scenario_name: str) -> ResultsFolder:
        """Make a results folder; earlier results at *path* are renamed, never overwritten.

        An earlier ``results/quickstart`` becomes ``results/quickstart-20260131-174502``, after
        the time of its last record.

        Args:
            path: Folder to make; it may exist if it is empty or holds earlier results.
            scenario_text: Exact text of the scenario file.
            scenario_name: What the scenario calls itself.

        Raises:
            ResultsError: if *path* holds anything else, or another run is writing to it.
        """
        path = Path(path)
        make_room(path)
        (path / MEASUREMENTS).touch()
        folder = cls(path)
        folder._records.open()  # first of all: from here on the folder is ours alone
        folder.scenario_path.write_text(scenario_text, encoding="utf-8", newline="")
        origin = Origin(
            scenario=scenario_name, created=datetime.now(UTC), environment=describe_environment()
        )
        folder.environment_path.write_text(origin.model_dump_json(indent=2) + "\n")
        return folder

    @classmethod
    def resume(
        cls, path: str | Path, scenario_text: str, scenario_name: str, jobs: Collection[str]
    ) -> ResultsFolder:
        """Go on with the results at *path*, or make a folder as `create` does.

        Records of *jobs* are kept.  If there are others, the folder is renamed and a new one made
        that begins with those kept: a folder holds nothing that its scenario does not ask for.

        Args:
            path: Results folder, existing or not.
            scenario_text: Exact text of the scenario file.
            scenario_name: What the scenario calls itself.
            jobs: Fingerprints of all that is to be run.

        Raises:
            ResultsError: as `create`.
        """
        if not (Path(path) / MEASUREMENTS).is_file():
            return cls.create(path, scenario_text, scenario_name)
        folder = cls(path)
        folder._records.open()  # first of all: nobody else writes from here on
        earlier = folder.measurements()
        kept = [record for record in earlier if record.job in jobs]
        if len(kept) == len(earlier):
            folder.scenario_path.write_text(scenario_text, encoding="utf-8", newline="")
            return folder
        folder.close()
        folder = cls.create(path, scenario_text, scenario_name)
        for record in kept:
            folder.append(record)
        return folder

    @property
    def measurements_path(self) -> Path:
        """One record per line."""
        return self.path / MEASUREMENTS

    @property
    def scenario_path(self) -> Path:
        """The exact scenario that was run."""
        return self.path / "scenario.toml"

    @property
    def environment_path(self) -> Path:
        """The scenario's name, the machine and the versions."""
        return self.path / "environment.json"

    @property
    def report_path(self) -> Path:
        """The report, once written."""
        return self.path / "report.html"

    def append(self, measurement: Measurement) -> None:
        """Add one record and wait until it is on disk.

        Raises:
            ResultsError: if another run is writing to this folder.
            OSError: if the disk refuses; the records before stay whole.
        """
        self._records.append(measurement)

    def close(self) -> None:
        """Let other runs write; a later `append` would begin anew."""
        self._records.close()

    def measurements(self) -> list[Measurement]:
        """Return the records; see `load_measurements`."""
        return load_measurements(self.path)

    def origin(self) -> Origin:
        """Return the scenario's name, the machine and the versions.

        Raises:
            ResultsError: if ``environment.json`` is missing or unreadable.
        """
        try:
            return Origin.model_validate_json(_read(self.environment_path))
        except ValidationError as error:
            raise ResultsError(f"{self.environment_path}: {first_problem(error)}") from error

    def scenario_text(self) -> str:
        """Return the exact text of the scenario.

        Raises:
            ResultsError: if ``scenario.toml`` is missing.
        """
        return _read(self.scenario_path)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ResultsError(f"{file}: {error.strerror}, {HINT}") from error
