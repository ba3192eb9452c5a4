"""Processes of this machine: whether they are stopped, and their end with the launcher's."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

_SET_PDEATHSIG = 1
LOOK_EVERY_S = 0.25
STOPPED_S = 2.5  #: that a process has to be stopped for
#: Cause of such a loss, in words.
STOPPED = "stopped by a signal"


def is_stopped(pid: int) -> bool:
    """Return True if a process is stopped by a signal; False if it is not, or nobody tells.

    One that a debugger holds does not count: whoever holds it knows.
    """
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state == "T"


class StopCounter:
    """Looks at one process that count how often in a row it was stopped.

    Looks are counted and not seconds, so that an observer that was held up itself blames nobody.

    Args:
        stopped_s: Seconds after which it counts as frozen, if nothing holds the observer up.
    """

    def __init__(self, stopped_s: float = STOPPED_S) -> None:
        self._enough = round(stopped_s / LOOK_EVERY_S) + 1
        self._num_stopped = 0
        self._next_s = 0.0

    def look(self, pid: int) -> bool:
        """Look, unless that was a moment ago; return True if enough looks found it stopped."""
        now = time.monotonic()
        if now >= self._next_s:
            self._next_s = now + LOOK_EVERY_S
            self._num_stopped = self._num_stopped + 1 if is_stopped(pid) else 0
        return self._num_stopped >= self._enough


def end_with_launcher(environment: Mapping[str, str] = os.environ) -> None:
    """Make this process, if torchrun started it, end whenever torchrun does, even by SIGKILL.

    To be called early: what was orphaned before can hardly tell.  Other launchers' processes may be
    meant to outlive who started them, such as a shell's in the background.
    """
    if sys.platform != "linux" or "TORCHELASTIC_RUN_ID" not in environment:
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent or _is_orphan(parent):
        sys.exit("the launcher is gone")


def _is_orphan(parent: int) -> bool:
    """Return True if the parent is the system's first process, and no launcher (in a container)."""
    try:
        command = Path("/proc/1/cmdline").read_bytes()
    except OSError:
        return False
    return parent == 1 and b"python" not in command and b"torchrun" not in command
