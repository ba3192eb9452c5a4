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

from dgc_topo.files import WriteError
from dgc_topo.payload import DensePayload
from dgc_topo.runtime import Communicator, DistributedTransport, PeerError
from dgc_topo.survivors import without
from dgc_topo.topology import load_topology
from dgc_topo.workers.group import GroupPeerError, Worker


def sum_ranks(worker: Worker, argument: Any) -> list[Any]:
    """Return this rank, the sum over all ranks' numbers plus the argument, and the process."""
    value = torch.tensor([worker.rank + argument["plus"]])
    dist.all_reduce(value)
    return [dist.get_rank(), int(value), os.getpid()]


def tell_thrice(worker: Worker, argument: Any) -> None:
    for index in range(3):
        worker.tell({"rank": worker.rank, "index": index, "of": argument})


def fail_alike(worker: Worker, text: str) -> None:
    """Fail on every rank with an error of this package, which says what is wrong."""
    del worker
    raise WriteError(28, text, "/full")


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


def gossip_without_the_lost(worker: Worker, argument: Any) -> list[Any]:
    """Mix three times, lose a rank, mix again without it; return what this rank then has."""
    first = worker.rank
    topology = load_topology("gossip", graph="exponential")
    values = torch.full((5,), float(first), dtype=torch.float32)
    living = tuple(range(worker.world_size))
    for iteration in range(argument["steps"]):
        left = without(topology, set(range(argument["size"])) - set(living), argument["size"])
        if first == argument["strikes"].get(str(iteration)):
            os.kill(os.getpid(), argument["signal"])
        payload = DensePayload(values.clone(), goals=frozenset({"doubly-stochastic"}))
        try:
            transport = DistributedTransport(timeout=worker.timeout)
            Communicator(left, transport, compare=False).run(payload)
            worker.barrier("a step")
        except (PeerError, GroupPeerError):
            if first == argument["dies_meanwhile"]:
                os.kill(os.getpid(), signal.SIGKILL)
            found = worker.regroup()
            while found is None:
                found = worker.regroup()
            worker, living = found
            # Whoever had got through takes it back: the step is done by nobody.
            continue
        values = payload.buffer
    return [first, worker.rank, list(living), values.tolist()]
