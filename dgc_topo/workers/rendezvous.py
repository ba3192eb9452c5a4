"""Files that nothing is left of, whatever ends whom: where workers meet, and what they print."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from typing import IO

_NAMELESS = hasattr(os, "memfd_create")  # Linux


def nameless_file() -> IO[bytes]:
    """Return an open file without a name; in memory, where no temporary folder can be written."""
    try:
        return tempfile.TemporaryFile()
    except OSError:
        if not _NAMELESS:
            raise
        return os.fdopen(os.memfd_create("dgc-topo-file"), "w+b")


def new_rendezvous() -> IO[bytes]:
    """Return an open file for the workers of one group.

    Where the system can, it has no name, and the workers are given its descriptor; elsewhere it has
    one until it is closed, and is to stay open for as long as the group.
    """
    if _NAMELESS:
        return os.fdopen(os.memfd_create("dgc-topo-rendezvous"), "w+b")
    return tempfile.NamedTemporaryFile(prefix="dgc-topo-")


def descriptors_for_workers(meeting: IO[bytes]) -> Sequence[int]:
    """Return what a worker needs besides the name of a file from `new_rendezvous`."""
    return [meeting.fileno()] if _NAMELESS else []


def url_of(name: object, descriptors: Sequence[int]) -> str:
    """Return what `torch.distributed.init_process_group` takes, as a worker sees the file.

    Args:
        name: Of the file.
        descriptors: Of the file, in this process; its name is not needed if there is one.
    """
    # Every store opens the file anew: a lock on it keeps out only who has opened it separately.
    return f"file:///proc/self/fd/{descriptors[0]}" if descriptors else f"file://{name}"
