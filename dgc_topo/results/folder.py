"""A results folder: the scenario, what it gave, the machine it ran on and the report.

``measurements.jsonl`` holds one record per line, each forced to disk before the next run starts:
a crash costs at most the record that was being written.
"""

from __future__ import annotations

import fcntl
import os
import warnings
import weakref
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from dgc_topo.results.environment import Environment, describe_environment
from dgc_topo.results.measurement import Measurement

_MEASUREMENTS = "measurements.jsonl"
_HINT = "make one with: dgc-topo compare scenarios/quickstart.toml"


class ResultsError(ValueError):
    """A results folder that cannot be used as asked."""


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
        self._writer: int | None = None
        if not self.measurements_path.is_file():
            raise ResultsError(f"{self.path}: no {_MEASUREMENTS} in there, {_HINT}")

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
        _make_room(path)
        (path / _MEASUREMENTS).touch()
        folder = cls(path)
        folder._open_for_append()  # first of all: from here on the folder is ours alone
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
        if not (Path(path) / _MEASUREMENTS).is_file():
            return cls.create(path, scenario_text, scenario_name)
        folder = cls(path)
        folder._open_for_append()  # first of all: nobody else writes from here on
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
        return self.path / _MEASUREMENTS

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
        writer = self._open_for_append()
        end = os.fstat(writer).st_size
        line = memoryview(measurement.model_dump_json().encode() + b"\n")
        try:
            while line:
                line = line[os.write(writer, line) :]
            os.fsync(writer)
        except BaseException:  # an interrupt as well: half a record would spoil the next one
            os.ftruncate(writer, end)
            raise

    def close(self) -> None:
        """Let other runs write; a later `append` would begin anew."""
        if self._writer is not None:
            self._finalizer()
            self._writer = None

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
            raise ResultsError(f"{self.environment_path}: {_problem(error)}") from error

    def scenario_text(self) -> str:
        """Return the exact text of the scenario.

        Raises:
            ResultsError: if ``scenario.toml`` is missing.
        """
        return _read(self.scenario_path)

    def _open_for_append(self) -> int:
        if self._writer is None:
            self._writer = _lock(self.measurements_path)
            self._finalizer = weakref.finalize(self, os.close, self._writer)
            _mend(self.measurements_path, self._writer)
        return self._writer


def load_measurements(path: str | Path) -> list[Measurement]:
    """Return the records of a results folder or of a JSON Lines file.

    A last line that was cut off by a crash is left out with a warning.

    Raises:
        ResultsError: naming file and line of the first record that is wrong.
    """
    file = Path(path) / _MEASUREMENTS if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise ResultsError(f"{file}: no such file, {_HINT}")
    records = []
    *lines, last = file.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            records.append(_parse(line, f"{file}:{number}"))
    if _is_torn(last):
        where = f"{file}:{len(lines) + 1}"
        warnings.warn(
            f"{where}: the last record was cut off while it was written and is left out; "
            f"the {len(records)} records before it are complete",
            stacklevel=2,
        )
    elif last.strip():
        records.append(_parse(last, f"{file}:{len(lines) + 1}"))
    return records


def find_results(*places: str | Path) -> Path:
    """Return ``$DGC_TOPO_RESULTS`` or else the newest results folder inside *places*.

    Raises:
        ResultsError: if there is none, with the command that makes one.
    """
    named = os.environ.get("DGC_TOPO_RESULTS")
    if named:
        return ResultsFolder(named).path
    found = [file for place in places for file in Path(place).glob(f"*/{_MEASUREMENTS}")]
    if not found:
        where = " or ".join(str(place) for place in places)
        raise ResultsError(f"no results folder in {where} and DGC_TOPO_RESULTS is unset, {_HINT}")
    return max(found, key=lambda file: file.stat().st_mtime).parent


def _make_room(path: Path) -> None:
    """Leave an empty folder at *path*, moving earlier results aside."""
    if path.exists() and not path.is_dir():
        raise ResultsError(f"{path}: a file, expected a folder for results")
    if (path / _MEASUREMENTS).is_file():
        _move_aside(path)
    elif path.is_dir() and any(path.iterdir()):
        raise ResultsError(
            f"{path}: holds files that are not dgc-topo results, expected a new or empty folder"
        )
    path.mkdir(parents=True, exist_ok=True)


def _move_aside(path: Path) -> None:
    lock = _lock(path / _MEASUREMENTS)
    try:
        finished = datetime.fromtimestamp(os.fstat(lock).st_mtime).astimezone()
        name = f"{path.resolve().name}-{finished:%Y%m%d-%H%M%S}"
        aside, attempt = path.resolve().with_name(name), 1
        while aside.exists():
            attempt += 1
            aside = aside.with_name(f"{name}-{attempt}")
        path.resolve().rename(aside)
    except OSError as error:
        raise ResultsError(f"{path}: cannot move the earlier results aside: {error}") from error
    finally:
        os.close(lock)


def _lock(file: Path) -> int:
    descriptor = os.open(file, os.O_RDWR | os.O_APPEND)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ResultsError(
            f"{file.parent}: another run is writing there, wait for it or name another folder"
        ) from None
    return descriptor


def _mend(file: Path, writer: int) -> None:
    """Make the file end with a whole line, so that the next record starts on its own."""
    content = file.read_bytes()
    last = content.rpartition(b"\n")[2]
    if _is_torn(last):
        os.ftruncate(writer, len(content) - len(last))
    elif last:
        os.write(writer, b"\n")


def _is_torn(last: bytes) -> bool:
    """Return whether *last*, which has no line end, is the beginning of a record."""
    try:
        Measurement.model_validate_json(last or b"{}")
    except ValidationError as error:
        return any(problem["type"] == "json_invalid" for problem in error.errors())
    return False


def _parse(line: bytes, where: str) -> Measurement:
    try:
        return Measurement.model_validate_json(line)
    except ValidationError as error:
        raise ResultsError(
            f"{where}: {_problem(error)}, expected one measurement in JSON "
            "(dgc-topo schema prints its keys)"
        ) from error


def _problem(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    return f"{key}: {first['msg']}" if key else first["msg"]


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ResultsError(f"{file}: {error.strerror}, {_HINT}") from error
