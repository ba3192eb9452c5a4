"""The `Board`: shared memory in which ranks note where they are, readable after their death."""

from __future__ import annotations

import json
import mmap
import os
import struct
import tempfile
from contextlib import suppress
from functools import lru_cache
from typing import IO

from dgc_topo.liveness.loss import Position

_SLOT_BYTES = 2560  # enough for the longest phase, however JSON writes it
_ROW_BYTES = 2 * _SLOT_BYTES + 8
_HEAD = struct.Struct("<H")  # bytes of the text that follows
_MOST_PHASE = 200  # characters


class Board:
    """One row per rank; a row has one writer, and any number of readers in other processes.

    A note takes some microseconds, and no system call.  It goes into the slot of the row that is
    not shown; then the row shows it.  A writer that is killed leaves its last note.

    Args:
        file: Memory of `new_board`, or a descriptor of it.
        num_rows: Number of rows; the same for all who use it.
    """

    def __init__(self, file: int, num_rows: int) -> None:
        self._memory = mmap.mmap(file, num_rows * _ROW_BYTES)
        self.num_rows = num_rows

    def write(self, row: int, place: Position) -> None:
        """Replace what a row says."""
        memory, start = self._memory, row * _ROW_BYTES
        step = "null" if place.step is None else str(place.step)
        text = f"[{step}, {_json_of(place.phase)}]".encode()
        other = 1 - (memory[start] & 1)
        at = start + 8 + other * _SLOT_BYTES
        memory[at : at + _HEAD.size + len(text)] = _HEAD.pack(len(text)) + text
        memory[start] = other

    def read(self, row: int) -> Position:
        """Return what a row says; an empty place before its first note."""
        memory, start = self._memory, row * _ROW_BYTES
        for _ in range(3):  # the writer may have been there twice meanwhile
            at = start + 8 + (memory[start] & 1) * _SLOT_BYTES
            (size,) = _HEAD.unpack_from(memory, at)
            text = memory[at + _HEAD.size : at + _HEAD.size + min(size, _SLOT_BYTES - 2)]
            with suppress(ValueError, TypeError):
                return Position(*json.loads(text))
        return Position()


@lru_cache(maxsize=256)  # a training notes the same few phases in every step
def _json_of(phase: str) -> str:
    return json.dumps(phase[:_MOST_PHASE])


def new_board(num_rows: int) -> IO[bytes]:
    """Return a nameless file of memory for a board."""
    file = _nameless()
    file.truncate(num_rows * _ROW_BYTES)
    return file


def _nameless() -> IO[bytes]:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("dgc-topo-board"), "w+b")
    return tempfile.TemporaryFile()
