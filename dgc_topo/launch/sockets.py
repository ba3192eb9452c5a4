"""What this process's connections and interface really do, as the kernel tells."""

from __future__ import annotations

import os
import socket
from contextlib import closing
from pathlib import Path

_TX_BYTES = 8  # place among the numbers after the interface's name in /proc/net/dev
_NAME_BYTES = 16
_TCP_CONGESTION = 13


def sent_bytes(interface: str) -> int:
    """Return how many bytes an interface of this process's network has sent, headers included.

    Raises:
        ValueError: if there is no such interface.
    """
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
        name, separator, numbers = line.partition(":")
        if separator and name.strip() == interface:
            return int(numbers.split()[_TX_BYTES])
    raise ValueError(f"interface {interface!r}: not among those of this process's network")


def congestion_controls() -> list[str]:
    """Return the congestion controls that this process's TCP connections use, each once."""
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            copy = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue  # not a socket, or the descriptor that listed the folder
        with closing(copy):
            try:
                copy.getpeername()
                used = copy.getsockopt(socket.IPPROTO_TCP, _TCP_CONGESTION, _NAME_BYTES)
            except OSError:
                continue  # not connected, or not TCP
            found.add(used.rstrip(b"\0").decode())
    return sorted(found)
