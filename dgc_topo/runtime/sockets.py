"""What this process's connections and interface really do, as the kernel tells."""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

_TX_BYTES = 8  # place among the numbers after the interface's name in /proc/net/dev
_NAME_BYTES = 16
_TCP_CONGESTION, _TCP_NOTSENT_LOWAT = 13, 25
_INFO_BYTES = 256
_APP_LIMITED_AT = 7  # the lowest bit
_DELIVERY_RATE_AT = 160  # uint64
_BYTES_SENT_AT = 200  # tcpi_bytes_sent, then tcpi_bytes_retrans: uint64 each


class Delivery(NamedTuple):
    """How fast a connection delivers.

    Attributes:
        bytes_sent: Payload since it was opened, retransmissions left out.
        rate_bytes_per_s: What the peer acknowledged, as the kernel measured last.
        by_network: Whether the network set the pace; else there was not enough to send.
    """

    bytes_sent: int
    rate_bytes_per_s: int
    by_network: bool


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
    used = {
        connection.getsockopt(socket.IPPROTO_TCP, _TCP_CONGESTION, _NAME_BYTES)
        for connection in connections()
    }
    return sorted(name.rstrip(b"\0").decode() for name in used)


def tcp_bytes_sent() -> int:
    """Return the payload bytes sent on all TCP connections open now, retransmissions left out.

    Libraries that communicate on their own (Gloo) are included; a connection's bytes go when it is
    closed, so differences mean something only while the same connections are open.

    Raises:
        OSError: if the kernel does not tell; Linux 4.19 and later do.
    """
    return sum(delivery(connection).bytes_sent for connection in connections())


def delivery(connection: socket.socket) -> Delivery:
    """Return how fast a TCP connection delivers.

    Raises:
        OSError: if the kernel does not tell; Linux 4.19 and later do.
    """
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    if len(info) < _BYTES_SENT_AT + 16:
        raise OSError(f"TCP_INFO of {len(info)} bytes, expected bytes_sent (Linux 4.19 or later)")
    (rate,) = struct.unpack_from("=Q", info, _DELIVERY_RATE_AT)
    sent, again = struct.unpack_from("=QQ", info, _BYTES_SENT_AT)
    return Delivery(sent - again, rate, by_network=info[_APP_LIMITED_AT] & 1 == 0)


def limit_unsent(connection: socket.socket, num_bytes: int) -> None:
    """Let the kernel take no more of a TCP connection while so many bytes wait to leave."""
    connection.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, num_bytes)


def connections() -> Iterator[socket.socket]:
    """Yield this process's connected TCP sockets, each valid until the next."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names are wanted, not paths
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            copy = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue  # closed meanwhile, such as the descriptor that listed the folder
        with closing(copy):
            try:
                copy.getpeername()
            except OSError:
                continue  # not connected
            if copy.family in {socket.AF_INET, socket.AF_INET6}:
                yield copy
