"""This process's TCP connections and interfaces: counters, and limits on queued bytes (Linux)."""

from __future__ import annotations

import os
import socket
import stat
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Final, NamedTuple

from dgc_topo.runtime.interfaces import sent_by_interface

#: The sending thread is woken when half of the allowed bytes have left.
LONGEST_WAIT_S: Final = 2.5e-3
_FEWEST_BYTES = 32_000  # smallest limit; with less, the thread is woken for a few packets each time
_BULK_BYTES = (
    256_000  # connections that sent fewer bytes than this since the last look are left alone
)
_INTERVAL_S = 0.5

_NAME_BYTES = 16
_TCP_CONGESTION, _TCP_NOTSENT_LOWAT = 13, 25
_INFO_BYTES = 256
_APP_LIMITED_AT = 7  # the lowest bit
_DELIVERY_RATE_AT = 160  # uint64
_BYTES_SENT_AT = 200  # tcpi_bytes_sent, then tcpi_bytes_retrans: uint64 each


class Delivery(NamedTuple):
    """Progress of one connection.

    Attributes:
        bytes_sent: Payload since it was opened, retransmissions left out.
        rate_bytes_per_s: Rate that the peer acknowledged, as the kernel measured last.
        by_network: True if the network limited the rate; False if too little was sent.
    """

    bytes_sent: int
    rate_bytes_per_s: int
    by_network: bool


def sent_bytes(interface: str) -> int:
    """Return the bytes that an interface of this process's network has sent, headers included.

    Raises:
        ValueError: if there is no such interface.
    """
    found = sent_by_interface()
    if interface not in found:
        raise ValueError(f"interface {interface!r}: not among those of this process's network")
    return found[interface]


def congestion_controls() -> list[str]:
    """Return the congestion controls that this process's TCP connections use, each once."""
    used = {
        connection.getsockopt(socket.IPPROTO_TCP, _TCP_CONGESTION, _NAME_BYTES)
        for connection in connections()
    }
    return sorted(name.rstrip(b"\0").decode() for name in used)


def tcp_bytes_sent() -> int:
    """Return the payload bytes sent on all TCP connections open now, retransmissions left out.

    Libraries that communicate on their own (Gloo) are included.  A closed connection no longer
    counts, so differences are valid only while the same connections are open.

    Raises:
        OSError: if the kernel does not tell; Linux 4.19 and later do.
    """
    return sum(delivery(connection).bytes_sent for connection in connections())


def delivery(connection: socket.socket) -> Delivery:
    """Return the progress of a TCP connection.

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
    """Limit the unsent bytes that the kernel queues for a TCP connection."""
    connection.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, num_bytes)


def connections() -> Iterator[socket.socket]:
    """Yield this process's connected TCP sockets, each valid until the next."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names are wanted, not paths
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            copy = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue  # closed meanwhile, for example the descriptor of the listed folder
        with closing(copy):
            try:
                copy.getpeername()
            except OSError:
                continue  # not connected
            if copy.family in {socket.AF_INET, socket.AF_INET6}:
                yield copy


class SendQueues:
    """Limits on the bytes that wait in the kernel to be sent on this process's connections.

    A send counts as complete when the kernel has taken all of its bytes: up to 4 MB per connection,
    more the longer it has been open.  The schedule's next message, to another peer, then shares the
    link with bytes that still wait, and the first message arrives late.  In a tree of 4 ranks and
    1 MB at 100 Mbit/s that cost 22 of 363 ms.  The kernel is therefore allowed little more than the
    bytes that leave until the sender's thread runs again.

    Fast connections are not slowed: on a link of 1.6 GB/s, all that the kernel takes by itself
    (4 MB) leaves in the allowed time.  If the system does not tell how fast a connection delivers
    (systems other than Linux), nothing is done.

    Args:
        longest_wait_s: Longest time for waiting bytes to leave, at the connection's recent rate.
    """

    def __init__(self, longest_wait_s: float = LONGEST_WAIT_S) -> None:
        self._longest_wait_s = longest_wait_s
        self._next_look = 0.0
        self._sent: dict[int, int] = {}

    def keep_short(self) -> None:
        """Fit the limits to the connections' recent rates; cheap enough to call after every run."""
        now = time.monotonic()
        if now < self._next_look or not sys.platform.startswith("linux"):
            return
        self._next_look = now + _INTERVAL_S
        sent = {}
        for connection in connections():
            inode = os.fstat(connection.fileno()).st_ino
            sent[inode] = self._look_at(connection, self._sent.get(inode, 0))
        self._sent = sent

    def _look_at(self, connection: socket.socket, sent_before: int) -> int:
        try:
            now = delivery(connection)
            if now.by_network and now.bytes_sent - sent_before >= _BULK_BYTES:
                waiting = round(now.rate_bytes_per_s * self._longest_wait_s)
                limit_unsent(connection, min(max(waiting, _FEWEST_BYTES), 2**31 - 1))
        except OSError:
            return sent_before  # an older kernel, or the connection has just broken
        return now.bytes_sent
