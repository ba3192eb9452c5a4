"""The `Worker`: this process's rank, device and process group."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from pydantic import TypeAdapter
from torch import Tensor

from dgc_topo.liveness import current
from dgc_topo.runtime.failure import VERDICT_S
from dgc_topo.workers.hosts import INTERFACE_VARIABLE, NETWORK_VARIABLE, TIME_SCALE_VARIABLE
from dgc_topo.workers.machine import (
    WantedBackend,
    WantedDevice,
    choose_backend,
    choose_device,
    gpu_ids,
    keep_memory,
    share_cores,
)
from dgc_topo.workers.meeting import (
    Meeting,
    MeetingError,
    Statement,
    announcing_failure,
    statement_of,
)
from dgc_topo.workers.seat import Seat, seat_from

T = TypeVar("T")

#: Collectives around a run (start, evaluation, end) wait for slower work than a training step.
_PATIENCE = 10
#: Bytes of JSON that a rank may say at once, or so many times as this one says.
_LONGEST_TEXT, _MOST_TIMES_LONGER = 16 << 20, 16


class GroupPeerError(RuntimeError):
    """A peer was lost, or silent for too long, outside of a schedule.

    Attributes:
        peers: Ranks that are known to be lost.
    """

    def __init__(self, text: str, peers: Sequence[int] = ()) -> None:
        super().__init__(text, peers)
        self.peers = tuple(peers)

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, slots=True)
class Worker:
    """One process of a run.

    The collectives here are for bookkeeping around the steps; *what* names their purpose in errors.
    Functions that time collectives use `torch.distributed` and its default group themselves.

    Attributes:
        rank: This process's rank.
        world_size: Number of ranks.
        device: Device to compute on.
        timeout: Time after which a silent peer is an error.
        tell: Function that gives a JSON value to the launcher, if it listens.
        network: Name of the network in records.
        interface: Interface that carries this worker's traffic and nobody else's, if known.
        time_scale: Factor by which computing is slowed in a scaled lab, else 1.
        regroup: Function that joins those that are left once ranks are lost, where the launcher
            lets them go on.  It returns the new worker, and the ranks of the call that are left, in
            the order of their new ranks; None if the launcher does not say so.
    """

    rank: int
    world_size: int
    device: torch.device
    timeout: timedelta
    tell: Callable[[Any], None]
    network: str
    interface: str | None
    time_scale: float
    regroup: Callable[[], tuple[Worker, tuple[int, ...]] | None] = lambda: None

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

    def gather(self, kind: type[T], value: T, what: str) -> list[T]:
        """Return every rank's value, by rank, on every rank.

        Args:
            kind: Its type, which JSON can express with pydantic's help: nothing that a peer sends
                is unpickled.
            value: This rank's.
            what: For what, in errors.
        """
        adapter = TypeAdapter(kind)
        text = json.dumps(adapter.dump_python(value)).encode()  # numbers come out as they went in
        own = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        told = torch.tensor([len(own)], dtype=torch.int64, device=own.device)
        sizes = [int(size) for size in self.gather_tensors(told, what)]
        longest = max(_LONGEST_TEXT, _MOST_TIMES_LONGER * len(own))
        if not all(0 < size <= longest for size in sizes):
            raise GroupPeerError(
                f"rank {self.rank}: {what}: texts of {sizes} bytes, expected 1 to {longest}"
            )
        padded = torch.zeros(max(sizes), dtype=torch.uint8, device=own.device)
        padded[: len(own)] = own
        texts = self.gather_tensors(padded, what)
        return [
            adapter.validate_python(json.loads(text[:size].numpy().tobytes()))
            for text, size in zip(texts, sizes, strict=True)
        ]

    def gather_tensors(self, values: Tensor, what: str) -> list[Tensor]:
        """Return every rank's tensor, by rank, on every rank; all are of one shape and type."""
        own = values.to(self._collective_device)
        found = [torch.empty_like(own) for _ in range(self.world_size)]
        with self._naming(what):
            dist.all_gather(found, own)
        return [each.to(values.device) for each in found]

    @contextmanager
    def naming_losses(self) -> Iterator[None]:
        """Name the rank whose loss is why torch fails in the block.

        Raises:
            GroupPeerError: instead of torch's own error, if a rank is lost.
        """
        try:
            yield
        except RuntimeError as error:
            is_ours = type(error) is not RuntimeError and not isinstance(error, dist.DistError)
            loss = None if is_ours else current().verdict(VERDICT_S)
            if loss is None:
                raise
            raise GroupPeerError(f"rank {self.rank}: {loss}", [loss.rank]) from error

    @contextmanager
    def _naming(self, what: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if (loss := current().verdict(VERDICT_S)) is not None:
                raise GroupPeerError(f"rank {self.rank}: {what}: {loss}", [loss.rank]) from error
            seconds = (self.timeout * _PATIENCE).total_seconds()
            raise GroupPeerError(
                f"rank {self.rank}: {what}: a peer is lost, or silent for {seconds:g} s: {error}"
            ) from error

    @property
    def _collective_device(self) -> torch.device:
        return self.device if dist.get_backend() == "nccl" else torch.device("cpu")


_FORGOTTEN: list[dist.ProcessGroup | None] = []


def forget_group() -> None:
    """Make room for a new default group, beside one that is broken.

    The broken one is kept: its end would wait for connections to ranks that are gone.
    """
    if dist.is_initialized():
        _FORGOTTEN.append(dist.group.WORLD)
        dist.destroy_process_group()


@contextmanager
def join_workers(
    device: WantedDevice,
    backend: WantedBackend,
    timeout: timedelta,
    settings: Mapping[str, Any] | None = None,
    init_method: str | None = None,
    tell: Callable[[Any], None] = lambda _: None,
) -> Iterator[Worker]:
    """Join the process group that the environment describes, as launchers set it.

    See `dgc_topo.workers.seat` for the variables.

    Args:
        device: Device to use.
        backend: Backend to use.
        timeout: Time after which a silent peer is an error.
        settings: JSON values that have to be the same on every rank, by key; ranks that a launcher
            started are compared before anything else.
        init_method: URL where the ranks of one `Session` meet, which need no comparing.
        tell: See `Worker`.

    Raises:
        ValueError: if a variable is missing or wrong, ranks differ, or device and backend do not
            fit the machines.
        RuntimeError: if a rank does not come.
    """
    seat = seat_from() if init_method is None else _seat_in_session()
    torch.set_num_threads(1)  # several workers share the cores
    share_cores(seat.local_world_size)
    keep_memory()
    with announcing_failure() if init_method is None else nullcontext():
        joining = _Joining(seat, device, backend, settings or {})
    joining.join(init_method, timeout * _PATIENCE)
    interface = os.environ.get(INTERFACE_VARIABLE)
    network = os.environ.get(NETWORK_VARIABLE, joining.network)
    scale = float(os.environ.get(TIME_SCALE_VARIABLE, "1"))
    with _telling_of_failure():
        yield Worker(
            seat.rank, seat.world_size, joining.device, timeout, tell, network, interface, scale
        )
    # Not after an error: connections to lost peers may keep this waiting, and the error with it.
    dist.destroy_process_group()


@contextmanager
def _telling_of_failure() -> Iterator[None]:
    """Take leave of the other ranks at the end, or tell them the error that ends the block."""
    try:
        yield
    except Exception as error:
        current().fail(f"{type(error).__name__}: {error}")
        raise
    finally:
        current().close()


def _seat_in_session() -> Seat:
    """Return this process's seat among the ranks of a call, which may be fewer than processes."""
    environment = dict(os.environ)
    if "LOCAL_WORLD_SIZE" in environment:
        sizes = environment["LOCAL_WORLD_SIZE"], environment["WORLD_SIZE"]
        environment["LOCAL_WORLD_SIZE"] = min(sizes, key=int)
    return seat_from(environment)


class _OtherBackend(Exception):  # noqa: N818 - a change of mind, no error
    """The ranks, now that they have met, need another backend."""


class _Joining:
    """Finds this process's device, and a backend for all, from what is known of the ranks.

    Before they have met, nobody is taken to share a GPU.
    """

    def __init__(
        self,
        seat: Seat,
        device: WantedDevice,
        backend: WantedBackend,
        settings: Mapping[str, Any],
    ) -> None:
        self._seat, self._wanted, self._settings = seat, (device, backend), settings
        self.network = "unknown"  # in records
        self.device = choose_device(device, seat.local_rank or 0)
        own = [f"{seat.rank}"] if self.device.type == "cuda" else [None]
        self.backend = choose_backend(backend, own)
        if seat.local_rank is not None or torch.cuda.device_count() == 1:
            self._use_device()

    def join(self, init_method: str | None, patience: timedelta) -> None:
        """Make the default process group."""
        if init_method is not None:
            self._decide(self._seat.local_rank or 0, self._gpus_here())
            self._init(patience, init_method=init_method)
            return
        meeting = Meeting(self._seat, self._state, self._reconsider, patience)
        try:
            self._init(patience, init_method=meeting.url)
        except _OtherBackend:
            self._init(patience, store=meeting.store)

    def _init(self, patience: timedelta, **where: Any) -> None:
        rank, world_size = self._seat.rank, self._seat.world_size
        try:
            dist.init_process_group(
                self.backend, rank=rank, world_size=world_size, timeout=patience, **where
            )
        except MeetingError:
            raise
        except RuntimeError as error:
            if (loss := current().verdict(VERDICT_S)) is not None:
                raise MeetingError(f"rank {rank}: {loss}, expected every rank to join") from error
            raise

    def _state(self) -> Statement:
        return statement_of(self._seat, gpu_ids(self._wanted[0]), self._settings)

    def _gpus_here(self) -> list[str | None]:
        """Return the GPUs of this machine's ranks, which were all started alike."""
        num_ranks = self._seat.local_world_size or self._seat.world_size
        if self.device.type == "cpu":
            return [None] * num_ranks
        return [str(rank % torch.cuda.device_count()) for rank in range(num_ranks)]

    def _reconsider(self, ranks: Sequence[Statement]) -> None:
        """Decide again, now that all ranks have said what they know."""
        before = self.backend
        seats = seats_of(ranks)
        own = seats[self._seat.rank]
        share_cores(own.local_world_size)
        if len({each.machine for each in ranks}) == 1:
            self.network = "loopback"
        self._decide(own.local_rank or 0, list(map(_gpu_of, ranks, seats)))
        if self.backend != before:
            raise _OtherBackend

    def _decide(self, local_rank: int, gpus: Sequence[str | None]) -> None:
        device, backend = self._wanted
        self.device = choose_device(device, local_rank)
        self._use_device()
        self.backend = choose_backend(backend, gpus)

    def _use_device(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)


def seats_of(ranks: Sequence[Statement]) -> list[Seat]:
    """Return the ranks' seats; what their launcher left open is found from their machines."""
    together: dict[str, list[int]] = {}
    for rank, each in enumerate(ranks):
        together.setdefault(each.machine, []).append(rank)
    seats = []
    for rank, each in enumerate(ranks):
        here, told = together[each.machine], each.seat
        local_rank = here.index(rank) if told.local_rank is None else told.local_rank
        local_size = len(here) if told.local_world_size is None else told.local_world_size
        seats.append(Seat(rank, told.world_size, local_rank, local_size))
    return seats


def _gpu_of(statement: Statement, seat: Seat) -> str | None:
    if not statement.gpus or seat.local_rank is None:
        return None
    return statement.gpus[seat.local_rank % len(statement.gpus)]
