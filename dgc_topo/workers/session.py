"""Sessions: call functions on every rank, and collect the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import IO, Any, Literal, Self

from dgc_topo.liveness import Board, new_board
from dgc_topo.workers.children import descriptors_for_workers, new_rendezvous
from dgc_topo.workers.hosts import Hosts
from dgc_topo.workers.worker_pool import LaunchError, WorkerPool

__all__ = ["LaunchError", "Session", "run_on"]


def _ignore(_: Any) -> None:
    """Ignore a value."""


def run_on(
    hosts: Hosts,
    function: str,
    argument: Any = None,
    *,
    world_size: int,
    listen: Callable[[Any], None] = _ignore,
    timeout_s: float = 60.0,
) -> list[Any]:
    """Run a function once on every rank, on processes started for it.

    Args:
        hosts: A `Loopback`, or a `dgc_topo.workers.lab.Lab`, that is up.
        function: ``"module:function"``, called as ``function(worker, argument)`` in each process,
            inside an initialised Gloo process group on CPUs (the default group).  *worker* is a
            `dgc_topo.workers.group.Worker`.
        argument: A JSON value, the same for every rank.
        world_size: Number of ranks; on a lab the first ones, which may be fewer than its hosts.
        listen: Called in this process with each JSON value that a rank gives to ``worker.tell``.
        timeout_s: After which a silent peer is an error: ``worker.timeout``.

    Returns:
        What the function returned (a JSON value) on each rank, in rank order.

    Raises:
        LaunchError: if a worker fails; all others are ended first.  The text names the rank and
            ends with its last lines.
        ValueError: if *world_size* does not fit the hosts.
    """
    with Session(hosts, world_size, timeout_s=timeout_s) as session:
        return session.call(function, argument, listen=listen)


class Session:
    """Worker processes that stay up for several calls.

    It is a context manager that ends all its processes, also after an error.  After a `LaunchError`
    it cannot be used any more.

    Args:
        hosts: Place of the workers; up for as long as the session.
        world_size: Number of processes; calls may use fewer.
        device: See `dgc_topo.workers.group.join_workers`.
        backend: Of the process group, see there.
        timeout_s: After which a silent peer is an error.

    Raises:
        ValueError: if *world_size* does not fit the hosts.
        LaunchError: (on entering) if a process cannot be started.
    """

    def __init__(
        self,
        hosts: Hosts,
        world_size: int,
        *,
        device: Literal["auto", "cpu", "cuda"] = "cpu",
        backend: Literal["auto", "gloo", "nccl"] = "gloo",
        timeout_s: float = 60.0,
    ) -> None:
        limit = hosts.num_ranks
        if world_size < 1 or (limit is not None and world_size > limit):
            most = "" if limit is None else f" to {limit}"
            raise ValueError(f"world_size {world_size} on {hosts.name}: expected 1{most}")
        self._hosts, self._world_size = hosts, world_size
        self._settings = {"device": device, "backend": backend, "timeout_s": timeout_s}
        self._stack = ExitStack()
        self._num_groups, self._group_size = 0, 0
        self._meeting: IO[bytes] | None = None
        self._notes: IO[bytes] | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._end_meeting)
            self._pool = stack.enter_context(WorkerPool(self._hosts, self._world_size))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def call(
        self,
        function: str,
        argument: Any = None,
        *,
        world_size: int | None = None,
        listen: Callable[[Any], None] = _ignore,
    ) -> list[Any]:
        """Run a function once on every rank; see `run_on`.

        With a *world_size*, only that many first ranks take part, in a default process group of
        their own; a call with the same world size as the previous one finds it still connected.

        Returns:
            What the function returned on each rank, in rank order.

        Raises:
            LaunchError: if a worker fails.
            ValueError: if *world_size* is not within the session's.
        """
        size = self._world_size if world_size is None else world_size
        if not 1 <= size <= self._world_size:
            raise ValueError(
                f"session: world_size {size}, expected 1 to {self._world_size} "
                "(the processes it has)"
            )
        descriptors = self._arrange_meeting(size)
        order = {
            "function": function,
            "argument": argument,
            "world_size": size,
            "group": self._num_groups,
            "rendezvous": None if self._meeting is None else self._meeting.name,
            **self._settings,
        }
        for rank in range(size):
            self._pool.send(rank, order, descriptors)
        return self._collect(size, listen)

    def log(self, rank: int) -> str:
        """Return the text that the process of a rank has printed so far."""
        return self._pool.log(rank)

    def _arrange_meeting(self, size: int) -> Sequence[int]:
        """Return the descriptors that the first ranks need to meet, unless they have met."""
        if size == self._group_size:
            return ()
        self._end_meeting()
        self._num_groups, self._group_size = self._num_groups + 1, size
        self._meeting, self._notes = new_rendezvous(), new_board(size)
        self._pool.read_notes(Board(self._notes.fileno(), size))
        return descriptors_for_workers(self._meeting, self._notes)

    def _end_meeting(self) -> None:
        for file in (self._meeting, self._notes):
            if file is not None:
                file.close()
        self._meeting = self._notes = None

    def _collect(self, size: int, listen: Callable[[Any], None]) -> list[Any]:
        results: dict[int, Any] = {}
        ready: set[int] = set()
        for rank, kind, value in self._pool.messages():
            if kind == "ready":
                ready.add(rank)
                if len(ready) == size:
                    self._hosts.begin()
                    for other in range(size):
                        self._pool.send(other, "go")
            elif kind == "told":
                listen(value)
            else:
                results[rank] = value
                if len(results) == size:
                    break
        return [results[rank] for rank in range(size)]
