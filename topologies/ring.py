"""Ring all-reduce: reduce-scatter once around the ring, then all-gather once around.

Each rank sends 2(n-1)/n of the buffer, the least possible, in 2(n-1) steps.
(Patarasuk & Yuan, J. Parallel Distrib. Comput. 69, 2009.)
"""

from collections.abc import Iterator

from dgc_topo.arrays import IntArray
from dgc_topo.schedule import Schedule, Step, beside, copy, reduce, with_peers

_MOST_SEGMENTS = 1 << 16  # rings side by side; each takes memory before the first step


def schedule(world_size: int, segments: int = 1) -> Schedule:
    """Return the ring of *world_size* ranks, one chunk per rank and segment.

    Args:
        world_size: Any number of ranks from 1.
        segments: How many rings run side by side, each on a share of the buffer: on real wires one
            share is added while others travel, at the price of that many more messages.
    """
    if not 1 <= segments <= _MOST_SEGMENTS:
        most = f"at most {_MOST_SEGMENTS}" if segments > 1 else "at least 1"
        raise ValueError(f"segments={segments}, expected {most}")
    ring = _ring(world_size)
    return ring if segments == 1 else beside(*[ring] * segments, goal="all-reduce")


def _ring(n: int) -> Schedule:

    def steps_of(ranks: IntArray) -> Iterator[Step]:
        senders = with_peers(ranks, (ranks - 1) % n, n)
        receivers = (senders + 1) % n
        for step in range(n - 1):
            yield reduce(senders, receivers, (senders - step) % n)
        for step in range(n - 1):
            yield copy(senders, receivers, (senders + 1 - step) % n)

    return Schedule(n, n, steps_of)
