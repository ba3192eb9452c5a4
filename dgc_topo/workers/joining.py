"""Joining of the ranks of a run, and the device and backend that suit all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from dgc_topo.liveness import current
from dgc_topo.runtime.failure import VERDICT_S
from dgc_topo.workers.group import PATIENCE, Worker
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
from dgc_topo.workers.meeting import Meeting, MeetingError, announcing_failure
from dgc_topo.workers.seat import Seat, seat_from
from dgc_topo.workers.statement import Statement, statement_of

#: Least time that ranks wait for the last one to come: processes start, and import torch.
LEAST_WAIT = timedelta(seconds=60)


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
        timeout: Time after which a silent peer is an error; ranks that have come wait as long for
            the last one, but 60 s at least.
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
    joining.join(init_method, waits=max(timeout, LEAST_WAIT), patience=timeout * PATIENCE)
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

    def join(self, init_method: str | None, *, waits: timedelta, patience: timedelta) -> None:
        """Make the default process group.

        Args:
            init_method: See `join_workers`.
            waits: Longest wait for the last rank to come.
            patience: Longest wait of collectives.
        """
        if init_method is not None:
            self._decide(self._seat.local_rank or 0, self._gpus_here())
            self._init(patience, init_method=init_method)
            return
        meeting = Meeting(self._seat, self._state, self._reconsider, waits)
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
