"""Messages between a daemon and its owner, and the processes that it starts for the owner."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

_MARK = b"."  # a message of no bytes would look like the end
_MAX_DESCRIPTORS = 3
_POLL_S = 0.02


def send(channel: socket.socket, value: Any, descriptors: Sequence[int] = ()) -> None:
    """Send a value, and at most two descriptors.

    Raises:
        OSError: if the other end is gone.
    """
    # In memory, and a descriptor of it: a packet may hold less than an environment is large.
    with os.fdopen(os.memfd_create("dgc-topo-message"), "wb") as text:
        text.write(json.dumps(value).encode())
        text.flush()
        socket.send_fds(channel, [_MARK], [text.fileno(), *descriptors])


def receive(channel: socket.socket) -> tuple[Any, list[int]]:
    """Return the next value, None if the other end is closed, and descriptors to be closed.

    Raises:
        OSError: if the other end is gone, or this process has too many files open.
    """
    mark, received, _, _ = socket.recv_fds(
        channel, len(_MARK), _MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
    )
    if not mark:
        return None, []
    if not received:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    first, *descriptors = received
    with os.fdopen(first, "rb") as text:
        text.seek(0)
        return json.load(text), descriptors


class RemoteProcess:
    """A process that a daemon started; behaves like `subprocess.Popen`.

    Args:
        ask: Sends the daemon a request, and returns its answer.
        number: The daemon's, for this process.
        pid: See below.

    Attributes:
        pid: Its process id as the owner sees it; inside a lab it has another one.
        returncode: Exit status, negative for a signal; None until `poll` or `wait` has seen it.
    """

    def __init__(self, ask: Callable[..., Any], number: int, pid: int) -> None:
        self._ask, self._number = ask, number
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""
        if self.returncode is None:
            self.returncode = self._ask("poll", process=self._number)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status once it has ended.

        Raises:
            subprocess.TimeoutExpired: if it runs after *timeout* seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            time.sleep(_POLL_S)
        return status

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        self._ask("signal", process=self._number, number=number)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)
