"""Sessions: call functions on every rank, and collect the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import IO, Any, Literal, Self

from dgc_topo.liveness import Board, Loss, new_board
from dgc_topo.workers.children import descriptors_for_workers, new_rendezvous
from dgc_topo.workers.hosts import Hosts
from dgc_topo.workers.worker_pool import LaunchError, Message, WorkerPool

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
        device: See `dgc_topo.workers.joining.join_workers`.
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
        go_on: Callable[[Loss], None] | None = None,
    ) -> list[Any]:
        """Run a function once on every rank; see `run_on`.

        With a *world_size*, only that many first ranks take part, in a default process group of
        their own; a call with the same world size as the previous one finds it still connected.

        With *go_on*, the call goes on when a worker is lost: *go_on* is told, and the others learn
        of it from ``worker.regroup()``.  The session cannot be used any more after such a call.

        Returns:
            What the function returned on each rank that is left, in rank order.

        Raises:
            LaunchError: if a worker fails, or is lost and the call does not go on.
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
        call = _Call(self._pool, size, listen, self._hosts.begin)
        while True:
            try:
                return call.collect()
            except LaunchError as error:
                if error.loss is None or go_on is None or not call.can_go_on:
                    raise
                go_on(error.loss)
                self._go_on_without(error.loss.rank, call)

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

    def _go_on_without(self, rank: int, call: _Call) -> None:
        """Have those that are left meet anew; the lost one is ended for good."""
        call.drop(rank)
        if self._meeting is not None:
            self._meeting.close()
        self._meeting = new_rendezvous()
        self._num_groups, self._group_size = self._num_groups + 1, 0
        order = {
            "group": self._num_groups,
            "living": call.living,
            "rendezvous": self._meeting.name,
        }
        for other in call.living:
            self._pool.send(other, order, descriptors_for_workers(self._meeting))


class _Call:
    """A call that is under way.

    Args:
        pool: The workers.
        size: Number of those that take part.
        listen: See `Session.call`.
        begin: Called when all are ready.

    Attributes:
        living: Ranks that take part, and are not lost.
    """

    def __init__(
        self,
        pool: WorkerPool,
        size: int,
        listen: Callable[[Any], None],
        begin: Callable[[], None],
    ) -> None:
        self._pool, self._listen, self._begin = pool, listen, begin
        self.living = list(range(size))
        self._results: dict[int, Any] = {}
        self._ready: set[int] = set()
        self._has_begun = False
        self._back: dict[int, int] = {}  # number of the group that a survivor is ready to join

    def collect(self) -> list[Any]:
        """Return all results, in rank order, once they are there.

        Raises:
            LaunchError: if a worker fails; it may be called again then, without that one.
        """
        messages = self._pool.messages()
        while not self._is_complete:
            self._take(next(messages))
        return [self._results[rank] for rank in self.living]

    def drop(self, rank: int) -> None:
        """Go on without a rank."""
        self.living.remove(rank)
        self._pool.drop(rank)

    @property
    def can_go_on(self) -> bool:
        """True if all had begun, and none has finished, so that others can go on together."""
        return self._has_begun and not self._results and len(self.living) > 1

    @property
    def _is_complete(self) -> bool:
        return all(rank in self._results for rank in self.living)

    def _take(self, message: Message) -> None:
        rank, kind, value = message
        if kind == "ready":
            self._ready.add(rank)
            if len(self._ready) == len(self.living):
                self._has_begun = True
                self._begin()
                self._tell_all("go")
        elif kind == "told":
            self._listen(value)
        elif kind == "back":
            self._back[rank] = value
            if all(self._back.get(other) == value for other in self.living):
                self._tell_all({"complete": value})
        else:
            self._results[rank] = value

    def _tell_all(self, order: Any) -> None:
        for rank in self.living:
            self._pool.send(rank, order)
