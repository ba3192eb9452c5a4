"""Mesh all-reduce: every rank sends everything to every other rank in one step.

Each rank sends n-1 whole buffers.  That is hopeless for dense gradients; for sparse ones it is the
all-gather that existing DGC implementations use, and therefore the baseline.
"""

from collections.abc import Iterator

import numpy as np

from dgc_topo.arrays import IntArray
from dgc_topo.schedule import Schedule, Step, gather, reduce


def schedule(world_size: int) -> Schedule:
    """Return the mesh of *world_size* ranks, one chunk."""
    everyone = np.arange(world_size)

    def steps_of(ranks: IntArray) -> Iterator[Step]:
        if world_size == 1:
            return
        others = np.setdiff1d(everyone, ranks)
        towards = _pairs(everyone, ranks)  # what the wanted ranks receive, in rank order
        away = _pairs(ranks, others)  # what they send to the rest
        yield gather([towards, away])

    return Schedule(world_size, 1, steps_of)


def _pairs(senders: IntArray, receivers: IntArray) -> Step:
    """Return a transfer from every sender to every receiver but itself."""
    src, dst = np.tile(senders, len(receivers)), np.repeat(receivers, len(senders))
    return reduce(src[src != dst], dst[src != dst])
