"""Keep short what waits in the kernel to be sent.

A send counts as over when the kernel has taken all of it.  What a schedule sends next, to another
peer, then shares the link with the rest, and the message that somebody waits for comes late: the
kernel takes up to 4 MB of a connection, more the longer it has been open.  In a tree of 4 ranks and
1 MB at 100 Mbit/s that took 22 of 363 ms.  So it is allowed little more than what leaves until the
sender's thread has its next turn.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from typing import Final

from dgc_topo.runtime.sockets import connections, delivery, limit_unsent

#: The thread that fills a connection is woken when half of what may wait has left.
LONGEST_WAIT_S: Final = 2.5e-3
_FEWEST_BYTES = 32_000  # so many at least, or it is woken for a few packets each
_BULK_BYTES = 256_000  # connections that send less than this between two looks are left alone
_INTERVAL_S = 0.5


class SendQueues:
    """The queues of this process's TCP connections.

    Fast connections are not slowed: where a link carries 1.6 GB/s, all that the kernel takes by
    itself (4 MB) leaves in the time allowed.  Where the kernel does not tell how fast a connection
    delivers (other systems than Linux), nothing is done.

    Args:
        longest_wait_s: How long what waits may take to leave, at the rate that the connection
            delivered lately.
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
