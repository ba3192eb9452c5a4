"""Standard output and error, as a command line uses them.

Standard output is for what commands print, and for nothing else: while a command works, everything
that other code writes there (a topology's ``print``, a library in C, a child) goes to standard
error.  A stream that breaks (a full disk, a reader that is gone) ends no work: what follows is
dropped, and `run` says so at the end.
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

_ours: TextIO | None = None  # what commands print to while sys.stdout is for everybody else


class _Descriptor(io.RawIOBase):
    """A file descriptor that is written to until that fails; then all else is dropped."""

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
    """Keep standard output for `stdout`; what else is written there goes to standard error.

    A program that `run` started keeps it to its end: other code may write as late as that.
    Elsewhere (in tests) only what goes through ``sys.stdout`` is led away, and only inside.
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

    The status is 1 where the work went well, but what was printed could not be written; a reader
    that wanted no more (``| head``) is no failure.
    """
    _forget_impossible_sizes()
    written = _replace_streams()
    try:
        program()
        status: object = 0
    except SystemExit as ended:
        status = ended.code
    except KeyboardInterrupt:  # before a command began to listen for it
        status = 128 + 2
    if written.failure is not None and written.failure.errno != errno.EPIPE:
        sys.stderr.write(f"error: standard output: {written.failure.strerror}\n")
        status = status or _FAILED
    sys.exit(status)  # type: ignore[arg-type]  # what sys.exit was given


def _replace_streams() -> _Descriptor:
    """Put streams that never fail in the place of Python's; return that of standard output."""
    closed = _open_missing()
    written = _Descriptor(_CLOSED if _STDOUT in closed else _STDOUT)
    said = _Descriptor(_CLOSED if _STDERR in closed else _STDERR)
    sys.stdout = _text(written, sys.stdout, "replace")
    sys.stderr = _text(said, sys.stderr, "backslashreplace")
    return written


def _open_missing() -> set[int]:
    """Open the standard descriptors that are closed: files opened later would get their numbers."""
    closed = set()
    for number in (0, _STDOUT, _STDERR):
        try:
            os.fstat(number)
        except OSError:
            closed.add(number)
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free
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
    """Take sizes out of the environment that no terminal has; rich would print nothing, or fail."""
    for name in _SIZES:
        value = os.environ.get(name)
        if value is not None and not (value.isdecimal() and 0 < int(value[:9]) <= _LARGEST_SIZE):
            del os.environ[name]
