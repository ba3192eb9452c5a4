"""The process from which workers are forked: it has imported what they need.

Importing torch takes a processor 1 to 2 s; a fork of a process that has done so takes 10 ms, and
its memory is shared.  `dgc_topo.workers.forks.ForkedLoopback` starts the server as a fresh
interpreter that has one thread: a lock that another one held would be held in a fork for ever.
"""

from __future__ import annotations

import ctypes
import gc
import os
import runpy
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn

import numpy as np

from dgc_topo.workers import remote

_PR_SET_PDEATHSIG = 1


class ForkServer:
    """Answers the owner's requests, one at a time, until the owner is gone.

    Args:
        control: Socket to the owner (see `dgc_topo.workers.remote`).
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._processes: list[_Child] = []
        self._answers: Mapping[str, Callable[..., Any]] = {
            "start": self._start,
            "prepare": _prepare,
            "poll": lambda process: self._processes[process].poll(),
            "signal": lambda process, number: self._processes[process].send_signal(number),
        }

    def serve(self) -> None:
        """Answer until the owner closes the control socket."""
        while True:
            arguments, descriptors = remote.receive(self._control)
            if arguments is None:
                return
            try:
                if descriptors:
                    arguments["descriptors"] = descriptors
                answer = {"value": self._answers[arguments.pop("do")](**arguments)}
            except OSError as error:  # no more processes, or no memory
                answer = {"error": str(error)}
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            remote.send(self._control, answer)

    def _start(
        self, arguments: list[str], environment: dict[str, str], descriptors: list[int]
    ) -> dict[str, int]:
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._control.close()
            _become(arguments, environment, descriptors, server)
        self._processes.append(_Child(pid))
        return {"process": len(self._processes) - 1, "pid": pid}


def _prepare(function: str, argument: Any) -> None:
    """Call ``"module:function"``; what it loads is there in every fork from now on."""
    module, _, name = function.partition(":")
    with suppress(Exception):  # the forks will meet it, too, and say it to whoever listens
        getattr(import_module(module), name)(argument)
    gc.freeze()


class _Child:
    """A forked process."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while it runs."""
        if self._returncode is None:
            ended, status = os.waitpid(self._pid, os.WNOHANG)
            if ended:
                self._returncode = os.waitstatus_to_exitcode(status)
        return self._returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended: its number may be another's by then."""
        if self.poll() is None:
            os.kill(self._pid, number)


def _become(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    descriptors: Sequence[int],
    parent: int,
) -> NoReturn:
    """Run a module as the main program of this fork, and end.

    Args:
        arguments: Name of the module, and its arguments.
        environment: All of its variables.
        descriptors: Its standard input, and its output and errors.
        parent: The server's process id; the fork ends with it.
    """
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        for descriptor, place in zip((*descriptors, descriptors[1]), (0, 1, 2), strict=True):
            os.dup2(descriptor, place)
        for descriptor in descriptors:
            os.close(descriptor)
        os.environ.clear()
        os.environ.update(environment)
        np.random.seed()  # noqa: NPY002 - every fork would draw the same
        sys.argv[:] = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    except BaseException:  # noqa: BLE001 - nothing may go on in this copy of the server
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def main(modules: Sequence[str]) -> None:
    """Import the modules, and serve the owner at the other end of the standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's to handle
    control = socket.socket(fileno=os.dup(0))
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - no path of ours
        os.dup2(nothing.fileno(), 0)
    for module in modules:
        import_module(module)
    gc.freeze()  # a collection in a fork would copy the pages of what is shared
    ForkServer(control).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
