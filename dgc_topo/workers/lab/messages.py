"""Messages between a lab's owner and its keeper: JSON values of any size, and descriptors."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Sequence
from typing import Any

_MARK = b"."  # a message of no bytes would look like the end
_MAX_DESCRIPTORS = 3


def send(channel: socket.socket, value: Any, descriptors: Sequence[int] = ()) -> None:
    """Send a value, and at most two descriptors.

    Raises:
        OSError: if the other end is gone.
    """
    # In memory, and a descriptor of it: a packet may hold less than an environment is large.
    with os.fdopen(os.memfd_create("dgc-topo-message"), "wb") as text:
        text.write(json.dumps(value).encode())
        text.flush()
        socket.send_fds(channel, [_MARK], [text.fileno(), *descriptors])


def receive(channel: socket.socket) -> tuple[Any, list[int]]:
    """Return the next value, None if the other end is closed, and descriptors to be closed.

    Raises:
        OSError: if the other end is gone, or this process has too many files open.
    """
    mark, received, _, _ = socket.recv_fds(
        channel, len(_MARK), _MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
    )
    if not mark:
        return None, []
    if not received:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    first, *descriptors = received
    with os.fdopen(first, "rb") as text:
        text.seek(0)
        return json.load(text), descriptors
