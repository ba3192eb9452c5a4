"""Sets: the files of all processes that make one checkpoint, and the manifest that says so.

A set is a folder, ``set-000007``, with a file per process and ``manifest.json``.  The manifest is
written last, when every file is on disk: a folder without one is no set, whatever it holds.  The
set before stays until then.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dgc_topo.files import write_whole
from dgc_topo.training.checkpoints.errors import CheckpointError

MANIFEST = "manifest.json"
KEPT = 2  #: complete sets that stay
_NAME = re.compile(r"set-(\d{6,})")


class FileNote(BaseModel):
    """Note about one file of a set.

    Attributes:
        name: Of the file.
        ranks: Ranks whose state it holds, rising.
        num_bytes: Its size.
        checksum: See `Written`.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    ranks: tuple[int, ...]
    num_bytes: int
    checksum: str


class Manifest(BaseModel):
    """Content of ``manifest.json``.

    Attributes:
        version: Of the format.
        created: When the set was complete.
        step: Training steps done; calls of `save` so far, in a loop of one's own.
        world_size: Number of ranks.
        files: All files of the set.
        settings: Settings that made it, for comparisons.
    """

    model_config = ConfigDict(frozen=True)

    version: int = Field(default=1, ge=1, le=1)
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))
    step: int = Field(ge=0)
    world_size: int = Field(ge=1)
    files: tuple[FileNote, ...]
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _holds_each_rank_once(self) -> Self:
        ranks = sorted(rank for file in self.files for rank in file.ranks)
        if ranks != list(range(self.world_size)):
            raise ValueError(f"files of ranks {ranks}, expected each of {self.world_size} once")
        return self

    def file_of(self, rank: int) -> FileNote:
        """Return the note about the file with the state of *rank*."""
        return next(file for file in self.files if rank in file.ranks)


def folder_of(folder: Path, number: int) -> Path:
    """Return the folder of a set."""
    return folder / f"set-{number:06d}"


def set_numbers(folder: Path) -> list[int]:
    """Return the numbers of all sets in *folder*, complete or not, rising."""
    if not folder.is_dir():
        return []
    found = (_NAME.fullmatch(each.name) for each in folder.iterdir())
    return sorted(int(match[1]) for match in found if match)


def complete_numbers(folder: Path) -> list[int]:
    """Return the numbers of the complete sets in *folder*, the newest first."""
    there = reversed(set_numbers(folder))
    return [number for number in there if (folder_of(folder, number) / MANIFEST).is_file()]


def read_manifest(folder: Path, number: int) -> Manifest:
    """Return the manifest of a complete set.

    Raises:
        CheckpointError: naming the file, if it is broken.
    """
    file = folder_of(folder, number) / MANIFEST
    try:
        return Manifest.model_validate_json(file.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"{file}: is broken: {key}: {first['msg']}") from error


def newest_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of the newest complete set that can be read; None if there is none."""
    for number in complete_numbers(folder):
        with suppress(CheckpointError):
            return read_manifest(folder, number)
    return None


def write_manifest(folder: Path, number: int, manifest: Manifest) -> None:
    """Make a set complete.

    Raises:
        WriteError: if the disk refuses.
    """
    write_whole(folder_of(folder, number) / MANIFEST, manifest.model_dump_json(indent=1) + "\n")


def remove_others(
    folder: Path, kept: Collection[int], own_files: Sequence[str], *, is_first: bool
) -> None:
    """Remove all sets but those *kept*, and what crashes have left.

    Args:
        folder: Folder of the sets; each machine may have its own.
        kept: Numbers of the sets that stay.
        own_files: Names of this process's files.
        is_first: True for the process that writes manifests, which removes whole sets.
    """
    for number in set(set_numbers(folder)) - set(kept):
        place = folder_of(folder, number)
        with suppress(OSError):  # what cannot be removed is no set, at least
            if is_first:
                (place / MANIFEST).unlink(missing_ok=True)
                shutil.rmtree(place)
                continue
            for name in own_files:
                (place / name).unlink(missing_ok=True)
            place.rmdir()
