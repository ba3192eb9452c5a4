"""A worker process: it receives calls on its standard input, a socket, and answers there."""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

from dgc_topo.liveness import Board, Liveness, make_current
from dgc_topo.workers.children import url_of
from dgc_topo.workers.group import Worker, join_workers
from dgc_topo.workers.machine import share_cores

_MOST_DESCRIPTORS = 2  # with one order


class Orders:
    """JSON lines from the launcher, and the descriptors that came with them.

    Args:
        channel: Socket to the launcher.

    Attributes:
        descriptors: Those that nobody has taken away yet.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel, self._unread = channel, b""
        self.descriptors: list[int] = []

    def next(self) -> Any:
        """Return the next value; None if the launcher has closed its end."""
        while b"\n" not in self._unread:
            chunk, descriptors, _, _ = socket.recv_fds(self._channel, 1 << 16, _MOST_DESCRIPTORS)
            if not chunk:
                return None
            self.descriptors += descriptors
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)


class CallServer:
    """The worker's end of the channel to the launcher: carries out the calls that come.

    Args:
        channel: Socket to the launcher, JSON lines both ways.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel, self._orders = channel, Orders(channel)
        self._worker: Worker | None = None
        self._group = 0
        self._leave = ExitStack()

    def serve(self) -> None:
        """Carry out calls until the launcher closes its end."""
        while (order := self._orders.next()) is not None:
            function = find_function(order["function"])
            worker = self._join(order)
            self._send("ready", None)
            if self._orders.next() is None:  # the launcher has closed its end: stop
                return
            self._send("result", function(worker, order["argument"]))

    def _join(self, order: Mapping[str, Any]) -> Worker:
        """Return the place in the group that a call wants; the last call's, if it is the same.

        The world size alone does not tell: in a call between, this process may have had no part.
        """
        if self._worker is None or self._group != order["group"]:
            self._leave.close()
            os.environ["WORLD_SIZE"] = str(order["world_size"])
            # Not to be closed, ever: a store that outlives its group would open what is next there.
            descriptors, self._orders.descriptors = self._orders.descriptors, []
            if descriptors:
                board = Board(descriptors[1], order["world_size"])
                rank = int(os.environ["RANK"])
                make_current(Liveness(rank, board, rank))
            joined = join_workers(
                order["device"],
                order["backend"],
                timedelta(seconds=order["timeout_s"]),
                None,
                url_of(order["rendezvous"], descriptors),
                lambda value: self._send("told", value),
            )
            self._leave = ExitStack()
            self._worker, self._group = self._leave.enter_context(joined), order["group"]
        return self._worker

    def _send(self, kind: str, value: Any) -> None:
        self._channel.sendall(json.dumps([kind, value]).encode() + b"\n")


def find_function(name: str) -> Callable[[Worker, Any], Any]:
    """Return the function called ``"module:function"``.

    Raises:
        ValueError: if there is none.
    """
    module, separator, attribute = name.partition(":")
    if not separator:
        raise ValueError(f"function {name!r}: expected 'module:function'")
    found = importlib.import_module(module)
    if not hasattr(found, attribute):
        raise ValueError(f"function {name!r}: {module} has no function {attribute!r}")
    function: Callable[[Worker, Any], Any] = getattr(found, attribute)
    return function


def main(num_processes: int) -> None:
    """Serve calls as one of *num_processes* on this machine."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the launcher's to handle
    channel = socket.socket(fileno=os.dup(0))
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - no path of ours
        os.dup2(nothing.fileno(), 0)
    share_cores(num_processes)
    CallServer(channel).serve()
    _flush()
    os._exit(0)  # leaving a group in good order would wait for peers


def _flush() -> None:
    """Write what `os._exit` would lose."""
    sys.stdout.flush()
    sys.stderr.flush()


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]))
    except Exception:  # noqa: BLE001 - said at once, whatever it is
        sys.stdout.flush()
        traceback.print_exc()
        _flush()
        os._exit(1)  # leaving in good order might wait for peers that are gone
