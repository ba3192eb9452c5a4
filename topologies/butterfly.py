"""Butterfly all-reduce: pairs of ranks at power-of-two distances exchange and add.

``halving-doubling`` sends 2(n-1)/n of the buffer per rank in 2 log2(n) steps; ``doubling`` sends
the whole buffer in each of log2(n) steps, the fewest possible.  Ranks above the last power of two
fold in before and out after.  (Rabenseifner, ICCS 2004; Thakur, Rabenseifner & Gropp, IJHPCA 2005.)
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from dgc_topo.arrays import IntArray
from dgc_topo.schedule import Schedule, Step, copy, fold, reduce, with_peers


def schedule(
    world_size: int,
    algorithm: Literal["halving-doubling", "doubling"] = "halving-doubling",
    order: Literal["near", "far"] = "near",
) -> Schedule:
    """Return the butterfly of *world_size* ranks.

    Args:
        world_size: Any number of ranks from 1.
        algorithm: Bandwidth-optimal (one chunk per rank) or latency-optimal (one chunk).
        order: First distance: 1 (near) or the largest (far); near first keeps the large messages
            of halving-doubling between neighbours.
    """
    build = _halving_doubling if algorithm == "halving-doubling" else _doubling
    return fold(world_size, lambda power: build(power, order))


def _distances(n: int, order: str) -> list[int]:
    near_first = [1 << level for level in range(n.bit_length() - 1)]
    return near_first if order == "near" else near_first[::-1]


def _doubling(n: int, order: str) -> Schedule:
    def steps_of(ranks: IntArray) -> Iterator[Step]:
        for distance in _distances(n, order):
            senders = with_peers(ranks, ranks ^ distance, n)
            yield reduce(senders, senders ^ distance)

    return Schedule(n, 1, steps_of)


def _halving_doubling(n: int, order: str) -> Schedule:
    """Recursive halving, then doubling back over the same distances.

    At each level a rank keeps one half of its block and gives the other half to its peer: the half
    is chosen by the rank's bit at that distance, so a block is always one run of chunks.
    """
    distances = _distances(n, order)

    def steps_of(ranks: IntArray) -> Iterator[Step]:
        everybody = _places(ranks, distances) if len(ranks) == n else None

        def block(senders: IntArray, half: int) -> IntArray:
            """Return the first chunk of the block of *half* chunks that each sender keeps."""
            places = _places(senders, distances) if everybody is None else everybody
            return places & -half

        for level, distance in enumerate(distances):
            senders, half = with_peers(ranks, ranks ^ distance, n), n >> (level + 1)
            yield reduce(senders, senders ^ distance, block(senders, half) ^ half, half)
        for level, distance in reversed(list(enumerate(distances))):
            senders, half = with_peers(ranks, ranks ^ distance, n), n >> (level + 1)
            yield copy(senders, senders ^ distance, block(senders, half), half)

    return Schedule(n, n, steps_of)


def _places(ranks: IntArray, distances: list[int]) -> IntArray:
    """Return the chunk that each rank owns in the end: its bits in the order of the halvings."""
    if distances == sorted(distances, reverse=True):
        return ranks
    places = np.zeros_like(ranks)
    for distance, half in zip(distances, reversed(distances), strict=True):
        places |= np.where(ranks & distance, half, 0)
    return places
