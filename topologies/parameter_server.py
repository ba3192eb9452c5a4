"""Parameter server: one rank adds up everybody's gradients and sends the sum back.

Two steps; the server receives and sends n-1 whole buffers, so its link is the bottleneck.
(Li et al., OSDI 2014.)
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from dgc_topo.arrays import IntArray
from dgc_topo.schedule import Schedule, Step, copy, reduce


def schedule(world_size: int, server: Literal["colocated", "dedicated"] = "colocated") -> Schedule:
    """Return the parameter server among *world_size* ranks, one chunk.

    Args:
        world_size: Number of ranks, the server included.
        server: ``colocated`` - rank 0 serves and trains as well; ``dedicated`` - the last rank
            serves and does not train.
    """
    dedicated = server == "dedicated"
    if dedicated and world_size == 1:
        raise ValueError("server=dedicated needs world_size >= 2: the last rank does not train")
    root = world_size - 1 if dedicated else 0

    def steps_of(ranks: IntArray) -> Iterator[Step]:
        near = np.arange(world_size) if root in ranks else ranks
        clients = near[near != root]
        yield reduce(clients, np.full_like(clients, root))
        yield copy(np.full_like(clients, root), clients)

    return Schedule(world_size, 1, steps_of, servers=(root,) if dedicated else ())
