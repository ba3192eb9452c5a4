"""The records of a results folder: ``measurements.jsonl``, one per line.

Each is forced to disk before the next run starts: a crash costs at most the record that was being
written.
"""

from __future__ import annotations

import fcntl
import os
import warnings
import weakref
from pathlib import Path

from pydantic import ValidationError

from dgc_topo.results.measurement import Measurement

MEASUREMENTS = "measurements.jsonl"
VALIDATION = "validation.jsonl"  #: what a validation has in its place
HINT = "make one with: dgc-topo compare scenarios/quickstart.toml"


class ResultsError(ValueError):
    """A results folder that cannot be used as asked."""


class RecordFile:
    """A file of records, with one writer at a time.

    Args:
        path: Must exist before anything is added.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: int | None = None

    def open(self) -> int:
        """Lock the file and return its descriptor; a record cut off by a crash is taken away.

        Raises:
            ResultsError: if another run is writing to it.
        """
        if self._writer is None:
            self._writer = lock(self._path)
            self._finalizer = weakref.finalize(self, os.close, self._writer)
            _mend(self._path, self._writer)
        return self._writer

    def append(self, measurement: Measurement) -> None:
        """Add one record and wait until it is on disk.

        Raises:
            ResultsError: if another run is writing to the file.
            OSError: if the disk refuses; the records before stay whole.
        """
        writer = self.open()
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


def load_measurements(path: str | Path) -> list[Measurement]:
    """Return the records of a results folder or of a JSON Lines file.

    A last line that was cut off by a crash is left out with a warning.

    Raises:
        ResultsError: naming file and line of the first record that is wrong.
    """
    file = Path(path) / MEASUREMENTS if Path(path).is_dir() else Path(path)
    if Path(path).is_dir() and not file.is_file():
        raise ResultsError(f"{path}: {why_missing(Path(path))}")
    if not file.is_file():
        raise ResultsError(f"{file}: no such file, {HINT}")
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


def why_missing(folder: Path) -> str:
    """Say why *folder* has no records, and what to do."""
    if not folder.exists():
        return f"no such folder, expected one of results; {HINT}"
    if not folder.is_dir():
        return f"a file, expected a folder of results; {HINT}"
    if (folder / VALIDATION).is_file():
        return (
            f"holds a validation ({VALIDATION}), expected {MEASUREMENTS}; predict its rows anew "
            f"with: dgc-topo validate SCENARIO --measured {folder} --network FILE"
        )
    return f"no {MEASUREMENTS} in there, {HINT}"


def lock(file: Path) -> int:
    """Return a descriptor that nobody else may have as long as it is open.

    Raises:
        ResultsError: if another run has one.
    """
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
            f"{where}: {first_problem(error)}, expected one measurement in JSON "
            "(dgc-topo schema measurement prints its keys)"
        ) from error


def first_problem(error: ValidationError) -> str:
    """Say in one line what is wrong, with its key."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    return f"{key}: {first['msg']}" if key else first["msg"]
