"""A worker process of a sweep: predicts the points whose numbers come on its standard input."""

from __future__ import annotations

import base64
import json
import os
import pickle
import signal
import socket
from typing import Any

from dgc_topo.experiments.sweep.prediction import Predictor


def packed(grid: object) -> str:
    """Return a grid as text for a worker.

    Raises:
        Exception: if it holds what another process cannot have, such as a function of a script.
    """
    data = pickle.dumps(grid)
    if b"__main__" in data:
        raise pickle.PicklingError("of the program itself")
    return base64.b64encode(data).decode()


def serve(channel: socket.socket) -> None:
    """Predict until the other end closes: first comes the grid, then lists of numbers of points."""
    orders = channel.makefile("rb")
    grid = pickle.loads(base64.b64decode(json.loads(orders.readline())))
    predictor = Predictor(grid)
    for line in orders:
        for rows in predictor.lots(json.loads(line)):
            _send(channel, "rows", [row.model_dump_json() for row in rows])
        _send(channel, "done", None)


def _send(channel: socket.socket, kind: str, value: Any) -> None:
    channel.sendall(json.dumps([kind, value]).encode() + b"\n")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the launcher's to handle
    serve(socket.socket(fileno=os.dup(0)))
