"""TCP connections and interfaces of this process, as the kernel sees them.

Their counters, and the queues of what waits in the kernel to be sent, which `SendQueues` keeps
short.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

#: The thread that fills a connection is woken when half of what may wait has left.
LONGEST_WAIT_S: Final = 2.5e-3
_FEWEST_BYTES = 32_000  # so many at least, or it is woken for a few packets each
_BULK_BYTES = 256_000  # connections that send less than this between two looks are left alone
_INTERVAL_S = 0.5

_TX_BYTES = 8  # place among the numbers after the interface's name in /proc/net/dev
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
        by_network: True if the network set the pace; else there was not enough to send.
    """

    bytes_sent: int
    rate_bytes_per_s: int
    by_network: bool


def sent_bytes(interface: str) -> int:
    """Return the bytes that an interface of this process's network has sent, headers included.

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


class SendQueues:
    """Keeps short what waits in the kernel to be sent on this process's TCP connections.

    A send counts as over when the kernel has taken all of it.  What a schedule sends next, to
    another peer, then shares the link with the rest, and the message that somebody waits for comes
    late: the kernel takes up to 4 MB of a connection, more the longer it has been open.  In a tree
    of 4 ranks and 1 MB at 100 Mbit/s that took 22 of 363 ms.  So it is allowed little more than
    what leaves until the sender's thread has its next turn.

    Fast connections are not slowed: where a link carries 1.6 GB/s, all that the kernel takes by
    itself (4 MB) leaves in the time allowed.  Where the kernel does not tell how fast a connection
    delivers (other systems than Linux), nothing is done.

    Args:
        longest_wait_s: Longest time that waiting bytes take to leave, at the rate that the
            connection delivered lately.
    """

    def __init__(self, longest_wait_s: float = LONGEST_WAIT_S) -> None:
        self._longest_wait_s = longest_wait_s
        self._next_look = 0.0
        self._sent: dict[int, int] = {}

    def keep_short(self) -> None:
        """Fit the queues to what the connections deliver; cheap, so call it after every run."""
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
