"""Connections between sentinels: lines of JSON, bounded both ways, that never block."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from typing import Any

from dgc_topo.liveness.loss import Position

_MOST_LINE = 4096  # bytes; longer ones are nobody's
_MOST_OUTGOING = 1 << 16  # bytes that wait for a peer who does not read


class PeerLink:
    """One connection; whoever waits on its socket calls `read` when there is something.

    Args:
        connection: The socket, which is made non-blocking.
        rank: At the other end; None until it has said so.

    Attributes:
        silence_s: Seconds without a word, as far as the observer was awake.
        place: Last position that the other end told.
        has_left: True once it has said that it leaves.
    """

    def __init__(self, connection: socket.socket, rank: int | None = None) -> None:
        connection.setblocking(False)
        self.connection, self.rank = connection, rank
        self.silence_s = 0.0
        self.place = Position()
        self.has_left = False
        self._unread, self._outgoing = b"", b""

    def read(self) -> list[Any] | None:
        """Return the values that have come; None if the other end is closed, or talks nonsense."""
        try:
            chunk = self.connection.recv(1 << 14)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not chunk:
            return None
        self.silence_s = 0.0
        *lines, self._unread = (self._unread + chunk).split(b"\n")
        if any(len(line) > _MOST_LINE for line in [*lines, self._unread]):
            return None
        try:
            return [json.loads(line) for line in lines]
        except (ValueError, RecursionError):
            return None

    def send(self, value: Any, *, may_drop: bool = False) -> None:
        """Send a value as soon as the other end takes it; one that *may_drop* if it does now."""
        if self._outgoing and (may_drop or len(self._outgoing) > _MOST_OUTGOING):
            self.flush()
            return
        self._outgoing += json.dumps(value).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as it goes."""
        with suppress(OSError):  # a broken connection reads as closed
            while self._outgoing:
                self._outgoing = self._outgoing[self.connection.send(self._outgoing) :]

    def end(self) -> None:
        """Say no more; what the other end has not read yet still arrives."""
        self.flush()
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()
