"""A results folder: the scenario, its records, the machine it ran on, and the report."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType

from dgc_topo.records.measurement import Measurement
from dgc_topo.records.origin import (
    COMPARE,
    Origin,
    describe_run,
    origin_in,
    origin_of,
    read_text,
)
from dgc_topo.records.records import (
    MEASUREMENTS,
    RecordFile,
    ResultsError,
    load_measurements,
    why_missing,
)
from dgc_topo.records.room import (
    ENVIRONMENT,
    REPORT,
    SCENARIO,
    OnMoved,
    Room,
    check_content,
    make_room,
)

__all__ = ["Origin", "ResultsError", "ResultsFolder", "load_measurements"]


class ResultsFolder:
    """One run's results on disk.

    Attributes:
        path: The folder.
        aside: New path of earlier results that `create` has renamed, if there were any.
    """

    def __init__(self, path: str | Path) -> None:
        """Open an existing results folder.

        Raises:
            ResultsError: if *path* is not a results folder.
        """
        self.path = Path(path)
        self.aside: Path | None = None
        self._room: Room | None = None
        self._records = RecordFile(self.measurements_path)
        if not self.measurements_path.is_file():
            raise ResultsError(f"{self.path}: {why_missing(self.path)}")

    def __repr__(self) -> str:
        """Return the path."""
        return f"ResultsFolder({str(self.path)!r})"

    @classmethod
    def create(
        cls,
        path: str | Path,
        scenario_text: str,
        scenario_name: str,
        *,
        command: Sequence[str] = COMPARE,
        scenario: Path | None = None,
        records: Collection[Measurement] = (),
        files: Mapping[str, Path] = MappingProxyType({}),
    ) -> ResultsFolder:
        """Make a results folder; earlier results at *path* are renamed, never overwritten.

        An earlier ``results/quickstart`` becomes ``results/quickstart-20260131-174502``, after
        the time of its last record.

        Args:
            path: Folder to make; it may exist if it is empty or holds earlier results.
            scenario_text: Exact text of the scenario file.
            scenario_name: Name in the scenario.
            command: See `Origin`.
            scenario: The scenario's file; its own folder is never renamed.
            records: First records of the folder.
            files: Files that the scenario uses, by the paths of their copies in ``files/``.

        Raises:
            ResultsError: if *path* holds anything else, or another run is writing to it.
            OSError: if the disk refuses; earlier results are then back in place.
        """
        origin = origin_of(scenario_name, command)
        room = make_room(Path(path), scenario)
        # First, because from here on the folder is locked.
        file = RecordFile.create(Path(path) / MEASUREMENTS)
        folder = cls(path)
        folder._records, folder._room, folder.aside = file, room, room.aside
        with folder.restored_on_error():
            for record in records:
                file.append(record)
            describe_run(folder.path, scenario_text, origin, files)
        return folder

    @classmethod
    def resume(
        cls,
        path: str | Path,
        scenario_text: str,
        scenario_name: str,
        jobs: Collection[str],
        *,
        command: Sequence[str] = COMPARE,
        scenario: Path | None = None,
        files: Mapping[str, Path] = MappingProxyType({}),
    ) -> ResultsFolder:
        """Go on with the results at *path*, or make a folder as `create` does.

        Records of *jobs* are kept, and what was predicted from them.  If there are others, the
        folder is renamed, and a new one begins with the kept records: a folder holds only records
        that its scenario asks for.
        Other files that are missing or unreadable are written again.

        Args:
            path: Results folder, existing or not.
            scenario_text: Exact text of the scenario file.
            scenario_name: What the scenario calls itself.
            jobs: Fingerprints of all jobs to be run.
            command: See `Origin`.
            scenario: The file of the scenario, whose own folder is never renamed.
            files: As in `create`.

        Raises:
            ResultsError: as `create`.
        """
        kept: list[Measurement] = []
        if (Path(path) / MEASUREMENTS).is_file():
            check_content(Path(path))
            folder = cls(path)
            folder._records.open()  # first, because from here on the file is locked
            earlier = folder.measurements()
            kept = [each for each in earlier if each.job in jobs or each.kind == "predicted"]
            if len(kept) == len(earlier):
                origin = origin_of(scenario_name, command)
                describe_run(folder.path, scenario_text, origin, files)
                return folder
            folder.close()
        return cls.create(
            path,
            scenario_text,
            scenario_name,
            command=command,
            scenario=scenario,
            records=kept,
            files=files,
        )

    @contextmanager
    def restored_on_error(self, told: OnMoved | None = None) -> Iterator[None]:
        """Undo `create` if the code inside fails before the first record is written."""
        undone = (
            self._room.restored_on_error(self._records, told=told) if self._room else nullcontext()
        )
        with undone:
            yield

    @property
    def measurements_path(self) -> Path:
        """One record per line."""
        return self.path / MEASUREMENTS

    @property
    def scenario_path(self) -> Path:
        """The exact scenario that was run."""
        return self.path / SCENARIO

    @property
    def environment_path(self) -> Path:
        """The scenario's name, the machine and the versions."""
        return self.path / ENVIRONMENT

    @property
    def report_path(self) -> Path:
        """The report, once written."""
        return self.path / REPORT

    def append(self, measurement: Measurement) -> None:
        """Add one record and wait until it is on disk.

        Raises:
            ResultsError: if another run is writing to this folder, or it is gone.
            OSError: if the disk refuses; the records before stay whole.
        """
        self._records.append(measurement)

    def keep_measured(self) -> None:
        """Drop the predictions, which are going to be made anew from the records.

        Raises:
            ResultsError: as `append`.
            WriteError: if the disk refuses; the file stays as it was.
        """
        records = self.measurements()
        measured = [record for record in records if record.kind == "measured"]
        if len(measured) < len(records):
            self._records.replace(measured)

    def close(self) -> None:
        """Release the lock, so that other runs may write; a later `append` takes it again."""
        self._records.close()

    def measurements(self) -> list[Measurement]:
        """Return the records; see `load_measurements`."""
        return load_measurements(self.path)

    def origin(self) -> Origin:
        """Return the scenario's name, the machine and the versions.

        Raises:
            ResultsError: if ``environment.json`` is missing or unreadable.
        """
        return origin_in(self.environment_path)

    def scenario_text(self) -> str:
        """Return the exact text of the scenario.

        Raises:
            ResultsError: if ``scenario.toml`` is missing.
        """
        return read_text(self.scenario_path)

    def known_origin(self) -> Origin:
        """Return the origin; if its file is missing, warn and return the records' part of it.

        Raises:
            ResultsError: if there are no records, either.
        """
        try:
            return self.origin()
        except ResultsError as error:
            records = self.measurements()
            if not records:
                raise
            warnings.warn(f"{error}: the report says what the records do", stacklevel=2)
            first = records[0]
            return Origin(scenario=first.scenario, created=first.created, environment=None)

    def known_scenario_text(self) -> str:
        """Return the text of the scenario; if its file is missing, warn and return ""."""
        try:
            return self.scenario_text()
        except ResultsError as error:
            warnings.warn(f"{error}: the report is without it", stacklevel=2)
            return ""
