"""Worlds of workers: real processes that exchange messages, or virtual workers in this process.

The training loop runs the ranks of a world that are in this process; the world does everything that
needs other ranks.  Virtual workers do the arithmetic of real ones, bit for bit: the schedule runs
on their payloads in this process, with the same messages and merges in the same order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from types import GenericAlias
from typing import Literal, TypeVar

import torch
from torch import Tensor

from dgc_topo.liveness import current
from dgc_topo.payload import Payload
from dgc_topo.runtime import Communicator, DistributedTransport, Traffic, run_in_process
from dgc_topo.runtime.connections import congestion_controls
from dgc_topo.topology import Topology
from dgc_topo.training.checks import TrainingError, same_bits
from dgc_topo.training.job import Job
from dgc_topo.workers.group import Worker

T = TypeVar("T")

#: Runs the schedule of an iteration on one payload per rank here, in place; None for a rank that is
#: left out.
Exchange = Callable[[Sequence[Payload | None], int], Sequence[Traffic]]


class World(ABC):
    """All ranks of a training, some of which this process runs.

    Collectives are called by every process in the same order; errors name their purpose, *what*.

    Attributes:
        kind: Name of such workers in scenarios and records.
        world_size: Number of ranks.
        ranks: Ranks that this process runs, rising.
        device: Device that they compute on.
        network: Name of the network in records.
        interface: Network interface that carries this process's traffic alone, if known.
        time_scale: Factor by which computing is slowed in a scaled lab, else 1.
    """

    kind: Literal["processes", "virtual"]
    world_size: int
    ranks: Sequence[int]
    device: torch.device
    network: str
    interface: str | None
    time_scale: float

    @abstractmethod
    def connect(self, job: Job, topology: Topology) -> Exchange:
        """Return the exchange of a job over a topology, its own or what is left of it."""

    def go_on(self) -> tuple[int, ...] | None:
        """Become the world of those that are left, once ranks are lost.

        Returns:
            The first ranks' numbers of those that are left, in the order of their new ones; None if
            nobody may go on.
        """
        return None

    @abstractmethod
    def gather(self, kind: type[T], own: Sequence[T], what: str) -> list[T]:
        """Return the values of all ranks, in the order of ranks.

        Args:
            kind: Type of a value, which pydantic can write as JSON.
            own: Values of the ranks here; a rank may have none, or several.
            what: See the class.
        """

    @abstractmethod
    def gather_tensors(self, own: Sequence[Tensor], what: str) -> list[Tensor]:
        """Return the tensors of all ranks, by rank; *own* has one per rank here, alike in shape."""

    @abstractmethod
    def sum(self, own: Tensor, what: str) -> Tensor:
        """Return the element-wise sum of one tensor per process."""

    @abstractmethod
    def barrier(self, what: str) -> None:
        """Wait for every process."""

    def note(self, doing: str, step: int | None = None) -> None:  # noqa: B027 - nobody to tell
        """Note what the ranks here do, for the others' errors if one of them is lost.

        Args:
            doing: Activity, such as ``computing gradients``.
            step: Number of the training step, from 0; None if it is still the last one.
        """

    def naming_losses(self) -> AbstractContextManager[None]:
        """Name the lost rank in what torch's own messages raise in the block."""
        return nullcontext()

    @abstractmethod
    def congestion_control(self, what: str) -> str | None:
        """Return the congestion control of all TCP connections; None without connections."""


