"""Hosts whose workers are forked: `ForkedLoopback`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

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

    Args:
        modules: Modules to import before any worker starts.
    """

    def __init__(self, modules: Sequence[str] = ("dgc_topo.workers.joining",)) -> None:
        self._modules = tuple(modules)
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._control: socket.socket | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            starter = stack.enter_context(Starter())
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                stack.callback(ours.close)
                server = starter.call(self._start_server, theirs)
            stack.callback(_end, server)
            stack.callback(ours.shutdown, socket.SHUT_RDWR)
            self._control, self._stack = ours, stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """End the server, and all workers that are left."""
        with self._lock:
            self._control = None
            self._stack.close()

    def prepare(self, function: str, argument: Any) -> None:
        """Call a function before workers are forked, for what it leaves in memory.

        Args:
            function: ``"module:function"``.  It may start no thread; what it raises is ignored.
            argument: A JSON value.
        """
        self._ask("prepare", function=function, argument=argument)

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
            LaunchError: if the server is gone, or the system has no room for a process.
        """
        arguments = module_of(command)
        given = {"arguments": arguments, "environment": dict(environment)}
        answer = self._ask("start", (stdin, output), **given)
        return remote.RemoteProcess(self._ask, answer["process"], answer["pid"])

    def _start_server(self, control: socket.socket) -> subprocess.Popen[bytes]:
        environment = {**python_environment(), **_ONE_THREAD, PARENT_VARIABLE: str(os.getpid())}
        return subprocess.Popen(
            python_command("dgc_topo.workers.fork_server", *self._modules),
            env=environment,
            stdin=control.fileno(),
        )

    def _ask(self, do: str, descriptors: Sequence[int] = (), **arguments: Any) -> Any:
        with self._lock:
            answer = self._exchange({"do": do, **arguments}, descriptors)
        if answer is not None and "value" in answer:
            return answer["value"]
        if do != "start":  # all that it started ended with it
            return -signal.SIGKILL if do == "poll" else None
        why = "it ended" if answer is None else answer["error"]
        raise LaunchError(f"no worker can be started by the process that forks them: {why}")

    def _exchange(self, request: Mapping[str, Any], descriptors: Sequence[int]) -> Any:
        if self._control is None:
            return {"error": "it is not up"}
        try:
            remote.send(self._control, request, descriptors)
            return remote.receive(self._control)[0]
        except OSError as error:
            return {"error": str(error)}


def can_fork() -> bool:
    """Return True if `ForkedLoopback` works on this system."""
    return sys.platform == "linux"


def _end(server: subprocess.Popen[bytes]) -> None:
    try:
        server.wait(_END_WITHIN_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
