"""Binomial tree all-reduce: reduce to rank 0, then broadcast back.

2 ceil(log2 n) steps; every message is the whole buffer, so it suits small buffers.
(Thakur, Rabenseifner & Gropp, IJHPCA 19, 2005.)
"""

from collections.abc import Iterator

from dgc_topo.arrays import IntArray
from dgc_topo.schedule import Schedule, Step, copy, reduce, with_peers


def schedule(world_size: int) -> Schedule:
    """Return the binomial tree of *world_size* ranks, one chunk."""
    distances = [1 << level for level in range((world_size - 1).bit_length())]

    def steps_of(ranks: IntArray) -> Iterator[Step]:
        for distance in distances:
            children = _children(ranks, distance, world_size)
            yield reduce(children, children - distance)
        for distance in reversed(distances):
            children = _children(ranks, distance, world_size)
            yield copy(children - distance, children)

    return Schedule(world_size, 1, steps_of)


def _children(ranks: IntArray, distance: int, world_size: int) -> IntArray:
    """Return the children, at this level, among *ranks* or with their parent among them."""
    near = with_peers(ranks, ranks + distance, world_size)
    here: IntArray = near[(near % (2 * distance) == distance) & (near < world_size)]
    return here
