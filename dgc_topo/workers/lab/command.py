"""Run any command on every host of a lab."""

from __future__ import annotations

import os
import selectors
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from dgc_topo.workers.lab.emulator import Lab
from dgc_topo.workers.remote import RemoteProcess

_POLL_S = 0.1


def run_command(lab: Lab, command: Sequence[str], hear: Callable[[int, str], None]) -> int:
    """Run a command once per rank, with the variables that torchrun sets.

    Args:
        lab: A lab that is up.
        command: Program and arguments, the same for all ranks.
        hear: Function called with rank and line for everything that is printed.

    Returns:
        0 if all went well; else the exit status of the first rank that failed (for a signal 128
        plus its number, as in a shell); the others are then ended.

    Raises:
        LabError: if the command cannot be started.
    """
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        nothing = os.open(os.devnull, os.O_RDONLY)
        stack.callback(os.close, nothing)
        processes = []
        lab.begin()
        for rank in range(lab.num_ranks):
            reading, writing = os.pipe()
            try:
                environment = {**os.environ, **lab.environment(rank, lab.num_ranks)}
                processes.append(lab.start(rank, command, environment, nothing, writing))
            finally:
                os.close(writing)
            pipe = stack.enter_context(os.fdopen(reading, "rb", buffering=0))
            selector.register(pipe, selectors.EVENT_READ, _Lines(rank, hear))
        return _follow(processes, selector)


class _Lines:
    """Passes whole lines on."""

    def __init__(self, rank: int, hear: Callable[[int, str], None]) -> None:
        self._rank, self._hear = rank, hear
        self._unfinished = b""

    def take(self, chunk: bytes) -> None:
        """Pass on the lines that *chunk* completes; nothing means the end."""
        *lines, self._unfinished = (self._unfinished + chunk).split(b"\n")
        if not chunk and self._unfinished:
            lines.append(self._unfinished)
        for line in lines:
            self._hear(self._rank, line.decode(errors="replace"))


def _follow(processes: list[RemoteProcess], selector: selectors.BaseSelector) -> int:
    """Pass output on until all have ended, or one has failed."""
    while True:
        statuses = [process.poll() for process in processes]
        for key, _ in selector.select(_POLL_S if selector.get_map() else 0):
            chunk = os.read(key.fd, 1 << 16)
            key.data.take(chunk)
            if not chunk:
                selector.unregister(key.fileobj)
        failed = [status for status in statuses if status]
        if failed:
            _drain(selector)
            return failed[0] if failed[0] > 0 else 128 - failed[0]
        if not selector.get_map() and None not in statuses:
            return 0


def _drain(selector: selectors.BaseSelector) -> None:
    """Pass on what has been printed so far."""
    for key, _ in selector.select(0):
        key.data.take(os.read(key.fd, 1 << 16))
