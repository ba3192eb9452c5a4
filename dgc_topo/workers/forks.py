"""Hosts whose workers are forked: `ForkedLoopback`."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, NamedTuple, Self

from dgc_topo.liveness.processes import LOOK_EVERY_S, StopCounter
from dgc_topo.workers import remote
from dgc_topo.workers.children import (
    PARENT_VARIABLE,
    Starter,
    module_of,
    python_command,
    python_environment,
)
from dgc_topo.workers.hosts import Loopback
from dgc_topo.workers.worker_pool import LaunchError

_END_WITHIN_S = 5.0
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # of its libraries, too: a fork has the calling one only


class ForkedLoopback(Loopback):
    """This machine's loopback, with workers that begin with their imports done.

    Starting a worker takes some milliseconds instead of the seconds of importing torch, so that a
    lost one is soon replaced.  It is up inside its ``with`` block, and needs Linux.

    All workers end with the process that forks them.  If that is lost, the next worker that is
    started gets a new one.

    Args:
        modules: Modules to import before any worker starts.
    """

    def __init__(self, modules: Sequence[str] = ("dgc_topo.workers.joining",)) -> None:
        self._modules = tuple(modules)
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._server: _Server | None = None
        self._prepared: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        with self._lock:
            self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        """End the server, and all workers that are left."""
        with self._lock:
            self._server = None
            self._stack.close()

    def prepare(self, function: str, argument: Any) -> None:
        """Call a function before workers are forked, for what it leaves in memory.

        Args:
            function: ``"module:function"``.  It may start no thread; what it raises is ignored.
            argument: A JSON value.
        """
        request = {"do": "prepare", "function": function, "argument": argument}
        with self._lock:
            self._prepared.append(request)
            if self._server is not None:
                self._server.exchange(request)

    def start(
        self,
        rank: int,  # there is one host only
        command: Sequence[str],
        environment: Mapping[str, str],
        stdin: int,
        output: int,
    ) -> remote.RemoteProcess:
        """Fork a process, which ends with this one (see `dgc_topo.workers.Hosts.start`).

        Raises:
            LaunchError: if this is not up, or the system has no room for a process.
        """
        arguments = module_of(command)
        request = {"do": "start", "arguments": arguments, "environment": dict(environment)}
        with self._lock:
            answer = self._exchange(request, (stdin, output))
            server = self._server
        if server is None or "value" not in answer:
            raise LaunchError(
                f"no worker can be started by the process that forks them: {answer['error']}"
            )
        found = answer["value"]
        return remote.RemoteProcess(partial(self._ask, server), found["process"], found["pid"])

    def _exchange(self, request: Mapping[str, Any], descriptors: Sequence[int]) -> dict[str, Any]:
        """Return the answer of the server, or of a new one if it has ended."""
        for _ in range(2):
            if self._server is None:
                return {"error": "it is not up"}
            answer = self._server.exchange(request, descriptors)
            if answer is not None:
                return answer
            self._stack.close()
            self._begin()
        return {"error": "it ended, and so did another one"}

    def _begin(self) -> None:
        """Start a server, and prepare it as the one before."""
        with ExitStack() as stack:
            starter = stack.enter_context(Starter())
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                stack.callback(ours.close)
                process = starter.call(self._start_server, theirs)
            stack.callback(_end, process)
            stack.callback(_shut, ours)
            self._server, self._stack = _Server(ours, process), stack.pop_all()
        for request in self._prepared:
            self._server.exchange(request)

    def _start_server(self, control: socket.socket) -> subprocess.Popen[bytes]:
        environment = {**python_environment(), **_ONE_THREAD, PARENT_VARIABLE: str(os.getpid())}
        return subprocess.Popen(
            python_command("dgc_topo.workers.fork_server", *self._modules),
            env=environment,
            stdin=control.fileno(),
        )

    def _ask(self, server: _Server, do: str, **arguments: Any) -> Any:
        """Ask about a process; all that a server has started end with it."""
        with self._lock:
            answer = None
            if server is self._server:
                answer = server.exchange({"do": do, **arguments})
        if answer is not None and "value" in answer:
            return answer["value"]
        return -signal.SIGKILL if do == "poll" else None


class _Server(NamedTuple):
    """A process that forks workers.

    Attributes:
        control: Socket to it.
        process: The process.
    """

    control: socket.socket
    process: subprocess.Popen[bytes]

    def exchange(
        self, request: Mapping[str, Any], descriptors: Sequence[int] = ()
    ) -> dict[str, Any] | None:
        """Return its answer; None if it has ended.  One that is frozen is ended."""
        stops, waiting = StopCounter(), select.poll()
        waiting.register(self.control, select.POLLIN)
        try:
            remote.send(self.control, request, descriptors)
            while not waiting.poll(LOOK_EVERY_S * 1000):
                if stops.look(self.process.pid):
                    self.process.kill()
            answer: dict[str, Any] | None = remote.receive(self.control)[0]
        except OSError:
            return None
        return answer


def _shut(control: socket.socket) -> None:
    with suppress(OSError):  # the other end is gone
        control.shutdown(socket.SHUT_RDWR)


def can_fork() -> bool:
    """Return True if `ForkedLoopback` works on this system."""
    return sys.platform == "linux"


def _end(server: subprocess.Popen[bytes]) -> None:
    try:
        server.wait(_END_WITHIN_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
