"""An empty folder for new results; earlier ones are renamed, never overwritten."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from dgc_topo.files import is_temporary
from dgc_topo.records.records import (
    MEASUREMENTS,
    SWEEP,
    VALIDATION,
    RecordFile,
    ResultsError,
    lock,
)

SCENARIO = "scenario.toml"
ENVIRONMENT = "environment.json"
REPORT = "report.html"
FILES = "files"  #: folder for copies of the files that a scenario uses
LOGS = "logs"  #: folder for the logs of trainings
CHECKPOINTS = "checkpoints"  #: folder for the state of trainings
MODELS = "models"  #: folder for trained models
TRAININGS = "trainings.jsonl"
NETWORK = "network.toml"
PLOT = "predicted-against-measured.svg"

#: All files that a results folder may hold, by the file of its records.
_CONTENT: dict[str, Collection[str]] = {
    MEASUREMENTS: (MEASUREMENTS, SCENARIO, ENVIRONMENT, REPORT),
    VALIDATION: (VALIDATION, TRAININGS, NETWORK, PLOT, REPORT),
    SWEEP: (SWEEP, SCENARIO, ENVIRONMENT, REPORT),
}


#: Called when earlier results are renamed, with the folder's old and new path.
OnMoved = Callable[[Path, Path], None]


class Room(NamedTuple):
    """An empty folder for results.

    Attributes:
        path: The folder itself, behind all links.
        aside: New path of the earlier results, if there were any.
        made: True if the folder did not exist before.
    """

    path: Path
    aside: Path | None
    made: bool

    @contextmanager
    def restored_on_error(
        self, *records: RecordFile, told: OnMoved | None = None
    ) -> Iterator[None]:
        """Put everything back if the code inside fails before a record is in one of the files.

        A checkpoint or a model is a result, too: with one in there everything stays.

        Args:
            records: The files.
            told: Called with the temporary and the restored path of the earlier results.
        """
        try:
            yield
        except BaseException:  # an interrupt as well
            if all(file.is_empty() for file in records) and not _has_state(self.path):
                for file in records:
                    file.close()
                self._give_back()
                if self.aside and told:
                    told(self.aside, self.path)
            raise

    def _give_back(self) -> None:
        """Remove the new files, and put the earlier results back."""
        for file in list(self.path.iterdir()) if self.path.is_dir() else ():
            if file.name in {FILES, LOGS, CHECKPOINTS} and file.is_dir():
                shutil.rmtree(file)  # made here: the place was empty
            elif any(_is_ours(file, records) for records in _CONTENT):
                file.unlink()
        if (self.made or self.aside) and self.path.is_dir():
            self.path.rmdir()
        if self.aside:
            self.aside.rename(self.path)


def _has_state(path: Path) -> bool:
    """Return True if there is a model in *path*, or a complete checkpoint of a training."""
    checkpoints = (path / CHECKPOINTS).glob("*/*/manifest.json")
    return any(checkpoints) or any((path / MODELS).glob("*.pt"))


def check_room(path: Path, scenario: Path | None = None) -> Path | None:
    """Check that *path* is free for results, or holds earlier ones that can be renamed.

    Args:
        path: Folder for results, existing or not.
        scenario: File that says what is run, whose own folder is never renamed.

    Returns:
        The file of the earlier records, if there is one.

    Raises:
        ResultsError: naming the obstacle.
    """
    if path.exists() and not path.is_dir():
        raise ResultsError(f"{path}: a file, expected a folder for results")
    if not path.is_dir() or not any(path.iterdir()):
        return None
    records = check_content(path)
    kept = {"the current folder": Path.cwd(), "your home": Path("~").expanduser()}
    if scenario is not None:
        kept["the folder of the scenario itself"] = scenario.parent
    for what, folder in kept.items():
        if folder.exists() and path.samefile(folder):
            raise ResultsError(
                f"{path}: {what}, which is never renamed for new results; expected another folder"
            )
    return records


def check_content(path: Path) -> Path:
    """Return the file of records in *path*, and refuse a folder that holds anything but results.

    Raises:
        ResultsError: naming what else it holds.
    """
    there = sorted(path.iterdir())
    for records in _CONTENT:
        if (path / records).is_file():
            foreign = [file.name for file in there if not _is_ours(file, records)]
            break
    else:
        foreign = [file.name for file in there]
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise ResultsError(
            f"{path}: holds {foreign[0]!r}{more}, not dgc-topo results, expected a new or empty "
            "folder"
        )
    return path / records


def _is_ours(file: Path, records: str) -> bool:
    if file.is_dir():
        if file.name in {LOGS, CHECKPOINTS, MODELS}:
            return records == MEASUREMENTS
        return file.name == FILES and records != VALIDATION
    return file.is_file() and (file.name in _CONTENT[records] or is_temporary(file))


def make_room(path: Path, scenario: Path | None = None) -> Room:
    """Leave an empty folder at *path*.

    Earlier results there are renamed: ``results/quickstart`` becomes
    ``results/quickstart-20260131-174502``, after the time of its last record.  If *path* is a link,
    it stays one, and the folder that it points to is renamed.

    Args:
        path: Folder for results, existing or not.
        scenario: File that says what is run, whose own folder is never renamed.

    Raises:
        ResultsError: if *path* holds anything else, or another run is writing to it.
    """
    records = check_room(path, scenario)
    real, made = Path(os.path.realpath(path)), not path.is_dir()
    aside = _move_aside(path, records) if records else None
    try:
        real.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultsError(f"{path}: cannot be made: {error.strerror}") from error
    return Room(real, aside, made)


def _move_aside(path: Path, records: Path) -> Path:
    held, real = lock(records), Path(os.path.realpath(path))
    try:
        finished = datetime.fromtimestamp(os.fstat(held).st_mtime).astimezone()
        name = f"{real.name}-{finished:%Y%m%d-%H%M%S}"
        aside, attempt = real.with_name(name), 1
        while os.path.lexists(aside):
            attempt += 1
            aside = aside.with_name(f"{name}-{attempt}")
        return real.rename(aside)
    except OSError as error:
        raise ResultsError(f"{path}: cannot move the earlier results aside: {error}") from error
    finally:
        os.close(held)
