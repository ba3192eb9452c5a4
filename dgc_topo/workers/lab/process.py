"""A process on an emulated host, as the lab's owner sees it."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

_POLL_S = 0.02


class LabProcess:
    """A process on a host of a lab; behaves like `subprocess.Popen`.

    Args:
        ask: Sends the lab's keeper a request, and returns its answer.
        number: The keeper's, for this process.
        pid: See below.

    Attributes:
        pid: Its process id as the owner sees it; inside the lab it has another one.
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
