"""Ring all-reduce: reduce-scatter once around the ring, then all-gather once around.

Each rank sends 2(n-1)/n of the buffer, the least possible, in 2(n-1) steps.
(Patarasuk & Yuan, J. Parallel Distrib. Comput. 69, 2009.)
"""

from collections.abc import Iterator

from dgc_topo.schedule import IntArray, Schedule, Step, copy, reduce, with_peers


def schedule(world_size: int) -> Schedule:
    """Return the ring of *world_size* ranks, one chunk per rank."""
    n = world_size

    def steps_of(ranks: IntArray) -> Iterator[Step]:
        senders = with_peers(ranks, (ranks - 1) % n, n)
        receivers = (senders + 1) % n
        for step in range(n - 1):
            yield reduce(senders, receivers, (senders - step) % n)
        for step in range(n - 1):
            yield copy(senders, receivers, (senders + 1 - step) % n)

    return Schedule(n, n, steps_of)
