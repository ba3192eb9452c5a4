"""One file of a checkpoint: written whole, synced, and checked when it is read."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from dgc_topo.files import WriteError, opened_whole
from dgc_topo.training.checkpoints.errors import CheckpointError
from dgc_topo.training.checkpoints.plain import checksum

FORMAT = "dgc-topo checkpoint"
VERSION = 1  #: of the files; a reader knows its own and all before


class Written(NamedTuple):
    """Proof of a file that is on disk.

    Attributes:
        num_bytes: Size of the file.
        checksum: SHA-256 of its content.
    """

    num_bytes: int
    checksum: str


def write_file(path: Path, content: Any) -> Written:
    """Write plain content (see `plain`) to *path*; readers see the file before it, or all of it.

    ``torch.load(path, weights_only=True)["content"]`` is the content again.

    Raises:
        WriteError: naming the path and the bytes that it needs, if the disk refuses.
    """
    digest = checksum(content)
    whole = {"format": FORMAT, "version": VERSION, "checksum": digest, "content": content}
    return Written(write_tensors(path, whole), digest)


def write_tensors(path: Path, value: Any) -> int:
    """Write *value* with `torch.save`, whole or not at all, and return the bytes of the file.

    Raises:
        WriteError: as `write_file`.
    """
    sink = None
    try:
        with opened_whole(path) as file:
            sink = _Sink(file)
            torch.save(value, sink)  # type: ignore[arg-type]  # it needs no more than write
            sink.check()
    except WriteError as error:
        raise _explained(error, path, sink) from error
    return sink.num_bytes


class _Sink:
    """A file that counts its bytes; once the disk refuses it only counts on.

    (An error in the middle of `torch.save` becomes one that does not say why.)
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._error: OSError | None = None
        self.num_bytes = 0

    def write(self, data: bytes) -> int:
        size = memoryview(data).nbytes
        self.num_bytes += size
        if self._error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self._error = error
        return size

    def flush(self) -> None:
        """Do nothing: the file is flushed once, at its end."""

    def check(self) -> None:
        """Raise the error that the disk made, if it did."""
        if self._error is not None:
            raise self._error
        self._file.flush()


def _explained(error: WriteError, path: Path, sink: _Sink | None) -> WriteError:
    """Return the error with the bytes that were needed, and those that are free."""
    if sink is None:
        return error
    needed = f"{sink.num_bytes:,} bytes are needed"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        needed += f", {shutil.disk_usage(path.parent).free:,} are free"
    reason = error.strerror or os.strerror(error.errno or 0)
    return WriteError(error.errno, f"{reason}: {needed}", str(path))


def read_file(path: Path, expected_checksum: str | None = None) -> Any:
    """Return the content of a file that `write_file` has written; its tensors are on the CPU.

    Args:
        path: The file.
        expected_checksum: That of the file that belongs there, if it is known.

    Raises:
        CheckpointError: naming the file, if it is missing, broken, of another kind or newer.
    """
    try:
        whole = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # torch raises whatever a broken file makes it stumble over
        raise CheckpointError(
            f"{path}: is broken ({type(error).__name__}: {_first_line(error)}), expected a file "
            "that was written whole"
        ) from error
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        raise CheckpointError(f"{path}: is no checkpoint of dgc-topo, expected one")
    version = whole.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise CheckpointError(
            f"{path}: version {version} of checkpoints, this dgc-topo knows them up to {VERSION}; "
            "update dgc-topo"
        )
    content = whole.get("content")
    found = checksum(content)
    if found != whole.get("checksum"):
        raise CheckpointError(
            f"{path}: is broken: its content has checksum {found[:12]}, expected "
            f"{str(whole.get('checksum'))[:12]}"
        )
    if expected_checksum is not None and found != expected_checksum:
        raise CheckpointError(
            f"{path}: belongs to another checkpoint: checksum {found[:12]}, expected "
            f"{expected_checksum[:12]}"
        )
    return content


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
