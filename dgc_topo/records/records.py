"""Files of records (JSON Lines), such as ``measurements.jsonl``, with one writer at a time.

Each record is forced to disk before the next run starts: a crash costs at most the record that was
being written.
"""

from __future__ import annotations

import fcntl
import os
import warnings
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Self, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from dgc_topo.files import WriteError, write_whole
from dgc_topo.records.measurement import Measurement

_Record = TypeVar("_Record", bound=BaseModel)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

MEASUREMENTS = "measurements.jsonl"
VALIDATION = "validation.jsonl"  #: file of a validation, in place of the above
SWEEP = "sweep.jsonl"  #: file of a sweep, likewise
HINT = "make one with: dgc-topo compare quickstart"


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

    @classmethod
    def create(cls, path: Path, records: Iterable[BaseModel] = ()) -> Self:
        """Make the file with some records in it, and lock it against other writers.

        Raises:
            ResultsError: if it exists already, because another run has just made it.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            raise _taken(path.parent) from None
        os.close(descriptor)
        file = cls(path)
        file.open()
        for record in records:
            file.append(record)
        return file

    def open(self) -> int:
        """Lock the file and return its descriptor; a record that a crash cut off is removed.

        Raises:
            ResultsError: if another run is writing to it.
        """
        if self._writer is None:
            self._writer = lock(self._path)
            self._finalizer = weakref.finalize(self, os.close, self._writer)
            _mend(self._path, self._writer)
        return self._writer

    def append(self, *records: BaseModel) -> None:
        """Add records, all or none, and wait until they are on disk.

        Raises:
            ResultsError: if another run is writing to the file, or it is gone.
            WriteError: if the disk refuses; the records before stay whole.
        """
        writer = self.open()
        if not self._is_there(writer):
            raise ResultsError(
                f"{self._path}: was moved or deleted while a run was writing to it, expected it to "
                "stay until the run is over"
            )
        end = os.fstat(writer).st_size
        lines = memoryview(_lines_of(records))
        try:
            while lines:
                lines = lines[os.write(writer, lines) :]
            os.fsync(writer)
        except BaseException as error:
            # On an interrupt, too, because half a record would spoil the next one; whole ones stay.
            if lines or isinstance(error, OSError):
                os.ftruncate(writer, end)
            if isinstance(error, OSError):
                raise WriteError(error.errno, error.strerror, str(self._path)) from error
            raise

    def replace(self, records: Iterable[BaseModel]) -> None:
        """Put *records* in the place of all that are there, in one go, and release the lock.

        Raises:
            ResultsError: as `append`.
            WriteError: if the disk refuses; the file stays as it was.
        """
        if not self._is_there(self.open()):
            raise ResultsError(f"{self._path}: was moved or deleted, expected it to stay")
        write_whole(self._path, _lines_of(records))
        self.close()

    def close(self) -> None:
        """Release the lock, so that other runs may write; a later `append` takes it again."""
        if self._writer is not None:
            self._finalizer()
            self._writer = None

    def is_empty(self) -> bool:
        """Return True if there is no record in it, or no such file."""
        return not (self._path.exists() and self._path.stat().st_size)

    def _is_there(self, writer: int) -> bool:
        try:
            return os.path.samestat(os.fstat(writer), self._path.stat())
        except FileNotFoundError:
            return False


def _lines_of(records: Iterable[BaseModel]) -> bytes:
    lines = (record.model_dump_json().encode("utf-8", "replace") + b"\n" for record in records)
    return b"".join(lines)


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
    return read_records(file, Measurement)


def read_records(file: Path, kind: type[_Record]) -> list[_Record]:
    """Return the records of a JSON Lines file; warn of a last line that was cut off.

    Raises:
        ResultsError: naming file and line of the first record that is wrong.
    """
    *lines, last = file.read_bytes().removeprefix(_BYTE_ORDER_MARK).split(b"\n")
    whole = lines if _is_torn(last) else [*lines, last]
    records = [
        _parse(line, f"{file}:{number}", kind)
        for number, line in enumerate(whole, start=1)
        if line.strip()
    ]
    if _is_torn(last):
        where = f"{file}:{len(lines) + 1}"
        warnings.warn(
            f"{where}: the last record was cut off while it was written and is left out; "
            f"the {len(records)} records before it are complete",
            stacklevel=3,
        )
    return records


def why_missing(folder: Path) -> str:
    """Return a text that says why *folder* has no records, and what to do."""
    if not folder.exists():
        return f"no such folder, expected one of results; {HINT}"
    if not folder.is_dir():
        return f"a file, expected a folder of results; {HINT}"
    if (folder / VALIDATION).is_file():
        return (
            f"holds a validation ({VALIDATION}), expected {MEASUREMENTS}; predict its rows anew "
            f"with: dgc-topo validate SCENARIO --measured {folder} --network FILE"
        )
    if (folder / SWEEP).is_file():
        return f"holds a sweep ({SWEEP}), expected {MEASUREMENTS}; dt.Sweep.load reads it"
    return f"no {MEASUREMENTS} in there, {HINT}"


def lock(file: Path) -> int:
    """Lock *file*, and return the descriptor that holds the lock while it is open.

    Raises:
        ResultsError: if another run holds the lock.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_APPEND)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise _taken(file.parent) from None
    return descriptor


def _taken(folder: Path) -> ResultsError:
    return ResultsError(
        f"{folder}: another run is writing there, wait for it or name another folder"
    )


def _mend(file: Path, writer: int) -> None:
    """Make the file end with a whole line, so that the next record starts on a new one."""
    content = file.read_bytes()
    last = content.rpartition(b"\n")[2]
    if _is_torn(last):
        os.ftruncate(writer, len(content) - len(last))
    elif last:
        os.write(writer, b"\n")


def _is_torn(last: bytes) -> bool:
    """Return True if *last*, which has no line end, is only the beginning of a record."""
    try:
        from_json(last.strip() or b"{}")
    except ValueError:
        return True
    return False


def _parse(line: bytes, where: str, kind: type[_Record]) -> _Record:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        what = "measurement" if kind is Measurement else "row"
        schema = " (dgc-topo schema measurement prints its keys)" if kind is Measurement else ""
        raise ResultsError(
            f"{where}: {first_problem(error)}, expected one {what} in JSON{schema}"
        ) from error


def first_problem(error: ValidationError) -> str:
    """Return the first problem of a validation error in one line, with its key."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    return f"{key}: {first['msg']}" if key else first["msg"]
