"""The machine that this process runs on: its name, and how workers that share it treat it."""

from __future__ import annotations

import ctypes
import math
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

_BUSY_THREADS = 2  #: of a worker
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_KEPT_BYTES = 1 << 30
_LARGEST_KEPT_BYTES = 32 << 20  # more is refused
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def machine_id() -> str:
    """Return the host's name and, where the system tells, a number drawn when it was started.

    Containers of one machine count as machines of their own: they have names, and devices, of
    their own.
    """
    try:
        boot = _BOOT_ID.read_text().strip()
    except OSError:
        return socket.gethostname()
    return f"{socket.gethostname()} ({boot[:8]})"


def share_cores(num_processes: int | None) -> None:
    """Where the threads of workers outnumber cores, do not let a message interrupt any of them.

    A worker has two threads that matter: its own, and Gloo's, which an arriving message wakes.  If
    that takes the processor from a thread that is about to send, and holds the connection's lock,
    Gloo's asks for the lock again and again until its time slice is over: 2 ranks on 2 cores that
    exchanged 50 kB at 100 Mbit/s waited 3.5 ms in every second step, and 4 ranks on loopback spent
    twice the system time (measured on Linux 6.18).

    A system that refuses is left as it is.

    Args:
        num_processes: Workers on this machine; None, if unknown, changes nothing.
    """
    if num_processes is None:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "SCHED_BATCH") else math.inf
    if _BUSY_THREADS * num_processes > cores:
        with suppress(OSError):  # a sandbox may forbid it, and sandboxes emulate it incompletely
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def keep_memory() -> None:
    """Have the C library keep what is freed for what is allocated next (glibc; else nothing).

    Large arrays otherwise come from the kernel anew each time, page by page: merging two sparse
    messages of 1.3 MB took 35 ms, not 12, when two processes did so at once (measured).
    """
    libc = ctypes.CDLL(None)
    if sys.platform == "linux" and hasattr(libc, "mallopt"):
        libc.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
