"""Breaking of waits: what a thread blocked in torch waits for fails at once."""

from __future__ import annotations

import socket
from contextlib import suppress
from datetime import timedelta
from itertools import chain

import torch
import torch.distributed as dist

from dgc_topo.runtime.connections import connections

_TAG = 0x6C6F7374  # of no message of ours


def break_waits(group: dist.ProcessGroup | None = None) -> None:
    """Make all waits in a group fail, in whatever thread; the group cannot be used any more.

    On Gloo a wait that times out closes every connection of its group, so one is made to.  Other
    backends are asked to abort.

    Args:
        group: The process group; None is the default one, if there is one.
    """
    own = dist.group.WORLD if group is None else group
    if own is None:
        return
    if "gloo" not in dist.get_backend_config(own):
        with suppress(RuntimeError, AttributeError):
            own.abort()
        return
    # Messages behind a neighbour: the nearest peers are the likeliest to live.
    rank, size = own.rank(), own.size()
    for peer in chain(range(rank + 1, size), range(rank)):
        try:
            nothing = torch.empty(1, dtype=torch.uint8, device="cpu")
            own.recv([nothing], peer, _TAG).wait(timedelta(milliseconds=1))
        except RuntimeError as error:
            if "imed out" in str(error):
                return


def break_connections() -> None:
    """Shut all TCP connections of this process down, those to stores included."""
    for connection in connections():
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