class ProcessWorld(World):
    """A world whose every rank is a process of its own.

    Args:
        worker: This process.
    """

    kind = "processes"

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.world_size, self.ranks = worker.world_size, (worker.rank,)
        self.device, self.network = worker.device, worker.network
        self.interface, self.time_scale = worker.interface, worker.time_scale

    def go_on(self) -> tuple[int, ...] | None:
        """See `World.go_on`."""
        found = self._worker.regroup()
        if found is None:
            return None
        self._worker, living = found
        self.world_size, self.ranks = self._worker.world_size, (self._worker.rank,)
        return living

    def connect(self, job: Job, topology: Topology) -> Exchange:
        """Return the exchange of a job over a topology, through the process group."""
        transport = DistributedTransport(timeout=self._worker.timeout)
        # The jobs are compared already, or come from one launcher.
        communicator = Communicator(topology, transport, seed=job.seed, compare=False)

        def exchange(payloads: Sequence[Payload | None], iteration: int) -> list[Traffic]:
            return [
                Traffic((), 0.0) if payload is None else communicator.run(payload, iteration)
                for payload in payloads
            ]

        return exchange

    def gather(self, kind: type[T], own: Sequence[T], what: str) -> list[T]:
        """See `World.gather`; nothing that a peer sends is unpickled."""
        values: list[list[T]] = self._worker.gather(
            GenericAlias(list, (kind,)),  # type: ignore[arg-type]  # it stands for list[kind]
            list(own),
            what,
        )
        return list(chain.from_iterable(values))

    def gather_tensors(self, own: Sequence[Tensor], what: str) -> list[Tensor]:
        """See `World.gather_tensors`."""
        (values,) = own
        return self._worker.gather_tensors(values, what)

    def sum(self, own: Tensor, what: str) -> Tensor:
        """See `World.sum`."""
        return self._worker.sum(own, what)

    def barrier(self, what: str) -> None:
        """See `World.barrier`."""
        self._worker.barrier(what)

    def note(self, doing: str, step: int | None = None) -> None:
        """See `World.note`."""
        current().note(doing, step)

    def naming_losses(self) -> AbstractContextManager[None]:
        """See `World.naming_losses`."""
        return self._worker.naming_losses()

    def congestion_control(self, what: str) -> str | None:
        """See `World.congestion_control`."""
        return ", ".join(sorted(set(self.gather(str, congestion_controls(), what)))) or None


class VirtualWorld(World):
    """A world whose ranks are all in this process and take turns.

    Where gradients are summed the parameters exist once: an all-reduce leaves every rank with the
    same bits (checked in every step), so what follows the sum is computed once, too.  Where each
    rank's own optimizer moves it, every rank has parameters of its own: N models in memory.

    Args:
        job: The job.
        device: Device of all ranks.

    Raises:
        ValueError: if DistributedDataParallel is asked for.
    """

    kind = "virtual"

    def __init__(self, job: Job, device: torch.device) -> None:
        if job.compression.uses_ddp:
            raise ValueError(
                f"{job.label}: DistributedDataParallel needs real workers, expected train.workers "
                "= 'processes'"
            )
        self.world_size, self.ranks = job.train.world_size, range(job.train.world_size)
        self.device, self.network, self.interface, self.time_scale = device, "loopback", None, 1.0

    def connect(self, job: Job, topology: Topology) -> Exchange:
        """Return the exchange of a job over a topology; after an all-reduce all ranks agree."""
        first = topology.schedule(self.world_size, seed=job.seed)

        def exchange(payloads: Sequence[Payload | None], iteration: int) -> list[Traffic]:
            schedule = first
            if topology.varies:
                schedule = topology.schedule(self.world_size, iteration=iteration, seed=job.seed)
            traffic = run_in_process(schedule, payloads)
            same = [one for one in payloads if one and schedule.goal == "all-reduce"]
            odd = [rank for rank, one in enumerate(same) if not same_bits(same[0], one)]
            if odd:
                raise TrainingError(
                    f"{job.label}: sums of ranks {odd} differ from that of rank 0 in step "
                    f"{iteration}, expected all bit-identical"
                )
            return traffic

        return exchange

    def gather(self, kind: type[T], own: Sequence[T], what: str) -> list[T]:
        """See `World.gather`."""
        del kind, what
        return list(own)

    def gather_tensors(self, own: Sequence[Tensor], what: str) -> list[Tensor]:
        """See `World.gather_tensors`."""
        del what
        return list(own)

    def sum(self, own: Tensor, what: str) -> Tensor:
        """See `World.sum`."""
        del what
        return own

    def barrier(self, what: str) -> None:
        """See `World.barrier`."""

    def congestion_control(self, what: str) -> None:
        """See `World.congestion_control`."""


def world_of(job: Job, worker: Worker) -> World:
    """Return the world that a job asks for: the processes around *worker*, or virtual workers."""
    if job.train.workers == "virtual":
        return VirtualWorld(job, worker.device)
    return ProcessWorld(worker)
