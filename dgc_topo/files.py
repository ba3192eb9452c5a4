"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_TEMPORARY = ".dgc-topo-"  #: begins the name of a file that is not whole yet


class WriteError(OSError):
    """A file that could not be written; the earlier file is unchanged."""

    def __str__(self) -> str:
        """Name the file, and say why."""
        return f"{self.filename}: cannot be written: {self.strerror}"


def write_whole(path: Path, content: str | bytes) -> None:
    """Write *content* (text as UTF-8) to *path*, as `opened_whole` does."""
    with opened_whole(path) as file:
        file.write(content.encode("utf-8", "replace") if isinstance(content, str) else content)


@contextmanager
def opened_whole(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that replaces *path* once it is complete and on disk.

    Readers see the earlier file or the complete new one, even if the writer is killed.  A link is
    followed; a device or a pipe is written to directly.

    Raises:
        WriteError: naming *path*, if the disk or the folder refuses.
    """
    try:
        if _is_stream(path):
            with path.open("wb") as stream:
                yield stream
            return
        with _replacement(Path(os.path.realpath(path))) as file:
            yield file
    except OSError as error:
        raise WriteError(error.errno, error.strerror or str(error), str(path)) from error


@contextmanager
def _replacement(path: Path) -> Iterator[BinaryIO]:
    """Open a file in the folder of *path*, with the same rights, that will replace it."""
    temporary = path.with_name(f"{_TEMPORARY}{secrets.token_hex(6)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - no path, a descriptor
            with suppress(FileNotFoundError):
                os.fchmod(descriptor, path.stat().st_mode & 0o7777)
            yield file
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def is_temporary(path: Path) -> bool:
    """Return True if *path* was left behind by a writer that was killed."""
    return path.name.startswith(_TEMPORARY)


def _is_stream(path: Path) -> bool:
    """Return True if *path* is not a file on a disk, or was opened by a shell."""
    beside_disks = any(path.absolute().is_relative_to(place) for place in ("/dev", "/proc"))
    return path.exists() and (beside_disks or not path.is_file())


def _sync_folder(folder: Path) -> None:
    """Make renamings in *folder* survive a power loss, if the disk can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
