"""Functions that worker processes run in tests."""

import os
import resource
import signal
import sys
import time
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from dgc_topo.workers.group import Worker


def sum_ranks(worker: Worker, argument: Any) -> list[Any]:
    """Return this rank, the sum over all ranks' numbers plus the argument, and the process."""
    value = torch.tensor([worker.rank + argument["plus"]])
    dist.all_reduce(value)
    return [dist.get_rank(), int(value), os.getpid()]


def tell_thrice(worker: Worker, argument: Any) -> None:
    for index in range(3):
        worker.tell({"rank": worker.rank, "index": index, "of": argument})


def fail_on(worker: Worker, rank: int) -> None:
    sys.stdout.write(f"rank {worker.rank} was here\n")
    if worker.rank == rank:
        raise ArithmeticError("two and two make five")
    worker.barrier("waiting for all")


def vanish(worker: Worker, rank: int) -> None:
    if worker.rank == rank:
        os.kill(os.getpid(), signal.SIGKILL)
    worker.barrier("waiting for all")


def vanish_beside_a_sleeper(worker: Worker, argument: Any) -> None:
    """The last rank is killed while all others hear and say nothing."""
    if worker.rank == worker.world_size - 1:
        sys.stdout.write("the last words\n")
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def policy(worker: Worker, argument: Any) -> int:
    """Return the scheduling policy of this thread, which later ones inherit."""
    return os.sched_getscheduler(0)


def faults(worker: Worker, argument: Any) -> int:
    """Return how many pages the kernel had to find for arrays made again and again."""
    before = 0
    for number in range(48):
        if number == 32:  # the heap has grown to what its pieces take
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.zeros(argument, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def draw(worker: Worker, argument: Any) -> float:
    """Return a number from numpy's own generator, which nobody has seeded."""
    return float(np.random.rand())  # noqa: NPY002 - users' files do
