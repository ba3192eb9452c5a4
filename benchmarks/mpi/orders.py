"""Orders of a rank: it waits for one, sums as it says, and tells the time.

Orders come over a socket in the file system, which the network
namespaces of the lab share, so that a rank without an order takes no processor time: libraries of
MPI would otherwise wait for each other by asking again and again.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
TORCH, GLOO = "torch", "gloo"
_PERIOD = 97  #: whole numbers below it, so that sums are exact in any order


class Library(Protocol):
    """A library that sums over all ranks."""

    rank: int
    world_size: int
    buffer: Floats

    def resize(self, length: int) -> None:
        """Have a buffer of so many elements."""

    def way(self, name: str) -> Callable[[], object]:
        """Return the function that sums the buffer in place."""

    def barrier(self) -> None:
        """Wait for all ranks."""


def given(length: int, rank: int) -> Floats:
    """Return a rank's values: whole numbers, so that every order of adding gives the same sum."""
    return ((np.arange(length) + rank) % _PERIOD).astype(np.float32)


def serve(library: Library, name: str, path: str) -> None:
    """Carry out orders until there are no more.

    Args:
        library: That sums.
        name: Its name.
        path: Of the socket where orders come from.
    """
    with socket.socket(socket.AF_UNIX) as own:
        own.connect(path)
        with own.makefile("rw") as orders:
            _say(orders, {"library": name, "rank": library.rank})
            for line in orders:
                _say(orders, _answer(library, **json.loads(line)))


def _say(stream: Any, value: Any) -> None:
    stream.write(json.dumps(value) + "\n")
    stream.flush()


def _answer(library: Library, way: str, length: int, count: int) -> dict[str, Any]:
    """Sum *count* times in a row, and say how long one took; a count of 0 checks the sum."""
    if len(library.buffer) != length:
        library.resize(length)
    library.buffer[:] = given(length, library.rank)
    run = library.way(way)
    library.barrier()
    repeats = max(1, count)
    cpu_s, began_s = time.process_time(), time.perf_counter()
    for _ in range(repeats):
        run()
    taken_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    right = count != 0 or _is_right(library, length)
    return {"time_s": taken_s / repeats, "cpu_s": cpu_s / repeats, "right": right}


def _is_right(library: Library, length: int) -> bool:
    expected = sum(given(length, rank) for rank in range(library.world_size))
    return bool(np.array_equal(library.buffer, expected))
