"""Sharded parameter server: every rank serves one shard of the buffer.

Two steps; each rank sends 2(n-1)/n of the buffer, as in a ring, in n-1 messages a step.
(Co-located shards: Jiang et al., OSDI 2020.)
"""

from collections.abc import Iterator

import numpy as np

from dgc_topo.arrays import IntArray
from dgc_topo.schedule import Schedule, Step, copy, reduce


def schedule(world_size: int) -> Schedule:
    """Return *world_size* ranks that each serve one chunk."""
    n = world_size

    def steps_of(ranks: IntArray) -> Iterator[Step]:
        # Everyone's i-th message goes i ranks up, so that no server is everyone's first.
        up = np.tile(np.arange(1, n), len(ranks))
        near = np.repeat(ranks, n - 1)
        pairs = np.sort(
            np.concatenate([_encode(near, (near + up) % n, n), _encode((near - up) % n, near, n)])
        )
        pairs = pairs[np.diff(pairs, prepend=-1) > 0]  # once each
        client, server = _in_turn(pairs // n, pairs % n, n)
        yield reduce(client, server, server)
        yield copy(client, server, client)

    return Schedule(n, n, steps_of)


def _encode(src: IntArray, dst: IntArray, n: int) -> IntArray:
    return src * n + dst


def _in_turn(src: IntArray, dst: IntArray, n: int) -> tuple[IntArray, IntArray]:
    order = np.lexsort((src, (dst - src) % n))
    return src[order], dst[order]
