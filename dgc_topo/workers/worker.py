"""A worker process: it receives calls on its standard input, a socket, and answers there."""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from queue import SimpleQueue
from typing import Any

from dgc_topo.liveness import Board, Liveness, make_current
from dgc_topo.workers.children import url_of
from dgc_topo.workers.group import Worker, forget_group
from dgc_topo.workers.joining import join_workers
from dgc_topo.workers.machine import share_cores
from dgc_topo.workers.regrouping import Regrouping

_TRACEBACK = "DGC_TOPO_TRACEBACK"  # set in the environment: errors have tracebacks, as in `cli`
_MOST_DESCRIPTORS = 2  # with one order


class Orders:
    """JSON lines from the launcher, and the descriptors that came with them, read by a thread.

    Args:
        channel: Socket to the launcher.
        aside: Function of an order and its descriptors that may take it at once, in that thread;
            it returns False for one that has to wait for its turn.
    """

    def __init__(
        self, channel: socket.socket, aside: Callable[[Any, Sequence[int]], bool] = lambda *_: False
    ) -> None:
        self._channel, self._aside = channel, aside
        self._orders: SimpleQueue[tuple[Any, Sequence[int]] | None] = SimpleQueue()
        threading.Thread(target=self._read, name="dgc-topo-orders", daemon=True).start()

    def next(self) -> tuple[Any, Sequence[int]] | None:
        """Return the next value and its descriptors; None if the launcher has closed its end."""
        return self._orders.get()

    def _read(self) -> None:
        unread, descriptors = b"", list[int]()
        while True:
            # A chunk never holds the descriptors of two orders, nor bytes of a later one.
            chunk, received, _, _ = socket.recv_fds(self._channel, 1 << 16, _MOST_DESCRIPTORS)
            if not chunk:
                self._orders.put(None)
                return
            descriptors += received
            *lines, unread = (unread + chunk).split(b"\n")
            for line in lines:
                order, taken, descriptors = json.loads(line), descriptors, []
                if not self._aside(order, taken):
                    self._orders.put((order, taken))


class CallServer:
    """The worker's end of the channel to the launcher: carries out the calls that come.

    Args:
        channel: Socket to the launcher, JSON lines both ways.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel, self._sending = channel, threading.Lock()
        self._regrouping = Regrouping(lambda group: self._send("back", group))
        self._orders = Orders(channel, self._regrouping.hear)
        self._number = int(os.environ["RANK"])  # of this process, however ranks are counted later
        self._order: Mapping[str, Any] = {}
        self._worker: Worker | None = None
        self._group = 0
        self._leave = ExitStack()

    def serve(self) -> None:
        """Carry out calls until the launcher closes its end."""
        while (found := self._orders.next()) is not None:
            order, descriptors = found
            function = find_function(order["function"])
            worker = self._join(order, descriptors)
            self._send("ready", None)
            if self._orders.next() is None:  # the launcher has closed its end: stop
                return
            self._send("result", function(worker, order["argument"]))

    def _join(self, order: Mapping[str, Any], descriptors: Sequence[int]) -> Worker:
        """Return the place in the group that a call wants; the last call's, if it is the same.

        The world size alone does not tell: in a call between, this process may have had no part.
        """
        if self._worker is None or self._group != order["group"]:
            self._leave.close()
            if len(descriptors) == _MOST_DESCRIPTORS:
                board = Board(descriptors[-1], order["world_size"])
                make_current(Liveness(self._number, board, self._number))
            self._order = order
            # Not to be closed, ever: a store that outlives its group would open what is next there.
            url = url_of(order["rendezvous"], descriptors)
            self._join_group(self._number, order["world_size"], order["group"], url)
        assert self._worker is not None
        return self._worker

    def _join_group(self, rank: int, world_size: int, group: int, url: str) -> None:
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size))
        joined = join_workers(
            self._order["device"],
            self._order["backend"],
            timedelta(seconds=self._order["timeout_s"]),
            None,
            url,
            lambda value: self._send("told", value),
        )
        self._leave = ExitStack()
        worker = self._leave.enter_context(joined)
        self._worker, self._group = replace(worker, regroup=self._regroup), group

    def _regroup(self) -> tuple[Worker, tuple[int, ...]] | None:
        """Join the group of those that are left; see `Worker.regroup`."""
        assert self._worker is not None
        if self._worker.device.type != "cpu":  # whose place on its machine would change
            return None
        order = self._regrouping.meet()
        if order is None:
            return None
        self._leave.pop_all()  # of a broken group nobody can take leave
        forget_group()
        url = url_of(order.rendezvous, order.descriptors)
        rank = order.living.index(self._number)
        local = min(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), len(order.living))
        place = min(int(os.environ.get("LOCAL_RANK", "0")), local - 1)
        os.environ.update(LOCAL_RANK=str(place), LOCAL_WORLD_SIZE=str(local))
        self._join_group(rank, len(order.living), order.group, url)
        return self._worker, order.living

    def _send(self, kind: str, value: Any) -> None:
        line = json.dumps([kind, value]).encode() + b"\n"
        with self._sending:
            self._channel.sendall(line)


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


def _tell(error: Exception) -> None:
    """Print an error; one of this package's own says what is wrong, wherever it came from."""
    is_own = type(error).__module__.startswith("dgc_topo.")
    if is_own and not os.environ.get(_TRACEBACK):
        sys.stderr.writelines(traceback.format_exception_only(error))
    else:
        traceback.print_exception(error)


def _flush() -> None:
    """Write what `os._exit` would lose."""
    sys.stdout.flush()
    sys.stderr.flush()


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]))
    except Exception as found:  # noqa: BLE001 - said at once, whatever it is
        sys.stdout.flush()
        _tell(found)
        _flush()
        os._exit(1)  # leaving in good order might wait for peers that are gone
