"""The folder of a sweep: its records, appended while it runs, and found again when it goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from dgc_topo.experiments.sweep.rows import VERSION, SweepRow, SweptCollective, SweptStep
from dgc_topo.records.origin import describe_run, origin_of
from dgc_topo.records.records import (
    MEASUREMENTS,
    SWEEP,
    RecordFile,
    ResultsError,
    read_records,
)
from dgc_topo.records.room import SCENARIO, OnMoved, Room, check_content, make_room

_COMMAND = ("dgc-topo", "sweep", SCENARIO)


class _KeyedRow(BaseModel):
    """A record of any sweep."""

    model_config = ConfigDict(extra="allow")

    version: int
    job: str


@dataclass(frozen=True, slots=True)
class SweptScenario:
    """Scenario that a sweep is in; its folder keeps a copy.

    Attributes:
        name: Name in the scenario.
        path: The file.
        text: Text of the copy.
        files: Files that the scenario uses, by the paths of their copies.
    """

    name: str
    path: Path
    text: str
    files: Mapping[str, Path]


class SweepStore:
    """Records of one sweep on disk, with one writer at a time.

    Args:
        path: Folder, new or with earlier records of the sweep.  If it has records of other
            settings, it is renamed, and a new one begins with the records that both share.
        kind: Type of the rows.
        jobs: Fingerprints of all rows, in their order.
        scenario: Scenario, if the sweep is in one.
        told: Called with the old and the new name of a folder that had to be renamed.

    Attributes:
        rows: Rows that are there already, by fingerprint.

    Raises:
        ResultsError: if *path* holds anything else, or another run is writing to it.
    """

    def __init__(
        self,
        path: Path,
        kind: type[SweepRow],
        jobs: Sequence[str],
        scenario: SweptScenario | None,
        told: OnMoved,
    ) -> None:
        self.path, self._jobs = path, jobs
        self.rows: dict[str, SweepRow] = {}
        self._room: Room | None = None
        self._told = told
        self._file = self._resumed(kind) or self._new(scenario)
        if scenario is not None:
            with self.restored_on_error():
                origin = origin_of(scenario.name, _COMMAND)
                describe_run(path, scenario.text, origin, scenario.files)

    def append(self, rows: Sequence[SweepRow]) -> None:
        """Add rows, and wait until they are on disk."""
        self._file.append(*rows)
        self.rows |= {row.job: row for row in rows}

    def finish(self) -> None:
        """Put the rows into their order, which does not depend on who made them first."""
        self._file.replace(self.rows[job] for job in self._jobs)

    def close(self) -> None:
        """Release the lock, so that other runs may write."""
        self._file.close()

    @contextmanager
    def restored_on_error(self) -> Iterator[None]:
        """Put earlier results back if the code inside fails before the first row is written."""
        undone = (
            self._room.restored_on_error(self._file, told=self._told)
            if self._room
            else nullcontext()
        )
        with undone:
            yield

    def _resumed(self, kind: type[SweepRow]) -> RecordFile | None:
        """Return the file that is there, if all of its records are of this sweep."""
        if not (self.path / SWEEP).is_file():
            return None
        check_content(self.path)
        file = RecordFile(self.path / SWEEP)
        file.open()  # first, because from here on the file is locked, and ends with a whole line
        found = read_keyed_rows(self.path / SWEEP)
        wanted = set(self._jobs)
        self.rows = {
            row.job: kind.model_validate(row.model_dump()) for row in found if row.job in wanted
        }
        if all(row.job in wanted for row in found):
            return file
        file.close()
        return None

    def _new(self, scenario: SweptScenario | None) -> RecordFile:
        self._room = make_room(self.path, scenario.path if scenario else None)
        file = RecordFile.create(self.path / SWEEP, self.rows.values())
        if self._room.aside is not None:
            self._told(self.path, self._room.aside)
        return file


def read_keyed_rows(file: Path) -> list[_KeyedRow]:
    """Return the records in a file of any sweep.

    Raises:
        ResultsError: naming the file, if it has no such records, or those of a later version.
    """
    rows = read_records(file, _KeyedRow)
    latest = max((row.version for row in rows), default=VERSION)
    if latest > VERSION:
        raise ResultsError(
            f"{file}: records of version {latest}, expected at most {VERSION}; a later dgc-topo "
            "reads them"
        )
    return rows


def read_rows(path: str | Path) -> list[SweepRow]:
    """Return the rows of a sweep's folder, or of its file, in the order in which they are there.

    Raises:
        ResultsError: naming the file, if there are none, or not of one sweep.
    """
    file = Path(path) / SWEEP if Path(path).is_dir() else Path(path)
    if not file.is_file():
        held = (Path(path) / MEASUREMENTS).is_file()
        why = f"holds other results ({MEASUREMENTS})" if held else f"no {SWEEP} in there"
        raise ResultsError(f"{path}: {why}, expected a sweep's folder or file")
    first = read_keyed_rows(file)[:1]
    of_steps = any("step_time_s" in (row.model_extra or {}) for row in first)
    return list(read_records(file, SweptStep if of_steps else SweptCollective))
