"""Standard output and standard error of the command line.

Only commands print to standard output.  While a command runs, everything that other code writes
there (a topology's ``print``, a C library, a child process) goes to standard error.  If a stream
breaks (a full disk, a reader that is gone), the work goes on: later output is dropped, and `run`
says so at the end.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TYPE_CHECKING, Final, NoReturn, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_CLOSED, _STDOUT, _STDERR = -1, 1, 2
_FAILED: Final = 1
_SIZES = ("COLUMNS", "LINES", "TERMINAL_WIDTH")
_LARGEST_SIZE = 10_000

_ours: TextIO | None = None  # the commands' own stream, while other code writes to sys.stdout


class _Descriptor(io.RawIOBase):
    """A file descriptor that drops all further output once a write has failed."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.failure: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.number

    def isatty(self) -> bool:
        return os.isatty(self.number)

    def write(self, data: ReadableBuffer) -> int:
        whole = rest = memoryview(data)
        while self.failure is None and rest:
            try:
                rest = rest[os.write(self.number, rest) :]
            except OSError as error:
                self.failure = error
        return len(whole)


def stdout() -> TextIO:
    """Return the stream that commands print to: standard output, whatever ``sys.stdout`` is."""
    return _ours or sys.stdout


@contextmanager
def own_stdout() -> Iterator[None]:
    """Reserve standard output for `stdout`, and send all other writes to standard error.

    In a program that `run` started the redirection lasts until the process ends, because other code
    may write that late.  Elsewhere (in tests) it covers only ``sys.stdout``, and only while inside.
    """
    global _ours  # noqa: PLW0603  # there is one standard output
    if _ours is not None:
        yield
        return
    _ours = sys.stdout
    raw = getattr(getattr(_ours, "buffer", None), "raw", None)
    if isinstance(raw, _Descriptor):
        if raw.number == _STDOUT:
            raw.number = os.dup(_STDOUT)
        os.dup2(_STDERR, _STDOUT)
        sys.stdout = sys.stderr
        yield
        return
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _ours = None


def run(program: Callable[[], object]) -> NoReturn:
    """Run a command line, and end the process with its exit status.

    The status is 1 if the work succeeded but its output could not be written.  A reader that stops
    early (``| head``) is no failure.
    """
    _forget_impossible_sizes()
    written = _replace_streams()
    try:
        program()
        status: object = 0
    except SystemExit as ended:
        status = ended.code
    except KeyboardInterrupt:  # interrupted before a command could handle it
        status = 128 + 2
    if written.failure is not None and written.failure.errno != errno.EPIPE:
        sys.stderr.write(f"error: standard output: {written.failure.strerror}\n")
        status = status or _FAILED
    _end(status)


def _end(status: object) -> NoReturn:
    """End the process; at once, where a process group is left: its peers may be lost.

    Torch's ways out of such a group may wait for them, or abort.
    """
    distributed = sys.modules.get("torch.distributed")
    if isinstance(status, int) and distributed is not None and distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)  # type: ignore[arg-type]  # the argument of sys.exit


def _replace_streams() -> _Descriptor:
    """Replace Python's streams by streams that never fail; return the one for standard output."""
    closed = _open_missing()
    written = _Descriptor(_CLOSED if _STDOUT in closed else _STDOUT)
    said = _Descriptor(_CLOSED if _STDERR in closed else _STDERR)
    sys.stdout = _text(written, sys.stdout, "replace")
    sys.stderr = _text(said, sys.stderr, "backslashreplace")
    return written


def _open_missing() -> set[int]:
    """Open the standard descriptors that are closed, so that no later file gets their numbers."""
    closed = set()
    for number in (0, _STDOUT, _STDERR):
        try:
            os.fstat(number)
        except OSError:
            closed.add(number)
            os.open(os.devnull, os.O_RDWR)  # os.open takes the lowest free number
    return closed


def _text(raw: _Descriptor, like: TextIO | None, errors: str) -> TextIO:
    encoding = like.encoding if like is not None else "utf-8"
    if like is not None:
        with suppress(OSError):
            like.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors=errors, line_buffering=True
    )


def _forget_impossible_sizes() -> None:
    """Remove impossible terminal sizes from the environment: rich would print nothing, or fail."""
    for name in _SIZES:
        value = os.environ.get(name)
        if value is not None and not (value.isdecimal() and 0 < int(value[:9]) <= _LARGEST_SIZE):
            del os.environ[name]
