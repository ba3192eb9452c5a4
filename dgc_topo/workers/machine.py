"""This machine: its identity and GPUs, and how workers share its cores and memory."""

from __future__ import annotations

import ctypes
import math
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import torch

WantedDevice = Literal["auto", "cpu", "cuda"]
WantedBackend = Literal["auto", "gloo", "nccl"]

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
    """Keep messages from interrupting workers if their threads outnumber the cores.

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


def choose_device(wanted: WantedDevice, local_rank: int) -> torch.device:
    """Return the device of the process with this rank on its machine.

    Raises:
        ValueError: if CUDA is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise ValueError("train.device = 'cuda': this machine has no usable CUDA device")
    if wanted == "cpu" or not available:
        return torch.device("cpu")
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def choose_backend(wanted: WantedBackend, gpus: Sequence[str | None]) -> str:
    """Return ``nccl`` if each rank has a GPU of its own, else ``gloo``.

    Args:
        wanted: The user's choice.
        gpus: Unique name of each rank's GPU; None for a rank on the CPU.

    Raises:
        ValueError: if NCCL is asked for where it cannot work.
    """
    fault = _why_not_nccl(gpus)
    if wanted == "nccl" and fault is not None:
        raise ValueError(
            f"train.backend = 'nccl': needs a GPU per process, here {fault}; use 'gloo' or 'auto'"
        )
    return "gloo" if wanted == "gloo" or fault is not None else "nccl"


def _why_not_nccl(gpus: Sequence[str | None]) -> str | None:
    first: dict[str, int] = {}
    for rank, gpu in enumerate(gpus):
        if gpu is None:
            return f"rank {rank} has none"
        if (other := first.setdefault(gpu, rank)) != rank:
            return f"ranks {other} and {rank} share one"
    return None


def gpu_ids(wanted: WantedDevice) -> list[str]:
    """Return a name for each GPU that this process may use, the same in every process."""
    if wanted == "cpu" or not torch.cuda.is_available():
        return []
    properties = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [str(each.uuid) for each in properties]
