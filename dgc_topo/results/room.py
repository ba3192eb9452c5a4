"""An empty folder for new results; earlier ones are renamed, never overwritten."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from dgc_topo.results.records import MEASUREMENTS, VALIDATION, ResultsError, lock


def make_room(path: Path) -> None:
    """Leave an empty folder at *path*.

    Earlier results there are renamed: ``results/quickstart`` becomes
    ``results/quickstart-20260131-174502``, after the time of its last record.

    Raises:
        ResultsError: if *path* holds anything else, or another run is writing to it.
    """
    if path.exists() and not path.is_dir():
        raise ResultsError(f"{path}: a file, expected a folder for results")
    earlier = [path / name for name in (VALIDATION, MEASUREMENTS) if (path / name).is_file()]
    if earlier:
        _move_aside(path, earlier[0])
    elif path.is_dir() and any(path.iterdir()):
        raise ResultsError(
            f"{path}: holds files that are not dgc-topo results, expected a new or empty folder"
        )
    path.mkdir(parents=True, exist_ok=True)


def _move_aside(path: Path, records: Path) -> None:
    held = lock(records)
    try:
        finished = datetime.fromtimestamp(os.fstat(held).st_mtime).astimezone()
        name = f"{path.resolve().name}-{finished:%Y%m%d-%H%M%S}"
        aside, attempt = path.resolve().with_name(name), 1
        while aside.exists():
            attempt += 1
            aside = aside.with_name(f"{name}-{attempt}")
        path.resolve().rename(aside)
    except OSError as error:
        raise ResultsError(f"{path}: cannot move the earlier results aside: {error}") from error
    finally:
        os.close(held)
