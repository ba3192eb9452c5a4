"""This process among the workers: rank, device, and the process group they share."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from dgc_topo.launch.hosts import INTERFACE_VARIABLE, NETWORK_VARIABLE, TIME_SCALE_VARIABLE

#: Collectives around a run (start, evaluation, end) wait for slower work than a training step.
_PATIENCE = 10
_BUSY_THREADS = 2  #: of a worker

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_KEPT_BYTES = 1 << 30
_LARGEST_KEPT_BYTES = 32 << 20  # more is refused


class GroupPeerError(RuntimeError):
    """A peer was lost, or silent for too long, outside of a schedule."""


@dataclass(frozen=True, slots=True)
class Worker:
    """One process of a run.

    The collectives here are for bookkeeping around the steps; *what* says for what, in errors.
    Functions that time collectives use `torch.distributed` and its default group themselves.
    """

    rank: int
    world_size: int
    device: torch.device
    timeout: timedelta  #: after which a silent peer is an error
    tell: Callable[[Any], None]  #: gives a JSON value to who launched this, if anybody listens
    network: str  #: what records call the network
    interface: str | None  #: which carries this worker's traffic and nobody else's, if known
    time_scale: float  #: how many times slower than the real thing it is to compute

    def barrier(self, what: str) -> None:
        """Wait for every rank, using no processor time meanwhile."""
        with self._naming(what):
            if self.device.type == "cuda" and dist.get_backend() == "nccl":
                dist.barrier(device_ids=[self.device.index or 0])
            else:
                dist.barrier()

    def sum(self, values: Tensor, what: str) -> Tensor:
        """Return the element-wise sum of every rank's tensor."""
        total = values.to(self._collective_device, copy=True)
        with self._naming(what):
            dist.all_reduce(total)
        return total.to(values.device)

    def gather(self, value: Any, what: str) -> list[Any]:
        """Return every rank's (picklable) value, by rank, on every rank."""
        values: list[Any] = [None] * self.world_size
        with self._naming(what):
            dist.all_gather_object(values, value)
        return values

    @contextmanager
    def _naming(self, what: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            seconds = (self.timeout * _PATIENCE).total_seconds()
            raise GroupPeerError(
                f"rank {self.rank}: {what}: a peer is lost, or silent for {seconds:g} s: {error}"
            ) from error

    @property
    def _collective_device(self) -> torch.device:
        return self.device if dist.get_backend() == "nccl" else torch.device("cpu")


def choose_device(wanted: Literal["auto", "cpu", "cuda"], local_rank: int) -> torch.device:
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


def choose_backend(
    wanted: Literal["auto", "gloo", "nccl"], device: torch.device, local_world_size: int
) -> str:
    """Return ``nccl`` if each process has a GPU of its own, else ``gloo``.

    Raises:
        ValueError: if NCCL is asked for where it cannot work.
    """
    own_gpu = device.type == "cuda" and local_world_size <= torch.cuda.device_count()
    if wanted == "nccl" and not own_gpu:
        raise ValueError(
            f"train.backend = 'nccl': needs a GPU per process, here {local_world_size} processes "
            f"share {torch.cuda.device_count()}; use 'gloo' or 'auto'"
        )
    return "nccl" if own_gpu and wanted != "gloo" else "gloo"


@contextmanager
def join_workers(
    device: Literal["auto", "cpu", "cuda"],
    backend: Literal["auto", "gloo", "nccl"],
    timeout: timedelta,
    init_method: str = "env://",
    tell: Callable[[Any], None] = lambda _: None,
) -> Iterator[Worker]:
    """Join the process group that the environment describes, as any launcher sets it.

    Reads RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE (and MASTER_ADDR, MASTER_PORT for
    ``env://``).

    Raises:
        ValueError: if a variable is missing, or device and backend do not fit this machine.
    """
    rank, world_size = _from_environment("RANK"), _from_environment("WORLD_SIZE")
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    torch.set_num_threads(1)  # several workers share the cores
    share_cores(local_world_size)
    keep_memory()
    chosen = choose_device(device, local_rank)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group(
        choose_backend(backend, chosen, local_world_size),
        init_method=init_method,
        rank=rank,
        world_size=world_size,
        timeout=timeout * _PATIENCE,
    )
    network = os.environ.get(NETWORK_VARIABLE, "loopback")
    interface = os.environ.get(INTERFACE_VARIABLE)
    scale = float(os.environ.get(TIME_SCALE_VARIABLE, "1"))
    yield Worker(rank, world_size, chosen, timeout, tell, network, interface, scale)
    # Not after an error: connections to lost peers may keep this waiting, and the error with it.
    dist.destroy_process_group()


def share_cores(num_processes: int) -> None:
    """Where the threads of workers outnumber cores, do not let a message interrupt any of them.

    A worker has two threads that matter: its own, and Gloo's, which an arriving message wakes.  If
    that takes the processor from a thread that is about to send, and holds the connection's lock,
    Gloo's asks for the lock again and again until its time slice is over: 2 ranks on 2 cores that
    exchanged 50 kB at 100 Mbit/s waited 3.5 ms in every second step, and 4 ranks on loopback spent
    twice the system time (measured on Linux 6.18).
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "SCHED_BATCH") else math.inf
    if _BUSY_THREADS * num_processes > cores:
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


def _from_environment(name: str) -> int:
    value = os.environ.get(name, "")
    if not value.isdigit():
        raise ValueError(
            f"environment variable {name} is {value!r}, expected a number: start this with "
            "torchrun (or another launcher that sets RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT)"
        )
    return int(value)
